//! The layers that models are made of, one file each.
//!
//! A file holds everything about its layer: shape and parameters, initial values, cost, the forward and
//! backward passes over a block of rows, and the plain loops over one sample that the reference trainer runs.
//! [`Layer`] lists the layers and dispatches each call.

mod activation;
mod dense;
mod dropout;
mod fusion;
mod kind;
mod residual;

pub use activation::Activation;
pub use dense::Dense;
pub use dropout::Dropout;
pub(crate) use fusion::{Fusion, fuse};
pub use kind::{Accepts, Kind, Setting};
pub use residual::Residual;
pub(crate) use residual::add;

use crate::block::{Block, Shape};
use crate::kernel::Kernel;
use crate::params::Layout;
use crate::product::{Engine, PackedWeight};

/// All kinds of layers that a run file can name.
pub const KINDS: [&Kind; 6] = [
    &dense::KIND,
    Activation::Relu.kind(),
    Activation::Tanh.kind(),
    Activation::Sigmoid.kind(),
    &dropout::KIND,
    &residual::KIND,
];

/// A layer as the run file asks for it, before the shape of its input is known. [`LayerSpec`] values become
/// [`Layer`]s in [`crate::Model::of_layers`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerSpec {
    /// A fully connected layer; see [`Dense`].
    Dense {
        /// Width of the output.
        units: usize,
    },
    /// An elementwise nonlinear function; see [`Activation`].
    Activation(Activation),
    /// Random zeroing of units in training; see [`Dropout`].
    Dropout {
        /// Probability of dropping a unit, at least 0 and below 1.
        rate: f32,
    },
    /// A skip connection; see [`Residual`].
    Residual {
        /// Number of layers that the connection skips.
        over: usize,
    },
}

/// A layer of a model, with the shape of its input known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer {
    /// A fully connected layer; see [`Dense`].
    Dense(Dense),
    /// An elementwise nonlinear function; see [`Activation`].
    Activation(Activation),
    /// Random zeroing of units in training; see [`Dropout`].
    Dropout(Dropout),
    /// A skip connection; see [`Residual`].
    Residual(Residual),
}

/// What a layer may overwrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwrites {
    /// Nothing, because its backward pass reads its input as well.
    Nothing,
    /// The value that its forward pass reads.
    Values,
    /// The value that its forward pass reads and the delta that its backward pass reads.
    ValuesAndDeltas,
}

/// What all layers share in a pass over a batch.
pub(crate) struct Context<'a> {
    pub engine: Engine,
    /// `None` in an evaluation.
    pub training: Option<Training>,
    /// The flat vector, `[parameters]`, of which layers read only the biases.
    pub weights: &'a [f32],
    /// By layer, the weights as the products read them.
    pub packed: &'a [PackedWeight],
}

/// What all layers share in the plain loops over a sample.
pub(crate) struct PlainContext<'a> {
    /// The flat vector, `[parameters]`.
    pub weights: &'a [f32],
    /// `None` in an evaluation.
    pub training: Option<Training>,
    /// Position of the sample in its batch.
    pub position: usize,
}

/// What the random numbers in a training step's forward pass are derived from, together with a sample's
/// position in the batch. They are the same wherever and however often a leaf of the step is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Training {
    pub seed: u64,
    pub step: u64,
    /// Number of random numbers that a sample takes in all layers.
    pub draws: u64,
}

impl LayerSpec {
    /// The layer's kind and the values of its settings.
    fn parts(self) -> (&'static Kind, Vec<f64>) {
        match self {
            LayerSpec::Dense { units } => (&dense::KIND, vec![units as f64]),
            LayerSpec::Activation(activation) => (activation.kind(), Vec::new()),
            LayerSpec::Dropout { rate } => (&dropout::KIND, vec![rate.into()]),
            LayerSpec::Residual { over } => (&residual::KIND, vec![over as f64]),
        }
    }

    /// Builds the layer that follows the layers `before`, the last of which has an output of shape `input`.
    /// Its parameters are named after the number of layers with parameters before it.
    pub(crate) fn build(self, input: Shape, before: &[Layer], parameters: &mut Layout) -> Layer {
        match self {
            LayerSpec::Dense { units } => {
                let number = before.iter().filter(|layer| layer.dense().is_some()).count();
                Layer::Dense(Dense::new(input, units, number, parameters))
            }
            LayerSpec::Activation(activation) => Layer::Activation(activation),
            LayerSpec::Dropout { rate } => {
                let first = before.iter().map(Layer::draws).sum();
                Layer::Dropout(Dropout { rate, shape: input, first })
            }
            LayerSpec::Residual { over } => Layer::Residual(Residual { source: before.len() - over }),
        }
    }

    /// Checks that the layer fits after layers whose inputs have these `widths`, the last of which is its own
    /// input. A width is `None` if it is not known. Returns the width of the output.
    ///
    /// # Errors
    /// Returns a description of what does not fit.
    pub(crate) fn check(self, widths: &[Option<usize>]) -> Result<Option<usize>, String> {
        match self {
            LayerSpec::Dense { units } => return Ok(Some(units)),
            LayerSpec::Activation(_) | LayerSpec::Dropout { .. } => {}
            LayerSpec::Residual { over } => Residual::check(over, widths)?,
        }
        Ok(widths[widths.len() - 1])
    }

    /// Whether the output is random in training.
    pub fn is_random(self) -> bool {
        matches!(self, LayerSpec::Dropout { .. })
    }

    /// Whether the layer has parameters.
    pub fn has_parameters(self) -> bool {
        self.size(1).0 > 0
    }

    /// Number of parameters, and width of the output, for an input of this width. Saturates instead of
    /// overflowing for layers that are too large for any machine.
    pub(crate) fn size(self, inputs: u128) -> (u128, u128) {
        match self {
            LayerSpec::Dense { units } => Dense::size(inputs, units),
            LayerSpec::Activation(_) | LayerSpec::Dropout { .. } | LayerSpec::Residual { .. } => (0, inputs),
        }
    }
}

impl Layer {
    /// The shape of the output for an input of shape `input`.
    pub(crate) fn output(&self, input: Shape) -> Shape {
        self.dense().map_or(input, |dense| Shape { columns: dense.outputs, ..input })
    }

    /// The dense layer, if this is one. Only dense layers have parameters.
    pub(crate) fn dense(&self) -> Option<&Dense> {
        if let Layer::Dense(dense) = self { Some(dense) } else { None }
    }

    /// Multiply-adds of a sample's forward pass. Each of the two gradients takes the same number.
    pub(crate) fn cost(&self) -> usize {
        self.dense().map_or(0, Dense::cost)
    }

    /// Random numbers that each sample takes in training.
    pub(crate) fn draws(&self) -> u64 {
        if let Layer::Dropout(dropout) = self { dropout.draws() } else { 0 }
    }

    /// The earlier boundary whose value the layer also reads, and to whose delta it adds the one
    /// at its output.
    pub(crate) fn source(&self) -> Option<usize> {
        if let Layer::Residual(residual) = self { Some(residual.source) } else { None }
    }

    /// Whether the backward pass reads the layer's output, which must then not be overwritten.
    pub(crate) fn reads_output(&self) -> bool {
        matches!(self, Layer::Activation(_))
    }

    /// What the layer may overwrite: the output may use the memory of the input, and in the backward pass the
    /// delta at the input may use that of the delta at the output.
    pub(crate) fn overwrites(&self) -> Overwrites {
        match self {
            Layer::Dense(_) => Overwrites::Nothing,
            // The delta at the output is added to that of the source later.
            Layer::Residual(_) => Overwrites::Values,
            // A derivative follows from the output of an activation, and dropout draws its units again.
            Layer::Activation(_) | Layer::Dropout(_) => Overwrites::ValuesAndDeltas,
        }
    }

    /// Sets the initial parameters in `weights`, which must be 0 before. `next` is the layer after this one.
    pub(crate) fn initialize(&self, seed: u64, next: Option<&Layer>, weights: &mut [f32]) {
        if let Layer::Dense(dense) = self {
            dense.initialize(seed, next, weights);
        }
    }

    /// Packs the weight as the products read it.
    pub(crate) fn pack(
        &self,
        kernel: Kernel,
        weights: &[f32],
        [parallel, with_backward]: [bool; 2],
        packed: &mut PackedWeight,
    ) {
        if let Layer::Dense(dense) = self {
            packed.pack(kernel, dense.shape(), &weights[dense.weight_range()], parallel, with_backward);
        }
    }

    /// Passes a block forward through the layer, which has index `k`.
    #[inline]
    pub(crate) fn forward(&self, k: usize, fusion: Fusion, context: &Context, block: &mut Block) {
        match self {
            _ if fusion.is_forward_done => {}
            Layer::Dense(dense) => dense.forward(k, fusion.after, context, block),
            Layer::Activation(activation) => activation.forward(k, context, block),
            Layer::Dropout(dropout) => dropout.forward(k, context, block),
            Layer::Residual(residual) => residual.forward(k, context, block),
        }
    }

    /// Passes the deltas of a block back through the layer, which has index `k`.
    #[inline]
    pub(crate) fn backward(&self, k: usize, fusion: Fusion, context: &Context, block: &mut Block) {
        match self {
            _ if fusion.is_backward_done => {}
            Layer::Dense(dense) => dense.backward(k, fusion.before, context, block),
            Layer::Activation(activation) => activation.backward(k, context, block),
            Layer::Dropout(dropout) => dropout.backward(k, context, block),
            Layer::Residual(residual) => residual.backward(k, block),
        }
    }

    /// The transposed weight, which [`Layer::plain_forward`] reads so that its innermost loop
    /// is over outputs.
    #[inline(always)]
    pub(crate) fn plain_transposed(&self, weights: &[f32]) -> Vec<f32> {
        if let Layer::Dense(dense) = self { dense.plain_transposed(weights) } else { Vec::new() }
    }

    /// Computes the value of one sample at boundary `k + 1` from the earlier ones; the layer has index `k`.
    #[inline(always)]
    pub(crate) fn plain_forward(
        &self,
        k: usize,
        context: &PlainContext,
        transposed: &[f32],
        values: &mut [Vec<f32>],
    ) {
        let (before, after) = values.split_at_mut(k + 1);
        let (input, output) = (&before[k][..], &mut after[0][..]);
        match self {
            Layer::Dense(dense) => dense.plain_forward(context.weights, transposed, input, output),
            Layer::Activation(activation) => activation.plain_forward(input, output),
            Layer::Dropout(dropout) => dropout.plain(context, input, output),
            Layer::Residual(residual) => residual.plain_forward(input, &before[residual.source], output),
        }
    }

    /// Computes the delta of one sample at boundary `k` from the one at `k + 1`; the layer has index `k`.
    #[inline(always)]
    pub(crate) fn plain_backward(
        &self,
        k: usize,
        context: &PlainContext,
        values: &[Vec<f32>],
        deltas: &mut [Vec<f32>],
    ) {
        let (before, after) = deltas.split_at_mut(k + 1);
        let (below, above) = (&mut before[k][..], &after[0][..]);
        match self {
            Layer::Dense(dense) => dense.plain_backward(context.weights, above, below),
            Layer::Activation(activation) => activation.plain_backward(&values[k + 1], above, below),
            Layer::Dropout(dropout) => dropout.plain(context, above, below),
            Layer::Residual(_) => below.copy_from_slice(above),
        }
    }

    /// Adds one sample's contribution to the gradient of the layer's parameters; the layer has index `k`.
    #[inline(always)]
    pub(crate) fn plain_gradient(
        &self,
        k: usize,
        values: &[Vec<f32>],
        deltas: &[Vec<f32>],
        gradient: &mut [f32],
    ) {
        if let Layer::Dense(dense) = self {
            dense.plain_gradient(&values[k], &deltas[k + 1], gradient);
        }
    }
}
