//! Adam with decoupled weight decay (Loshchilov and Hutter 2019).

use super::adam::{Adam, Moments};
use super::pass::{Pass, UpdateParams};
use super::setting::{BETA1, BETA2, EPSILON, Field};
use super::update_rule::{StateVector, UpdateRule};
use crate::optim::Finite;

/// Settings of AdamW: those of Adam.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdamW(pub Adam);

impl UpdateRule for AdamW {
    const NAME: &'static str = "adamw";
    const SETTINGS: &'static [Field<Self>] = &[
        BETA1.number(|adamw| &mut adamw.0.beta1),
        BETA2.number(|adamw| &mut adamw.0.beta2),
        EPSILON.number(|adamw| &mut adamw.0.epsilon),
    ];
    const VECTORS: &'static [StateVector] = Adam::VECTORS;
    const OWN_DECAY: bool = true;

    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
        let (moments, rate) = (Moments::new(self.0, params.count), params.rate);
        let kept = 1.0 - rate * params.weight_decay;
        pass.each(
            #[inline(always)]
            move |w, g, [mean, squares]| (-rate).mul_add(moments.add(g, mean, squares), w * kept),
        )
    }
}
