//! What a log line reports, as data: the text is written in one place, and names its workers by id.

use crate::event::{Departure, Dismissal, Millis, WorkerId};
use crate::status::WaitsFor;
use ps_plan::Section;
use std::fmt;
use std::ops::Range;

/// News of the round logic for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A worker takes part.
    Joined {
        /// The worker.
        worker: WorkerId,
        /// The open step.
        step: u64,
        /// Workers present.
        present: u32,
        /// Workers that the first round needs, until it has opened.
        needed: Option<u32>,
    },
    /// A worker no longer takes part.
    Lost {
        /// The worker.
        worker: WorkerId,
        /// The open step.
        step: u64,
        /// Why.
        cause: LossCause,
        /// Leaves of the open step that it had not delivered.
        owed: Option<u32>,
        /// Workers still present.
        present: u32,
    },
    /// An audit found that a worker that is already gone had sent a wrong sum.
    LiarGone {
        /// The worker.
        worker: WorkerId,
        /// Why it is banned.
        why: String,
    },
    /// A worker that held leaves for too long delivers in time again.
    Trusted {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker held leaves for so long that another got them, too.
    Distrusted {
        /// The worker.
        worker: WorkerId,
    },
    /// Leaves were given out after the round had opened.
    Reassigned {
        /// The open step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
        /// Who was given them last, and how long ago. `None` if nobody holds them.
        late: Option<(WorkerId, Millis)>,
        /// The workers that have them now, too.
        takers: Vec<WorkerId>,
    },
    /// Shards have not applied a step although all leaves are in.
    Unapplied {
        /// The open step.
        step: u64,
        /// The shards.
        shards: Vec<u32>,
        /// Time since the last leaf came in.
        waited_ms: Millis,
    },
    /// Leaves did not reach a shard and are computed once more.
    NotReached {
        /// The open step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
        /// Who delivered them elsewhere.
        sender: WorkerId,
        /// The shard that lacks them.
        shard: u32,
        /// The workers that compute them now.
        takers: Vec<WorkerId>,
    },
    /// All servers are about to go back to what was saved.
    Rewinding(RewindCause),
    /// The weights are those of an earlier step.
    Rewound {
        /// The step that was open.
        from: u64,
        /// The step that is open now.
        to: u64,
    },
    /// The run has been waiting for a while.
    Waiting {
        /// What for.
        waits_for: WaitsFor,
        /// For how long.
        waited_ms: Millis,
    },
}

/// Why a worker no longer takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// It can no longer be reached.
    Departed(Departure),
    /// It was sent away.
    Dismissed(Dismissal),
}

/// Why all servers go back to what was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindCause {
    /// A shard is gone, and its part of the weights with it.
    ShardLost {
        /// The shard's number among all servers.
        shard: u32,
        /// The open step.
        step: u64,
    },
    /// The coordinator refused a worker whose sums are part of the open step, which some shards may have applied.
    WorkerRefused {
        /// The worker.
        worker: WorkerId,
        /// What was wrong with its message.
        why: String,
    },
    /// A shard refused such a worker.
    Tainted {
        /// The shard's number among all servers.
        shard: u32,
        /// What was wrong with the worker's message.
        why: String,
    },
}

/// News of a worker's logic for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerNotice {
    /// The server cannot be reached; the worker tries again after a pause.
    Retrying {
        /// Whether there was a connection before.
        was_connected: bool,
        /// What the transport reported.
        why: String,
        /// The pause.
        pause_ms: Millis,
    },
    /// The weights for a step have not come, and the worker asks for them again.
    WeightsLate {
        /// The step.
        step: u64,
        /// The version of the weights that the worker holds, if any.
        held: Option<u64>,
        /// For how long it has waited.
        waited_ms: Millis,
    },
}

impl Notice {
    /// The workers that the text names, ascending.
    pub fn workers(&self) -> Vec<WorkerId> {
        let mut workers = match self {
            Notice::Joined { worker, .. }
            | Notice::Lost { worker, .. }
            | Notice::LiarGone { worker, .. }
            | Notice::Trusted { worker }
            | Notice::Distrusted { worker }
            | Notice::Rewinding(RewindCause::WorkerRefused { worker, .. }) => vec![*worker],
            Notice::Reassigned { late, takers, .. } => {
                late.iter().map(|&(holder, _)| holder).chain(takers.iter().copied()).collect()
            }
            Notice::NotReached { sender, takers, .. } => {
                std::iter::once(*sender).chain(takers.iter().copied()).collect()
            }
            Notice::Waiting { waits_for, .. } => return waits_for.workers(),
            Notice::Unapplied { .. } | Notice::Rewinding(_) | Notice::Rewound { .. } => Vec::new(),
        };
        workers.sort_unstable();
        workers.dedup();
        workers
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Joined { worker, step, present, needed } => {
                write!(f, "{worker} joined at step {step}: {present} present")?;
                needed.map_or(Ok(()), |needed| write!(f, " of {needed} needed"))
            }
            Notice::Lost { worker, step, cause, owed, present } => {
                write!(f, "{worker} lost at step {step}: {cause}")?;
                owed.map_or(Ok(()), |owed| write!(f, "; leaves it still owed: {owed}"))?;
                write!(f, "; {present} present")
            }
            Notice::LiarGone { worker, why } => write!(f, "{worker}, who is gone, lied: {why}"),
            Notice::Trusted { worker } => {
                write!(f, "{worker} delivers in time and gets leaves of its own again")
            }
            Notice::Distrusted { worker } => {
                write!(f, "{worker} gets only copies of what others compute until it delivers in time")
            }
            Notice::Reassigned { step, leaves, late, takers } => {
                write!(f, "step {step}: {}", Section::words(leaves))?;
                match late {
                    Some((holder, ms)) => write!(f, ", not back from {holder} after {ms} ms,")?,
                    None => write!(f, ", held by nobody,")?,
                }
                write!(f, " given to {}", names(takers))
            }
            Notice::Unapplied { step, shards, waited_ms } => write!(
                f,
                "step {step} is not applied by shards {shards:?} {waited_ms} ms after its last leaf: asking what they lack"
            ),
            Notice::NotReached { step, leaves, sender, shard, takers } => {
                let (leaves, takers) = (Section::words(leaves), names(takers));
                write!(
                    f,
                    "step {step}: {leaves} of {sender} have not all reached shard {shard}, given to {takers}"
                )
            }
            Notice::Rewinding(cause) => write!(f, "{cause}"),
            Notice::Rewound { from, to } => write!(f, "the run goes on from step {to} instead of {from}"),
            Notice::Waiting { waits_for, waited_ms } => write!(f, "{waits_for} (for {waited_ms} ms)"),
        }
    }
}

fn names(workers: &[WorkerId]) -> String {
    workers.iter().map(WorkerId::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossCause::Departed(departure) => write!(f, "{departure}"),
            LossCause::Dismissed(dismissal) => write!(f, "{dismissal}"),
        }
    }
}

impl fmt::Display for RewindCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RewindCause::ShardLost { shard, step } => write!(f, "shard {shard} was lost at step {step}")?,
            RewindCause::WorkerRefused { worker, why } => {
                write!(f, "{worker}, which is part of the step, was refused ({why})")?;
            }
            RewindCause::Tainted { shard, why } => write!(f, "shard {shard} has refused a worker ({why})")?,
        }
        write!(f, ": the run goes back to what is saved")
    }
}

impl fmt::Display for WorkerNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerNotice::Retrying { was_connected, why, pause_ms } => {
                let what = match was_connected {
                    true => "connection to the server lost",
                    false => "server not reached",
                };
                write!(f, "{what}: {why}; trying again in {pause_ms} ms")
            }
            WorkerNotice::WeightsLate { step, held, waited_ms } => {
                let held = held.map_or("none".into(), |version| version.to_string());
                write!(
                    f,
                    "step {step} waits for its weights for {waited_ms} ms (held: {held}): asking the server again"
                )
            }
        }
    }
}
