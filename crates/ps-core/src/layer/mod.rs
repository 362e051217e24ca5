//! The layers that models are made of, one file each.
//!
//! A file holds all there is to know about its layer: its shape and parameters, how these start, what it costs, its
//! forward and backward pass over a block of rows, and the plain loops over one sample that the reference trainer runs.
//! [`Layer`] lists the layers and passes each call on.

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

/// A layer as it is asked for, before the shape of its input is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerSpec {
    /// See [`Dense`].
    Dense {
        /// Width of its output.
        units: usize,
    },
    /// See [`Activation`].
    Activation(Activation),
    /// See [`Dropout`].
    Dropout {
        /// At least 0 and below 1.
        rate: f32,
    },
    /// See [`Residual`].
    Residual {
        /// How many layers lie between what is added and what it is added to.
        over: usize,
    },
}

/// A layer of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer {
    /// See [`Dense`].
    Dense(Dense),
    /// See [`Activation`].
    Activation(Activation),
    /// See [`Dropout`].
    Dropout(Dropout),
    /// See [`Residual`].
    Residual(Residual),
}

/// What a layer may write over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwrites {
    /// Its backward pass reads its input, too.
    Nothing,
    /// The value that it reads forward.
    Values,
    /// Likewise, and the delta that it reads backward.
    ValuesAndDeltas,
}

/// What the layers of a pass over a batch share.
pub(crate) struct Context<'a> {
    pub engine: Engine,
    /// `None` in an evaluation.
    pub training: Option<Training>,
    /// `[parameters]`; only the biases are read.
    pub weights: &'a [f32],
    /// The weights as the products read them, by layer.
    pub packed: &'a [PackedWeight],
}

/// What the layers of a sample's plain loops share.
pub(crate) struct PlainContext<'a> {
    /// `[parameters]`.
    pub weights: &'a [f32],
    /// `None` in an evaluation.
    pub training: Option<Training>,
    /// The sample's position in its batch.
    pub position: usize,
}

/// What random numbers in the forward pass of a training step are drawn by, besides the position of a sample in the batch:
/// the same wherever, and however often, a leaf of the step is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Training {
    pub seed: u64,
    pub step: u64,
    /// Random numbers of a sample, in all layers.
    pub draws: u64,
}

impl LayerSpec {
    /// Its kind and settings.
    fn parts(self) -> (&'static Kind, Vec<f64>) {
        match self {
            LayerSpec::Dense { units } => (&dense::KIND, vec![units as f64]),
            LayerSpec::Activation(activation) => (activation.kind(), Vec::new()),
            LayerSpec::Dropout { rate } => (&dropout::KIND, vec![rate.into()]),
            LayerSpec::Residual { over } => (&residual::KIND, vec![over as f64]),
        }
    }

    /// The layer that follows the layers `before`, the last of which puts out `input`. Parameters are named after the count
    /// of layers with parameters before it.
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

    /// Checks that it fits behind layers whose inputs have these `widths`, the last of which is its own, as far as they are
    /// known, and gives the width of its output.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check(self, widths: &[Option<usize>]) -> Result<Option<usize>, String> {
        match self {
            LayerSpec::Dense { units } => return Ok(Some(units)),
            LayerSpec::Activation(_) | LayerSpec::Dropout { .. } => {}
            LayerSpec::Residual { over } => Residual::check(over, widths)?,
        }
        Ok(widths[widths.len() - 1])
    }

    /// Whether what it puts out in training is random.
    pub fn is_random(self) -> bool {
        matches!(self, LayerSpec::Dropout { .. })
    }

    /// Whether it has parameters.
    pub fn has_parameters(self) -> bool {
        self.size(1).0 > 0
    }

    /// Number of parameters and width of the output for an input of this width. Saturates, so that it is defined for
    /// layers that are too large for any machine.
    pub(crate) fn size(self, inputs: u128) -> (u128, u128) {
        match self {
            LayerSpec::Dense { units } => Dense::size(inputs, units),
            LayerSpec::Activation(_) | LayerSpec::Dropout { .. } | LayerSpec::Residual { .. } => (0, inputs),
        }
    }
}

impl Layer {
    /// The shape of its output for an input of shape `input`.
    pub(crate) fn output(&self, input: Shape) -> Shape {
        self.dense().map_or(input, |dense| Shape { columns: dense.outputs, ..input })
    }

    /// The layer if it is dense, which those with parameters are.
    pub(crate) fn dense(&self) -> Option<&Dense> {
        if let Layer::Dense(dense) = self { Some(dense) } else { None }
    }

    /// Multiply-adds of a sample's forward pass, of which each of the two gradients takes as many again.
    pub(crate) fn cost(&self) -> usize {
        self.dense().map_or(0, Dense::cost)
    }

    /// Random numbers that each sample takes in training.
    pub(crate) fn draws(&self) -> u64 {
        if let Layer::Dropout(dropout) = self { dropout.draws() } else { 0 }
    }

    /// The boundary before its input whose value it reads, too. The delta at its output is also added to the one there.
    pub(crate) fn source(&self) -> Option<usize> {
        if let Layer::Residual(residual) = self { Some(residual.source) } else { None }
    }

    /// Whether its backward pass reads its output, which must then not be overwritten.
    pub(crate) fn reads_output(&self) -> bool {
        matches!(self, Layer::Activation(_))
    }

    /// Whether its output may take the place of its input, and backward, the delta at its input that of the delta at its
    /// output.
    pub(crate) fn overwrites(&self) -> Overwrites {
        match self {
            Layer::Dense(_) => Overwrites::Nothing,
            Layer::Residual(_) => Overwrites::Values,
            Layer::Activation(_) | Layer::Dropout(_) => Overwrites::ValuesAndDeltas,
        }
    }

    /// Sets its initial parameters in `weights`, which are 0 before. `next` is the layer after it.
    pub(crate) fn initialize(&self, seed: u64, next: Option<&Layer>, weights: &mut [f32]) {
        if let Layer::Dense(dense) = self {
            dense.initialize(seed, next, weights);
        }
    }

    /// Lays its weight out as the products read it.
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

    /// Takes a block through the layer, which is number `k`.
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

    /// Takes the deltas of a block back through the layer, which is number `k`.
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

    /// What [`Layer::plain_forward`] reads instead of the weight, so that its innermost loop runs over outputs.
    #[inline(always)]
    pub(crate) fn plain_transposed(&self, weights: &[f32]) -> Vec<f32> {
        if let Layer::Dense(dense) = self { dense.plain_transposed(weights) } else { Vec::new() }
    }

    /// Computes the value of one sample at boundary `k + 1` from those before; the layer is number `k`.
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

    /// Computes the delta of one sample at boundary `k` from that after it; the layer is number `k`.
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

    /// Adds what one sample contributes to the gradient of the layer's parameters; the layer is number `k`.
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
