//! The decisions of servers and workers, as state machines driven by events.
//!
//! [`ServerCore`] and [`WorkerCore`] are the round logic: which worker computes which leaves, and when a step
//! is made. If the weights are split among several servers, [`CoordinatorCore`] and [`ShardCore`] are the
//! shard logic: what shards resume from, which steps they have applied, and what the coordinator fetches from
//! them.
//!
//! Time is an argument, and the machines refer to workers, shards, steps, nodes and chunks by id; they never
//! see the bytes. Drivers (the simulator, local threads, gRPC) carry out their actions. This crate never
//! reads a clock, never does I/O and never iterates over a hash map; its `clippy.toml` enforces that.
//!
//! A driver passes events to a machine in the order in which they happened and carries out the actions in
//! order. It passes `Timeout` when the machine's deadline has passed *and no other event is waiting*;
//! otherwise the machine would take a message that is still in the inbox for silence. A premature or
//! superfluous `Timeout` does no harm.

pub mod assignment;
mod audit;
mod coordinator;
pub mod event;
mod fetch;
mod history;
mod membership;
mod notice;
mod round;
mod round_times;
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
    AttachRefusal, ChunkId, CoordinatorAction, CoordinatorEvent, FetchPurpose, FollowUp, ShardAction,
    ShardEvent, ShardReport, Unfetched,
};
pub use status::{MissingLeaves, Status, WaitsFor, WorkerState, WorkerStatus};
pub use worker::{WorkerConfig, WorkerCore};
