//! Servers, shards and workers in this process, over real connections. One program, for each links all that serves.

mod cluster;
mod health;
mod lying;
mod overlap;
mod security;
mod support;
mod wire;
