//! The protocol between the server, its workers and their drivers: every event and every action.

use crate::notice::{Notice, RewindCause, WorkerNotice};
use ps_plan::Node;
use std::ops::Range;

/// Milliseconds since an arbitrary start that the driver chooses; only differences are meaningful.
pub type Millis = u64;

/// Identifies a worker for one admission. A worker that reconnects gets a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}", self.0)
    }
}

/// The identity behind a worker, which stays the same when the worker reconnects under a new id. A driver
/// either identifies all workers or none; without identification, each worker counts as a separate
/// contributor with the number of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contributor(pub u32);

/// Hash of all bits of a node's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// What the server's driver reports to [`crate::ServerCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent {
    /// The driver has admitted a worker whose fingerprints agree and can send to it. The worker holds
    /// no weights yet.
    Joined {
        /// The id under which it was admitted.
        worker: WorkerId,
    },
    /// Links the id of a worker to its identity. Precedes [`ServerEvent::Joined`].
    Identified {
        /// The id under which the worker is about to be admitted.
        worker: WorkerId,
        /// The identity that the connection proved.
        contributor: Contributor,
    },
    /// A worker can no longer be reached.
    Left {
        /// The worker that left.
        worker: WorkerId,
        /// Whether it left by itself, and otherwise what went wrong.
        reason: Departure,
    },
    /// A worker sent an invalid message, and its connection is closed.
    Refused {
        /// The sender of the invalid message.
        worker: WorkerId,
        /// What was wrong with the message.
        why: String,
        /// Whether the open step's sums contain data from this worker. If so, the step is gathered again
        /// without it. With shards, the driver reports [`ServerEvent::Rewind`] instead.
        counted: bool,
    },
    /// Something arrived from a worker, so it is alive.
    MessageReceived {
        /// The worker that sent it.
        worker: WorkerId,
    },
    /// A node's sum has arrived completely and has passed all checks, and the data plane has folded it. The
    /// data plane ignores a sum whose leaves are already covered or that belongs to another step; the core
    /// applies the same rule.
    Contributed {
        /// The sender of the sum.
        worker: WorkerId,
        /// The step for which the sum was computed.
        step: u64,
        /// The node of the step's tree that the sum covers.
        node: Node,
        /// Hash of the sum; present where [`crate::ServerConfig::audit`] is not 0.
        digest: Option<Digest>,
    },
    /// A worker abandoned a computation because newer weights made it useless.
    Dropped {
        /// The worker, which stays in the run.
        worker: WorkerId,
    },
    /// The answer to [`ServerAction::Recompute`]: the server has computed a node of the open step itself.
    Recomputed {
        /// The step that the node belongs to.
        step: u64,
        /// The node that was recomputed.
        node: Node,
        /// Hash of the correct sum.
        digest: Digest,
    },
    /// The answer to [`ServerAction::RollBack`]: the weights are restored to those of `version`.
    RolledBack {
        /// At most the step named in the action.
        version: u64,
    },
    /// The other answer to [`ServerAction::RollBack`]: no weights that old exist. The current weights stay,
    /// including any wrong sums in them.
    CannotRollBack,
    /// Another shard has gathered all leaves of a step and has applied it to its part of the weights.
    Applied {
        /// From 0, below [`crate::ServerConfig::shards`].
        shard: u32,
        /// The step that the shard applied.
        step: u64,
    },
    /// The answer to [`ServerAction::RequestMissing`].
    Missing {
        /// From 0, below [`crate::ServerConfig::shards`].
        shard: u32,
        /// The step that the shard has not applied.
        step: u64,
        /// Leaves of the step's batch that the shard lacks, completely or in part.
        leaves: Vec<Range<u32>>,
    },
    /// Another shard can no longer be reached. Its part of the weights is lost, so all servers return to the
    /// last saved state.
    ShardLost {
        /// From 0, below [`crate::ServerConfig::shards`].
        shard: u32,
    },
    /// All servers return to the last saved state, although no shard is lost.
    Rewind(RewindCause),
    /// All shards are present and hold the weights of `version`. These come from a checkpoint, which
    /// may be older than the last step made. In a run with other shards, the driver reports this
    /// before anything else.
    Restored {
        /// The version (steps applied so far) from which the run continues.
        version: u64,
    },
    /// A worker reports that it lacks the weights for its work.
    WeightsWanted {
        /// The worker that asks.
        worker: WorkerId,
    },
    /// The data plane has carried out [`ServerAction::Update`]: the weights are now of version `step + 1`.
    Updated {
        /// The step that was applied.
        step: u64,
    },
    /// Like [`ServerEvent::Updated`], but the run ends with this step, for instance because a
    /// policy decided so.
    Concluded {
        /// The last step, which was applied.
        step: u64,
    },
    /// The data plane found that the loss or a weight of `step` is not finite, and updated nothing.
    Diverged {
        /// The step that failed.
        step: u64,
    },
    /// Stop this process: finish an update that is under way, then end. The run resumes when a server
    /// is started again.
    Stop,
    /// End the run for good, on request: like `Stop`, but workers do not wait for another server.
    End,
    /// The time returned by [`crate::ServerCore::deadline`] has come.
    Timeout,
}

/// What the server's driver must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerAction {
    /// Make sure that a worker gets all weights of `version`, unless they are already on their way to it.
    SendWeights {
        /// The worker that must get them.
        worker: WorkerId,
        /// The version (steps applied so far).
        version: u64,
    },
    /// Assign leaves of `step` to a worker.
    Assign {
        /// The worker that computes them.
        worker: WorkerId,
        /// The step, which is also the version of the weights to compute with.
        step: u64,
        /// Contiguous leaves; the worker sends the nodes that cover them.
        leaves: Range<u32>,
    },
    /// Compute a node of `step` on the server, with the weights of that version,
    /// and answer [`ServerEvent::Recomputed`].
    Recompute {
        /// The open step.
        step: u64,
        /// The node whose copies disagree or that nobody else can recompute.
        node: Node,
    },
    /// The coordinator has all leaves of `step`, but some shard has not applied it: ask all shards which
    /// leaves they lack, and answer [`ServerEvent::Missing`] for each that lacks some.
    RequestMissing {
        /// The open step.
        step: u64,
    },
    /// Some of the sums gathered for `step` are wrong: discard all of them and everything derived from them.
    StartOver {
        /// The open step, which is gathered again.
        step: u64,
    },
    /// Ban a worker, which may be gone already: it sent a sum that differs from the true sum of its leaves.
    Ban {
        /// The worker to ban.
        worker: WorkerId,
        /// Names the wrong sum, for the log and for the worker.
        what: String,
        /// The first step in which an unaudited sum of this contributor became part of the weights, if
        /// there is one.
        since: Option<u64>,
    },
    /// The weights may contain wrong sums since step `since`. Restore the weights of that version or an
    /// earlier one, make sure that no run resumes from later ones, and answer [`ServerEvent::RolledBack`]; if
    /// no such weights exist, answer [`ServerEvent::CannotRollBack`].
    RollBack {
        /// The first step that may contain a wrong sum. The weights of this version are the last that
        /// can be trusted.
        since: u64,
    },
    /// All leaves of `step` are covered, here and in every shard: divide the root by the sample count, update
    /// the weights, and answer [`ServerEvent::Updated`] or [`ServerEvent::Diverged`]. A data plane may start
    /// earlier unless nodes are audited, because an audit may still reject a sum.
    Update {
        /// The open step.
        step: u64,
    },
    /// Send a worker away and close its connection.
    Dismiss {
        /// The worker to send away.
        worker: WorkerId,
        /// Sent to the worker, which decides by it whether to reconnect.
        reason: Dismissal,
    },
    /// Log one line.
    Notice(Notice),
    /// The run is over. No action follows.
    Finish(Outcome),
}

/// Why a worker left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It said goodbye.
    Leaving,
    /// Its connection ended; holds the transport's message.
    Disconnected(String),
    /// It sent an invalid message; holds what was wrong.
    Misbehaved(String),
}

/// Why the server sends a worker away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dismissal {
    /// Training is complete.
    Done,
    /// The run was ended for good, on request; holds the details.
    Ended(String),
    /// The server is stopping, and the run resumes when it is started again; holds the details. The worker
    /// keeps trying to reconnect.
    Stopped(String),
    /// The run has failed; holds the reason.
    Failed(String),
    /// Nothing arrived from the worker for too long.
    Silent {
        /// Time since its last message.
        silent_ms: Millis,
    },
    /// The worker held work for too long without delivering anything, while others delivered.
    Stuck {
        /// Time for which it held the work.
        held_ms: Millis,
    },
    /// The run returns to an earlier step, or to the beginning of this one; holds the reason. The worker may
    /// reconnect at once.
    Rewound(String),
    /// The worker sent a wrong sum; holds a description of it. It is not admitted again.
    Banned(String),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were made.
    Done,
    /// The server was stopped and the run can be resumed.
    Stopped {
        /// Steps applied so far.
        version: u64,
    },
    /// The run was ended for good, on request.
    Ended {
        /// Steps applied so far.
        version: u64,
    },
    /// The loss or a weight became NaN or infinite.
    Diverged {
        /// The step whose result was not finite.
        step: u64,
    },
    /// Shards were missing for too long.
    ShardsMissing {
        /// Numbers of the missing shards, as users know them.
        shards: Vec<u32>,
        /// Time for which shards or workers were missing.
        waited_ms: Millis,
    },
    /// Too few workers were present for too long.
    TooFewWorkers {
        /// Workers that were present at the end.
        present: u32,
        /// Workers that the run needs: [`crate::ServerConfig::min_workers`] before the first
        /// round, 1 afterwards.
        needed: u32,
        /// Time since there were too few workers.
        waited_ms: Millis,
    },
}

/// What the worker's driver reports to [`crate::WorkerCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEvent {
    /// The server has admitted this worker; the stream is open.
    Connected,
    /// Connecting failed, or the stream ended; holds the transport's message.
    Disconnected(String),
    /// The server assigned leaves to this worker.
    Assigned {
        /// The step, which is also the version of the weights to compute with.
        step: u64,
        /// Contiguous leaves of the step's tree.
        leaves: Range<u32>,
    },
    /// The weights of `version` are here or arriving. The driver holds these from now on, and its data plane
    /// waits for chunks that have not arrived when it needs them.
    Weights {
        /// The version (steps applied so far).
        version: u64,
    },
    /// The data plane has carried out [`WorkerAction::Compute`].
    Computed {
        /// As in the action.
        step: u64,
        /// As in the action.
        leaves: Range<u32>,
    },
    /// Leaves can no longer be computed because newer weights have replaced those of `step`: the server has
    /// continued without this worker.
    Superseded {
        /// As in [`WorkerAction::Compute`].
        step: u64,
        /// As in [`WorkerAction::Compute`].
        leaves: Range<u32>,
    },
    /// The server sent this worker away.
    Dismissed(Dismissal),
    /// Something arrived from the server, such as the answer to a heartbeat or a chunk of weights, so
    /// it is alive.
    MessageReceived,
    /// The user asked the worker to stop.
    Stop,
    /// The time returned by [`crate::WorkerCore::deadline`] has come.
    Timeout,
}

/// What the worker's driver must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerAction {
    /// Drop the current connection, if any, and report nothing more from it. Then connect to the server,
    /// request admission, and answer `Connected` or `Disconnected`. If the server refuses and no retry can
    /// help, answer `Dismissed(Ended)`.
    Connect,
    /// Compute the gradients of `leaves` with the weights of version `step`, which the driver holds.
    Compute {
        /// The step, which is also the version of the weights.
        step: u64,
        /// Contiguous leaves of the step's tree.
        leaves: Range<u32>,
    },
    /// Send the sums of the nodes that cover `leaves`.
    Push {
        /// As in [`WorkerAction::Compute`].
        step: u64,
        /// As in [`WorkerAction::Compute`].
        leaves: Range<u32>,
    },
    /// Discard the computed sums of `leaves`: the server no longer needs them.
    Discard {
        /// As in [`WorkerAction::Compute`].
        step: u64,
        /// As in [`WorkerAction::Compute`].
        leaves: Range<u32>,
    },
    /// Report that this worker abandoned work of `step` because newer weights made it useless. The server
    /// then knows that the worker is slow rather than stuck.
    ReportDropped {
        /// The step whose work was abandoned.
        step: u64,
    },
    /// Ask the server to send its weights again.
    RequestWeights,
    /// Send a heartbeat. The server's driver answers at once without asking its core, and the answer arrives
    /// here as `Heard`. Both sides thus hear from each other however long a computation or a round takes.
    Heartbeat,
    /// Log one line.
    Notice(WorkerNotice),
    /// The worker is done. No action follows.
    Finish(WorkerOutcome),
}

/// How a worker's participation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// Training is complete.
    Done,
    /// The user asked the worker to stop.
    Stopped,
    /// The run was ended for good, on request; holds the server's message.
    Ended(String),
    /// The run has failed; holds the server's message.
    Failed(String),
    /// The server found a wrong sum of this worker; holds the server's message.
    Banned(String),
    /// The server could not be reached for too long.
    Unreachable {
        /// The error of the last attempt.
        last: String,
        /// Time since the server was last of use.
        waited_ms: Millis,
    },
}
