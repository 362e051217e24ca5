//! One command per file.

pub mod bench;
pub mod certs;
pub mod completions;
pub mod data;
pub mod diff;
pub mod evaluate;
pub mod explain;
pub mod find_lr;
pub mod launch;
pub mod man;
pub mod plot;
pub mod predict;
pub mod runs;
pub mod simulate;
pub mod status;
pub mod stop;
pub mod train;
#[cfg(unix)]
pub mod verify;

use crate::failure::Failure;

/// Sets up the pool that everything computes on.
pub fn threads(threads: Option<u16>) -> Result<(), Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.map_or(0, usize::from));
    pool.build_global().map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))
}
