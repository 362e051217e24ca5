//! Adam (Kingma and Ba 2015).

use super::pass::{Pass, UpdateParams};
use super::setting::{BETA1, BETA2, EPSILON, Field};
use super::update_rule::{StateVector, UpdateRule, state_vectors};
use crate::function::pow;
use crate::optim::Finite;

/// Settings of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay rate of the mean of gradients: the fraction that is kept per step.
    pub beta1: f32,
    /// Decay rate of the mean of squared gradients: the fraction that is kept per step.
    pub beta2: f32,
    /// Added to the root of the mean of squared gradients.
    pub epsilon: f32,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

impl UpdateRule for Adam {
    const NAME: &'static str = "adam";
    const SETTINGS: &'static [Field<Self>] = &[
        BETA1.number(|adam| &mut adam.beta1),
        BETA2.number(|adam| &mut adam.beta2),
        EPSILON.number(|adam| &mut adam.epsilon),
    ];
    const VECTORS: &'static [StateVector] = state_vectors!["mean", "squares"];

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (moments, rate) = (Moments::new(*self, params.count), params.rate);
        pass.each(
            #[inline(always)]
            move |w, g, [mean, squares]| (-rate).mul_add(moments.add(g, mean, squares), w),
        )
    }
}

/// The two moments of the gradient in one step, shared by Adam, AdamW and LAMB.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    adam: Adam,
    /// 1 - beta1^count and the root of 1 - beta2^count, which remove the bias towards the initial zeros.
    bias: [f32; 2],
}

impl Moments {
    /// `count` is the number of steps that the moments have seen, including this one.
    pub(super) fn new(adam: Adam, count: u64) -> Self {
        // Not `powf`, whose bits differ between platforms.
        let rest = |beta: f32| 1.0 - pow(f64::from(beta), count as f64);
        Moments { adam, bias: [rest(adam.beta1) as f32, rest(adam.beta2).sqrt() as f32] }
    }

    /// Adds `g` to the moments. Returns the step before it is multiplied by the learning rate.
    #[inline(always)]
    pub(super) fn add(&self, g: f32, mean: &mut f32, squares: &mut f32) -> f32 {
        let Adam { beta1, beta2, epsilon } = self.adam;
        let [first, second] = self.bias;
        *mean = beta1.mul_add(*mean, (1.0 - beta1) * g);
        *squares = beta2.mul_add(*squares, (1.0 - beta2) * (g * g));
        (*mean / first) / (squares.sqrt() / second + epsilon)
    }
}
