//! The command line as its users run it.

mod benching;
mod command_line;
mod documenting;
mod interrupting;
mod launching;
mod results;
mod simulating;
