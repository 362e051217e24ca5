//! Gradients of the run's own model: what a worker's part of a step takes.

use crate::time::median_seconds;
use ps_core::{Gradients, Samples};
use ps_run::Job;
use ps_scale::Costs;
use rayon::ThreadPool;
use std::ops::Range;
use std::sync::Barrier;
use std::time::Instant;

/// Turns of each number of leaves, and seconds after which they are enough.
const TURNS: usize = 9;
const ENOUGH_SECONDS: f64 = 0.1;

pub(crate) fn measure(job: &Job, threads: usize, costs: &mut Costs) -> Result<(), String> {
    let mut alone = Worker::new(job, threads)?;
    let leaves = job.plan.step(0).tree().leaves();
    let mut powers: Vec<u32> = (0..32).map(|level| 1 << level).take_while(|&power| power < leaves).collect();
    let most = powers.last().copied();
    powers.push(leaves);
    costs.compute = powers.iter().map(|&leaves| (leaves, alone.seconds(0..leaves))).collect();
    if let Some(most) = most.filter(|&most| most > 1) {
        // As many leaves, but from the second one on: they are no longer one node.
        let leaves = 1..most.min(leaves - 1) + 1;
        let nodes = job.plan.step(0).tree().cover(leaves.clone()).len();
        let one_node = costs.compute_seconds(leaves.len() as u32, 1);
        costs.extra_node = ((alone.seconds(leaves) - one_node) / (nodes - 1).max(1) as f64).max(0.0);
    }
    costs.crowding = crowding(job, threads, leaves)?;
    Ok(())
}

/// How many times as long a worker takes if there are as many as the cores are enough for.
fn crowding(job: &Job, threads: usize, leaves: u32) -> Result<f64, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let crowd = cores / threads;
    if crowd < 2 {
        return Ok(1.0);
    }
    let leaves = 0..leaves.div_ceil(crowd as u32);
    let mut workers = (0..crowd).map(|_| Worker::new(job, threads)).collect::<Result<Vec<_>, _>>()?;
    // Turns alone and in a crowd alternate, so that whatever else the machine does meets both.
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let alone = workers[0].seconds_once(leaves.clone());
        let barrier = Barrier::new(crowd);
        let crowded = std::thread::scope(|scope| {
            let (barrier, leaves) = (&barrier, &leaves);
            let at_once = move |worker: &mut Worker<'_>| {
                barrier.wait();
                worker.seconds_once(leaves.clone())
            };
            let started: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || at_once(worker))).collect();
            let seconds = started.into_iter().map(|one| one.join().unwrap_or(alone));
            seconds.sum::<f64>() / crowd as f64
        });
        ratios.push(crowded / alone);
    }
    Ok(crate::time::median(ratios).max(1.0))
}

struct Worker<'a> {
    job: &'a Job,
    pool: ThreadPool,
    gradients: Gradients,
    weights: Vec<f32>,
    step: u64,
}

impl<'a> Worker<'a> {
    fn new(job: &'a Job, threads: usize) -> Result<Self, String> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|error| format!("cannot start threads: {error}"))?;
        let weights = job.model.initial(job.run.seed);
        Ok(Worker { job, pool, gradients: job.gradients(), weights, step: 0 })
    }

    /// Median seconds of a computation.
    fn seconds(&mut self, leaves: Range<u32>) -> f64 {
        let turns = (ENOUGH_SECONDS / self.compute(leaves.clone(), 1)) as usize;
        median_seconds(turns.clamp(1, TURNS), || {
            self.compute(leaves.clone(), 1);
        })
    }

    /// Mean seconds of some tens of milliseconds of computations.
    fn seconds_once(&mut self, leaves: Range<u32>) -> f64 {
        let turns = (0.03 / self.compute(leaves.clone(), 1)).clamp(1.0, 1000.0) as usize;
        self.compute(leaves, turns) / turns as f64
    }

    /// Seconds of `turns` computations, each of another step, as they follow each other in a run.
    fn compute(&mut self, leaves: Range<u32>, turns: usize) -> f64 {
        let Worker { job, pool, gradients, weights, step } = self;
        let samples: &dyn Samples = &job.data.train;
        let full_steps = (job.plan.samples / job.plan.step(0).samples.max(1)).max(1) as u64;
        pool.install(|| {
            let begun = Instant::now();
            for _ in 0..turns {
                *step = (*step + 1) % full_steps.min(job.plan.steps);
                let sums = gradients.compute(weights, samples, *step, leaves.clone());
                sums.into_iter().for_each(|sum| gradients.recycle(sum));
            }
            begun.elapsed().as_secs_f64()
        })
    }
}
