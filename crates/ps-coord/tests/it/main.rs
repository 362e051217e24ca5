//! Tests of the state machines: scenarios as text, and properties over random histories.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod behaviour;
mod liveness;
mod scenarios;
mod shard_behaviour;
mod shard_scenarios;
