//! The guard detects a loss that explodes and restores weights that it has kept. `docs/numerics.md`, section
//! 9, has its rule as pseudocode.

use super::{Event, NotFinite};
use serde::{Deserialize, Serialize};

/// Weight of the old running mean when a loss is added to it.
const DECAY: f64 = 0.9;
/// The limit is above the best mean by at least `rise - 1` times this fraction of the first loss, so that
/// noise does not count as an explosion where the best mean is close to 0.
const FLOOR: f64 = 0.1;
/// A single loss counts as an explosion if it is above the best mean by more than this multiple of the
/// limit's distance. Because the loss of a step has a weight of at least `1 - DECAY` in the mean, the mean is
/// then above its own limit as well, except for rounding.
const SPIKE: f64 = 10.0;

/// Settings of the guard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// Whether the guard recovers from an explosion; if not, it only reports it.
    pub can_recover: bool,
    /// Factor of the learning rate at each recovery.
    pub factor: f64,
    /// Maximum number of recoveries in a run.
    pub retries: u32,
    /// The loss has exploded when its running mean is above the best mean by more than `rise - 1` times the
    /// best mean's magnitude. Above 1.
    pub rise: f64,
    /// Interval between two copies of the weights, in steps; at least 1.
    pub every: u64,
}

/// What the guard remembers between steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GuardState {
    /// Product of the factors of all recoveries, by which the scheduled rate is multiplied.
    factor: f64,
    recoveries: u32,
    /// The first finite loss.
    first: Option<f64>,
    mean: RunningMean,
    /// The lowest mean since the start or, after a recovery, since the step whose weights were restored.
    best: Option<f64>,
    kept: Option<GoodWeights>,
    /// Whether an explosion without recovery has been reported. Reset when the loss falls below the limit.
    is_reported: bool,
}

/// An exponential moving mean of losses. The sum starts at 0; dividing it by the sum of the weights removes
/// the bias, as in Adam.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RunningMean {
    sum: f64,
    weight: f64,
}

/// What the guard knows about the weights that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct GoodWeights {
    /// The step before which these were the weights.
    step: u64,
    /// Number of steps that the optimizer's state had seen.
    count: u64,
    /// The mean including the loss of that step, which is the loss at these weights. It is restored with
    /// them: compared with the best mean of later weights, they would count as exploded at once.
    mean: RunningMean,
}

/// A step that the guard decides on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub step: u64,
    /// Number of steps that the optimizer's state has seen before this one.
    pub count: u64,
    /// Mean loss of the step's batch; `None` if the loss or the gradient is not finite.
    pub loss: Option<f64>,
    /// The step's rate without the guard's factor.
    pub rate: f64,
}

/// What the guard decides about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The optimizer makes the step.
    Step,
    /// The weights and the optimizer's state are copied, then the optimizer makes the step.
    Keep,
    /// The kept weights and state replace the current ones, and the step is not made.
    Recover,
}

/// The criterion by which the loss has exploded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Explosion {
    /// The loss or the gradient is not finite.
    NotFinite,
    /// The running mean of the loss is above its limit.
    Mean {
        /// The running mean, with this step's loss.
        value: f64,
        /// The limit for the mean.
        limit: f64,
    },
    /// A single loss is above its limit.
    Loss {
        /// Mean loss of this step's batch.
        value: f64,
        /// The limit for a single loss.
        limit: f64,
    },
}

impl Default for GuardState {
    fn default() -> Self {
        GuardState {
            factor: 1.0,
            recoveries: 0,
            first: None,
            mean: RunningMean::default(),
            best: None,
            kept: None,
            is_reported: false,
        }
    }
}

impl RunningMean {
    fn with(self, loss: f64) -> Self {
        // `1.0 - DECAY` is 0.09999999999999998. The specification has the same rounded number.
        RunningMean {
            sum: (1.0 - DECAY) * loss + DECAY * self.sum,
            weight: (1.0 - DECAY) + DECAY * self.weight,
        }
    }

    fn value(self) -> f64 {
        self.sum / self.weight
    }
}

impl GuardState {
    /// The factor by which the scheduled rate is multiplied.
    pub(super) fn factor(&self) -> f64 {
        self.factor
    }

    /// Number of steps that the kept optimizer state had seen.
    pub(super) fn kept_count(&self) -> u64 {
        self.kept.map_or(0, |kept| kept.count)
    }

    /// Decides about a step and returns an event if anything unusual happened.
    ///
    /// # Errors
    /// Returns an error if the loss or the gradient is not finite and no recovery is left.
    pub(super) fn decide(
        &mut self,
        guard: &Guard,
        candidate: Candidate,
    ) -> Result<(Decision, Option<Event>), NotFinite> {
        let Candidate { step, count, loss, rate } = candidate;
        let Err(explosion) = self.add(guard.rise, loss) else {
            self.is_reported = false;
            let keeps = guard.can_recover && self.kept.is_none_or(|kept| step - kept.step >= guard.every);
            if !keeps {
                return Ok((Decision::Step, None));
            }
            self.kept = Some(GoodWeights { step, count, mean: self.mean });
            return Ok((Decision::Keep, None));
        };
        match self.kept.filter(|_| self.recoveries < guard.retries) {
            Some(kept) => {
                self.recoveries += 1;
                self.factor *= guard.factor;
                (self.mean, self.best) = (kept.mean, Some(kept.mean.value()));
                let event = Event::Recovered {
                    explosion,
                    step: kept.step,
                    rate: rate * self.factor,
                    recovery: self.recoveries,
                    retries: guard.retries,
                };
                Ok((Decision::Recover, Some(event)))
            }
            None if loss.is_none() => Err(NotFinite),
            None => {
                let retries = guard.can_recover.then_some(guard.retries);
                // One warning per explosion rather than one per step.
                let is_new = !std::mem::replace(&mut self.is_reported, true);
                Ok((Decision::Step, is_new.then_some(Event::Warned { explosion, retries })))
            }
        }
    }

    /// Adds a loss to the running mean.
    ///
    /// # Errors
    /// Returns an error, and leaves the mean unchanged, if the loss has exploded.
    fn add(&mut self, rise: f64, loss: Option<f64>) -> Result<(), Explosion> {
        let loss = loss.ok_or(Explosion::NotFinite)?;
        let first = *self.first.get_or_insert(loss);
        let mean = self.mean.with(loss);
        if let Some(best) = self.best {
            let limit = best + (rise - 1.0) * best.abs().max(FLOOR * first.abs());
            // Relative to the best mean rather than 0, because losses can be negative.
            let spike = best + SPIKE * (limit - best);
            if mean.value() > limit {
                return Err(Explosion::Mean { value: mean.value(), limit });
            }
            if loss > spike {
                return Err(Explosion::Loss { value: loss, limit: spike });
            }
        }
        self.mean = mean;
        self.best = Some(self.best.map_or(mean.value(), |best| best.min(mean.value())));
        Ok(())
    }
}
