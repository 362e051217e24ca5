//! Measures how fast Downhill runs on this machine, compared with the limits of the hardware.
//!
//! [`run`] makes the measurements that are asked for and reports each one as soon as it is made. Machines are
//! noisy, so nothing is timed alone: competitors take turns, and the result is the ratio of their medians in
//! one run.
//!
//! | name | unit | what it is | compared with |
//! | --- | --- | --- | --- |
//! | `peak/fma` | GFLOP/s | fused multiply-adds without memory, one core | |
//! | `kernel/PRODUCT/RxIxO` | GFLOP/s | `forward`, `input-gradient`, `weight-gradient` (leaves of 32) of a layer with I inputs and O outputs for R rows, one thread | `peak/fma` |
//! | `kernel/packing/RxIxO` | us | rearranging the layer's weight for its products, once per step | |
//! | `tree/weight-gradient/RxIxO/leaf-N` | us | a weight gradient summed over leaves of N rows | that of `no-leaves` |
//! | `tree/step/MODEL/bB/leaf-N` | us | a training step with leaves of N samples, one thread | that of `no-leaves` |
//! | `memory/copy` | GB/s | a copy in memory; bytes read and bytes written both count | |
//! | `fold-update` | GB/s | the server's work on a chunk: fold two nodes, divide, momentum, write; 24 bytes an element | `memory/copy` |
//! | `wire/WAY/bandwidth` | GB/s | one way through a socket: `tcp`, `unix`, and our stream over each, `grpc`, `grpc-unix` | the bare socket |
//! | `wire/WAY/latency` | us | half of a ping-pong | the bare socket |
//! | `round/SIZE/tcp` | us | 2 workers' gradients to a server, added, and the sum back, over bare sockets | |
//! | `round/SIZE/p50`, `/p99` | us | a synchronous round of one server and 2 workers that compute nothing | `tcp`; `p50` |
//! | `round/beside-tcp/SIZE/…` | us | a round with half of the weights in each worker; `exchange` is the bare exchange | `exchange`; `p50` |
//! | `round/beside-unix/SIZE/…` | us | the same rounds over Unix sockets | `exchange`; `p50` |
//! | `step/MODEL/bB/tT` | samples/s | a training step in one process, batches of B, T threads | |
//! | `cost/…` | us, ns | what the model of `downhill simulate` adds up, see [`ps_scale::Costs`] | |
//! | `cost/compute/MODEL/leafL/tT/leaves/N` | us | a worker's share of a step: N leaves of L samples, T threads | |
//! | `cost/compute/MODEL/leafL/tT/…` | us, x | each further node; how much times vary, and how much neighbours slow down a worker | |
//!
//! A ratio is the value divided by that of its bound, both measured in the same turns.

mod cost;
mod fold_update;
pub mod kernel;
mod measurement;
mod peak;
mod race;
mod raw;
mod round;
mod step;
mod stream;
mod wire;

pub use cost::{RUN_FILE, compute_name, measure as measure_costs, parts};
pub use measurement::{Bench, Comparison, Error, Measurement, Report};
pub use race::{Effort, Entrant, race};

use ps_config::RunConfig;
use ps_data::NoProgress;
use ps_run::Job;
use std::path::Path;

/// Prefixes of the names of figures, in the order in which they are measured.
pub const GROUPS: [&str; 9] =
    ["peak", "kernel", "tree", "memory", "fold-update", "wire", "round", "step", "cost"];

/// Prepares the process like a server or worker. To be called once, at its start.
pub fn prepare() {
    ps_host::keep_large_blocks();
}

/// Measures the figures that `bench` asks for. Costs are those of `run`, or of [`RUN_FILE`] if it is `None`.
///
/// # Errors
/// A figure cannot be reported, or a part of the system that is to be measured does not work on this machine.
/// If the machine is too busy for some figures, the error comes at the end, after all others are measured.
pub fn run(bench: &mut Bench, run: Option<&Job>) -> Result<(), Error> {
    measure(bench, run)?;
    bench.finish()
}

fn measure(bench: &mut Bench, run: Option<&Job>) -> Result<(), Error> {
    let kernel = ps_core::Kernel::chosen().map_err(|why| Error::failed("anything", why))?;
    peak::measure(bench)?;
    kernel::measure(bench, kernel)?;
    fold_update::measure(bench)?;
    wire::measure(bench)?;
    round::measure(bench)?;
    step::measure(bench, kernel)?;
    if !bench.is_selected(cost::NAME) {
        return Ok(());
    }
    match run {
        Some(run) => cost::report(bench, run),
        None => cost::report(bench, &built_in(RUN_FILE)?),
    }
}

/// Loads a run whose data is built in.
pub(crate) fn built_in(run_file: &str) -> Result<Job, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::failed("a run", error);
    let run = RunConfig::parse(run_file, "bench", &[]).map_err(|error| failed(&error))?;
    Job::load(run, Path::new("."), &NoProgress).map_err(|error| failed(&error))
}
