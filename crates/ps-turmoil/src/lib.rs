//! The real servers and workers, including tonic, over a simulated network and a simulated disk,
//! in virtual time.
//!
//! `ps-sim` runs only the round logic, under ten thousand schedules of faults. This crate runs everything
//! above the operating system's sockets and files, under hundreds of schedules: hosts crash and lose what was
//! not durable, links drop, delay and hold back messages in one or both directions, and processes are asked
//! to stop. The simulation itself is [`turmoil`]. `cluster` draws the faults from a seed and checks the
//! requirements, `processes` starts the programs, and `network` and `disk` are what they run on.

mod cluster;
mod disk;
mod network;
mod processes;
mod schedule;

pub use cluster::{Report, Violation, simulate_all};
pub use schedule::Counts;
