//! Early stopping: ends a run when the validation loss or another monitored metric stops
//! improving, and restores the best weights. A metric that grows as it improves is negated, so that all of them are
//! compared like losses.

use serde::{Deserialize, Serialize};

/// Settings of early stopping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Consecutive validations without improvement after which the run ends; at least 1.
    pub patience: u64,
    /// How far a loss must be below the best loss to count as an improvement.
    pub min_delta: f64,
}

/// The best validation loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    pub loss: f64,
    /// Number of steps made before the weights were validated.
    pub step: u64,
    /// Number of validations since then.
    pub waited: u64,
}

/// What a validation means for the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Validated {
    /// The weights are the best so far.
    Best,
    /// They are not the best, and the run continues.
    NotBetter,
    /// They are not the best, and the run ends with the best weights.
    Exhausted(Best),
}

impl EarlyStopping {
    /// Records the validation loss at the weights before `step`. A loss that is not finite never counts
    /// as an improvement.
    pub(super) fn observe(&self, best: &mut Option<Best>, step: u64, loss: f64) -> Validated {
        if loss.is_finite() && best.is_none_or(|best| self.is_better(&best, loss)) {
            *best = Some(Best { loss, step, waited: 0 });
            return Validated::Best;
        }
        let Some(best) = best else { return Validated::NotBetter };
        best.waited += 1;
        if best.waited < self.patience { Validated::NotBetter } else { Validated::Exhausted(*best) }
    }

    pub(super) fn is_better(&self, best: &Best, loss: f64) -> bool {
        loss < best.loss - self.min_delta
    }
}
