//! Probes compare the predicted effect of a step on the loss of its batch with the actual one.

use serde::{Deserialize, Serialize};

/// Prediction and outcome of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Number of the probed step, from 0.
    pub step: u64,
    /// The learning rate of the step.
    pub rate: f32,
    /// Mean loss of the step's batch before the step.
    pub loss: f64,
    /// Euclidean norm of the mean gradient.
    pub gradient_norm: f64,
    /// Decrease of the batch's loss predicted to first order: the negative inner product of the gradient and
    /// the change of the weights.
    pub predicted: f64,
    /// Actual decrease of the batch's loss.
    pub actual: f64,
    /// For each layer, the norm of the weight's change divided by the norm of the weight.
    pub ratios: Vec<f64>,
}

/// A probed step whose outcome is not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub step: u64,
    pub rate: f32,
    pub loss: f64,
    pub norm: f64,
    /// 0 until the step has been measured; `ratios` is empty until then.
    pub predicted: f64,
    pub ratios: Vec<f64>,
}

impl Pending {
    /// Completes the probe with the mean loss of the same batch after the step.
    pub(super) fn finish(self, loss_after: f64) -> Probe {
        let Pending { step, rate, loss, norm, predicted, ratios } = self;
        Probe { step, rate, loss, gradient_norm: norm, predicted, actual: loss - loss_after, ratios }
    }
}
