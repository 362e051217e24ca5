//! Everything that can happen between the coordinator and the other shards, and everything that can be done about it.
//!
//! A *shard* is a server that keeps a part of the weights: whole *chunks*, which are the unit in which weights travel. One
//! server, the coordinator, also runs the round logic. Shards are numbered from 0 without the coordinator.

use crate::event::{Dismissal, Millis, ServerEvent, WorkerId};
use std::ops::Range;

/// What the coordinator's driver reports to [`crate::CoordinatorCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorEvent {
    /// A process asks to take part as a shard.
    AttachRequested {
        /// The shard it wants to be; any that is vacant if `None`.
        shard: Option<u32>,
    },
    /// A shard can no longer be reached.
    Lost {
        /// The shard.
        shard: u32,
    },
    /// The driver has carried out [`CoordinatorAction::Restore`] here and is sending it to the shards, or has gone back to
    /// earlier weights for another reason.
    Loaded {
        /// The version of the weights that the run resumes from.
        version: u64,
    },
    /// A shard holds the weights it was given.
    Restored {
        /// The shard.
        shard: u32,
        /// The number of the order that it has carried out.
        number: u64,
    },
    /// All leaves of a step that waits for a decision are in here, metrics included.
    Gathered {
        /// The step.
        step: u64,
    },
    /// All leaves of such a step are in at a shard, and so are the sums over its pieces, which the driver keeps.
    Measured {
        /// The shard.
        shard: u32,
        /// The step.
        step: u64,
    },
    /// The answer to [`CoordinatorAction::Decide`] if a sum was not finite: there is nothing to decide, and no shard makes the
    /// step.
    NotFinite {
        /// The step.
        step: u64,
    },
    /// A shard has applied a step.
    Applied {
        /// The shard.
        shard: u32,
        /// The step.
        step: u64,
    },
    /// A shard has all leaves of a step, but the result is not finite.
    Diverged {
        /// The shard.
        shard: u32,
        /// The step.
        step: u64,
    },
    /// A shard refused a worker, some of whose chunks are part of its sums.
    Tainted {
        /// The shard.
        shard: u32,
        /// The step that these sums belong to.
        step: u64,
        /// What was wrong with the worker's message.
        why: String,
    },
    /// The coordinator refused such a worker.
    Refused {
        /// The worker.
        worker: WorkerId,
        /// What was wrong with its message.
        why: String,
    },
    /// A shard lacks leaves of a step.
    Missing {
        /// The shard.
        shard: u32,
        /// The step.
        step: u64,
        /// Leaves of the step's batch of which it lacks some chunk.
        leaves: Vec<Range<u32>>,
    },
    /// A chunk that was fetched from a shard is here.
    Arrived {
        /// The shard.
        shard: u32,
        /// The chunk.
        chunk: ChunkId,
    },
    /// The data plane has committed a step.
    Made {
        /// The step.
        step: u64,
        /// Whether no step follows.
        is_last: bool,
        /// What is to be done with the new weights.
        wanted: Wanted,
    },
    /// Nothing else is waiting to be handled, so there is time for what does not hold up the next step.
    Idle,
    /// The run ends early, and the weights of all shards are wanted once more.
    Closing {
        /// Whether the state is wanted, too.
        with_state: bool,
    },
    /// The time that [`crate::CoordinatorCore::deadline`] named has come.
    Timeout,
}

/// A chunk of the weights, or of a vector of the optimizer's state, at some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkId {
    /// Steps applied.
    pub version: u64,
    /// 0 for the weights; the vectors of the state count from 1.
    pub vector: usize,
    /// The first element in the vector.
    pub offset: usize,
}

/// What is to be done with the weights after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// They are inspected: hashed, or shown.
    pub look: bool,
    /// They are saved as a checkpoint.
    pub save: bool,
    /// If the step is the last, the state is part of the result.
    pub state: bool,
}

/// What the coordinator's driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorAction {
    /// Admit the process that asked to take part.
    Admit {
        /// As this shard.
        shard: u32,
    },
    /// Turn the process away that asked to take part.
    Refuse(NoSeat),
    /// Load what was saved last, resume from it here, send it to all shards, and report [`CoordinatorEvent::Loaded`].
    Restore {
        /// The number of the order, which shards return when they have carried it out.
        number: u64,
    },
    /// The sums over the pieces of all shards are known: decide about the step and send the verdict to all shards, or report
    /// [`CoordinatorEvent::NotFinite`].
    Decide {
        /// The step.
        step: u64,
    },
    /// A shard found the result of the step not finite: it cannot be committed here either.
    Diverge {
        /// The step.
        step: u64,
    },
    /// Ask all shards for their weights.
    Fetch {
        /// What for.
        purpose: Purpose,
        /// The version.
        version: u64,
        /// Whether the state is wanted, too.
        with_state: bool,
    },
    /// Keep the chunk that has just arrived.
    Keep {
        /// What it was fetched for.
        purpose: Purpose,
    },
    /// Record the step that was made.
    Record {
        /// The step.
        step: u64,
    },
    /// Inspect the whole weights.
    Look {
        /// Their version.
        version: u64,
    },
    /// Set aside what this process contributes to a checkpoint, before the next step changes it.
    Capture {
        /// The version.
        version: u64,
    },
    /// Save what was set aside, with the chunks that were fetched.
    Save {
        /// What these were fetched for.
        purpose: Purpose,
    },
    /// Drop the chunks that were fetched, and, for a checkpoint, what was set aside.
    Forget {
        /// What they were fetched for.
        purpose: Purpose,
    },
    /// The step that was made, which is not recorded, does not count.
    Unmake,
    /// Report an event to the round logic.
    Report(ServerEvent),
    /// The answer to [`CoordinatorEvent::Closing`]: whether the whole weights are here.
    Closed(Result<(), Unfetched>),
}

/// What chunks are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// The next step waits until they are here: they are inspected, or the run's result.
    Look,
    /// They are saved while training goes on.
    Save,
}

/// Why a process cannot take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// The run has no such shard.
    Unknown {
        /// The shard.
        shard: u32,
        /// Number of shards.
        shards: u32,
    },
    /// Another process is that shard, or all shards are present.
    Taken,
}

/// Why the weights could not be fetched at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfetched {
    /// Not all shards are present and hold their weights.
    Absent,
    /// A shard was lost meanwhile.
    Lost {
        /// The shard.
        shard: u32,
    },
    /// A worker was refused meanwhile, so some shards may hold wrong sums.
    Tainted,
    /// Not all chunks have come in time.
    Late {
        /// Time waited.
        waited_ms: Millis,
    },
}

/// What a shard's driver reports to [`crate::ShardCore`].
#[derive(Clone, Debug, PartialEq)]
pub enum ShardEvent {
    /// The coordinator has admitted the shard, for the first time or again.
    Attached {
        /// The elements that the shard is to keep.
        kept: Range<usize>,
    },
    /// The coordinator can no longer be reached. The driver looks for it.
    CoordinatorLost,
    /// The coordinator has sent the shard away.
    Dismissed(Dismissal),
    /// The coordinator gives the shard weights to resume from.
    Restore {
        /// Their version; at 0, nothing follows, and the shard makes the initial weights itself.
        version: u64,
        /// The number of the order.
        number: u64,
        /// Elements of the weights and the state that follow.
        elements: usize,
    },
    /// Some of these have arrived; the driver keeps them.
    Arrived {
        /// The version that they belong to.
        version: u64,
        /// How many.
        elements: usize,
    },
    /// A worker has connected.
    Joined {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker lacks weights that it needs for its work.
    WeightsWanted {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker sent something invalid, and its connection was closed.
    Refused {
        /// The step in whose sums some of its chunks are: the open one, or the one before if it may not be applied everywhere.
        counted: Option<u64>,
        /// What was wrong.
        why: String,
    },
    /// All leaves of a step that waits for a decision are in.
    Gathered {
        /// The step.
        step: u64,
    },
    /// The coordinator has decided about a step.
    Decided {
        /// The step.
        step: u64,
    },
    /// The next weights of all chunks are made.
    Completed {
        /// The step.
        step: u64,
    },
    /// The data plane has carried out [`ShardAction::Commit`].
    Committed {
        /// The step.
        step: u64,
    },
    /// The data plane could not: the result is not finite.
    Diverged {
        /// The step.
        step: u64,
    },
    /// The coordinator asks for the weights that are kept here.
    WeightsAsked {
        /// The version.
        version: u64,
        /// Whether it wants the state, too.
        with_state: bool,
    },
    /// The coordinator asks which leaves of a step are missing here.
    MissingAsked {
        /// The step.
        step: u64,
    },
}

/// What a shard's driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardAction {
    /// Keep other elements from now on. Their weights are not known yet.
    Keep {
        /// The elements.
        kept: Range<usize>,
    },
    /// Close all connections of workers: they are to connect again.
    SendAllAway,
    /// Send a worker all weights that are here, unless they are on their way to it.
    Serve {
        /// The worker.
        worker: WorkerId,
    },
    /// Do so for every worker.
    ServeAll,
    /// Turn a worker away, which is to try again later.
    TurnAway {
        /// The worker.
        worker: WorkerId,
    },
    /// Start from the initial weights.
    Begin,
    /// Start from the weights that have arrived.
    Resume {
        /// Their version.
        version: u64,
    },
    /// Send the coordinator the sums over the pieces that are kept here.
    Measure {
        /// The step.
        step: u64,
    },
    /// Make the next weights of all chunks, as the coordinator has decided.
    Follow {
        /// The step.
        step: u64,
    },
    /// Commit the step, of which all chunks are made: answer [`ShardEvent::Committed`] or [`ShardEvent::Diverged`].
    Commit {
        /// The step.
        step: u64,
    },
    /// Send a message to the coordinator.
    Report(ShardReport),
    /// Send the coordinator the weights that are kept here, if they still are.
    SendWeights {
        /// The version.
        version: u64,
        /// Whether to send the state, too.
        with_state: bool,
    },
    /// A verdict came that is of no use here; one line for the log.
    WarnUselessVerdict {
        /// The step.
        step: u64,
    },
    /// The run is over for this shard. Nothing follows.
    Finish(Dismissal),
}

/// What a shard reports to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardReport {
    /// It holds the weights that it was given.
    Restored {
        /// The number of the order.
        number: u64,
    },
    /// It has applied a step.
    Applied {
        /// The step.
        step: u64,
    },
    /// It cannot apply a step.
    Diverged {
        /// The step.
        step: u64,
    },
    /// It refused a worker, some of whose chunks are part of its sums.
    Tainted {
        /// The step that these sums belong to.
        step: u64,
        /// What was wrong with the worker's message.
        why: String,
    },
    /// It lacks leaves of a step; the data plane knows which.
    Missing {
        /// The step.
        step: u64,
    },
}
