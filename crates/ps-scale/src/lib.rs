//! How long a step takes with any number of workers and shards: the round logic in virtual time.
//!
//! Where `ps-sim` asks whether the protocol survives what networks do, this crate asks what a round costs. The state
//! machines of `ps_coord` decide, as in a run: who computes which leaves, which are late and given to another worker, and
//! when a step is made. Here their actions become messages between the threads that the real processes have. Nodes travel
//! chunk by chunk, a chunk is folded, updated and sent out once all its leaves are covered, and a worker computes a layer
//! once its weights have arrived. Each of these costs seconds of a thread ([`Costs`], measured elsewhere); the threads of a
//! host share its cores, and the messages of a process share its link.
//!
//! All workers take part from the beginning and no process fails, so no timeout of a connection ever passes.
//!
//! It reads no clock, opens no file, and gives the same figures for the same seed.

mod agenda;
mod bound;
mod cluster;
mod costs;
mod host;
mod network;
mod round;
mod servers;
mod sweep;
mod worker;

pub use bound::Bound;
pub use cluster::{Cluster, Keepers, Link, Placement, Stragglers};
pub use costs::{Costs, CostsError, Figure, compute_name};
pub use round::step_seconds;
pub use sweep::{Row, Sweep, WORTHWHILE_GAIN};
