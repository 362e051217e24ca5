//! A plane at its public interface, and what it makes against the reference trainer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chunks;
mod support;
mod whole;
