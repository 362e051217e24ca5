//! One command per file.

pub mod bench;
pub mod certs;
pub mod data;
pub mod evaluate;
pub mod launch;
pub mod predict;
pub mod simulate;
pub mod status;
pub mod train;
#[cfg(unix)]
pub mod verify;
