//! Simulated runs: many seeds, and the same seeds against planted defects.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(feature = "planted")]
mod planted;
mod ten_thousand_seeds;
