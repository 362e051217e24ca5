//! The resources of the machine: safe reading of files, available memory, and the limit of open files.
//!
//! Paths come from run files, flags and peers. A path may name a pipe without a writer, an endless device, or
//! a file larger than memory; [`open`] and [`read`] refuse all of these with a clear error.

mod allocator;
mod files;
mod memory;
mod open_files;

pub use allocator::keep_large_blocks;
pub use files::{Ceiling, drain, open, read, read_text};
pub use memory::{Bound, Memory, bytes};
pub use open_files::open_files;
