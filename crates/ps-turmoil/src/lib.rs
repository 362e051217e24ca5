//! The servers and workers as they are, tonic and all, over a simulated network and a simulated disk, in virtual time.
//!
//! Where `ps-sim` puts the round logic alone under ten thousand schedules of faults, this puts everything above the
//! operating system's sockets and files under hundreds: hosts die and lose what they had not made durable, links drop,
//! delay and hold back what is sent in one direction or both, processes are asked to stop. What simulates is
//! [`turmoil`]; `cluster` decides by a seed what befalls whom, and checks what must hold; `processes` are our programs;
//! `network` and `disk` are what they run on.

mod cluster;
mod disk;
mod network;
mod processes;
mod schedule;

pub use cluster::{Report, Violation, simulate_all};
pub use schedule::Counts;
