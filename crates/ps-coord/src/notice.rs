//! Log lines as data. The wording is in one place, and workers are named by id.

use crate::event::{Departure, Dismissal, Millis, WorkerId};
use crate::status::WaitsFor;
use ps_plan::Section;
use std::fmt;
use std::ops::Range;

/// News from the server's round logic for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A worker has joined the run.
    Joined {
        /// Its new id.
        worker: WorkerId,
        /// The open step.
        step: u64,
        /// Workers present, including this one.
        present: u32,
        /// Workers that the first round needs; `None` once it has opened.
        needed: Option<u32>,
    },
    /// A worker no longer takes part.
    Lost {
        /// The lost worker.
        worker: WorkerId,
        /// The open step.
        step: u64,
        /// Whether it left or was sent away.
        cause: LossCause,
        /// Leaves of the open step that it had not delivered.
        owed: Option<u32>,
        /// Workers still present.
        present: u32,
    },
    /// An audit found that a worker that is already gone had sent a wrong sum.
    LiarAlreadyGone {
        /// The worker's last id.
        worker: WorkerId,
        /// Why it is banned.
        why: String,
    },
    /// A worker that held leaves for too long delivers in time again.
    Trusted {
        /// The worker that gets its own leaves again.
        worker: WorkerId,
    },
    /// A worker held leaves for so long that they were also assigned to another.
    OnProbation {
        /// The worker that gets only copies from now on.
        worker: WorkerId,
    },
    /// Leaves were assigned after the round had opened.
    Reassigned {
        /// The open step.
        step: u64,
        /// Leaves that are still missing.
        leaves: Range<u32>,
        /// The last holder, and how long ago it was given the leaves. `None` if nobody holds them.
        late: Option<(WorkerId, Millis)>,
        /// The workers that compute them from now on, in addition to the holder.
        takers: Vec<WorkerId>,
    },
    /// Shards have not applied a step although the coordinator has all leaves.
    Unapplied {
        /// The open step.
        step: u64,
        /// Numbers of these shards, as users know them.
        shards: Vec<u32>,
        /// Time since the last leaf came in.
        waited_ms: Millis,
    },
    /// Leaves did not reach a shard and are computed again.
    NotReached {
        /// The open step.
        step: u64,
        /// Leaves that the coordinator has and the shard lacks.
        leaves: Range<u32>,
        /// The worker that delivered them to the coordinator.
        sender: WorkerId,
        /// Number of the shard that lacks them, as users know it.
        shard: u32,
        /// The workers that compute them again.
        takers: Vec<WorkerId>,
    },
    /// All servers are about to return to the last saved state.
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
        /// The event that is missing.
        waits_for: WaitsFor,
        /// Time since the wait began.
        waited_ms: Millis,
    },
}

/// Why a worker no longer takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// It can no longer be reached.
    Departed(Departure),
    /// The server sent it away.
    Dismissed(Dismissal),
}

/// Why all servers return to the last saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindCause {
    /// A shard is gone, and its part of the weights with it.
    ShardLost {
        /// The shard's number among all servers.
        shard: u32,
        /// The open step.
        step: u64,
    },
    /// The coordinator refused a worker whose sums are part of the open step, which some shards
    /// may have applied.
    WorkerRefused {
        /// The sender of the invalid message.
        worker: WorkerId,
        /// What was wrong with the worker's message.
        why: String,
    },
    /// A shard refused a worker whose chunks are part of its sums.
    Tainted {
        /// The shard's number among all servers.
        shard: u32,
        /// What was wrong with the worker's message.
        why: String,
    },
}

/// News from the worker's logic for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerNotice {
    /// The server cannot be reached; the worker tries again after a pause.
    Retrying {
        /// Whether an established connection was lost.
        was_connected: bool,
        /// The transport's message.
        why: String,
        /// Time until the next attempt.
        pause_ms: Millis,
    },
    /// The weights for a step have not arrived, and the worker asks for them again.
    WeightsLate {
        /// The step of the work in hand.
        step: u64,
        /// The version of the weights that the worker holds, if any.
        held: Option<u64>,
        /// Time since the worker began to wait.
        waited_ms: Millis,
    },
}

impl Notice {
    /// The workers that the text names, ascending by id.
    pub fn workers(&self) -> Vec<WorkerId> {
        let mut workers = match self {
            Notice::Joined { worker, .. }
            | Notice::Lost { worker, .. }
            | Notice::LiarAlreadyGone { worker, .. }
            | Notice::Trusted { worker }
            | Notice::OnProbation { worker }
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
                owed.map_or(Ok(()), |owed| write!(f, "; leaves it had not delivered: {owed}"))?;
                write!(f, "; {present} present")
            }
            Notice::LiarAlreadyGone { worker, why } => {
                write!(f, "{worker}, which has left, sent a wrong sum: {why}")
            }
            Notice::Trusted { worker } => {
                write!(f, "{worker} delivers in time again and gets its own leaves")
            }
            Notice::OnProbation { worker } => {
                write!(f, "{worker} gets only copies of other workers' leaves until it delivers in time")
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
            Notice::Rewound { from, to } => write!(f, "the run continues from step {to} instead of {from}"),
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
        write!(f, ": the run goes back to the last checkpoint")
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
                    "step {step} has waited for its weights for {waited_ms} ms (held: {held}): asking the \
                     server again"
                )
            }
        }
    }
}
