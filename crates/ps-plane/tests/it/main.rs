//! Tests a plane through its public interface, and its results against the reference trainer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chunks;
mod support;
mod whole;
