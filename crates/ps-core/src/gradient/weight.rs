//! The gradient of one layer's weight and bias, tile by tile.

use super::matrix::{Shape, copy, strips};
use crate::kernel::{Kernel, Left, Segment, Tile, fold_tiles};
use std::ops::Range;

/// The products of one layer's weight gradient, `delta^T input` summed leaf by leaf.
pub(super) struct WeightGradient<'a> {
    pub kernel: Kernel,
    pub input: Shape,
    pub delta: Shape,
    pub inputs: &'a [f32],
    pub deltas: &'a [f32],
    /// Rows of each leaf of the node.
    pub leaves: &'a [Range<usize>],
}

impl WeightGradient<'_> {
    /// Writes the rows of the weight's gradient that belong to a panel of outputs, `[outputs of the panel,
    /// inputs]`, and of the bias, `[outputs of the panel]`.
    pub fn panel(&self, panel: usize, weight: &mut [f32], bias: &mut [f32]) {
        let segments = self.segments();
        let depth = 2 + self.leaves.len().ilog2() as usize;
        let mut stack = vec![0.0; depth * self.kernel.max_rows() * self.kernel.width()];
        for below in 0..self.input.panels() {
            let (columns, existing) = (self.input.tile_columns(below), self.input.columns_of(below));
            let b = &self.inputs[self.input.panel(below)..];
            for (first, rows) in strips(self.delta.columns_of(panel), self.kernel) {
                let a = &self.deltas[self.delta.panel(panel) + first..];
                let tile = Tile { a, left: Left::Columns, b, rows, columns };
                fold_tiles(self.kernel, &tile, &segments, &mut stack);
                for (row, sums) in stack.chunks(columns).take(rows).enumerate() {
                    let at = (first + row) * self.input.columns + below * self.input.width;
                    copy(&mut weight[at..at + existing], &sums[..existing]);
                }
            }
        }
        // The bias is a weight whose input is always 1; the right operand is delta itself.
        let segments: Vec<Segment> = segments.iter().map(|s| Segment { a: 0, b: s.a, ..*s }).collect();
        let tile = Tile {
            a: &[1.0],
            left: Left::Constant,
            b: &self.deltas[self.delta.panel(panel)..],
            rows: 1,
            columns: self.delta.tile_columns(panel),
        };
        fold_tiles(self.kernel, &tile, &segments, &mut stack);
        bias.copy_from_slice(&stack[..bias.len()]);
    }

    /// Where each leaf's rows lie, relative to a panel: a leaf that crosses blocks has several segments.
    fn segments(&self) -> Vec<Segment> {
        let block = self.input.block;
        let mut segments = Vec::with_capacity(self.leaves.len());
        for rows in self.leaves {
            let mut row = rows.start;
            while row < rows.end {
                let end = rows.end.min((row / block + 1) * block);
                segments.push(Segment {
                    k: end - row,
                    a: row / block * self.delta.block_len() + row % block * self.delta.width,
                    b: row / block * self.input.block_len() + row % block * self.input.width,
                    ends_leaf: end == rows.end,
                });
                row = end;
            }
        }
        segments
    }
}
