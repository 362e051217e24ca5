//! Reading sources of data, well-formed, real and damaged.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod common;
mod reading;
mod real_sets;
mod tables;
