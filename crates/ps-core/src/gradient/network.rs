//! A block of rows on its way forward through the layers, through the head and back.

use super::matrix::{Shape, strips};
use crate::kernel::{Buffer, Kernel, Left, Segment, Tile, multiply};
use crate::metrics::Outcome;
use crate::model::{Activation, Layer, Model};
use crate::samples::Samples;

/// Length of the inner index that is taken at a time: with a panel's width, half of a first-level cache.
const DEPTH_OF_A_PART: usize = 256;

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

/// Some rows of the batch, their results and their part of each matrix.
pub(super) struct Block<'a> {
    pub indices: &'a [usize],
    pub targets: &'a [f32],
    pub outcomes: &'a mut [Outcome],
    pub inputs: Vec<&'a mut [f32]>,
    pub deltas: Vec<&'a mut [f32]>,
}

/// What all blocks of a step share.
pub(super) struct Network<'a> {
    pub kernel: Kernel,
    pub model: &'a Model,
    pub weights: &'a [f32],
    pub forward: &'a [Buffer],
    pub backward: &'a [Buffer],
    pub block: usize,
}

impl Network<'_> {
    pub(super) fn run(&self, samples: &dyn Samples, block: &mut Block, pass: Pass) {
        let layers = self.model.layers();
        let last = layers.len() - 1;
        let mut row = vec![0.0; layers[0].inputs.max(layers[last].outputs)];
        let (features, logits) = (self.shape(layers[0].inputs), self.shape(layers[last].outputs));
        for &index in block.indices.iter().take(ROWS_AHEAD) {
            samples.prefetch(index);
        }
        for (r, &index) in block.indices.iter().enumerate() {
            if let Some(&ahead) = block.indices.get(r + ROWS_AHEAD) {
                samples.prefetch(ahead);
            }
            samples.write_row(index, &mut row[..features.columns]);
            features.write_row(block.inputs[0], r, &row[..features.columns]);
        }
        let rows = block.indices.len();
        for (l, layer) in layers.iter().enumerate() {
            if l < last {
                let (inputs, outputs) = block.inputs.split_at_mut(l + 1);
                self.forward_layer(layer, l, rows, inputs[l], outputs[0], Some(self.model.activation()));
            } else {
                self.forward_layer(layer, l, rows, block.inputs[l], block.deltas[l], None);
            }
        }
        let head = self.model.head();
        self.kernel.vectorize(
            #[inline(always)]
            || {
                let row = &mut row[..logits.columns];
                for r in 0..rows {
                    logits.read_row(block.deltas[last], r, row);
                    if pass == Pass::Prediction {
                        head.predict(row);
                    } else {
                        block.outcomes[r] = head.backward(row, block.targets[r]);
                    }
                    logits.write_row(block.deltas[last], r, row);
                }
            },
        );
        if pass == Pass::Gradient {
            for l in (1..=last).rev() {
                let (below, above) = block.deltas.split_at_mut(l);
                self.backward_layer(&layers[l], l, rows, above[0], block.inputs[l], below[l - 1]);
            }
        }
    }

    /// `output = activation(input W^T + bias)`.
    pub(super) fn forward_layer(
        &self,
        layer: &Layer,
        l: usize,
        rows: usize,
        input: &[f32],
        output: &mut [f32],
        activation: Option<Activation>,
    ) {
        let shape = self.shape(layer.outputs);
        self.product(
            self.shape(layer.inputs),
            input,
            &self.forward[l],
            shape,
            output,
            rows,
            |panel, _, out| {
                let bias = &self.weights[layer.bias + panel * shape.width..][..out.len()];
                match activation {
                    None => out.iter_mut().zip(bias).for_each(|(z, b)| *z += b),
                    Some(Activation::Relu) => add_and(out, bias, |z| Activation::Relu.apply(z)),
                    Some(Activation::Tanh) => add_and(out, bias, |z| Activation::Tanh.apply(z)),
                    Some(Activation::Sigmoid) => add_and(out, bias, |z| Activation::Sigmoid.apply(z)),
                }
            },
        );
    }

    /// `below = (delta W) * activation'(input)`, the derivative by the outputs of the layer below, whose
    /// values are this layer's `input`.
    pub(super) fn backward_layer(
        &self,
        layer: &Layer,
        l: usize,
        rows: usize,
        delta: &[f32],
        input: &[f32],
        below: &mut [f32],
    ) {
        let shape = self.shape(layer.inputs);
        self.product(
            self.shape(layer.outputs),
            delta,
            &self.backward[l],
            shape,
            below,
            rows,
            |panel, row, out| {
                let values = &input[shape.panel(panel) + row * shape.width..][..out.len()];
                match self.model.activation() {
                    Activation::Relu => back(out, values, |a, d| Activation::Relu.backward(a, d)),
                    Activation::Tanh => back(out, values, |a, d| Activation::Tanh.backward(a, d)),
                    Activation::Sigmoid => back(out, values, |a, d| Activation::Sigmoid.backward(a, d)),
                }
            },
        );
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
        let segments: Vec<Segment> = (0..left.panels())
            .map(|p| Segment {
                k: left.columns_of(p),
                a: left.panel(p),
                b: p * left.width * shape.width,
                ends_leaf: false,
            })
            .collect();
        // A part of the inner index at a time, whose share of the right operand stays in the first-level cache
        // for all rows. The chains go on from part to part.
        let part = DEPTH_OF_A_PART.div_ceil(left.width);
        for panel in 0..shape.panels() {
            let b = &right.as_slice()[panel * depth * shape.width..][..depth * shape.width];
            for (number, segments) in segments.chunks(part).enumerate() {
                let is_last = (number + 1) * part >= left.panels();
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

    fn shape(&self, columns: usize) -> Shape {
        Shape { columns, block: self.block, width: self.kernel.width() }
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
