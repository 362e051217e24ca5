//! FTRL: follow the regularised leader, proximal (McMahan et al. 2013).

use super::pass::{Pass, UpdateParams};
use super::setting::{EPSILON, Field};
use super::update_rule::{Conflict, StateVector, UpdateRule, state_vectors};
use crate::optim::Finite;

/// Settings of FTRL. Weight decay and L1 are terms of its proximal step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ftrl {
    /// Beta of the paper: added to the root of the sum of squared gradients.
    pub epsilon: f32,
}

impl Default for Ftrl {
    fn default() -> Self {
        Ftrl { epsilon: 1.0 }
    }
}

impl UpdateRule for Ftrl {
    const NAME: &'static str = "ftrl";
    const SETTINGS: &'static [Field<Self>] = &[EPSILON.number(|ftrl| &mut ftrl.epsilon)];
    const VECTORS: &'static [StateVector] = state_vectors!["sums", "squares"];
    const OWN_DECAY: bool = true;
    const OWN_L1: bool = true;
    const CONFLICTS: &'static [(Conflict, &'static str)] = &[(
        Conflict::HiddenLayers,
        "ftrl starts from weights of 0, from which hidden layers cannot learn; try \"adam\"",
    )];

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (Ftrl { epsilon }, UpdateParams { rate, weight_decay, l1, .. }) = (*self, *params);
        pass.each(
            #[inline(always)]
            move |w, g, [sum, squares]| {
                let before = squares.sqrt();
                *squares = g.mul_add(g, *squares);
                let root = squares.sqrt();
                let sigma = (root - before) / rate;
                *sum += (-sigma).mul_add(w, g);
                // The sign of 0 does not matter, because the weight is then 0.
                let sign = if *sum < 0.0 { -1.0 } else { 1.0 };
                let over = l1.mul_add(-sign, *sum);
                let step = -over / ((epsilon + root) / rate + weight_decay);
                // Selected after the arithmetic, so that the loop has no branch and is vectorised.
                if sum.abs() <= l1 { 0.0 } else { step }
            },
        )
    }
}
