//! How long a step takes with any number of workers and shards: a discrete-event model of rounds.
//!
//! Where `ps-sim` asks whether the protocol survives what networks do, this crate asks what a round costs. It moves
//! the same messages between the same threads as the real processes do: leaves are cut by `ps_coord`, nodes travel
//! chunk by chunk, a chunk is folded, updated and sent out once all leaves have come, a worker computes once it has
//! work and all weights. Each of these costs seconds of a thread ([`Costs`], measured elsewhere); the threads of a
//! host share its cores, the messages of a process its link.
//!
//! It reads no clock, opens no file, and gives the same figures for the same seed.

mod agenda;
mod bound;
mod cluster;
mod costs;
mod host;
mod network;
mod round;
mod sweep;

pub use bound::Bound;
pub use cluster::{Cluster, Keepers, Link, Placement, Stragglers};
pub use costs::{Costs, CostsError, Figure, compute_name};
pub use round::step_seconds;
pub use sweep::{Row, Sweep, WORTHWHILE_GAIN};
