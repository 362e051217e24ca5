//! The gradient of one layer's weight and bias, tile by tile.

use super::each_chunk;
use super::matrix::{Shape, copy, strips};
use super::scratch::Places;
use crate::kernel::{Kernel, Left, MOST_COLUMNS, Segment, Tile, fold_tiles, prefetch};
use crate::optim::{Finite, Update};
use std::cell::RefCell;
use std::ops::Range;

/// The products of one layer's weight gradient, `delta^T input` summed leaf by leaf.
pub(super) struct WeightGradient<'a> {
    pub kernel: Kernel,
    /// The layer's input: its shape, and where it starts in a block.
    pub input: (Shape, usize),
    /// The derivative by its output, likewise.
    pub delta: (Shape, usize),
    /// All blocks.
    pub memory: &'a [f32],
    /// See [`segments`].
    pub segments: &'a [Segment],
    /// Leaves of the node.
    pub leaves: usize,
}

/// Elements of the largest tile of any instruction set.
const MOST_OF_A_TILE: usize = 12 * MOST_COLUMNS;

thread_local! {
    /// Subtrees that wait for their siblings, a tile each.
    static STACK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl WeightGradient<'_> {
    /// Writes the weight's gradient, `[outputs, inputs]`, and that of the bias, `[outputs]`.
    pub fn all_panels(&self, weight: &mut [f32], bias: &mut [f32], parallel: bool) {
        self.biases(bias);
        self.panels(0, weight, parallel);
    }

    /// Writes the rows of the weight's gradient, `[outputs, inputs]`, from panel `first` on, as many as there is room for.
    pub fn panels(&self, first: usize, weight: &mut [f32], parallel: bool) {
        let len = self.kernel.width() * self.input.0.columns;
        each_chunk(parallel, weight, len, |panel, weight| self.panel(first + panel, weight));
    }

    /// Writes the bias's gradient, `[outputs]`.
    pub fn biases(&self, bias: &mut [f32]) {
        let panels = bias.chunks_mut(self.kernel.width());
        panels.enumerate().for_each(|(panel, bias)| self.bias(panel, bias));
    }

    /// Writes the rows of the weight's gradient that belong to a panel of outputs, `[outputs of the panel, inputs]`.
    pub fn panel(&self, panel: usize, weight: &mut [f32]) {
        let ((input, input_at), (delta, delta_at)) = (self.input, self.delta);
        let outputs = &self.memory[delta_at + delta.panel(panel)..];
        self.with_stack(|stack| {
            for below in 0..input.panels() {
                let (columns, existing) = (input.tile_columns(below), input.columns_of(below));
                let b = &self.memory[input_at + input.panel(below)..];
                for (first, rows) in strips(delta.columns_of(panel), self.kernel) {
                    let tile = Tile { a: &outputs[first..], left: Left::Columns, b, rows, columns, ahead: 0 };
                    let out = &mut weight[first * input.columns + below * input.width..];
                    if existing == columns {
                        fold_tiles(self.kernel, &tile, self.segments, stack, out, input.columns);
                        continue;
                    }
                    let mut sums = [0.0; MOST_OF_A_TILE];
                    fold_tiles(self.kernel, &tile, self.segments, stack, &mut sums, columns);
                    for (out, sums) in out.chunks_mut(input.columns).zip(sums.chunks(columns)).take(rows) {
                        copy(&mut out[..existing], &sums[..existing]);
                    }
                }
            }
        });
    }

    /// Updates a panel of outputs of a packed weight, `[inputs, width]`, by its gradient, tile by tile; `velocity` is
    /// empty or as long.
    pub fn update_panel(
        &self,
        panel: usize,
        update: Update,
        weight: &mut [f32],
        velocity: &mut [f32],
    ) -> Finite {
        let ((input, input_at), (delta, delta_at)) = (self.input, self.delta);
        let (b, width) = (&self.memory[delta_at + delta.panel(panel)..], input.width);
        // What lies beyond the last output is no gradient.
        let existing = delta.columns_of(panel);
        let mut sums = [0.0; MOST_OF_A_TILE];
        let mut finite = Finite::ALL;
        self.with_stack(|stack| {
            for below in 0..input.panels() {
                let inputs = &self.memory[input_at + input.panel(below)..];
                for (first, rows) in strips(input.columns_of(below), self.kernel) {
                    let at = (below * width + first) * width;
                    let weight = &mut weight[at..at + rows * width];
                    let velocity = velocity.get_mut(at..at + rows * width).unwrap_or_default();
                    prefetch(bytemuck::cast_slice(weight));
                    prefetch(bytemuck::cast_slice(velocity));
                    let tile =
                        Tile { a: &inputs[first..], left: Left::Columns, b, rows, columns: width, ahead: 0 };
                    fold_tiles(self.kernel, &tile, self.segments, stack, &mut sums, width);
                    if existing == width {
                        finite = finite.and(update.chunk(weight, &sums[..rows * width], velocity));
                        continue;
                    }
                    for (row, weight) in weight.chunks_mut(width).enumerate() {
                        let at = row * width..row * width + existing;
                        let velocity = velocity.get_mut(at.clone()).unwrap_or_default();
                        finite = finite.and(update.chunk(&mut weight[..existing], &sums[at], velocity));
                    }
                }
            }
        });
        finite
    }

    /// Updates a panel of the bias by its gradient, `[outputs of the panel]`; `velocity` is empty or as long.
    pub fn update_bias(
        &self,
        panel: usize,
        update: Update,
        bias: &mut [f32],
        velocity: &mut [f32],
    ) -> Finite {
        let mut sums = [0.0; MOST_COLUMNS];
        let sums = &mut sums[..bias.len()];
        self.bias(panel, sums);
        update.chunk(bias, sums, velocity)
    }

    /// Writes the bias's gradient, `[outputs of the panel]`: that of a weight whose input is always 1; the right operand
    /// is delta itself.
    pub fn bias(&self, panel: usize, bias: &mut [f32]) {
        let (delta, delta_at) = self.delta;
        let b = &self.memory[delta_at + delta.panel(panel)..];
        let columns = delta.tile_columns(panel);
        let tile = Tile { a: &[1.0], left: Left::Constant, b, rows: 1, columns, ahead: 0 };
        let mut sums = [0.0; MOST_OF_A_TILE];
        self.with_stack(|stack| fold_tiles(self.kernel, &tile, self.segments, stack, &mut sums, columns));
        bias.copy_from_slice(&sums[..bias.len()]);
    }

    fn with_stack(&self, run: impl FnOnce(&mut [f32])) {
        let depth = 1 + self.leaves.ilog2() as usize;
        STACK.with_borrow_mut(|stack| {
            stack.resize(stack.len().max(depth * self.kernel.max_rows() * self.kernel.width()), 0.0);
            run(stack);
        });
    }
}

/// Where the rows of each leaf lie, relative to a panel of any layer: a leaf that crosses blocks has several segments.
pub(super) fn segments(
    places: &Places,
    leaves: impl Iterator<Item = Range<usize>>,
    segments: &mut Vec<Segment>,
) {
    let block = places.block;
    segments.clear();
    for rows in leaves {
        let mut row = rows.start;
        while row < rows.end {
            let end = rows.end.min((row / block + 1) * block);
            let at = row / block * places.len() + row % block * places.width;
            segments.push(Segment { k: end - row, a: at, b: at, ends_leaf: end == rows.end });
            row = end;
        }
    }
}
