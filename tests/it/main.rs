//! End-to-end tests in one program, so that those that wait overlap those that compute.

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
mod namespaces;
mod numerics;
mod optimizers;
mod pictures;
mod protected;
mod proxied;
mod restarts;
mod resuming;
mod same_bits;
mod schedules;
mod step_size;
mod stores;
mod strangers;
mod terminal;
mod truth;
mod watching;
