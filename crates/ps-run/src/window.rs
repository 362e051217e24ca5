//! Sums over consecutive steps.

use crate::lines::StepLine;
use crate::observer::StepMade;
use ps_core::MetricSums;
use std::time::{Duration, Instant};

/// Sums of loss and metrics over consecutive steps, and when the first of them began.
pub(crate) struct Window {
    since: Instant,
    /// Samples of steps that an earlier process made. They do not count towards the speed.
    before: u64,
    sums: MetricSums,
}

impl Window {
    /// Continues from sums that an earlier process saved.
    pub(crate) fn new(sums: MetricSums, now: Instant) -> Self {
        Window { since: now, before: sums.samples, sums }
    }

    /// Restarts the clock: the first step begins only now.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = now;
    }

    /// Adds the batch of a step.
    pub(crate) fn add(&mut self, batch: &MetricSums) {
        self.sums.add(batch);
    }

    /// The sums over the steps so far.
    pub(crate) fn sums(&self) -> &MetricSums {
        &self.sums
    }

    /// Returns whether the window contains no step.
    pub(crate) fn is_empty(&self) -> bool {
        self.sums.samples == 0
    }

    /// Time since the window began.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now - self.since
    }

    /// Samples per second, without those of earlier processes.
    pub(crate) fn speed(&self, now: Instant) -> f64 {
        (self.sums.samples - self.before) as f64 / self.age(now).as_secs_f64().max(1e-9)
    }

    /// Returns the line for the steps of the window, up to `last`, and begins the next window.
    pub(crate) fn close(&mut self, last: &StepMade<'_>) -> StepLine {
        let line = StepLine {
            step: last.step,
            steps: last.steps,
            epoch: last.epoch,
            epochs: last.epochs,
            loss: self.sums.mean_loss(),
            accuracy: self.sums.accuracy(),
            r_squared: self.sums.r_squared(),
            learning_rate: last.learning_rate,
            samples_per_second: self.speed(last.at),
            workers: last.workers,
            seconds: last.seconds,
        };
        self.restart(last.at);
        line
    }

    /// Empties the window.
    pub(crate) fn restart(&mut self, now: Instant) {
        (self.since, self.before) = (now, 0);
        self.sums.clear();
    }
}
