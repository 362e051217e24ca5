//! The sums of consecutive steps.

use crate::lines::StepLine;
use crate::observer::StepMade;
use ps_core::Tally;
use std::time::{Duration, Instant};

/// Loss and metrics of consecutive steps, and when the first of them began.
pub(crate) struct Window {
    since: Instant,
    /// Samples of steps that an earlier process made: they do not count towards the speed.
    before: u64,
    sums: Tally,
}

impl Window {
    /// Continues from the sums that an earlier process saved.
    pub(crate) fn new(sums: Tally, now: Instant) -> Self {
        Window { since: now, before: sums.samples, sums }
    }

    /// The first step begins only now.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = now;
    }

    /// Adds a step.
    pub(crate) fn add(&mut self, batch: &Tally) {
        self.sums.add(batch);
    }

    /// Loss and metrics of the steps.
    pub(crate) fn sums(&self) -> &Tally {
        &self.sums
    }

    /// Whether there is no step.
    pub(crate) fn is_empty(&self) -> bool {
        self.sums.samples == 0
    }

    /// The time since the window began.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now - self.since
    }

    /// Samples per second of this process.
    pub(crate) fn speed(&self, now: Instant) -> f64 {
        (self.sums.samples - self.before) as f64 / self.age(now).as_secs_f64().max(1e-9)
    }

    /// What the steps came to, of which `last` is the last one; the next step begins another window.
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

    /// Begins another window.
    pub(crate) fn restart(&mut self, now: Instant) {
        (self.since, self.before) = (now, 0);
        self.sums.clear();
    }
}
