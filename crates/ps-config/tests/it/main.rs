//! Which run files and flags are accepted, what they resolve to, and the messages that refuse others.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod examples;
mod flags;
mod layers;
mod reference;
mod refused;
mod resolved;
mod unset;
