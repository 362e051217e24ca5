//! Costs of gradients of the run's own model: a worker's share of a step.

use crate::cost::time::{CacheEvictor, median};
use ps_core::gradient::Flow;
use ps_core::{Gradients, MetricSums, Samples};
use ps_plan::Node;
use ps_run::Job;
use ps_scale::Costs;
use rayon::ThreadPool;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// When a number of leaves has been measured enough: after this many repetitions or seconds.
const MAX_TURNS: usize = 30;
const SUFFICIENT_SECONDS: f64 = 0.08;
/// Larger numbers of leaves are not measured if this is exceeded: the time per leaf no longer changes.
const LONG_SECONDS: f64 = 0.1;
/// Number of measurements with all cores computing at once.
const CONTENDED_TURNS: usize = 7;

pub(crate) fn measure(job: &Job, threads: usize, costs: &mut Costs) -> Result<(), String> {
    let mut alone = Worker::new(job, threads)?;
    let mut evictor = CacheEvictor::default();
    let tree = job.plan.step(0).tree();
    let leaves = tree.leaves();
    let powers = (0..32).map(|level| 1 << level).take_while(|&power| power < leaves);
    costs.compute.clear();
    let (mut measured, mut max) = (1, 1);
    for count in powers.chain([leaves]) {
        let seconds = alone.seconds(0..count, &mut evictor);
        costs.compute.push((count, seconds));
        measured = count;
        if count < leaves {
            max = count;
        }
        if seconds > LONG_SECONDS {
            break;
        }
    }
    if max > 1 {
        // The same number of leaves, but starting with the second one, so that their sum is more than one
        // node.
        let shifted = 1..max + 1;
        let nodes = tree.cover(shifted.clone()).len();
        let one_node = costs.compute_seconds(max, 1);
        costs.extra_node = ((alone.seconds(shifted, &mut evictor) - one_node) / (nodes - 1) as f64).max(0.0);
    }
    alone.watch(0..measured, costs);
    measure_contention(job, threads, measured, costs)
}

/// Measures how much slower a worker is when as many workers as the cores allow compute at once, and how much
/// their times vary.
fn measure_contention(job: &Job, threads: usize, leaves: u32, costs: &mut Costs) -> Result<(), String> {
    let crowd = (cores() / threads).max(1);
    let leaves = 0..leaves.div_ceil(crowd as u32);
    let mut workers = (0..crowd).map(|_| Worker::new(job, threads)).collect::<Result<Vec<_>, _>>()?;
    for worker in &mut workers {
        // The first computation allocates buffers.
        worker.compute(leaves.clone());
    }
    let mut evictor = CacheEvictor::default();
    let (mut ratios, mut deviations) = (Vec::new(), Vec::new());
    // Turns alone and in a crowd alternate, so that other load of the machine affects both.
    for _ in 0..CONTENDED_TURNS {
        evictor.evict();
        let alone = workers[0].compute(leaves.clone());
        evictor.evict();
        let begin = Barrier::new(crowd);
        let crowded: Vec<f64> = std::thread::scope(|scope| {
            let (begin, leaves) = (&begin, &leaves);
            let compute = |worker: &mut Worker| {
                begin.wait();
                worker.compute(leaves.clone())
            };
            let started: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || compute(worker))).collect();
            started.into_iter().map(|one| one.join().unwrap_or(alone)).collect()
        });
        ratios.push(mean(&crowded) / alone);
        deviations.extend(crowded.iter().map(|seconds| (seconds / mean(&crowded) - 1.0).abs()));
    }
    costs.crowding = median(ratios).max(1.0);
    // Two thirds of normally distributed values lie within one standard deviation. A quantile ignores the few
    // computations that were interrupted for a long time.
    deviations.sort_by(f64::total_cmp);
    costs.jitter = deviations.get(deviations.len() * 2 / 3).copied().unwrap_or_default();
    Ok(())
}

/// Runs `run` while all other cores compute gradients.
pub(crate) fn with_contention<T>(job: &Job, run: impl FnOnce() -> T) -> Result<T, String> {
    let mut neighbours = (1..cores()).map(|_| Worker::new(job, 1)).collect::<Result<Vec<_>, _>>()?;
    let done = AtomicBool::new(false);
    let leaves = job.plan.step(0).tree().leaves().min(8);
    Ok(std::thread::scope(|scope| {
        for neighbour in &mut neighbours {
            let done = &done;
            scope.spawn(move || {
                // The flag only ends the loop; no data is passed with it.
                while !done.load(Ordering::Relaxed) {
                    neighbour.compute(0..leaves);
                }
            });
        }
        let result = run();
        done.store(true, Ordering::Relaxed);
        result
    }))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
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

    /// Mean seconds of a computation that starts with cold caches, as it does in a run after the bytes of a
    /// round have passed through them.
    fn seconds(&mut self, leaves: Range<u32>, evictor: &mut CacheEvictor) -> f64 {
        self.compute(leaves.clone());
        let begun = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < MAX_TURNS && begun.elapsed().as_secs_f64() < SUFFICIENT_SECONDS {
            evictor.evict();
            seconds.push(self.compute(leaves.clone()));
        }
        mean(&seconds)
    }

    /// Measures when a computation needs each layer's weights, and when each layer's gradient is complete.
    fn watch(&mut self, leaves: Range<u32>, costs: &mut Costs) {
        let Worker { job, pool, gradients, weights, step, .. } = self;
        let samples: &dyn Samples = &job.data.train;
        let (needs, gives, passed) = pool.install(|| {
            let mut watch = TimedFlow {
                begun: Instant::now(),
                job,
                weights,
                sums: Vec::new(),
                needs: vec![],
                gives: vec![],
            };
            gradients.compute_flowing(&mut watch, samples, *step, leaves);
            (watch.needs, watch.gives, watch.begun.elapsed().as_secs_f64())
        });
        let shares = |marks: Vec<(usize, f64)>| {
            marks.into_iter().map(|(at, seconds)| (at, seconds / passed)).collect()
        };
        (costs.needs, costs.gives) = (shares(needs), shares(gives));
    }

    /// Seconds of a computation. Each one is of the next step, as in a run.
    fn compute(&mut self, leaves: Range<u32>) -> f64 {
        let Worker { job, pool, gradients, weights, step, .. } = self;
        let samples: &dyn Samples = &job.data.train;
        // The last step of an epoch may be shorter and would distort the mean.
        let full_steps = (job.plan.samples / job.plan.step(0).samples.max(1)).max(1) as u64;
        *step = (*step + 1) % full_steps.min(job.plan.steps);
        pool.install(|| {
            let begun = Instant::now();
            let sums = gradients.compute(weights, samples, *step, leaves);
            let seconds = begun.elapsed().as_secs_f64();
            sums.into_iter().for_each(|sum| gradients.recycle(sum));
            seconds
        })
    }
}

/// Records when weights are requested, all of which are available, and when gradients are complete.
struct TimedFlow<'a> {
    begun: Instant,
    job: &'a Job,
    weights: &'a [f32],
    sums: Vec<(MetricSums, Vec<f32>)>,
    needs: Vec<(usize, f64)>,
    gives: Vec<(usize, f64)>,
}

impl Flow for TimedFlow<'_> {
    fn weights(&mut self, needed: usize) -> Option<(usize, &[f32])> {
        self.needs.push((needed, self.begun.elapsed().as_secs_f64()));
        Some((needed, self.weights))
    }

    fn node(&mut self, _: Node) -> &mut MetricSums {
        let number = self.sums.len();
        self.sums.push((MetricSums::new(self.job.model.classes()), vec![0.0; self.weights.len()]));
        &mut self.sums[number].0
    }

    fn gradient(&mut self, number: usize) -> &mut [f32] {
        &mut self.sums[number].1
    }

    fn finished(&mut self, number: usize, from: usize) {
        if number == 0 {
            self.gives.push((from, self.begun.elapsed().as_secs_f64()));
        }
    }
}
