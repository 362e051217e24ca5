//! The gradient of one layer's weight and bias, tile by tile.

use super::matrix::{Shape, copy, strips};
use super::scratch::Places;
use crate::kernel::{Kernel, Left, Segment, Tile, fold_tiles};
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
const MOST_OF_A_TILE: usize = 12 * 32;

thread_local! {
    /// Subtrees that wait for their siblings, a tile each.
    static STACK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl WeightGradient<'_> {
    /// Writes the rows of the weight's gradient that belong to a panel of outputs, `[outputs of the panel,
    /// inputs]`, and of the bias, `[outputs of the panel]`.
    pub fn panel(&self, panel: usize, weight: &mut [f32], bias: &mut [f32]) {
        let depth = 1 + self.leaves.ilog2() as usize;
        STACK.with_borrow_mut(|stack| {
            stack.resize(stack.len().max(depth * self.kernel.max_rows() * self.kernel.width()), 0.0);
            self.panel_on(panel, weight, bias, stack);
        });
    }

    fn panel_on(&self, panel: usize, weight: &mut [f32], bias: &mut [f32], stack: &mut [f32]) {
        let ((input, input_at), (delta, delta_at)) = (self.input, self.delta);
        let outputs = &self.memory[delta_at + delta.panel(panel)..];
        for below in 0..input.panels() {
            let (columns, existing) = (input.tile_columns(below), input.columns_of(below));
            let b = &self.memory[input_at + input.panel(below)..];
            for (first, rows) in strips(delta.columns_of(panel), self.kernel) {
                let tile = Tile { a: &outputs[first..], left: Left::Columns, b, rows, columns };
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
        // The bias is a weight whose input is always 1; the right operand is delta itself.
        let columns = delta.tile_columns(panel);
        let tile = Tile { a: &[1.0], left: Left::Constant, b: outputs, rows: 1, columns };
        let mut sums = [0.0; MOST_OF_A_TILE];
        fold_tiles(self.kernel, &tile, self.segments, stack, &mut sums, columns);
        bias.copy_from_slice(&sums[..bias.len()]);
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
