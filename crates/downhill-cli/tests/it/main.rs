//! The command line as its users run it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod benching;
mod command_line;
mod documenting;
mod interrupting;
mod launching;
mod predicting;
mod results;
mod simulating;
