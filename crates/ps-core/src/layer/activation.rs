//! Activations: nonlinear functions that apply to each element.

use super::kind::Kind;
use super::{Context, LayerSpec};
use crate::block::Block;
use crate::function;
use serde::{Deserialize, Serialize};

/// A nonlinear function that applies to each element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The rectified linear unit, max(0, z).
    #[default]
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

macro_rules! kind {
    ($name:literal, $activation:expr, $help:literal) => {
        Kind {
            name: $name,
            help: $help,
            settings: &[],
            example: &[
                LayerSpec::Dense { units: 21 },
                LayerSpec::Activation($activation),
                LayerSpec::Activation(Activation::Sigmoid),
            ],
            build: |_| LayerSpec::Activation($activation),
        }
    };
}

static RELU: Kind = kind!("relu", Activation::Relu, "replaces negative elements with 0");
static TANH: Kind = kind!("tanh", Activation::Tanh, "computes the hyperbolic tangent of each element");
static SIGMOID: Kind = kind!("sigmoid", Activation::Sigmoid, "computes 1 / (1 + e^-z) for each element z");

impl Activation {
    /// How a run file names the activation; see [`super::LayerSpec`].
    pub(super) const fn kind(self) -> &'static Kind {
        match self {
            Activation::Relu => &RELU,
            Activation::Tanh => &TANH,
            Activation::Sigmoid => &SIGMOID,
        }
    }

    /// Computes the activation of `z`.
    #[inline(always)]
    pub(crate) fn apply(self, z: f32) -> f32 {
        match self {
            Activation::Relu => {
                if z > 0.0 {
                    z
                } else {
                    0.0
                }
            }
            Activation::Tanh => function::tanh(z),
            Activation::Sigmoid => function::sigmoid(z),
        }
    }

    /// The derivative of the loss with respect to z, from the derivative `delta` with respect to a, where
    /// a = `apply(z)`.
    #[inline(always)]
    fn derivative(self, a: f32, delta: f32) -> f32 {
        match self {
            Activation::Relu => {
                if a > 0.0 {
                    delta
                } else {
                    0.0
                }
            }
            Activation::Tanh => delta * (-a).mul_add(a, 1.0),
            Activation::Sigmoid => delta * (a * (1.0 - a)),
        }
    }

    /// Applies the function to all `values`. The match on the function is outside of the loop.
    #[inline(always)]
    pub(super) fn apply_all(self, values: &mut [f32]) {
        match self {
            Activation::Relu => each(values, |z| Activation::Relu.apply(z)),
            Activation::Tanh => each(values, |z| Activation::Tanh.apply(z)),
            Activation::Sigmoid => each(values, |z| Activation::Sigmoid.apply(z)),
        }
    }

    /// Replaces each delta by the derivative with respect to z; `values` are the activations.
    #[inline(always)]
    pub(super) fn derive_all(self, values: &[f32], deltas: &mut [f32]) {
        match self {
            Activation::Relu => derive(values, deltas, |a, d| Activation::Relu.derivative(a, d)),
            Activation::Tanh => derive(values, deltas, |a, d| Activation::Tanh.derivative(a, d)),
            Activation::Sigmoid => derive(values, deltas, |a, d| Activation::Sigmoid.derivative(a, d)),
        }
    }

    pub(super) fn forward(self, k: usize, context: &Context, block: &mut Block) {
        let (rows, output) = block.copied_value(k);
        context.engine.kernel.vectorize(
            #[inline(always)]
            || output.each_panel(rows).for_each(|values| self.apply_all(values)),
        );
    }

    pub(super) fn backward(self, k: usize, context: &Context, block: &mut Block) {
        let (rows, output, delta) = block.overwritten_delta(k);
        let panels = output.each_panel(rows).zip(delta.each_panel(rows));
        context.engine.kernel.vectorize(
            #[inline(always)]
            || panels.for_each(|(values, deltas)| self.derive_all(values, deltas)),
        );
    }

    #[inline(always)]
    pub(super) fn plain_forward(self, input: &[f32], output: &mut [f32]) {
        for (a, &z) in output.iter_mut().zip(input) {
            *a = self.apply(z);
        }
    }

    #[inline(always)]
    pub(super) fn plain_backward(self, output: &[f32], above: &[f32], below: &mut [f32]) {
        for (below, (&a, &above)) in below.iter_mut().zip(output.iter().zip(above)) {
            *below = self.derivative(a, above);
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], activation: impl Fn(f32) -> f32) {
    values.iter_mut().for_each(|z| *z = activation(*z));
}

#[inline(always)]
fn derive(values: &[f32], deltas: &mut [f32], derivative: impl Fn(f32, f32) -> f32) {
    deltas.iter_mut().zip(values).for_each(|(d, &a)| *d = derivative(a, *d));
}
