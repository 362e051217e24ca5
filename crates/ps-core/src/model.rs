//! Models: a list of layers and a head that turns the outputs of the last one into a loss.
//!
//! The generalised linear models have no hidden layers. Every loss is a negative log-likelihood per sample,
//! up to constants that do not depend on the weights.

use crate::block::{Boundary, Delta, Shape};
use crate::function;
use crate::layer::{Activation, Dense, Fusion, Layer, LayerSpec, Overwrites, Training, fuse};
use crate::metrics::SampleMetrics;
use crate::params::Layout;
use crate::precision::Precision;
use serde::{Deserialize, Serialize};

/// A type of model, as the run file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Linear regression with squared error.
    Linear,
    /// Logistic regression of two classes.
    Logistic,
    /// Softmax regression of any number of classes.
    Softmax,
    /// Poisson regression of counts with a log link.
    Poisson,
    /// A multilayer perceptron: hidden layers with any head.
    Mlp,
}

/// The meaning of the last layer's outputs, and the loss that follows from it.
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

/// A model's structure: its layers, its head, and the layout of its parameters.
///
/// The parameters themselves are a separate flat vector of [`Model::parameters`] elements. [`Model::initial`]
/// draws them, [`Model::layout`] names the tensors in it, and [`crate::Gradients`] computes gradients with
/// respect to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// In the order of the forward pass; the last one is dense.
    layers: Vec<Layer>,
    head: Head,
    layout: Layout,
    precision: Precision,
    /// What a block keeps of the values between layers; one more than there are layers.
    boundaries: Vec<Boundary>,
    /// By layer, the activations that its neighbours compute for it.
    fusions: Vec<Fusion>,
    /// By layer, the number of parameters up to and including it; 0 before the first layer that has any.
    ends: Vec<usize>,
}

impl Head {
    /// The default head of a type of model.
    pub fn of(kind: ModelKind) -> Self {
        match kind {
            ModelKind::Linear => Head::SquaredError,
            ModelKind::Logistic => Head::Logistic,
            ModelKind::Softmax | ModelKind::Mlp => Head::Softmax,
            ModelKind::Poisson => Head::Poisson,
        }
    }

    /// Whether the targets are classes.
    pub fn has_classes(self) -> bool {
        matches!(self, Head::Logistic | Head::Softmax)
    }

    /// Converts predictions, row-major, to `[samples, classes]` with a probability for each class. A logistic
    /// model predicts only that of class 1. Predictions of values stay the same.
    pub fn probabilities(self, predictions: Vec<f32>) -> Vec<f32> {
        match self {
            Head::Logistic => predictions.into_iter().flat_map(|p| [1.0 - p, p]).collect(),
            Head::SquaredError | Head::Softmax | Head::Poisson => predictions,
        }
    }

    /// The last layer of a model for `classes` classes. Only softmax depends on `classes`.
    pub fn layer(self, classes: usize) -> LayerSpec {
        LayerSpec::Dense { units: if self == Head::Softmax { classes } else { 1 } }
    }
}

impl Model {
    /// Creates a chain of dense layers from `features` inputs through `hidden` widths, each followed by
    /// `activation`, to the width that `head` needs for `classes` classes. Only softmax depends on `classes`.
    pub fn new(
        features: usize,
        hidden: &[usize],
        activation: Activation,
        head: Head,
        classes: usize,
    ) -> Self {
        Model::of_layers(features, &chain(hidden, activation), head, classes)
    }

    /// Creates a model of the layers `hidden`, which [`check_layers`] must accept, and a dense layer of the
    /// width that `head` needs for `classes` classes.
    pub fn of_layers(features: usize, hidden: &[LayerSpec], head: Head, classes: usize) -> Self {
        let mut shapes = vec![Shape { rows_per_sample: 1, columns: features }];
        let mut layout = Layout::default();
        let (mut layers, mut ends): (Vec<Layer>, Vec<usize>) = Default::default();
        for spec in hidden.iter().copied().chain([head.layer(classes)]) {
            let input = shapes[layers.len()];
            let layer = spec.build(input, &layers, &mut layout);
            shapes.push(layer.output(input));
            layers.push(layer);
            ends.push(layout.len());
        }
        let boundaries = boundaries(&layers, &shapes);
        let fusions = fuse(&layers, &boundaries);
        Model { layers, head, layout, precision: Precision::F32, boundaries, fusions, ends }
    }

    /// Returns the same model with gradients computed at weights rounded to this precision.
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

    /// The dense layers, first to last.
    pub fn dense_layers(&self) -> impl DoubleEndedIterator<Item = &Dense> {
        self.layers.iter().filter_map(Layer::dense)
    }

    /// What the last layer's outputs mean, and the loss.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Names, shapes and positions of the tensors in the flat parameter vector.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Length of the flat parameter vector.
    pub fn parameters(&self) -> usize {
        self.layout.len()
    }

    /// Number of features per sample, the width of the first layer's input.
    pub fn features(&self) -> usize {
        self.boundaries[0].shape.columns
    }

    /// Width of the last layer's output.
    pub fn outputs(&self) -> usize {
        self.boundaries[self.layers.len()].shape.columns
    }

    /// Multiply-adds of a sample's forward pass.
    pub(crate) fn cost(&self) -> usize {
        self.layers.iter().map(Layer::cost).sum()
    }

    /// The first layer with parameters. Derivatives with respect to its input are not needed.
    pub(crate) fn first_trained(&self) -> usize {
        self.layers.iter().position(|layer| layer.dense().is_some()).unwrap_or(0)
    }

    /// The number of leading parameters that must have arrived to run layer `k` and, if it has no parameters,
    /// all layers up to the next one that has.
    pub(crate) fn needed(&self, k: usize) -> usize {
        self.ends[k..].iter().copied().find(|&end| end > 0).unwrap_or(0)
    }

    /// The number of leading layers whose parameters are all among the first `here`.
    pub(crate) fn complete(&self, here: usize) -> usize {
        self.ends.partition_point(|&end| end <= here)
    }

    /// The shapes of a sample's values, before the first layer and after each layer.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = Shape> {
        self.boundaries.iter().map(|boundary| boundary.shape)
    }

    pub(crate) fn boundaries(&self) -> &[Boundary] {
        &self.boundaries
    }

    pub(crate) fn fusion(&self, k: usize) -> Fusion {
        self.fusions[k]
    }

    /// The layers, other than layer `k` itself, that read the value at boundary `k`, in order.
    pub(crate) fn readers(&self, k: usize) -> impl Iterator<Item = usize> {
        (k..self.layers.len()).filter(move |&reader| self.layers[reader].source() == Some(k))
    }

    /// What the random numbers in a step's forward pass are derived from.
    pub(crate) fn training(&self, seed: u64, step: u64) -> Training {
        Training { seed, step, draws: self.layers.iter().map(Layer::draws).sum() }
    }

    /// Number of classes that metric sums count: 2 for logistic, the number of outputs for softmax,
    /// 0 for regression.
    pub fn classes(&self) -> usize {
        match self.head {
            Head::Logistic => 2,
            Head::Softmax => self.outputs(),
            Head::SquaredError | Head::Poisson => 0,
        }
    }

    /// Draws the initial parameters from `seed`. They are all 0 in a model with only one dense layer.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut weights = vec![0.0; self.parameters()];
        // Only hidden layers need different weights: from 0, they cannot learn.
        if self.dense_layers().count() > 1 {
            for (k, layer) in self.layers.iter().enumerate() {
                layer.initialize(seed, self.layers.get(k + 1), &mut weights);
            }
        }
        weights
    }
}

/// Lists dense layers of these widths, each followed by `activation`.
pub fn chain(widths: &[usize], activation: Activation) -> Vec<LayerSpec> {
    let pair = |&units: &usize| [LayerSpec::Dense { units }, LayerSpec::Activation(activation)];
    widths.iter().flat_map(pair).collect()
}

/// Number of parameters of [`Model::of_layers`], defined even for a model that is too large for any machine.
pub fn count_parameters(features: usize, hidden: &[LayerSpec], head: Head, classes: usize) -> u128 {
    let layers = hidden.iter().copied().chain([head.layer(classes)]);
    let count = |(sum, width): (u128, u128), layer: LayerSpec| {
        let (parameters, width) = layer.size(width);
        (sum.saturating_add(parameters), width)
    };
    layers.fold((0, features as u128), count).0
}

/// Checks that hidden layers fit together, as far as that is known without the number of features.
///
/// # Errors
/// Returns the index of the first layer that does not fit, from 0, and the reason.
pub fn check_layers(features: Option<usize>, hidden: &[LayerSpec]) -> Result<(), String> {
    let mut widths = vec![features];
    for (number, layer) in hidden.iter().enumerate() {
        let width = layer.check(&widths).map_err(|problem| format!("layer {number}: {problem}"))?;
        widths.push(width);
    }
    Ok(())
}

/// Decides what a block keeps of the values and deltas between layers.
fn boundaries(layers: &[Layer], shapes: &[Shape]) -> Vec<Boundary> {
    let first = layers.iter().position(|layer| layer.dense().is_some()).unwrap_or(0);
    let boundary = |(k, &shape): (usize, &Shape)| {
        let overwrites = k.checked_sub(1).map_or(Overwrites::Nothing, |before| layers[before].overwrites());
        // The previous value may be overwritten unless the backward pass of the layer that computed it, or a
        // later layer, reads it.
        let is_read = || {
            k > 1 && layers[k - 2].reads_output() || layers.iter().any(|layer| layer.source() == Some(k - 1))
        };
        let delta = match overwrites {
            _ if k <= first => Delta::None,
            // The delta of the previous boundary takes over this memory, so it must exist.
            Overwrites::ValuesAndDeltas if k > first + 1 => Delta::Overwritten,
            _ => Delta::Own,
        };
        Boundary { shape, overwrites_value: overwrites != Overwrites::Nothing && !is_read(), delta }
    };
    shapes.iter().enumerate().map(boundary).collect()
}

impl Head {
    /// Replaces the last layer's outputs `z` of one sample by the derivative of the loss with respect to
    /// them. Returns the outcome for [`crate::MetricSums::count`].
    #[inline(always)]
    pub(crate) fn backward(self, z: &mut [f32], target: f32) -> SampleMetrics {
        match self {
            Head::SquaredError => {
                z[0] -= target;
                SampleMetrics { loss: 0.5 * (z[0] * z[0]), detail: z[0] }
            }
            Head::Poisson => {
                let mean = function::exp(z[0]);
                let loss = (-target).mul_add(z[0], mean);
                z[0] = mean - target;
                SampleMetrics { loss, detail: z[0] }
            }
            Head::Logistic => {
                let loss = (-target).mul_add(z[0], function::softplus(z[0]));
                let predicted = if z[0] > 0.0 { 1.0 } else { 0.0 };
                z[0] = function::sigmoid(z[0]) - target;
                SampleMetrics { loss, detail: predicted }
            }
            Head::Softmax => {
                let class = target as usize;
                // The largest logit is subtracted from all of them, so that no exponential overflows.
                let (predicted, largest) = argmax(z);
                let logit = z[class];
                let sum = exp_all(z, largest);
                for value in z.iter_mut() {
                    *value /= sum;
                }
                z[class] -= 1.0;
                SampleMetrics { loss: function::ln(sum) + (largest - logit), detail: predicted as f32 }
            }
        }
    }

    /// Replaces the last layer's outputs `z` of one sample by the prediction that users see: probabilities
    /// per class for softmax, the probability of class 1 for logistic, the value for squared error, the
    /// rate for Poisson.
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

/// Index and value of the largest element, the first one if there are several.
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

/// Replaces each z by e^(z - largest). Returns their sum, added in ascending order from 0.
#[inline(always)]
fn exp_all(z: &mut [f32], largest: f32) -> f32 {
    for value in z.iter_mut() {
        *value = function::exp(*value - largest);
    }
    z.iter().fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_even_of_models_too_large_for_any_machine() {
        let count = |features, hidden: &[usize], head, classes| {
            count_parameters(features, &chain(hidden, Activation::Relu), head, classes)
        };
        for (hidden, head, classes) in [
            (&[][..], Head::Softmax, 3),
            (&[], Head::Poisson, 0),
            (&[5, 7], Head::Softmax, 10),
            (&[9], Head::Logistic, 2),
        ] {
            let model = Model::new(4, hidden, Activation::Relu, head, classes);
            assert_eq!(count(4, hidden, head, classes), model.parameters() as u128);
        }
        assert_eq!(count(784, &[1_000_000; 2], Head::Softmax, 10), 1_000_796_000_010);
        // More than 64 bits can hold.
        assert_eq!(count(1 << 24, &vec![1 << 24; 1 << 20], Head::SquaredError, 0) >> 68, 1);
    }
}
