//! Predicts steps for several numbers of workers, and finds where adding workers stops paying.

use crate::bound::Bound;
use crate::cluster::Cluster;
use crate::costs::Costs;
use crate::round::step_seconds;

/// Doubling the workers must speed up steps by at least this share to be worthwhile.
pub const MIN_WORTHWHILE_GAIN: f64 = 0.05;

/// The prediction for one number of workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Number of workers.
    pub workers: usize,
    /// Seconds per step.
    pub step_seconds: f64,
    /// Speed relative to one worker.
    pub speedup: f64,
    /// Speed-up divided by the number of workers.
    pub efficiency: f64,
    /// The bottleneck of a step.
    pub bound: Bound,
}

/// The predictions for all numbers of workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// One row per number of workers, in the order of the request.
    pub rows: Vec<Row>,
    /// The number of workers from which on doubling them is not worthwhile, and the bottleneck there.
    pub stops_paying: Option<(usize, Bound)>,
}

impl Sweep {
    /// Simulates each number in `workers`; `cluster` returns the cluster with that number of workers.
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
            if now < doubled * (1.0 + MIN_WORTHWHILE_GAIN) {
                stops_paying = Some((workers, Bound::of(&cluster(2 * workers), costs)));
                break;
            }
            (workers, now) = (2 * workers, doubled);
        }
        Sweep { rows, stops_paying }
    }
}
