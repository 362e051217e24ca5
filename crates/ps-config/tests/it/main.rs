//! What run files and flags are accepted, resolved to, and refused with.

mod examples;
mod flags;
mod reference;
mod refused;
mod resolved;
mod unset;
