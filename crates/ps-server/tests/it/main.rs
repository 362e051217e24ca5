//! Servers, shards and workers in this process, over real connections.

mod cluster;
mod health;
mod load;
mod lying;
mod overlap;
mod security;
mod support;
mod wire;
