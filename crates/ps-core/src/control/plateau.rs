//! A learning rate that is lowered when the validation loss stops improving: PyTorch's `ReduceLROnPlateau`, except that a relative
//! threshold is a share of the magnitude of the best loss. PyTorch multiplies the best loss by `1 - threshold`; where that loss is
//! negative, the product is above it, so that a loss that has become worse counts as better and the rate is never lowered.

use crate::schedule::LearningRate;
use serde::{Deserialize, Serialize};

/// A rate that would change by less stays, as in PyTorch.
const MIN_CHANGE: f64 = 1e-8;

/// The rate of a phase whose schedule is `plateau`, and what it follows from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plateau {
    /// The step at which the phase began.
    begin: u64,
    rate: f64,
    /// The validation loss to beat.
    best: Option<f64>,
    /// Validations in a row that were not better.
    bad: u64,
    /// Validations left that do not count as bad.
    cooldown: u64,
}

impl Plateau {
    /// Starts a phase.
    pub(super) fn new(begin: u64, rate: f64) -> Self {
        Plateau { begin, rate, best: None, bad: 0, cooldown: 0 }
    }

    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn best(&self) -> Option<f64> {
        self.best
    }

    /// Takes in the loss of a validation. If that lowers the rate, returns the rate before and after it.
    pub(super) fn observe(&mut self, settings: &LearningRate, loss: f64) -> Option<[f64; 2]> {
        let LearningRate { factor, patience, cooldown, end, .. } = *settings;
        if self.is_better(settings, loss) {
            self.best = Some(loss);
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.bad = 0;
        }
        if self.bad <= patience {
            return None;
        }
        self.cooldown = cooldown;
        self.bad = 0;
        let (before, lower) = (self.rate, (self.rate * factor).max(end));
        if before - lower <= MIN_CHANGE {
            return None;
        }
        self.rate = lower;
        Some([before, lower])
    }

    fn is_better(&self, settings: &LearningRate, loss: f64) -> bool {
        let LearningRate { threshold, is_absolute, .. } = *settings;
        let margin = |best: f64| if is_absolute { threshold } else { threshold * best.abs() };
        // A best that is infinite would have no margin, and no checkpoint could hold it.
        loss.is_finite() && self.best.is_none_or(|best| loss < best - margin(best))
    }
}
