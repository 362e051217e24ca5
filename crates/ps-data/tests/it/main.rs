//! Reading of valid, real and damaged sources.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod columns;
mod common;
mod dialects;
mod new_data;
mod proposals;
mod reading;
mod real_sets;
mod saving;
mod tables;
