//! What a run reports, as its observers see it, and what a report costs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod allocations;
mod observers;
