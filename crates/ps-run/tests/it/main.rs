//! What a run reports to its observers, and what reporting costs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod allocations;
mod observers;
