//! The guard: notices that the loss explodes, and returns to weights that it has kept. Section 9 of `docs/numerics.md` has its
//! rule as pseudocode.

use super::{Event, NotFinite};
use serde::{Deserialize, Serialize};

/// Share of the running mean that remains when a loss is added to it.
const DECAY: f64 = 0.9;
/// The limit lies above the best mean by at least `rise - 1` times this share of the first loss, so that noise is no explosion
/// where the best mean is close to 0.
const FLOOR: f64 = 0.1;
/// A single loss that is above the best mean by more than this many times the distance of the limit is an explosion. The loss
/// of a step weighs at least `1 - DECAY` in the mean, so the mean is then above its own limit, too, but for rounding.
const SPIKE: f64 = 10.0;

/// Settings of the guard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// Whether an explosion is undone; otherwise it is only reported.
    pub recovers: bool,
    /// The learning rate is multiplied by this at each recovery.
    pub factor: f64,
    /// Recoveries allowed in one run.
    pub retries: u32,
    /// The loss has exploded when its running mean is above the best mean by more than `rise - 1` times its magnitude; above 1.
    pub rise: f64,
    /// Steps between two copies of the weights; at least 1.
    pub every: u64,
}

/// What the guard remembers between steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GuardState {
    /// Product of the factors of all recoveries; the scheduled rate is multiplied by it.
    factor: f64,
    recoveries: u32,
    /// The first finite loss.
    first: Option<f64>,
    mean: RunningMean,
    /// The lowest mean since the start or, after a recovery, since the step whose weights were restored.
    best: Option<f64>,
    kept: Option<Kept>,
    /// Whether an explosion that cannot be undone has been reported; reset when the loss is below the limit again.
    is_reported: bool,
}

/// An exponential mean of losses. The sum starts at 0, and dividing by the weights removes the bias (as in Adam).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RunningMean {
    sum: f64,
    weight: f64,
}

/// What is known of the weights that were kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The step before which they were the weights.
    step: u64,
    /// Steps that the optimizer's state had seen.
    count: u64,
    /// The mean with the loss of that step, which is the loss of these weights. Restored with them: measured against the best
    /// mean of later weights, they would have exploded already.
    mean: RunningMean,
}

/// A step that the guard decides about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub step: u64,
    /// Steps that the optimizer's state has seen before it.
    pub count: u64,
    /// Mean loss of its batch; `None` if the loss or the gradient is not finite.
    pub loss: Option<f64>,
    /// Its rate without the guard's factor.
    pub rate: f64,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The optimizer makes it.
    Step,
    /// The weights and the optimizer's state before it are kept, and the optimizer makes it.
    Keep,
    /// The kept weights and state replace the current ones; the step is not made.
    Recover,
}

/// What shows that the loss has exploded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Explosion {
    /// The loss or the gradient is not finite.
    NotFinite,
    /// The running mean of the loss is above its limit.
    Mean {
        /// The mean.
        value: f64,
        /// Its limit.
        limit: f64,
    },
    /// A single loss is above its limit.
    Loss {
        /// The loss.
        value: f64,
        /// Its limit.
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
    /// What the scheduled rate is multiplied by.
    pub(super) fn factor(&self) -> f64 {
        self.factor
    }

    /// Steps that the kept state of the optimizer had seen.
    pub(super) fn kept_count(&self) -> u64 {
        self.kept.map_or(0, |kept| kept.count)
    }

    /// Decides about a step, and reports what is out of the ordinary.
    ///
    /// # Errors
    /// The loss or the gradient is not finite, and there is no recovery left.
    pub(super) fn decide(
        &mut self,
        guard: &Guard,
        candidate: Candidate,
    ) -> Result<(Decision, Option<Event>), NotFinite> {
        let Candidate { step, count, loss, rate } = candidate;
        let Err(explosion) = self.add(guard.rise, loss) else {
            self.is_reported = false;
            let keeps = guard.recovers && self.kept.is_none_or(|kept| step - kept.step >= guard.every);
            if !keeps {
                return Ok((Decision::Step, None));
            }
            self.kept = Some(Kept { step, count, mean: self.mean });
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
                let retries = guard.recovers.then_some(guard.retries);
                let is_new = !std::mem::replace(&mut self.is_reported, true);
                Ok((Decision::Step, is_new.then_some(Event::Warned { explosion, retries })))
            }
        }
    }

    /// Adds a loss to the running mean.
    ///
    /// # Errors
    /// The loss has exploded; the mean is unchanged.
    fn add(&mut self, rise: f64, loss: Option<f64>) -> Result<(), Explosion> {
        let loss = loss.ok_or(Explosion::NotFinite)?;
        let first = *self.first.get_or_insert(loss);
        let mean = self.mean.with(loss);
        if let Some(best) = self.best {
            let limit = best + (rise - 1.0) * best.abs().max(FLOOR * first.abs());
            // Relative to the best mean, not to 0: losses may be negative.
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
