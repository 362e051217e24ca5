//! What servers and workers decide, as state machines fed with events.
//!
//! [`ServerCore`] and [`WorkerCore`] are the round logic: who computes which leaves, and when a step is made. Where the weights
//! are cut among several servers, [`CoordinatorCore`] and [`ShardCore`] are the shard logic: what shards resume from, what
//! they have applied, and what the coordinator fetches from them.
//!
//! Time is an argument, and the machines know the ids of workers, shards, steps, nodes and chunks, never their bytes. Drivers
//! (the simulator, local threads, gRPC) carry out their actions. This crate never reads a clock, never does input or output
//! and never iterates over a hash map; its `clippy.toml` sees to that.
//!
//! A driver steps a machine with events in the order in which they happened, carries out the actions in order, and steps with
//! `Timeout` when the machine's deadline has come *and no other event is waiting*, so that news in the inbox is not taken for
//! silence. A `Timeout` too early or too many does no harm.

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
