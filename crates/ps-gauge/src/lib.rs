//! Measures on this machine what the model of `ps-scale` needs to know: seconds of threads.
//!
//! Nothing here trains anything. Each figure is taken alone, from the code that a real run goes through: gradients
//! of the run file's own model, the folding and updating of its chunks, chunks and small messages through our framing
//! of gRPC over loopback, a message from one thread to another, the round logic. The model adds them up; whether the
//! sum is right is found out by runs, from which no figure is taken.

mod compute;
mod control;
mod fold;
mod threads;
mod time;
mod wire;

use ps_proto::limits;
use ps_run::Job;
use ps_scale::Costs;

/// The name of a model in figures, such as 784-16-10.
pub fn model_name(job: &Job) -> String {
    let layers = job.model.layers();
    let widths = layers.iter().map(|layer| layer.inputs).chain(layers.last().map(|layer| layer.outputs));
    widths.map(|width| width.to_string()).collect::<Vec<_>>().join("-")
}

/// The chunks of each part of the weights, in bytes, if they are cut into `parts`; parts that get none are left out.
pub fn parts(parameters: usize, parts: u32) -> Vec<Vec<u32>> {
    let size = limits::chunk_elements(parameters);
    let chunks = |part| {
        let kept = limits::part(parameters, part, parts);
        kept.clone().step_by(size).map(|at| 4 * size.min(kept.end - at) as u32).collect::<Vec<_>>()
    };
    (0..parts).map(chunks).filter(|chunks| !chunks.is_empty()).collect()
}

/// Times that everything is measured: a machine that is shared with others changes from second to second.
const PASSES: usize = 5;

/// Measures everything, with workers that compute on `threads` threads. Takes a few seconds.
///
/// # Errors
/// Something that was to be measured does not work on this machine.
pub fn measure(job: &Job, threads: usize) -> Result<Costs, String> {
    ps_proto::allocator::keep_large_blocks();
    let passes = (0..PASSES).map(|_| pass(job, threads)).collect::<Result<Vec<_>, _>>()?;
    Ok(Costs::medians(&passes))
}

fn pass(job: &Job, threads: usize) -> Result<Costs, String> {
    let mut costs = Costs::nothing();
    compute::measure(job, threads, &mut costs)?;
    // While a round's bytes are on their way, every core is busy, and they are in nobody's cache.
    compute::beside_neighbours(job, || {
        fold::measure(job, &mut costs);
        wire::measure_chunks(job.model.parameters(), &mut costs)
    })??;
    wire::measure_messages(&mut costs)?;
    threads::measure(&mut costs)?;
    control::measure(job.plan, &mut costs);
    Ok(costs)
}
