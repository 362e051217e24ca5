//! RMSProp (Hinton 2012, lecture 6e of "Neural networks for machine learning").

use super::pass::{Pass, UpdateParams};
use super::setting::{BETA2, EPSILON, Field, MOMENTUM};
use super::update_rule::{StateVector, UpdateRule, state_vectors};
use crate::optim::Finite;

/// Settings of RMSProp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    /// Fraction of the previous step's velocity that is kept; 0 for no momentum.
    pub momentum: f32,
    /// Decay rate of the mean of squared gradients: the fraction that is kept per step.
    pub beta2: f32,
    /// Added to the root of the mean of squared gradients.
    pub epsilon: f32,
}

impl Default for RmsProp {
    fn default() -> Self {
        RmsProp { momentum: 0.0, beta2: 0.99, epsilon: 1e-8 }
    }
}

impl UpdateRule for RmsProp {
    const NAME: &'static str = "rmsprop";
    const SETTINGS: &'static [Field<Self>] = &[
        MOMENTUM.number(|rmsprop| &mut rmsprop.momentum),
        BETA2.number(|rmsprop| &mut rmsprop.beta2),
        EPSILON.number(|rmsprop| &mut rmsprop.epsilon),
    ];
    const VECTORS: &'static [StateVector] = state_vectors!["squares", "velocity"];

    fn vectors(&self) -> usize {
        if self.momentum == 0.0 { 1 } else { 2 }
    }

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (rmsprop, momentum, rate) = (*self, self.momentum, params.rate);
        if momentum == 0.0 {
            pass.each(
                #[inline(always)]
                move |w, g, [squares]| (-rate).mul_add(rmsprop.scale(g, squares), w),
            )
        } else {
            pass.each(
                #[inline(always)]
                move |w, g, [squares, v]| {
                    *v = momentum.mul_add(*v, rmsprop.scale(g, squares));
                    (-rate).mul_add(*v, w)
                },
            )
        }
    }
}

impl RmsProp {
    /// Adds `g` to the mean of squares. Returns `g` divided by the root of that mean.
    #[inline(always)]
    fn scale(&self, g: f32, squares: &mut f32) -> f32 {
        *squares = self.beta2.mul_add(*squares, (1.0 - self.beta2) * (g * g));
        g / (squares.sqrt() + self.epsilon)
    }
}
