//! Full-batch descent with the sufficient-decrease rule of Armijo (1966). Each step of the run evaluates one
//! point: the descent accepts the point and continues along its gradient, or returns to the last accepted
//! point and tries a shorter step.

use super::{Action, NotFinite};
use serde::{Deserialize, Serialize};

/// Relative change of the mean loss below which the change is only rounding of the samples' losses to
/// binary32. A descent that reacted to it would stop before its gradient is small (Hager and Zhang
/// 2005, section 2).
const LOSS_NOISE: f64 = 1.0 / 268_435_456.0;

/// Settings of the descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// Fraction of the first-order prediction by which the loss must fall.
    pub sufficient: f64,
    /// Factor of the rate after a rejected step.
    pub shrink: f64,
    /// Factor of the rate after an accepted step.
    pub grow: f64,
    /// The run ends when the predicted or the actual decrease is at most this.
    pub tolerance: f64,
    /// The run ends when the norm of the gradient is at most this.
    pub gradient_tolerance: f64,
}

/// The last accepted point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Base {
    loss: f64,
    /// The squared norm of the gradient at this point.
    squared: f64,
    /// The rate of the step that is currently tried from here.
    rate: f64,
}

/// A point that the descent has stepped to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Loss at the point, weight decay included.
    pub loss: f64,
    /// The squared norm of the gradient at the point.
    pub squared: f64,
    /// Whether loss and gradient are finite.
    pub is_finite: bool,
    /// Whether the run ends after this step, so that no further step is made from here.
    pub is_last: bool,
}

/// Convergence of a descent: no step from here lowers the loss by a relevant amount.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convergence {
    /// The loss at the weights that the run ends with, weight decay included.
    pub loss: f64,
    /// The criterion that was met.
    pub criterion: ConvergenceCriterion,
    /// The tolerance of that criterion.
    pub tolerance: f64,
}

/// The criterion by which a descent has converged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConvergenceCriterion {
    /// The norm of the gradient.
    GradientNorm(f64),
    /// The decrease that was predicted for the last step.
    PredictedDecrease(f64),
    /// The decrease that the last step achieved.
    Decrease(f64),
    /// No step lowered the loss; this is the decrease predicted for the next, shorter one.
    NoStep(f64),
}

impl Base {
    /// The rate of the step that is currently tried from here.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }
}

impl Descent {
    /// Accepts or rejects the point and decides how to continue. `initial` is the rate of the first step.
    ///
    /// # Errors
    /// Returns an error if the loss or the gradient of the first point is not finite.
    pub(super) fn decide(
        &self,
        base: &mut Option<Base>,
        point: Point,
        initial: f64,
    ) -> Result<(Action, Option<Convergence>), NotFinite> {
        let Point { loss, squared, is_finite, is_last } = point;
        // No evaluation follows the last step, so the run ends at a point whose loss is known.
        let accept = if is_last { Action::Stay } else { Action::Accept };
        let Some(before) = *base else {
            if !is_finite {
                return Err(NotFinite);
            }
            *base = Some(Base { loss, squared, rate: initial });
            return Ok((accept, None));
        };
        let predicted = before.rate * before.squared;
        let noise = LOSS_NOISE * before.loss.abs();
        if is_finite && loss <= before.loss - self.sufficient * predicted + noise {
            *base = Some(Base { loss, squared, rate: before.rate * self.grow });
            let criterion = self.convergence_criterion(squared.sqrt(), predicted, before.loss - loss, noise);
            let Some((criterion, tolerance)) = criterion else { return Ok((accept, None)) };
            return Ok((Action::Stay, Some(Convergence { loss, criterion, tolerance })));
        }
        let rate = before.rate * self.shrink;
        *base = Some(Base { rate, ..before });
        let (predicted, tolerance) = (rate * before.squared, self.tolerance);
        if predicted <= tolerance {
            let criterion = ConvergenceCriterion::NoStep(predicted);
            return Ok((Action::Base, Some(Convergence { loss: before.loss, criterion, tolerance })));
        }
        Ok((if is_last { Action::Base } else { Action::Retry }, None))
    }

    /// The criterion by which an accepted point is the last one, and its tolerance.
    fn convergence_criterion(
        &self,
        norm: f64,
        predicted: f64,
        actual: f64,
        noise: f64,
    ) -> Option<(ConvergenceCriterion, f64)> {
        if norm <= self.gradient_tolerance {
            Some((ConvergenceCriterion::GradientNorm(norm), self.gradient_tolerance))
        } else if predicted <= self.tolerance {
            Some((ConvergenceCriterion::PredictedDecrease(predicted), self.tolerance))
        } else if actual <= self.tolerance && self.tolerance >= noise {
            Some((ConvergenceCriterion::Decrease(actual), self.tolerance))
        } else {
            None
        }
    }
}
