//! Stochastic gradient descent, with momentum (Polyak 1964) unless that is 0.

use super::pass::{Pass, UpdateParams};
use super::setting::{Accepts, Field, MOMENTUM, Refusal, Setting};
use super::update_rule::{StateVector, UpdateRule, state_vectors};
use crate::optim::Finite;

/// Settings of stochastic gradient descent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// Fraction of the previous step's velocity that is kept; 0 for plain gradient descent.
    pub momentum: f32,
    /// Whether the gradient step is taken ahead of the velocity (Nesterov 1983, as in Sutskever et al. 2013).
    pub nesterov: bool,
}

static NESTEROV: Setting = Setting {
    name: "nesterov",
    accepts: Accepts::Flag,
    help: "Use Nesterov momentum; needs momentum above 0.",
};

impl UpdateRule for Sgd {
    const NAME: &'static str = "sgd";
    const SETTINGS: &'static [Field<Self>] =
        &[MOMENTUM.number(|sgd| &mut sgd.momentum), NESTEROV.flag(|sgd| &mut sgd.nesterov)];
    const VECTORS: &'static [StateVector] = state_vectors!["velocity"];

    fn vectors(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.nesterov && self.momentum == 0.0 {
            let reason = "it needs momentum; set optimizer.momentum, for example to 0.9";
            return Err(Refusal { setting: NESTEROV.name, reason });
        }
        Ok(())
    }

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (Sgd { momentum, nesterov }, rate) = (*self, params.rate);
        if momentum == 0.0 {
            pass.each(
                #[inline(always)]
                move |w, g, []| (-rate).mul_add(g, w),
            )
        } else if nesterov {
            pass.each(
                #[inline(always)]
                move |w, g, [v]| {
                    *v = momentum.mul_add(*v, g);
                    (-rate).mul_add(momentum.mul_add(*v, g), w)
                },
            )
        } else {
            pass.each(
                #[inline(always)]
                move |w, g, [v]| {
                    *v = momentum.mul_add(*v, g);
                    (-rate).mul_add(*v, w)
                },
            )
        }
    }
}
