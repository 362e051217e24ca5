//! LAMB: layer-wise adaptive moments (You et al. 2020).

use super::adam::{Adam, Moments};
use super::pass::{Pass, UpdateParams};
use super::setting::{BETA1, BETA2, EPSILON, Field};
use super::update_rule::{Conflict, StateVector, TensorNorms, UpdateRule};
use crate::optim::Finite;

/// Settings of LAMB: those of Adam, with a different default for epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lamb(pub Adam);

impl Default for Lamb {
    fn default() -> Self {
        Lamb(Adam { epsilon: 1e-6, ..Adam::default() })
    }
}

impl UpdateRule for Lamb {
    const NAME: &'static str = "lamb";
    const SETTINGS: &'static [Field<Self>] = &[
        BETA1.number(|lamb| &mut lamb.0.beta1),
        BETA2.number(|lamb| &mut lamb.0.beta2),
        EPSILON.number(|lamb| &mut lamb.0.epsilon),
    ];
    const VECTORS: &'static [StateVector] = Adam::VECTORS;
    const OWN_DECAY: bool = true;
    const NEEDS_NORMS: bool = true;
    const CONFLICTS: &'static [(Conflict, &'static str)] =
        &[(Conflict::ClipNorm, "lamb's step does not depend on the norm of the gradient; remove this key")];

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (moments, decay, rate) = (Moments::new(self.0, params.count), params.weight_decay, params.rate);
        pass.each(
            #[inline(always)]
            move |w, g, [mean, squares]| (-rate).mul_add(decay.mul_add(w, moments.add(g, mean, squares)), w),
        )
    }

    fn predict(&self, params: &UpdateParams, w: &[f32], state: &[&[f32]], steps: &mut [f32]) {
        let (moments, decay) = (Moments::new(self.0, params.count), params.weight_decay);
        let state = state[0].iter().zip(state[1]);
        for ((step, &w), (&mean, &squares)) in steps.iter_mut().zip(w).zip(state) {
            let (mut mean, mut squares) = (mean, squares);
            *step = decay.mul_add(w, moments.add(*step, &mut mean, &mut squares));
        }
    }

    fn trust(&self, norms: TensorNorms, _: f32) -> f64 {
        norms.weights / norms.step
    }
}
