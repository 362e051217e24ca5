//! Servers, shards and workers in this process, over real connections.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster;
mod health;
mod load;
mod lying;
mod overlap;
mod security;
mod support;
mod wire;
