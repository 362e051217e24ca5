//! The round logic: what a server and a worker decide, as two state machines fed with events.
//!
//! Time is an argument, bytes are somebody else's: the machines move ids of workers, steps and nodes of the
//! tree, and three drivers (the simulator, local threads, gRPC) carry out what they say. This crate never
//! reads a clock, never does input or output and never iterates over a hash map; its `clippy.toml` sees to
//! that.

pub mod event;

pub use event::{
    Departure, Dismissal, Millis, Outcome, ServerAction, ServerEvent, WorkerAction, WorkerEvent, WorkerId,
};
