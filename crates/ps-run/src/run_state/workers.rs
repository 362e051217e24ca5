//! The workers of a run, as the dashboard and the metrics show them.

use ps_coord::WorkerState;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A worker, as the coordinator sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorkerRow {
    /// Its id, unique within the run.
    pub id: u32,
    /// The name under which it joined.
    pub name: String,
    /// The address that it connected from, or a description for a thread of this process.
    pub address: String,
    /// Its state, flattened into the row in JSON.
    #[serde(flatten)]
    pub standing: WorkerStanding,
    /// Number of leaves of the open round that it still has to send.
    pub leaves: u32,
    /// Number of its sums that were used.
    pub sums: u64,
    /// Its recent speed, in leaves per second.
    pub speed: f64,
    /// Milliseconds since its last message.
    pub silent_ms: u64,
    /// Milliseconds that rounds waited for this worker alone.
    pub held_up_ms: u64,
}

/// The state of a worker, as the dashboard and the metrics show it.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerStanding {
    /// The run is in progress; the state that the coordinator has for the worker.
    Known(WorkerState),
    /// The last step is made, so no worker is needed any more.
    Dismissed,
}

impl WorkerStanding {
    /// The state in one word, without a reason: a label of the metrics, and a CSS class of the dashboard.
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
