//! What a run reports, as its observers see it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod observers;
