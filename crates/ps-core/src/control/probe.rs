//! Probes: what a step was predicted to do to the loss of its batch, and what it did.

use serde::{Deserialize, Serialize};

/// Prediction and outcome of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The step.
    pub step: u64,
    /// Its learning rate.
    pub rate: f32,
    /// The mean loss of its batch before it.
    pub loss: f64,
    /// The norm of the mean gradient.
    pub gradient_norm: f64,
    /// By how much the loss of the batch should fall to first order: the product of the gradient and the change of the
    /// weights.
    pub predicted: f64,
    /// By how much it fell.
    pub actual: f64,
    /// For each layer, the norm of the change of its weight relative to the norm of its weight.
    pub ratios: Vec<f64>,
}

/// A probed step whose outcome is not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub step: u64,
    pub rate: f32,
    pub loss: f64,
    pub norm: f64,
    /// 0 until the step is measured, like `ratios`.
    pub predicted: f64,
    pub ratios: Vec<f64>,
}

impl Pending {
    /// The probe, given the mean loss of the same batch after the step.
    pub(super) fn finish(self, loss_after: f64) -> Probe {
        let Pending { step, rate, loss, norm, predicted, ratios } = self;
        Probe { step, rate, loss, gradient_norm: norm, predicted, actual: loss - loss_after, ratios }
    }
}
