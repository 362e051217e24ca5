//! Steps for ascending numbers of workers, and where more of them stop paying.

use crate::bound::Bound;
use crate::cluster::Cluster;
use crate::costs::Costs;
use crate::round::step_seconds;

/// Twice the workers must make steps at least this much faster, or they do not pay.
pub const WORTHWHILE_GAIN: f64 = 0.05;

/// One number of workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Workers.
    pub workers: usize,
    /// Seconds of a step.
    pub step_seconds: f64,
    /// How many times as fast as one worker.
    pub speedup: f64,
    /// Speed-up for each worker.
    pub efficiency: f64,
    /// What a step mostly waits for.
    pub bound: Bound,
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// In the order in which they were asked for.
    pub rows: Vec<Row>,
    /// The number of workers from which on twice as many do not pay, and what stands in the way there.
    pub stops_paying: Option<(usize, Bound)>,
}

impl Sweep {
    /// Simulates each number of `workers`. `cluster` gives the cluster of so many.
    pub fn new(workers: &[usize], cluster: impl Fn(usize) -> Cluster, costs: &Costs) -> Sweep {
        let seconds = |workers| step_seconds(&cluster(workers), costs);
        let one = seconds(1);
        let rows = workers.iter().map(|&workers| {
            let cluster = cluster(workers);
            let step_seconds = step_seconds(&cluster, costs);
            let speedup = one / step_seconds;
            let efficiency = speedup / workers as f64;
            Row { workers, step_seconds, speedup, efficiency, bound: Bound::of(&cluster, costs) }
        });
        let rows = rows.collect();
        let most = workers.iter().copied().max().unwrap_or(1);
        let mut stops_paying = None;
        let (mut workers, mut now) = (1, one);
        while workers < most {
            let doubled = seconds(2 * workers);
            if now < doubled * (1.0 + WORTHWHILE_GAIN) {
                stops_paying = Some((workers, Bound::of(&cluster(2 * workers), costs)));
                break;
            }
            (workers, now) = (2 * workers, doubled);
        }
        Sweep { rows, stops_paying }
    }
}
