//! A block of rows on its way forward through the layers, through the head and back.

use super::matrix::{Shape, strips};
use super::scratch::Places;
use crate::kernel::{Buffer, Kernel, Left, Segment, Tile, multiply};
use crate::metrics::Outcome;
use crate::model::{Activation, Layer, Model};
use crate::samples::Samples;

/// Length of the inner index that is taken at a time: with a panel's width, half of a first-level cache.
const DEPTH_OF_A_PART: usize = 256;

/// Segments of a part: one for each panel, of which the narrowest have 16 columns.
const MOST_SEGMENTS: usize = DEPTH_OF_A_PART / 16;

/// How many samples ahead the next ones are fetched: they lie anywhere in memory, and one costs about the time in
/// which memory answers.
const ROWS_AHEAD: usize = 4;

/// How far rows go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Forward, the loss, and back to the derivatives of each layer's outputs.
    Gradient,
    /// Forward and the loss.
    Loss,
    /// Forward and what the head predicts.
    Prediction,
}

/// Some rows of the batch, their results and their matrices.
pub(super) struct Block<'a> {
    pub indices: &'a [usize],
    pub targets: &'a [f32],
    pub outcomes: &'a mut [Outcome],
    /// As [`Places`] says.
    pub memory: &'a mut [f32],
}

/// What all blocks of a step share.
pub(super) struct Network<'a> {
    pub kernel: Kernel,
    pub model: &'a Model,
    pub weights: &'a [f32],
    pub forward: &'a [Buffer],
    pub backward: &'a [Buffer],
}

impl<'a> Network<'a> {
    pub(super) fn new(
        kernel: Kernel,
        model: &'a Model,
        weights: &'a [f32],
        forward: &'a [Buffer],
        backward: &'a [Buffer],
    ) -> Self {
        Network { kernel, model, weights, forward, backward }
    }

    pub(super) fn run(&self, samples: &dyn Samples, places: &Places, block: &mut Block, pass: Pass) {
        let layers = self.model.layers();
        let last = layers.len() - 1;
        let (matrices, row) = block.memory.split_at_mut(places.row());
        let (features, at) = places.input(0);
        for &index in block.indices.iter().take(ROWS_AHEAD) {
            samples.prefetch(index);
        }
        for (r, &index) in block.indices.iter().enumerate() {
            if let Some(&ahead) = block.indices.get(r + ROWS_AHEAD) {
                samples.prefetch(ahead);
            }
            let row = &mut row[..features.columns];
            samples.write_row(index, row);
            features.write_row(&mut matrices[at..], r, row);
        }
        let rows = block.indices.len();
        for (l, layer) in layers.iter().enumerate() {
            let (_, from) = places.input(l);
            let (activation, (_, to)) = match l < last {
                true => (Some(self.model.activation()), places.input(l + 1)),
                false => (None, places.delta(l)),
            };
            let (below, above) = matrices.split_at_mut(to);
            self.forward_layer(layer, l, rows, places, &below[from..], above, activation);
        }
        let head = self.model.head();
        let (logits, at) = places.delta(last);
        self.kernel.vectorize(
            #[inline(always)]
            || {
                let row = &mut row[..logits.columns];
                for r in 0..rows {
                    logits.read_row(&matrices[at..], r, row);
                    if pass == Pass::Prediction {
                        head.predict(row);
                    } else {
                        block.outcomes[r] = head.backward(row, block.targets[r]);
                    }
                    logits.write_row(&mut matrices[at..], r, row);
                }
            },
        );
        if pass == Pass::Gradient {
            for l in (1..=last).rev() {
                // The derivative by the layer below lies before that by this one, and every input before both.
                let (rest, delta) = matrices.split_at_mut(places.delta(l).1);
                let (inputs, below) = rest.split_at_mut(places.delta(l - 1).1);
                self.backward_layer(&layers[l], l, rows, places, delta, &inputs[places.input(l).1..], below);
            }
        }
    }

    /// `output = activation(input W^T + bias)`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward_layer(
        &self,
        layer: &Layer,
        l: usize,
        rows: usize,
        places: &Places,
        input: &[f32],
        output: &mut [f32],
        activation: Option<Activation>,
    ) {
        let shape = places.delta(l).0;
        self.product(places.input(l).0, input, &self.forward[l], shape, output, rows, |panel, _, out| {
            let bias = &self.weights[layer.bias + panel * shape.width..][..out.len()];
            match activation {
                None => out.iter_mut().zip(bias).for_each(|(z, b)| *z += b),
                Some(Activation::Relu) => add_and(out, bias, |z| Activation::Relu.apply(z)),
                Some(Activation::Tanh) => add_and(out, bias, |z| Activation::Tanh.apply(z)),
                Some(Activation::Sigmoid) => add_and(out, bias, |z| Activation::Sigmoid.apply(z)),
            }
        });
    }

    /// `below = (delta W) * activation'(input)`, the derivative by the outputs of the layer below, whose
    /// values are this layer's `input`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward_layer(
        &self,
        layer: &Layer,
        l: usize,
        rows: usize,
        places: &Places,
        delta: &[f32],
        input: &[f32],
        below: &mut [f32],
    ) {
        let shape = places.input(l).0;
        debug_assert_eq!(shape.columns, layer.inputs);
        self.product(places.delta(l).0, delta, &self.backward[l], shape, below, rows, |panel, row, out| {
            let values = &input[shape.panel(panel) + row * shape.width..][..out.len()];
            match self.model.activation() {
                Activation::Relu => back(out, values, |a, d| Activation::Relu.backward(a, d)),
                Activation::Tanh => back(out, values, |a, d| Activation::Tanh.backward(a, d)),
                Activation::Sigmoid => back(out, values, |a, d| Activation::Sigmoid.backward(a, d)),
            }
        });
    }

    /// `out = left right` for the rows of a block, each row of each tile handed to `finish` (its panel, its
    /// row in the block, its values) while it is in cache.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn product(
        &self,
        left: Shape,
        values: &[f32],
        right: &Buffer,
        shape: Shape,
        out: &mut [f32],
        rows: usize,
        finish: impl Fn(usize, usize, &mut [f32]),
    ) {
        let depth = left.columns;
        // A part of the inner index at a time, whose share of the right operand stays in the first-level cache
        // for all rows. The chains go on from part to part.
        let part = DEPTH_OF_A_PART.div_ceil(left.width);
        for panel in 0..shape.panels() {
            let b = &right.as_slice()[panel * depth * shape.width..][..depth * shape.width];
            for (number, first) in (0..left.panels()).step_by(part).enumerate() {
                let is_last = first + part >= left.panels();
                let mut segments = [Segment::default(); MOST_SEGMENTS];
                let panels = first..left.panels().min(first + part);
                let segments = &mut segments[..panels.len()];
                for (segment, p) in segments.iter_mut().zip(panels) {
                    let (k, a, b) = (left.columns_of(p), left.panel(p), p * left.width * shape.width);
                    *segment = Segment { k, a, b, ends_leaf: false };
                }
                for (row, rows) in strips(rows, self.kernel) {
                    let a = &values[row * left.width..];
                    let tile = Tile { a, left: Left::Rows, b, rows, columns: shape.tile_columns(panel) };
                    let out = &mut out[shape.panel(panel) + row * shape.width..];
                    multiply(self.kernel, &tile, segments, number > 0, out, shape.width);
                    if is_last {
                        self.kernel.vectorize(
                            #[inline(always)]
                            || {
                                for (r, out) in out.chunks_mut(shape.width).take(rows).enumerate() {
                                    finish(panel, row + r, &mut out[..shape.columns_of(panel)]);
                                }
                            },
                        );
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add_and(out: &mut [f32], bias: &[f32], activation: impl Fn(f32) -> f32) {
    out.iter_mut().zip(bias).for_each(|(z, b)| *z = activation(*z + b));
}

#[inline(always)]
fn back(out: &mut [f32], values: &[f32], derivative: impl Fn(f32, f32) -> f32) {
    out.iter_mut().zip(values).for_each(|(d, &a)| *d = derivative(a, *d));
}
