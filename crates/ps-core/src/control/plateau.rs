//! A learning rate that falls when the validation loss stops improving: PyTorch's `ReduceLROnPlateau`, except
//! that a relative threshold is a fraction of the best loss's magnitude. PyTorch multiplies the best loss by
//! `1 - threshold`. For a negative loss that product is above the best, so a worse loss would count as better
//! and the rate would never fall.

use crate::schedule::LearningRate;
use serde::{Deserialize, Serialize};

/// The rate stays the same if it would change by less than this, as in PyTorch.
const MIN_CHANGE: f64 = 1e-8;

/// The rate of a phase whose schedule is `plateau`, and the state that determines it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plateau {
    /// The step at which the phase began.
    begin: u64,
    rate: f64,
    /// The best validation loss of the phase.
    best: Option<f64>,
    /// Consecutive validations without improvement.
    bad: u64,
    /// Validations that are still to be ignored after the last change.
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

    /// Records a validation loss. If that lowers the rate, returns the rates before and after.
    pub(super) fn observe(&mut self, settings: &LearningRate, loss: f64) -> Option<[f64; 2]> {
        let LearningRate { factor, patience, cooldown, end, .. } = *settings;
        if self.is_better(settings, loss) {
            self.best = Some(loss);
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        // As in PyTorch, a cooldown ignores only bad validations and still updates the best loss.
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
        // An infinite best loss would have no margin, and no checkpoint could represent it.
        loss.is_finite() && self.best.is_none_or(|best| loss < best - margin(best))
    }
}
