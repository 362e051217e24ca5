//! Simulated runs: many seeds, and the same seeds against planted defects.

#[cfg(feature = "planted")]
mod planted;
mod ten_thousand_seeds;
