//! The round logic: what a server and a worker decide, as two state machines fed with events.
//!
//! Time is an argument, bytes are somebody else's: the machines move ids of workers, steps and nodes of the
//! tree, and three drivers (the simulator, local threads, gRPC) carry out what they say. This crate never
//! reads a clock, never does input or output and never iterates over a hash map; its `clippy.toml` sees to
//! that.
//!
//! A driver feeds [`ServerCore::step`] or [`WorkerCore::step`] with events in the order in which they
//! happened, carries out the actions in order, and steps with `Timeout` when [`ServerCore::deadline`] has
//! come *and no other event is waiting* (so that news in the inbox is not taken for silence). A `Timeout` too
//! early or too many does no harm.

pub mod assignment;
mod audit;
mod coordinator;
pub mod event;
mod fetch;
mod history;
mod membership;
mod notice;
mod rhythm;
mod round;
mod server;
mod shard;
mod shard_event;
mod status;
mod worker;

pub use coordinator::{CoordinatorConfig, CoordinatorCore};
pub use event::{
    Contributor, Departure, Digest, Dismissal, Millis, Outcome, ServerAction, ServerEvent, WorkerAction,
    WorkerEvent, WorkerId, WorkerOutcome,
};
pub use notice::{LossCause, Notice, RewindCause, WorkerNotice};
pub use server::{ServerConfig, ServerCore};
pub use shard::ShardCore;
pub use shard_event::{
    ChunkId, CoordinatorAction, CoordinatorEvent, NoSeat, Purpose, ShardAction, ShardEvent, ShardReport,
    Unfetched, Wanted,
};
pub use status::{MissingLeaves, Status, WaitsFor, WorkerState, WorkerStatus};
pub use worker::{WorkerConfig, WorkerCore};
