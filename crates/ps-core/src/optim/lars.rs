//! LARS: layer-wise adaptive rate scaling (You et al. 2017).

use super::pass::{Pass, UpdateParams};
use super::setting::{Accepts, Field, MOMENTUM, POSITIVE, Setting};
use super::update_rule::{StateVector, TensorNorms, UpdateRule, state_vectors};
use crate::optim::Finite;

/// Settings of LARS.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lars {
    /// Fraction of the previous step's velocity that is kept; 0 for no momentum.
    pub momentum: f32,
    /// Learning rate of a layer relative to the ratio of the norms of weight and gradient.
    pub trust: f32,
}

impl Default for Lars {
    fn default() -> Self {
        Lars { momentum: 0.0, trust: 0.001 }
    }
}

static TRUST: Setting = Setting {
    name: "trust",
    accepts: Accepts::Number(POSITIVE.0, POSITIVE.1),
    help: "Trust coefficient: the learning rate of a weight w with gradient g is multiplied by trust · ‖w‖ \
           / (‖g‖ + weight_decay · ‖w‖).",
};

impl UpdateRule for Lars {
    const NAME: &'static str = "lars";
    const SETTINGS: &'static [Field<Self>] =
        &[MOMENTUM.number(|lars| &mut lars.momentum), TRUST.number(|lars| &mut lars.trust)];
    const VECTORS: &'static [StateVector] = state_vectors!["velocity"];
    const NEEDS_NORMS: bool = true;

    fn vectors(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (momentum, rate) = (self.momentum, params.rate);
        if momentum == 0.0 {
            pass.each(
                #[inline(always)]
                move |w, g, []| (-rate).mul_add(g, w),
            )
        } else {
            pass.each(
                #[inline(always)]
                move |w, g, [v]| {
                    *v = momentum.mul_add(*v, rate * g);
                    w - *v
                },
            )
        }
    }

    fn trust(&self, norms: TensorNorms, weight_decay: f32) -> f64 {
        let TensorNorms { weights, gradient, .. } = norms;
        f64::from(self.trust) * weights / (gradient + f64::from(weight_decay) * weights)
    }
}
