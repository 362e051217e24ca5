//! Models: a chain of dense layers with an activation between them and a head that turns the last outputs
//! into a loss.
//!
//! The generalised linear models are the chain without hidden layers; every loss is a negative
//! log-likelihood per sample, up to constants that no weight changes.

use crate::function;
use crate::metrics::Outcome;
use crate::params::Layout;
use crate::precision::Precision;
use ps_plan::seed::{Purpose, random};
use serde::{Deserialize, Serialize};

/// What the run file calls a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Linear regression.
    Linear,
    /// Logistic regression of two classes.
    Logistic,
    /// Softmax regression of any number of classes.
    Softmax,
    /// Poisson regression of counts with a log link.
    Poisson,
    /// Hidden layers before any of the heads.
    Mlp,
}

/// The nonlinearity after each hidden layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(0, z).
    #[default]
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

/// What the last layer's outputs mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// One value z with loss (z - y)^2 / 2: a Gaussian likelihood of unit variance.
    SquaredError,
    /// One logit z of class 1 with loss ln(1 + e^z) - y z: a Bernoulli likelihood.
    Logistic,
    /// One logit per class with loss ln(sum e^z) - z_y: a categorical likelihood.
    Softmax,
    /// One log-rate z with loss e^z - y z: a Poisson likelihood without its ln(y!).
    Poisson,
}

/// A dense layer's place in the flat parameter vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// Index of its weight, `[outputs, inputs]` row-major.
    pub weight: usize,
    /// Index of its bias, `[outputs]`.
    pub bias: usize,
}

/// A model's structure; the parameters are a flat vector of [`Model::parameters`] elements beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    layers: Vec<Layer>,
    activation: Activation,
    head: Head,
    layout: Layout,
    precision: Precision,
}

impl Head {
    /// The head of a model without a choice of its own.
    pub fn of(kind: ModelKind) -> Self {
        match kind {
            ModelKind::Linear => Head::SquaredError,
            ModelKind::Logistic => Head::Logistic,
            ModelKind::Softmax | ModelKind::Mlp => Head::Softmax,
            ModelKind::Poisson => Head::Poisson,
        }
    }
}

impl Model {
    /// A chain from `features` inputs through `hidden` widths to what `head` needs for `classes` classes
    /// (which only softmax looks at).
    pub fn new(
        features: usize,
        hidden: &[usize],
        activation: Activation,
        head: Head,
        classes: usize,
    ) -> Self {
        let outputs = if head == Head::Softmax { classes } else { 1 };
        let widths: Vec<usize> =
            [features].into_iter().chain(hidden.iter().copied()).chain([outputs]).collect();
        assert!(widths.iter().all(|&width| width > 0), "a layer without units: {widths:?}");
        let mut layout = Layout::default();
        let layers = widths.windows(2).enumerate().map(|(index, pair)| Layer {
            inputs: pair[0],
            outputs: pair[1],
            weight: layout.push(format!("layers.{index}.weight"), vec![pair[1], pair[0]]),
            bias: layout.push(format!("layers.{index}.bias"), vec![pair[1]]),
        });
        let layers = layers.collect();
        Model { layers, activation, head, layout, precision: Precision::F32 }
    }

    /// The same model with gradients computed at weights of this precision.
    pub fn with_precision(self, precision: Precision) -> Self {
        Model { precision, ..self }
    }

    /// The precision of the weights that gradients are computed at.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The nonlinearity between layers.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The head.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Names, shapes and places of the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Length of the flat parameter vector.
    pub fn parameters(&self) -> usize {
        self.layout.len()
    }

    /// Width of a sample.
    pub fn features(&self) -> usize {
        self.layers[0].inputs
    }

    /// Width of the last layer.
    pub fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs
    }

    /// Classes that the tally counts: 2 for logistic, the outputs for softmax, 0 for regression.
    pub fn classes(&self) -> usize {
        match self.head {
            Head::Logistic => 2,
            Head::Softmax => self.outputs(),
            Head::SquaredError | Head::Poisson => 0,
        }
    }

    /// Initial parameters. Biases, and all of a model without hidden layers, are 0. Other weights are uniform
    /// in ±limit: He et al. 2015 before relu (limit² = 6 / inputs), Glorot and Bengio 2010 elsewhere
    /// (limit² = 6 / (inputs + outputs)).
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut weights = vec![0.0; self.parameters()];
        if self.layers.len() == 1 {
            return weights;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let hidden = index + 1 < self.layers.len();
            let fan = match self.activation {
                Activation::Relu if hidden => layer.inputs,
                _ => layer.inputs + layer.outputs,
            };
            let limit = (6.0 / fan as f64).sqrt() as f32;
            let end = layer.weight + layer.inputs * layer.outputs;
            for (at, weight) in weights[layer.weight..end].iter_mut().enumerate() {
                let word = random(seed, Purpose::Weights, 0, (layer.weight + at) as u64)[0];
                *weight = ((word >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0) * limit;
            }
        }
        weights
    }
}

impl Activation {
    /// The activation of `z`.
    #[inline(always)]
    pub fn apply(self, z: f32) -> f32 {
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

    /// The derivative of the loss by z, from that by a and from a = `apply(z)`.
    #[inline(always)]
    pub fn backward(self, a: f32, delta: f32) -> f32 {
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
}

impl Head {
    /// Replaces the last layer's outputs `z` of one sample by the derivative of the loss by them, and says what
    /// [`crate::Tally::count`] needs.
    #[inline(always)]
    pub fn backward(self, z: &mut [f32], target: f32) -> Outcome {
        match self {
            Head::SquaredError => {
                z[0] -= target;
                Outcome { loss: 0.5 * (z[0] * z[0]), detail: z[0] }
            }
            Head::Poisson => {
                let mean = function::exp(z[0]);
                let loss = (-target).mul_add(z[0], mean);
                z[0] = mean - target;
                Outcome { loss, detail: z[0] }
            }
            Head::Logistic => {
                let loss = (-target).mul_add(z[0], function::softplus(z[0]));
                let predicted = if z[0] > 0.0 { 1.0 } else { 0.0 };
                z[0] = function::sigmoid(z[0]) - target;
                Outcome { loss, detail: predicted }
            }
            Head::Softmax => {
                let class = target as usize;
                let (predicted, largest) = argmax(z);
                let logit = z[class];
                let sum = exp_all(z, largest);
                for value in z.iter_mut() {
                    *value /= sum;
                }
                z[class] -= 1.0;
                Outcome { loss: function::ln(sum) + (largest - logit), detail: predicted as f32 }
            }
        }
    }

    /// Replaces the last layer's outputs `z` of one sample by what a user asks for: probabilities per class,
    /// the probability of class 1, the value, the rate.
    pub fn predict(self, z: &mut [f32]) {
        match self {
            Head::SquaredError => {}
            Head::Poisson => z[0] = function::exp(z[0]),
            Head::Logistic => z[0] = function::sigmoid(z[0]),
            Head::Softmax => {
                let (_, largest) = argmax(z);
                let sum = exp_all(z, largest);
                z.iter_mut().for_each(|value| *value /= sum);
            }
        }
    }
}

/// The first largest element: its index and value.
#[inline(always)]
fn argmax(z: &[f32]) -> (usize, f32) {
    let mut best = (0, z[0]);
    for (index, &value) in z.iter().enumerate().skip(1) {
        if value > best.1 {
            best = (index, value);
        }
    }
    best
}

/// Replaces each z by e^(z - largest) and returns their sum, added in ascending order from 0.
#[inline(always)]
fn exp_all(z: &mut [f32], largest: f32) -> f32 {
    for value in z.iter_mut() {
        *value = function::exp(*value - largest);
    }
    z.iter().fold(0.0, |sum, value| sum + value)
}
