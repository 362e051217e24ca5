//! The state of the run, as data and in words.

use crate::event::{Departure, Dismissal, Millis, WorkerId};
use ps_plan::Section;
use std::fmt;
use std::ops::Range;

/// Maximum number of leaf ranges that a status line names, so that it stays one line.
const MAX_LISTED: usize = 4;

/// A snapshot of the run at the time of the last event.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Time of the last event.
    pub now: Millis,
    /// Steps applied so far; also the number of the open step.
    pub version: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// What the run needs before it can continue.
    pub waits_for: WaitsFor,
    /// When the run began to wait for it.
    pub since: Millis,
    /// Leaves that were delivered by a worker other than their first holder, which was late or lost.
    pub reassigned: u64,
    /// Nodes chosen for audit so far, including audits under way.
    pub audited: u64,
    /// Workers ascending by id, including the most recent of those that are gone.
    pub workers: Vec<WorkerStatus>,
}

/// The state and the record of one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// The id of its current or last admission.
    pub worker: WorkerId,
    /// Whether it takes part.
    pub state: WorkerState,
    /// Missing leaves of the open round that it holds.
    pub leaves: u32,
    /// When something last arrived from it.
    pub last_heard: Millis,
    /// Number of nodes it delivered that were not known already.
    pub contributions: u64,
    /// Recent leaves per second; `None` before its first contribution.
    pub speed: Option<f64>,
    /// Milliseconds for which rounds waited for this worker alone.
    pub held_up_ms: Millis,
}

/// The stages of a worker's participation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Admitted; it gets its first weights with the next version.
    Joining,
    /// It has weights and takes part.
    Training,
    /// Sent away; its stream has not closed yet.
    Draining(Dismissal),
    /// It can no longer be reached.
    Gone(Departure),
}

/// What the run waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Too few workers are present to open a round.
    Workers {
        /// The step that waits.
        step: u64,
        /// Number of workers that take part.
        present: u32,
        /// Workers required to open the round.
        needed: u32,
    },
    /// Other shards are missing or do not hold the weights yet.
    AbsentShards {
        /// The step that waits.
        step: u64,
        /// Numbers of these shards, as users know them.
        shards: Vec<u32>,
    },
    /// Leaves of the open round are missing.
    Leaves {
        /// The open step.
        step: u64,
        /// The missing leaves with their holders, ascending.
        missing: Vec<MissingLeaves>,
    },
    /// Other shards lack leaves or are slow.
    Shards {
        /// The open step.
        step: u64,
        /// Numbers of these shards, as users know them.
        shards: Vec<u32>,
    },
    /// Audited nodes are being recomputed.
    Audits {
        /// The open step.
        step: u64,
        /// Their leaves and the workers that recompute them; no holders if the server does.
        audits: Vec<MissingLeaves>,
    },
    /// The weights of an earlier version are being restored.
    EarlierWeights {
        /// The step that waits.
        step: u64,
    },
    /// The data plane is updating the weights.
    Update {
        /// The open step.
        step: u64,
    },
    /// The run is over.
    Nothing,
}

/// Leaves that have not been delivered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingLeaves {
    /// Contiguous leaves with the same holders.
    pub leaves: Range<u32>,
    /// The workers that hold them, ascending by id; empty if nobody does.
    pub holders: Vec<WorkerId>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waited = self.now.saturating_sub(self.since);
        match &self.waits_for {
            WaitsFor::Nothing => write!(f, "the run is over at version {}", self.version),
            waits_for => write!(f, "{waits_for} (for {waited} ms)"),
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitsFor::Workers { step, present, needed } => {
                write!(f, "step {step} waits for workers: {needed} needed, {present} present")
            }
            WaitsFor::AbsentShards { step, shards } => {
                write!(f, "step {step} waits for shards that do not hold their weights yet: {shards:?}")
            }
            WaitsFor::Leaves { step, missing } => {
                write!(f, "step {step} waits for ")?;
                list(f, missing, "of", "nobody")
            }
            WaitsFor::Audits { step, audits } => {
                write!(f, "step {step} waits for a second copy of ")?;
                list(f, audits, "by", "the server itself")
            }
            WaitsFor::Shards { step, shards } => {
                write!(f, "step {step} waits for shards that have not applied it: {shards:?}")
            }
            WaitsFor::EarlierWeights { step } => {
                write!(f, "step {step} is abandoned; the run waits for the weights of an earlier step")
            }
            WaitsFor::Update { step } => write!(f, "step {step} waits for the update of the weights"),
            WaitsFor::Nothing => write!(f, "not waiting for anything"),
        }
    }
}

impl WaitsFor {
    /// The workers that the text names, ascending by id.
    pub fn workers(&self) -> Vec<WorkerId> {
        let (WaitsFor::Leaves { missing: leaves, .. } | WaitsFor::Audits { audits: leaves, .. }) = self
        else {
            return Vec::new();
        };
        let mut workers: Vec<WorkerId> =
            leaves.iter().take(MAX_LISTED).flat_map(|leaves| leaves.holders.iter().copied()).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }
}

fn list(f: &mut fmt::Formatter<'_>, missing: &[MissingLeaves], link: &str, nobody: &str) -> fmt::Result {
    for (index, leaves) in missing.iter().take(MAX_LISTED).enumerate() {
        let MissingLeaves { leaves, holders } = leaves;
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{} {link} ", Section::words(leaves))?;
        let names: Vec<String> = holders.iter().map(WorkerId::to_string).collect();
        write!(f, "{}", if names.is_empty() { nobody.to_owned() } else { names.join("+") })?;
    }
    match missing.len().saturating_sub(MAX_LISTED) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerState::Joining => write!(f, "joining"),
            WorkerState::Training => write!(f, "training"),
            WorkerState::Draining(reason) => write!(f, "draining ({reason})"),
            WorkerState::Gone(reason) => write!(f, "gone ({reason})"),
        }
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Departure::Leaving => write!(f, "it left"),
            Departure::Disconnected(why) => write!(f, "its connection ended: {why}"),
            Departure::Misbehaved(why) => write!(f, "it misbehaved: {why}"),
        }
    }
}

impl fmt::Display for Dismissal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dismissal::Done => write!(f, "training is done"),
            Dismissal::Ended(why) | Dismissal::Stopped(why) | Dismissal::Failed(why) => write!(f, "{why}"),
            Dismissal::Silent { silent_ms } => write!(f, "it sent nothing for {silent_ms} ms"),
            Dismissal::Stuck { held_ms } => {
                write!(f, "it delivered none of its work for {held_ms} ms, while others did")
            }
            Dismissal::Rewound(why) | Dismissal::Banned(why) => write!(f, "{why}"),
        }
    }
}
