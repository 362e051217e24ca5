//! What the machine gives a process: files that are safe to read, memory, and open files.
//!
//! Paths come from run files, flags and peers. A path may name a pipe that nobody writes to, an endless device, or a file
//! that is larger than memory; [`open`] and [`read`] refuse all of these and say why.

mod allocator;
mod files;
mod memory;
mod open_files;

pub use allocator::keep_large_blocks;
pub use files::{Ceiling, drain, open, read, read_text};
pub use memory::{Bound, Memory, bytes};
pub use open_files::open_files;
