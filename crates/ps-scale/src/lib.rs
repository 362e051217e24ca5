//! Predicts the duration of a step for any number of workers and shards, by simulating rounds in virtual
//! time.
//!
//! While `ps-sim` checks that the protocol tolerates the faults of a network, this crate computes what a
//! round costs. The state machines of `ps_coord` make the decisions, as in a run: which worker computes which
//! leaves, which leaves are late and are reassigned, and when a step is made. Their actions become messages
//! between the threads of the real processes. Nodes are sent chunk by chunk; a chunk is folded, updated and
//! sent out once all its leaves are covered; and a worker computes a layer once its weights have arrived.
//! Each of these takes time of a thread ([`Costs`], measured elsewhere). The threads of a host share its
//! cores, and the messages of a process share its link.
//!
//! All workers take part from the beginning and no process fails, so connections never time out.
//!
//! This crate reads no clock and opens no file. Equal seeds give equal results.

mod bound;
mod cluster;
mod costs;
mod host;
mod network;
mod queue;
mod round;
mod servers;
mod sweep;
mod worker;

pub use bound::Bound;
pub use cluster::{Cluster, Link, Placement, Stragglers, WeightHolders};
pub use costs::{Costs, CostsError, Figure, compute_name};
pub use round::step_seconds;
pub use sweep::{MIN_WORTHWHILE_GAIN, Row, Sweep};
