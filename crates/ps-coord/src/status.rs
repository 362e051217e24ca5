//! What the server is at, as data and in words.

use crate::event::{Departure, Dismissal, Millis, WorkerId};
use ps_plan::Section;
use std::fmt;
use std::ops::Range;

/// Ranges of leaves that a status line names; a line stays a line.
const SHOWN: usize = 4;

/// A picture of the run at the time of the last event.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The time of the last event.
    pub now: Millis,
    /// Steps applied so far; also the step that is being made.
    pub version: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// What is awaited.
    pub waits_for: WaitsFor,
    /// Since when.
    pub since: Millis,
    /// Leaves that came in from another than their first holder, who was late or lost.
    pub rescued: u64,
    /// Nodes that were computed twice and compared, or are being.
    pub audited: u64,
    /// Workers ascending by id, with the last few that are gone.
    pub workers: Vec<WorkerStatus>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Its id.
    pub worker: WorkerId,
    /// Where it stands.
    pub state: WorkerState,
    /// Missing leaves of the open round that it was given.
    pub leaves: u32,
    /// When something last arrived from it.
    pub last_heard: Millis,
    /// Nodes it sent that counted.
    pub contributions: u64,
    /// Leaves per second of late; nothing before its first contribution.
    pub speed: Option<f64>,
    /// Milliseconds that rounds waited for it alone.
    pub held_up_ms: Millis,
}

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Admitted; its first weights come with the next version.
    Joining,
    /// It has weights and takes part.
    Training,
    /// Sent away; its stream has not closed yet.
    Draining(Dismissal),
    /// Out of reach.
    Gone(Departure),
}

/// What the run waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Too few workers are there for a round.
    Workers {
        /// The step that waits.
        step: u64,
        /// Workers there.
        present: u32,
        /// Workers needed.
        needed: u32,
    },
    /// Other shards that are not there, or do not hold the weights yet.
    Parts {
        /// The step that waits.
        step: u64,
        /// Which.
        shards: Vec<u32>,
    },
    /// Leaves of the open round.
    Leaves {
        /// The step.
        step: u64,
        /// Which, and who holds them.
        missing: Vec<MissingLeaves>,
    },
    /// Other shards, which lack leaves or are slow.
    Shards {
        /// The step.
        step: u64,
        /// Which.
        shards: Vec<u32>,
    },
    /// Nodes that are computed once more.
    Audits {
        /// The step.
        step: u64,
        /// Their leaves, and who computes them; nobody if the server does.
        audits: Vec<MissingLeaves>,
    },
    /// The weights of an earlier version.
    EarlierWeights {
        /// The step that waits.
        step: u64,
    },
    /// The data plane's update.
    Update {
        /// The step.
        step: u64,
    },
    /// Nothing: the run is over.
    Nothing,
}

/// Leaves that are not in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingLeaves {
    /// Which.
    pub leaves: Range<u32>,
    /// Who was given them; ascending, empty if nobody.
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
            WaitsFor::Parts { step, shards } => {
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
                write!(f, "step {step} is given up; the run waits for the weights of an earlier step")
            }
            WaitsFor::Update { step } => write!(f, "step {step} waits for the update of the weights"),
            WaitsFor::Nothing => write!(f, "nothing is awaited"),
        }
    }
}

impl WaitsFor {
    /// The workers that the text names, ascending.
    pub fn workers(&self) -> Vec<WorkerId> {
        let (WaitsFor::Leaves { missing: leaves, .. } | WaitsFor::Audits { audits: leaves, .. }) = self
        else {
            return Vec::new();
        };
        let mut workers: Vec<WorkerId> =
            leaves.iter().take(SHOWN).flat_map(|leaves| leaves.holders.iter().copied()).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }
}

fn list(f: &mut fmt::Formatter<'_>, missing: &[MissingLeaves], link: &str, nobody: &str) -> fmt::Result {
    for (index, leaves) in missing.iter().take(SHOWN).enumerate() {
        let MissingLeaves { leaves, holders } = leaves;
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{} {link} ", Section::words(leaves))?;
        let names: Vec<String> = holders.iter().map(WorkerId::to_string).collect();
        write!(f, "{}", if names.is_empty() { nobody.to_owned() } else { names.join("+") })?;
    }
    match missing.len().saturating_sub(SHOWN) {
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
            Departure::Leaving => write!(f, "it said goodbye"),
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
            Dismissal::Silent { silent_ms } => write!(f, "nothing was heard from it for {silent_ms} ms"),
            Dismissal::Stuck { held_ms } => {
                write!(f, "it delivered nothing of the work that it held for {held_ms} ms, while others did")
            }
            Dismissal::Rewound(why) | Dismissal::Banned(why) => write!(f, "{why}"),
        }
    }
}
