//! A block of rows on its way forward through the layers, through the head and back.

use super::each_chunk;
use super::matrix::{Shape, strips};
use super::pack::{PackedLayer, is_wide};
use super::scratch::Places;
use crate::kernel::{Buffer, Finish, Kernel, Left, MOST_COLUMNS, Segment, Tile, multiply, transpose};
use crate::metrics::Outcome;
use crate::model::{Activation, Layer, Model};
use crate::samples::Samples;
use std::cell::RefCell;
use std::ops::Range;

/// Length of the inner index that is taken at a time: its share of a panel stays in the caches for all rows.
const DEPTH_OF_A_PART: usize = 512;

/// The same for products turned round: fewer, since each panel of the inner index is a stream of its own from memory.
const DEPTH_OF_A_TURNED_PART: usize = 256;

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
    /// `[parameters]`; only the biases are read.
    pub weights: &'a [f32],
    pub packed: &'a [PackedLayer],
    /// Whether the panels of a layer are shared out among threads, rather than blocks of rows.
    pub shares_panels: bool,
    /// The layers to go through: later ones follow when their weights are here.
    pub layers: Range<usize>,
}

impl<'a> Network<'a> {
    pub fn new(
        kernel: Kernel,
        model: &'a Model,
        weights: &'a [f32],
        packed: &'a [PackedLayer],
        shares_panels: bool,
    ) -> Self {
        Network { kernel, model, weights, packed, shares_panels, layers: 0..model.layers().len() }
    }

    /// Takes a block through [`Network::layers`] and, if the last one is among them, on as far as `pass` says.
    pub(super) fn run(&self, samples: &dyn Samples, places: &Places, block: &mut Block, pass: Pass) {
        if self.layers.start == 0 {
            self.read(samples, places, block);
        }
        let layers = self.model.layers();
        let last = layers.len() - 1;
        let rows = block.indices.len();
        let (matrices, row) = block.memory.split_at_mut(places.row());
        for l in self.layers.clone() {
            let (_, from) = places.input(l);
            let (activation, (_, to)) = match l < last {
                true => (Some(self.model.activation()), places.input(l + 1)),
                false => (None, places.delta(l)),
            };
            let (below, above) = matrices.split_at_mut(to);
            self.forward_layer(&layers[l], l, rows, places, &below[from..], above, activation);
        }
        if self.layers.end <= last {
            return;
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
            let (matrices, turned) = matrices.split_at_mut(places.turned());
            for l in (1..=last).rev() {
                // The derivative by the layer below lies before that by this one, and every input before both.
                let (rest, delta) = matrices.split_at_mut(places.delta(l).1);
                let (inputs, below) = rest.split_at_mut(places.delta(l - 1).1);
                let input = &inputs[places.input(l).1..];
                self.backward_layer(&layers[l], l, rows, places, delta, input, below, turned);
            }
        }
    }

    /// Reads a block's samples into the first layer's input.
    fn read(&self, samples: &dyn Samples, places: &Places, block: &mut Block) {
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
            self.kernel.vectorize(
                #[inline(always)]
                || features.write_row(&mut matrices[at..], r, row),
            );
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
        let product =
            Product { left: places.input(l).0, values: input, right: &self.packed[l].forward, rows };
        // Rectifying takes an instruction in the kernel; other activations go over the tile once more.
        let activation = activation.map(|activation| (activation, activation == Activation::Relu));
        self.each_panel(shape, output, |panel, out| {
            let existing = shape.columns_of(panel);
            let mut bias = [0.0; MOST_COLUMNS];
            bias[..existing].copy_from_slice(&self.weights[layer.bias + panel * shape.width..][..existing]);
            let finish = match activation {
                Some((_, true)) => Finish::AddAndRectify(&bias),
                _ => Finish::Add(&bias),
            };
            self.product(
                &product,
                shape.tile_columns(panel),
                panel,
                out,
                |_| finish,
                |_, out| {
                    let out = &mut out[..existing];
                    match activation {
                        None | Some((_, true)) => {}
                        Some((Activation::Tanh, _)) => each(out, |z| Activation::Tanh.apply(z)),
                        Some((activation, _)) => each(out, |z| activation.apply(z)),
                    }
                },
            );
        });
    }

    /// `below = (delta W) * activation'(input)`, the derivative by the outputs of the layer below, whose
    /// values are this layer's `input`. `turned` is room for as much as [`Places::turned`] says.
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
        turned: &mut [f32],
    ) {
        let (above, shape) = (places.delta(l).0, places.input(l).0);
        debug_assert_eq!(shape.columns, layer.inputs);
        let derivative = |panel: usize, row: usize, out: &mut [f32]| {
            let out = &mut out[..shape.columns_of(panel)];
            let values = &input[shape.panel(panel) + row * shape.width..][..out.len()];
            match self.model.activation() {
                Activation::Relu => back(out, values, |a, d| Activation::Relu.backward(a, d)),
                Activation::Tanh => back(out, values, |a, d| Activation::Tanh.backward(a, d)),
                Activation::Sigmoid => back(out, values, |a, d| Activation::Sigmoid.backward(a, d)),
            }
        };
        if is_wide(layer) {
            self.turn(above, delta, rows, turned);
            let groups = if self.shares_panels { rayon::current_num_threads() } else { 1 };
            let panels = shape.panels().div_ceil(groups);
            let len = shape.width * shape.block;
            each_chunk(self.shares_panels, &mut below[..shape.block_len()], panels * len, |group, out| {
                self.turned_product(
                    layer,
                    &self.packed[l],
                    turned,
                    group * panels,
                    rows,
                    (out, len),
                    derivative,
                );
            });
        } else {
            let product = Product { left: above, values: delta, right: &self.packed[l].backward, rows };
            let rectifies = self.model.activation() == Activation::Relu;
            self.each_panel(shape, below, |panel, out| {
                let finish = |row| match rectifies {
                    true => Finish::WherePositive(&input[shape.panel(panel) + row * shape.width..]),
                    false => Finish::Nothing,
                };
                self.product(&product, shape.tile_columns(panel), panel, out, finish, |row, out| {
                    if !rectifies {
                        derivative(panel, row, out);
                    }
                });
            });
        }
    }

    /// Runs `run` for each panel of `out`, which has this shape.
    fn each_panel(&self, shape: Shape, out: &mut [f32], run: impl Fn(usize, &mut [f32]) + Sync + Send) {
        each_chunk(self.shares_panels, &mut out[..shape.block_len()], shape.width * shape.block, run);
    }

    /// One panel of `out = left right` for the rows of a block, each tile finished as `finish` says (of its first row in
    /// the block), each row of it then handed to `after` (its row in the block, its values) while it is in cache.
    #[inline(always)]
    fn product<'b>(
        &self,
        product: &Product,
        columns: usize,
        panel: usize,
        out: &mut [f32],
        finish: impl Fn(usize) -> Finish<'b>,
        after: impl Fn(usize, &mut [f32]),
    ) {
        let (left, width) = (product.left, self.kernel.width());
        let len = left.columns * width;
        let b = &product.right.as_slice()[panel * len..][..len];
        // A part of the inner index at a time, whose share of the right operand stays in cache for all rows. The
        // chains go on from part to part.
        let part = DEPTH_OF_A_PART.div_ceil(width);
        for first in (0..left.panels()).step_by(part) {
            let panels = first..left.panels().min(first + part);
            let is_last = panels.end == left.panels();
            let mut segments = [Segment::default(); MOST_SEGMENTS];
            let segments = &mut segments[..panels.len()];
            for (segment, p) in segments.iter_mut().zip(panels) {
                let (k, a, b) = (left.columns_of(p), left.panel(p), p * width * width);
                *segment = Segment { k, a, b, ends_leaf: false };
            }
            for (row, rows) in strips(product.rows, self.kernel) {
                let a = &product.values[row * width..];
                let tile = Tile { a, left: Left::Rows, b, rows, columns, ahead: 0 };
                let out = &mut out[row * width..];
                let finish = if is_last { finish(row) } else { Finish::Nothing };
                multiply(self.kernel, &tile, segments, first > 0, finish, out, width);
                if is_last {
                    self.kernel.vectorize(
                        #[inline(always)]
                        || {
                            for (r, out) in out.chunks_mut(width).take(rows).enumerate() {
                                after(row + r, out);
                            }
                        },
                    );
                }
            }
        }
    }

    /// `delta` (`[rows, outputs]`) with rows and columns exchanged: a panel for each `width` samples, which holds
    /// `[outputs, width]`.
    fn turn(&self, shape: Shape, delta: &[f32], rows: usize, turned: &mut [f32]) {
        let width = shape.width;
        for (s, turned) in turned.chunks_mut(shape.columns * width).take(rows.div_ceil(width)).enumerate() {
            let samples = width.min(rows - s * width);
            for (panel, turned) in turned.chunks_mut(width * width).enumerate() {
                let from = &delta[shape.panel(panel) + s * width * width..];
                transpose(self.kernel, from, width, [samples, shape.columns_of(panel)], turned, width);
            }
        }
    }

    /// Some panels of `delta W` from panel `first` on, each `[rows, inputs of the panel]`, for a weight that is packed
    /// for the forward product only: its transpose, the product of the weight and what [`Network::turn`] made, is
    /// computed and turned back, and its rows are handed to `finish`. A panel has `len` elements in `out`.
    #[allow(clippy::too_many_arguments)]
    fn turned_product(
        &self,
        layer: &Layer,
        packed: &PackedLayer,
        turned: &[f32],
        first: usize,
        rows: usize,
        (out, len): (&mut [f32], usize),
        finish: impl Fn(usize, usize, &mut [f32]),
    ) {
        let width = self.kernel.width();
        let square = width * width;
        let weight = &packed.forward.as_slice()[first * square..];
        let inputs = |panel: usize| width.min(layer.inputs - (first + panel) * width);
        let (above, part) = (layer.outputs.div_ceil(width), DEPTH_OF_A_TURNED_PART.div_ceil(width));
        let blocks = rows.div_ceil(width);
        TURNED.with_borrow_mut(|sums| {
            let sums = sums.resize(out.len() / len * blocks * square);
            // A part of the inner index at a time, whose share of the right operand stays in cache for all of the weight,
            // which is read from end to end.
            for from in (0..above).step_by(part) {
                let mut segments = [Segment::default(); MOST_SEGMENTS];
                let segments = &mut segments[..part.min(above - from)];
                for (segment, p) in segments.iter_mut().zip(from..) {
                    let k = width.min(layer.outputs - p * width);
                    *segment = Segment { k, a: p * layer.inputs * width, b: p * square, ends_leaf: false };
                }
                for (panel, sums) in sums.chunks_mut(blocks * square).enumerate() {
                    for (input, height) in strips(inputs(panel), self.kernel) {
                        let a = &weight[panel * square + input * width..];
                        for (s, sums) in sums.chunks_mut(square).enumerate() {
                            let b = &turned[s * layer.outputs * width..];
                            let columns = if 2 * (rows - s * width) <= width { width / 2 } else { width };
                            // The next tile's rows come from memory while this one's are computed with.
                            let ahead = if s == 0 { height * width } else { 0 };
                            let tile = Tile { a, left: Left::Rows, b, rows: height, columns, ahead };
                            let sums = &mut sums[input * width..];
                            multiply(self.kernel, &tile, segments, from > 0, Finish::Nothing, sums, width);
                        }
                    }
                }
            }
            for (panel, (sums, out)) in sums.chunks(blocks * square).zip(out.chunks_mut(len)).enumerate() {
                for (s, (sums, out)) in sums.chunks(square).zip(out.chunks_mut(square)).enumerate() {
                    let samples = width.min(rows - s * width);
                    transpose(self.kernel, sums, width, [inputs(panel), samples], out, width);
                    self.kernel.vectorize(
                        #[inline(always)]
                        || {
                            for (r, out) in out.chunks_mut(width).take(samples).enumerate() {
                                finish(first + panel, s * width + r, out);
                            }
                        },
                    );
                }
            }
        });
    }
}

thread_local! {
    /// Panels of a turned product, each `[panels of samples, inputs of the panel, samples of their panel]`.
    static TURNED: RefCell<Buffer> = RefCell::default();
}

/// What the panels of a product share: the left operand, `[rows, depth]`, and the packed right one.
struct Product<'a> {
    left: Shape,
    values: &'a [f32],
    right: &'a Buffer,
    rows: usize,
}

#[inline(always)]
fn each(out: &mut [f32], activation: impl Fn(f32) -> f32) {
    out.iter_mut().for_each(|z| *z = activation(*z));
}

#[inline(always)]
fn back(out: &mut [f32], values: &[f32], derivative: impl Fn(f32, f32) -> f32) {
    out.iter_mut().zip(values).for_each(|(d, &a)| *d = derivative(a, *d));
}
