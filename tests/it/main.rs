//! End-to-end tests in a single program, so that tests that wait run in parallel with tests that compute.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod architecture;
mod controls;
mod deploy;
#[cfg(unix)]
mod ending;
mod faults;
mod generated;
mod golden;
mod gradients;
mod independent;
mod killing;
mod minima;
mod model_file;
mod namespaces;
mod numerics;
mod onnx;
mod optimizers;
mod pictures;
mod protected;
mod proxied;
mod restarts;
mod resuming;
mod same_bits;
mod schedules;
mod scores;
mod step_size;
mod stores;
mod strangers;
mod tables;
mod terminal;
mod truth;
mod watching;
