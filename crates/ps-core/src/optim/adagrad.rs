//! Adagrad (Duchi et al. 2011).

use super::pass::{Pass, UpdateParams};
use super::setting::{EPSILON, Field};
use super::update_rule::{StateVector, UpdateRule, state_vectors};
use crate::optim::Finite;

/// Settings of Adagrad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// Added to the root of the sum of squared gradients, so that the step is finite; above 0.
    pub epsilon: f32,
}

impl Default for Adagrad {
    fn default() -> Self {
        Adagrad { epsilon: 1e-10 }
    }
}

impl UpdateRule for Adagrad {
    const NAME: &'static str = "adagrad";
    const SETTINGS: &'static [Field<Self>] = &[EPSILON.number(|adagrad| &mut adagrad.epsilon)];
    const VECTORS: &'static [StateVector] = state_vectors!["squares"];

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (Adagrad { epsilon }, rate) = (*self, params.rate);
        pass.each(
            #[inline(always)]
            move |w, g, [squares]| {
                *squares = g.mul_add(g, *squares);
                (-rate).mul_add(g / (squares.sqrt() + epsilon), w)
            },
        )
    }
}
