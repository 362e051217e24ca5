//! Everything that can happen and everything that can be done about it: reading this file is reading the
//! protocol.

use crate::notice::{Notice, RewindCause, WorkerNotice};
use ps_plan::Node;
use std::ops::Range;

/// Milliseconds since the driver's own start; only differences mean anything.
pub type Millis = u64;

/// A worker as the server knows it: one admission, one id. A worker that comes back gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}", self.0)
    }
}

/// Whose sums they are, as far as that can be known: a worker keeps this number when it comes back under another id. A driver
/// that identifies workers identifies all of them; one that does not has each worker be a contributor with its id's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contributor(pub u32);

/// Hash of all bits of a node's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// What the server's driver reports to [`crate::ServerCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent {
    /// The driver admitted a worker (its fingerprints agree) and can talk to it. It holds no weights yet.
    Joined {
        /// The id it was admitted under.
        worker: WorkerId,
    },
    /// Whose connection a worker is, which is about to join.
    Identified {
        /// The id that it will be admitted under.
        worker: WorkerId,
        /// Who it is.
        contributor: Contributor,
    },
    /// A worker can no longer be talked to.
    Left {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: Departure,
    },
    /// A worker has sent something that cannot be right, and can no longer be talked to.
    Refused {
        /// Who.
        worker: WorkerId,
        /// What was wrong.
        why: String,
        /// Whether something that it sent is part of the open step's sums, which are to be gathered again without it. With
        /// shards the driver says [`ServerEvent::Rewind`] instead.
        counted: bool,
    },
    /// Something arrived from a worker: it lives.
    Heard {
        /// Who.
        worker: WorkerId,
    },
    /// A node's sum has arrived whole, was checked, and the data plane has folded it (or ignored it as
    /// covered already, or as of another step: the core applies the same rule).
    Contributed {
        /// Who sent it.
        worker: WorkerId,
        /// The step it was computed for.
        step: u64,
        /// The node.
        node: Node,
        /// The hash of its sum, where [`crate::ServerConfig::audit`] is not 0.
        digest: Option<Digest>,
    },
    /// A worker has given up what it was computing, because newer weights have made it useless.
    Dropped {
        /// Who.
        worker: WorkerId,
    },
    /// The answer to [`ServerAction::Judge`]: what a node of the open step is, computed here.
    Judged {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
        /// The hash of its sum.
        digest: Digest,
    },
    /// The answer to [`ServerAction::GoBack`]: the weights are those of `version` again.
    WentBack {
        /// The version, which is at most the step that was named.
        version: u64,
    },
    /// The other answer to it: the weights of that time are gone. Those that there are stay, with whatever is wrong in them.
    CannotGoBack,
    /// Another shard has all leaves of a step and has applied it to its part of the weights.
    Applied {
        /// Which: from 0, below [`crate::ServerConfig::shards`].
        shard: u32,
        /// The step.
        step: u64,
    },
    /// The answer to [`ServerAction::AskMissing`].
    Missing {
        /// Which shard: from 0, below [`crate::ServerConfig::shards`].
        shard: u32,
        /// The step.
        step: u64,
        /// Leaves of the step's batch that the shard lacks, at least in part.
        leaves: Vec<Range<u32>>,
    },
    /// Another shard can no longer be talked to. What it kept is lost: all others must go back to what is saved.
    ShardLost {
        /// Which.
        shard: u32,
    },
    /// All servers go back to what is saved, though no shard is lost.
    Rewind(RewindCause),
    /// All shards are there, and every part of the weights is of `version`: a checkpoint's, which may be older than
    /// steps that were made. The driver reports this before anything else of a run with other shards.
    Restored {
        /// The version.
        version: u64,
    },
    /// A worker says that it lacks the weights it needs for its work.
    WeightsWanted {
        /// Who.
        worker: WorkerId,
    },
    /// The data plane has carried out [`ServerAction::Update`]: the weights are now of version `step + 1`.
    Updated {
        /// The step.
        step: u64,
    },
    /// The same, and no step follows: what was seen of this one ends the run.
    Concluded {
        /// The step.
        step: u64,
    },
    /// The data plane found the loss or the weights of `step` not finite; nothing was updated.
    Diverged {
        /// The step.
        step: u64,
    },
    /// This process is to stop: close the round in hand if it can be closed at once, then finish. The run resumes when a
    /// server is started again.
    Stop,
    /// The run is to end for good, on request: like `Stop`, but nobody is to wait for another server.
    End,
    /// The time that [`crate::ServerCore::deadline`] named has come.
    Timeout,
}

/// What the server's driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerAction {
    /// See to it that a worker gets the whole weights, which are of `version`, unless they are on their way to it
    /// already.
    SendWeights {
        /// To whom.
        worker: WorkerId,
        /// The version (steps applied so far).
        version: u64,
    },
    /// Give a worker leaves of `step` to compute.
    Assign {
        /// To whom.
        worker: WorkerId,
        /// The step, which is also the version of the weights to compute at.
        step: u64,
        /// Contiguous leaves; the worker sends the nodes that cover them.
        leaves: Range<u32>,
    },
    /// Compute a node of `step` here, at the weights of that version, and answer [`ServerEvent::Judged`].
    Judge {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
    },
    /// All leaves of `step` are in here, but a shard has not applied it: ask all shards which leaves they lack, and answer
    /// [`ServerEvent::Missing`] for each that lacks some.
    AskMissing {
        /// The step.
        step: u64,
    },
    /// Some of what was gathered of `step` is wrong: forget all of it, and what was made of it.
    StartOver {
        /// The step.
        step: u64,
    },
    /// A worker, which may be gone already, has sent a sum that is not what its leaves give.
    Ban {
        /// Who.
        worker: WorkerId,
        /// Which sum.
        what: String,
        /// The first step with an unaudited sum of this contributor that is part of the weights, if there is one.
        since: Option<u64>,
    },
    /// Sums that may be wrong are part of the weights since `since`: make the weights those of that step or an earlier one, see
    /// to it that no later ones are resumed from, and answer [`ServerEvent::WentBack`], or
    /// [`ServerEvent::CannotGoBack`] if there are none.
    GoBack {
        /// The version, and the step in which the first of the sums counted.
        since: u64,
    },
    /// All leaves of `step` are covered, here and in every shard: divide the root by the sample count, update the
    /// weights, answer [`ServerEvent::Updated`] or [`ServerEvent::Diverged`]. Unless nodes are audited, a
    /// data plane may have begun before.
    Update {
        /// The step.
        step: u64,
    },
    /// Tell a worker that it is no longer needed or wanted, and close.
    Dismiss {
        /// Whom.
        worker: WorkerId,
        /// Why.
        reason: Dismissal,
    },
    /// One line for the log.
    Notice(Notice),
    /// The run is over. Nothing follows.
    Finish(Outcome),
}

/// Why a worker went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It said goodbye.
    Leaving,
    /// Its connection ended; what the transport said.
    Disconnected(String),
    /// It sent something that cannot be right; what it was.
    Misbehaved(String),
}

/// Why a worker is sent away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dismissal {
    /// Training is done.
    Done,
    /// The run was ended on request, for good; the details.
    Ended(String),
    /// The server stops, and the run resumes when it is started again; the details. The worker is to keep trying.
    Stopped(String),
    /// The run has failed; the reason.
    Failed(String),
    /// Nothing was heard from it for this long.
    Silent {
        /// For how long.
        silent_ms: Millis,
    },
    /// It held work for this long and delivered nothing, while others did.
    Stuck {
        /// For how long.
        held_ms: Millis,
    },
    /// The run goes back to an earlier step, or to the beginning of this one; the reason. It is welcome again at once.
    Rewound(String),
    /// It has sent a sum that is not what its leaves give; which. It is not welcome any more.
    Banned(String),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were made.
    Done,
    /// The server was stopped; this many steps were made.
    Stopped {
        /// Steps made.
        version: u64,
    },
    /// The run was ended on request, for good; this many steps were made.
    Ended {
        /// Steps made.
        version: u64,
    },
    /// The loss or a weight became NaN or infinite.
    Diverged {
        /// The step at which it was seen.
        step: u64,
    },
    /// Shards were missing for too long.
    ShardsMissing {
        /// Which.
        shards: Vec<u32>,
        /// For how long.
        waited_ms: Millis,
    },
    /// Too few workers for too long.
    TooFewWorkers {
        /// Workers present.
        present: u32,
        /// Workers asked for.
        needed: u32,
        /// For how long it was so.
        waited_ms: Millis,
    },
}

/// What the worker's driver reports to [`crate::WorkerCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEvent {
    /// The server admitted us; the stream is open.
    Connected,
    /// Connecting failed or the stream ended; what the transport said.
    Disconnected(String),
    /// Leaves to compute.
    Assigned {
        /// The step, and the version of the weights to compute at.
        step: u64,
        /// Contiguous leaves.
        leaves: Range<u32>,
    },
    /// The weights of `version` are here or arriving: the driver holds these from now on, and its data plane waits
    /// for what is missing of them when it needs it.
    Weights {
        /// The version.
        version: u64,
    },
    /// The data plane has carried out [`WorkerAction::Compute`].
    Computed {
        /// The step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
    },
    /// Leaves cannot be computed any more, for the weights of `step` have made way for newer ones: the server has moved on
    /// without us.
    Superseded {
        /// The step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
    },
    /// The server sent us away.
    Dismissed(Dismissal),
    /// Something arrived from the server, such as the answer to a heartbeat or a chunk of weights: it lives.
    Heard,
    /// The user asked to stop.
    Stop,
    /// The time that [`crate::WorkerCore::deadline`] named has come.
    Timeout,
}

/// What the worker's driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerAction {
    /// Let go of the connection there is, if any (nothing more is to be reported from it), try to reach the
    /// server and to be admitted; answer `Connected` or `Disconnected`. A refusal that no retry can help is
    /// answered with `Dismissed(Ended)`.
    Connect,
    /// Compute the gradients of `leaves` at the weights of version `step`, which the driver holds.
    Compute {
        /// The step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
    },
    /// Send the sums of the nodes that cover `leaves`.
    Push {
        /// The step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
    },
    /// The computed sums of `leaves` are of no use any more.
    Discard {
        /// The step.
        step: u64,
        /// The leaves.
        leaves: Range<u32>,
    },
    /// Tell the server that work of `step` was given up because newer weights have made it useless: it then knows that we are
    /// slow, not stuck.
    TellDropped {
        /// The step.
        step: u64,
    },
    /// Ask the server for its weights.
    AskWeights,
    /// Tell the server that we live. The server's driver answers at once by itself, which arrives here as
    /// `Heard`: so both sides hear from each other however long a computation or a round takes.
    Heartbeat,
    /// One line for the log.
    Notice(WorkerNotice),
    /// Nothing more is to be done.
    Finish(WorkerOutcome),
}

/// How a worker's part ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// Training is done.
    Done,
    /// We were asked to stop.
    Stopped,
    /// The run was ended on request, for good; what the server says.
    Ended(String),
    /// The run has failed; what the server says.
    Failed(String),
    /// The server has found that we compute wrongly; what it says.
    Banned(String),
    /// The server could not be reached for too long.
    Unreachable {
        /// What the last attempt failed with.
        last: String,
        /// For how long.
        waited_ms: Millis,
    },
}
