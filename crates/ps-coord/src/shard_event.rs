//! The protocol between the coordinator, the other shards and their drivers: every event and every action.
//!
//! A *shard* is a server that keeps a part of the weights, in whole *chunks*, the unit in which weights
//! travel. One server, the *coordinator*, also runs the round logic. The other shards are numbered from 0;
//! the coordinator does not count.

use crate::event::{Dismissal, Millis, ServerEvent, WorkerId};
use std::ops::Range;

/// What the coordinator's driver reports to [`crate::CoordinatorCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorEvent {
    /// A process asks to join the run as a shard.
    AttachRequested {
        /// The shard it wants to be; `None` asks for any vacant one.
        shard: Option<u32>,
    },
    /// A shard can no longer be reached.
    Lost {
        /// The shard's number, from 0.
        shard: u32,
    },
    /// The driver has carried out [`CoordinatorAction::Restore`] here and is sending the weights to the
    /// shards, or has returned to earlier weights for another reason.
    Loaded {
        /// The version of the weights from which the run resumes.
        version: u64,
    },
    /// A shard holds the weights that it was sent.
    Restored {
        /// The shard's number, from 0.
        shard: u32,
        /// The number of the [`CoordinatorAction::Restore`] that it completed.
        number: u64,
    },
    /// The coordinator has gathered all leaves of a step that needs a decision, metrics included.
    Gathered {
        /// The step that waits for the decision.
        step: u64,
    },
    /// A shard has gathered all leaves of such a step and has sent the sums over its pieces, which
    /// the driver keeps.
    Measured {
        /// The shard's number, from 0.
        shard: u32,
        /// The step that waits for the decision.
        step: u64,
    },
    /// The other answer to [`CoordinatorAction::Decide`]: a sum was not finite, so there is nothing to decide
    /// and no shard makes the step.
    NotFinite {
        /// The step that failed.
        step: u64,
    },
    /// A shard has applied a step.
    Applied {
        /// The shard's number, from 0.
        shard: u32,
        /// The step that was applied.
        step: u64,
    },
    /// A shard has gathered all leaves of a step, but the result is not finite.
    Diverged {
        /// The shard's number, from 0.
        shard: u32,
        /// The step that failed.
        step: u64,
    },
    /// A shard refused a worker whose chunks are already part of its sums.
    Tainted {
        /// The shard's number, from 0.
        shard: u32,
        /// The step that these sums belong to.
        step: u64,
        /// What was wrong with the worker's message.
        why: String,
    },
    /// The coordinator refused a worker whose sums are part of the open step.
    Refused {
        /// The sender of the invalid message.
        worker: WorkerId,
        /// What was wrong with the worker's message.
        why: String,
    },
    /// A shard lacks leaves of a step.
    Missing {
        /// The shard's number, from 0.
        shard: u32,
        /// The step that the shard has not applied.
        step: u64,
        /// Leaves of the step's batch of which it lacks at least one chunk.
        leaves: Vec<Range<u32>>,
    },
    /// A chunk that was fetched from a shard has arrived.
    Arrived {
        /// The shard's number, from 0.
        shard: u32,
        /// What the chunk contains.
        chunk: ChunkId,
    },
    /// The data plane has committed a step.
    Made {
        /// The step that was committed.
        step: u64,
        /// Whether the run ends with this step.
        is_last: bool,
        /// What must be done with the new weights.
        follow_up: FollowUp,
    },
    /// The inbox is empty, so there is time for work that the next step does not wait for.
    Idle,
    /// The run ends early and needs the weights of all shards once more.
    Closing {
        /// Whether it also needs the optimizer's state.
        with_state: bool,
    },
    /// The time returned by [`crate::CoordinatorCore::deadline`] has come.
    Timeout,
}

/// Identifies a chunk of the weights, or of a vector of the optimizer's state, at some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkId {
    /// Steps applied to these values.
    pub version: u64,
    /// 0 for the weights; the vectors of the state count from 1.
    pub vector: usize,
    /// Index of the chunk's first element in the vector.
    pub offset: usize,
}

/// What must be done with the weights after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowUp {
    /// Inspect them: hash or show them.
    pub inspect: bool,
    /// Save them as a checkpoint.
    pub save: bool,
    /// If the step is the last, include the state in the result.
    pub state: bool,
}

/// What the coordinator's driver must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorAction {
    /// Admit the process that asked to join.
    Admit {
        /// The number it gets, from 0.
        shard: u32,
    },
    /// Turn away the process that asked to join.
    Refuse(AttachRefusal),
    /// Load the last saved state, resume from it here, send it to all shards,
    /// and report [`CoordinatorEvent::Loaded`].
    Restore {
        /// Identifies this restore; shards return it when they hold the weights.
        number: u64,
    },
    /// The sums over the pieces of all shards are known: decide about the step and send the verdict to all
    /// shards, or report [`CoordinatorEvent::NotFinite`].
    Decide {
        /// The open step.
        step: u64,
    },
    /// A shard found that the result of the step is not finite, so the coordinator must not commit it either.
    Diverge {
        /// The step that failed.
        step: u64,
    },
    /// Ask all shards for their weights.
    Fetch {
        /// Where the chunks go when they arrive.
        purpose: FetchPurpose,
        /// The version of the weights to ask for.
        version: u64,
        /// Whether to ask for the optimizer's state, too.
        with_state: bool,
    },
    /// Keep the chunk that has just arrived.
    Keep {
        /// The fetch that it belongs to.
        purpose: FetchPurpose,
    },
    /// Record the step that was made.
    Record {
        /// The step, which is committed on all shards.
        step: u64,
    },
    /// Inspect the complete weights.
    Inspect {
        /// Version of the weights.
        version: u64,
    },
    /// Copy what this process contributes to a checkpoint, before the next step changes it.
    Capture {
        /// Version of the checkpoint.
        version: u64,
    },
    /// Save the copy together with the fetched chunks.
    Save {
        /// The fetch that it belongs to.
        purpose: FetchPurpose,
    },
    /// Drop the fetched chunks and, for a checkpoint, the copy.
    Forget {
        /// The fetch that it belongs to.
        purpose: FetchPurpose,
    },
    /// Discard the step that was made but not recorded.
    DiscardStep,
    /// Report an event to the round logic.
    Report(ServerEvent),
    /// The answer to [`CoordinatorEvent::Closing`]: whether the complete weights are here.
    Closed(Result<(), Unfetched>),
}

/// The purpose of fetching chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchPurpose {
    /// To inspect the weights, or as the run's result. The next step waits for the chunks.
    Inspect,
    /// To save a checkpoint while training continues.
    Save,
}

/// Why a process cannot join as a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachRefusal {
    /// The run has no such shard.
    Unknown {
        /// The number that was asked for.
        shard: u32,
        /// Number of shards in the run, without the coordinator.
        shards: u32,
    },
    /// Another process is that shard, or all shards are present.
    Taken,
}

/// Why the weights could not be fetched at the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfetched {
    /// Some shard is not present or does not hold its weights.
    Absent,
    /// A shard was lost in the meantime.
    Lost {
        /// The shard's number as users know it.
        shard: u32,
    },
    /// A worker was refused in the meantime, so some shards may hold wrong sums.
    Tainted,
    /// Some chunks did not arrive in time.
    Late {
        /// Time since the run began to close.
        waited_ms: Millis,
    },
}

/// What a shard's driver reports to [`crate::ShardCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum ShardEvent {
    /// The coordinator has admitted the shard, for the first time or again.
    Attached {
        /// The elements of the weights that the shard keeps.
        kept: Range<usize>,
    },
    /// The coordinator can no longer be reached. The driver tries to reconnect.
    CoordinatorLost,
    /// The coordinator has sent the shard away.
    Dismissed(Dismissal),
    /// The coordinator sends the shard weights to resume from.
    Restore {
        /// Version of these weights. At 0 nothing follows, and the shard creates the initial weights itself.
        version: u64,
        /// Identifies this restore, see [`CoordinatorAction::Restore`].
        number: u64,
        /// Number of elements of the weights and the state that follow.
        elements: usize,
    },
    /// Some of these elements have arrived; the driver keeps them.
    Arrived {
        /// The version that they belong to.
        version: u64,
        /// Number of elements that arrived.
        elements: usize,
    },
    /// A worker has connected.
    Joined {
        /// The worker on this connection.
        worker: WorkerId,
    },
    /// A worker lacks weights that it needs for its work.
    WeightsWanted {
        /// The worker on this connection.
        worker: WorkerId,
    },
    /// A worker sent an invalid message, and its connection was closed.
    Refused {
        /// The step whose sums contain chunks of this worker: the open step, or the previous one if some
        /// server may not have applied it.
        counted: Option<u64>,
        /// What was wrong with the message.
        why: String,
    },
    /// All leaves of a step that needs a decision are in.
    Gathered {
        /// The step that waits for the decision.
        step: u64,
    },
    /// The coordinator has decided about a step.
    Decided {
        /// The step that the verdict is for.
        step: u64,
    },
    /// The next weights of all chunks are computed.
    Completed {
        /// The step that can be committed.
        step: u64,
    },
    /// The data plane has carried out [`ShardAction::Commit`].
    Committed {
        /// The step that was committed.
        step: u64,
    },
    /// The data plane could not commit a step because the result is not finite.
    Diverged {
        /// The step that failed.
        step: u64,
    },
    /// The coordinator asks for the weights of this shard.
    WeightsRequested {
        /// The version it asks for.
        version: u64,
        /// Whether it asks for the optimizer's state, too.
        with_state: bool,
    },
    /// The coordinator asks which leaves of a step this shard lacks.
    MissingRequested {
        /// The step that some shard has not applied.
        step: u64,
    },
}

/// What a shard's driver must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardAction {
    /// Keep a different range of elements from now on. Their weights are not known yet.
    Keep {
        /// Range of elements in the weights.
        kept: Range<usize>,
    },
    /// Close the connections of all workers, which then reconnect.
    SendAllAway,
    /// Send a worker all weights of this shard, unless they are already on their way to it.
    Serve {
        /// The worker that must get them.
        worker: WorkerId,
    },
    /// Send every worker all weights of this shard, unless they are already on their way to it.
    ServeAll,
    /// Turn a worker away; it tries again later.
    TurnAway {
        /// The worker that has just connected.
        worker: WorkerId,
    },
    /// Start from the initial weights.
    Begin,
    /// Start from the weights that have arrived.
    Resume {
        /// Version of these weights.
        version: u64,
    },
    /// Send the coordinator the sums over the pieces that this shard keeps.
    Measure {
        /// The step that waits for the decision.
        step: u64,
    },
    /// Compute the next weights of all chunks according to the coordinator's verdict.
    Follow {
        /// The step that was decided.
        step: u64,
    },
    /// Commit the step, whose chunks are all computed, and answer
    /// [`ShardEvent::Committed`] or [`ShardEvent::Diverged`].
    Commit {
        /// The open step.
        step: u64,
    },
    /// Send a message to the coordinator.
    Report(ShardReport),
    /// Send the coordinator the weights of this shard, if it still keeps that version.
    SendWeights {
        /// The version that was asked for.
        version: u64,
        /// Whether to send the optimizer's state, too.
        with_state: bool,
    },
    /// Log that a verdict arrived that this shard does not wait for.
    WarnUselessVerdict {
        /// The step that the verdict is for.
        step: u64,
    },
    /// The run is over for this shard. No action follows.
    Finish(Dismissal),
}

/// What a shard reports to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardReport {
    /// The shard holds the weights that it was sent.
    Restored {
        /// Identifies the restore, see [`CoordinatorAction::Restore`].
        number: u64,
    },
    /// The shard has applied a step.
    Applied {
        /// The step that was applied.
        step: u64,
    },
    /// The shard cannot apply a step because the result is not finite.
    Diverged {
        /// The step that failed.
        step: u64,
    },
    /// The shard refused a worker whose chunks are already part of its sums.
    Tainted {
        /// The step that these sums belong to.
        step: u64,
        /// What was wrong with the worker's message.
        why: String,
    },
    /// The shard lacks leaves of a step; the data plane knows which.
    Missing {
        /// The step that the coordinator asked about.
        step: u64,
    },
}
