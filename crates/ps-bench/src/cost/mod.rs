//! The costs that the model of `ps-scale` needs, in seconds of threads.
//!
//! Each cost is measured in isolation, with the code of a real run: gradients of the run file's own model,
//! folding and updating its chunks, sending chunks and small messages over our stream on loopback, passing a
//! message from one thread to another, and the round logic. The model adds them up. Real runs only validate
//! the sum; no cost is derived from them.

mod compute;
mod control;
mod fold;
mod threads;
pub(crate) mod time;
mod wire;

use crate::{Bench, Error, Measurement};
use ps_proto::limits;
use ps_run::Job;
use ps_scale::{Costs, Figure};

/// Name of the group of figures.
pub(crate) const NAME: &str = "cost";

/// The run file whose costs are measured if none is given.
pub const RUN_FILE: &str = "data.train = \"digits:8192\"\nmodel.kind = \"mlp\"\nmodel.hidden = [512, 256]\n\
    train.batch = 1024\noptimizer.momentum = 0.9\nlearning_rate.initial = 0.01\n";

/// Number of repetitions of all measurements, because a shared machine changes from second to second.
const PASSES: [usize; 2] = [5, 1];

/// Reports the costs of a run whose workers compute on one thread, and on all cores.
pub(crate) fn report(bench: &mut Bench, job: &Job) -> Result<(), Error> {
    let [full, quick] = PASSES;
    let passes = bench.effort().pick(full, quick);
    let mut threads = vec![1, std::thread::available_parallelism().map_or(1, usize::from)];
    threads.dedup();
    for (turn, &threads) in threads.iter().enumerate() {
        let compute = compute_name(job, threads);
        let figures = measure_in(passes, job, threads)?.figures(&compute);
        // Figures that do not depend on the number of threads are reported only once.
        for Figure { name, value, unit } in figures {
            if turn == 0 || name.starts_with(&compute) {
                bench.report(Measurement::new(name, value, unit))?;
            }
        }
    }
    Ok(())
}

/// Measures the costs of a run's rounds, with workers of `threads` threads. This takes a few seconds.
///
/// # Errors
/// A part of the system that is to be measured does not work on this machine.
pub fn measure(job: &Job, threads: usize) -> Result<Costs, Error> {
    measure_in(PASSES[0], job, threads)
}

/// Returns the name of the figures for gradients of the run's model, computed on `threads` threads.
pub fn compute_name(job: &Job, threads: usize) -> String {
    let layers = job.model.dense_layers().map(|layer| layer.outputs);
    let widths = [job.model.features()].into_iter().chain(layers);
    let model = widths.map(|width| width.to_string()).collect::<Vec<_>>().join("-");
    ps_scale::compute_name(&model, job.plan.leaf, threads)
}

/// Returns the sizes in bytes of the chunks of each shard, if the weights are sharded into `parts`. Empty
/// shards are omitted.
pub fn parts(parameters: usize, parts: u32) -> Vec<Vec<u32>> {
    let size = limits::chunk_elements(parameters);
    let chunks = |part| {
        let kept = limits::shard_range(parameters, part, parts);
        kept.clone().step_by(size).map(|at| 4 * size.min(kept.end - at) as u32).collect::<Vec<_>>()
    };
    (0..parts).map(chunks).filter(|chunks| !chunks.is_empty()).collect()
}

fn measure_in(passes: usize, job: &Job, threads: usize) -> Result<Costs, Error> {
    crate::prepare();
    let passes = (0..passes).map(|_| pass(job, threads)).collect::<Result<Vec<_>, _>>();
    Ok(Costs::medians(&passes.map_err(|why| Error::failed("what rounds cost", why))?))
}

fn pass(job: &Job, threads: usize) -> Result<Costs, String> {
    let mut costs = Costs::nothing();
    compute::measure(job, threads, &mut costs)?;
    // While the bytes of a round are in transit, every core is busy and the bytes are not in any cache.
    let chunks = compute::with_contention(job, || {
        fold::measure(job, &mut costs);
        wire::measure_chunks(job.model.parameters(), &mut costs)
    })?;
    let measured = chunks.and_then(|()| wire::measure_messages(&mut costs));
    measured.and_then(|()| threads::measure(&mut costs)).map_err(|error| error.to_string())?;
    control::measure(job.plan, &mut costs);
    Ok(costs)
}
