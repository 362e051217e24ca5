//! What run files and flags are accepted, resolved to, and refused with.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod examples;
mod flags;
mod layers;
mod reference;
mod refused;
mod resolved;
mod unset;
