//! The workers of a run, as the page and the metrics show them.

use ps_coord::WorkerState;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A worker, as the server sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorkerRow {
    /// Its id in this run.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Where it stands.
    #[serde(flatten)]
    pub standing: WorkerStanding,
    /// Leaves of the open round that it has yet to send.
    pub leaves: u32,
    /// Sums of its that counted.
    pub sums: u64,
    /// Leaves per second of late.
    pub speed: f64,
    /// Milliseconds since something came from it.
    pub silent_ms: u64,
    /// Milliseconds that rounds waited for it alone.
    pub held_up_ms: u64,
}

/// Where a worker stands, as the page and the metrics show it.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerStanding {
    /// The run goes on; what the coordinator knows of the worker.
    Known(WorkerState),
    /// The last step is made: no worker is needed any more.
    Dismissed,
}

impl WorkerStanding {
    /// The kind of standing in one word, without its reason: a label of the metrics, and a class of the page's style.
    pub fn kind(&self) -> &'static str {
        match self {
            WorkerStanding::Known(WorkerState::Joining) => "joining",
            WorkerStanding::Known(WorkerState::Training) => "training",
            WorkerStanding::Known(WorkerState::Draining(_)) => "draining",
            WorkerStanding::Known(WorkerState::Gone(_)) => "gone",
            WorkerStanding::Dismissed => "dismissed",
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self, WorkerStanding::Known(WorkerState::Gone(_)))
    }
}

impl Default for WorkerStanding {
    fn default() -> Self {
        WorkerStanding::Known(WorkerState::Joining)
    }
}

impl Serialize for WorkerStanding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match self {
            WorkerStanding::Known(state) => state.to_string(),
            WorkerStanding::Dismissed => self.kind().into(),
        };
        let mut standing = serializer.serialize_struct("WorkerStanding", 2)?;
        standing.serialize_field("standing", self.kind())?;
        standing.serialize_field("state", &text)?;
        standing.end()
    }
}
