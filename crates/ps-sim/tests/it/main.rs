//! Simulated runs: many seeds, with the code as it is and with mutations.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(feature = "mutations")]
mod mutations;
mod ten_thousand_seeds;
