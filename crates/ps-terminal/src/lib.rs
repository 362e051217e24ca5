//! Output to a terminal: lines and tables that fit its width, and a progress bar that shares standard error
//! with log lines.
//!
//! Width policy: on a terminal, a line takes at most as many columns as the terminal has at that moment.
//! Elsewhere, in a pipe or a file, a line is complete and never shortened. Functions that lay out text take
//! the width as an argument, with `None` for "not a terminal", so that they can be tested without one.
//!
//! This crate does not depend on the concepts of a run.

mod command;
mod fit;
mod screen;
mod table;

pub use command::this_command;
pub use fit::{clip_start, fit, hang, wrap};
pub use screen::{
    Bar, Stderr, exit, has_color, is_interactive, meter, print, stderr_width, stdout_size, stdout_width,
};
pub use table::{Narrow, Table};
