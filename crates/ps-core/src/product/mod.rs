//! Products of rows of samples with a weight, in the order of operations of `docs/numerics.md`.
//!
//! A layer whose forward pass is `rows W^T`, whatever its rows are, gets all three products here: the forward
//! product and the input gradient ([`Engine`]), and the weight gradient, which is summed over leaves
//! ([`WeightGradient`]). Rows and weights are stored in panels ([`Panels`], [`PackedWeight`]).

mod matrix;
mod pack;
mod transposed;
mod weight;

pub(crate) use matrix::{MatrixSlot, Panels, strips};
pub(crate) use pack::{PackedWeight, WeightShape};
pub(crate) use weight::{MAX_TILE, WeightGradient, segments};

use crate::kernel::{Buffer, Finish, Kernel, Left, Segment, Tile, multiply};
use rayon::prelude::*;

/// Length of the inner index that is computed at a time: that part of a panel stays in the caches
/// for all rows.
const DEPTH: usize = 512;

/// Maximum number of segments in such a part: one for each panel, and the narrowest panels have 16 columns.
const MAX_SEGMENTS: usize = DEPTH / 16;

/// How products are computed.
#[derive(Clone, Copy)]
pub(crate) struct Engine {
    pub kernel: Kernel,
    /// Whether threads share the panels of each product instead of blocks of rows.
    pub shares_panels: bool,
}

/// The operands of a product: `rows` rows of the left one, and the packed right one.
pub(crate) struct Product<'a> {
    pub panels: Panels,
    pub values: &'a [f32],
    pub right: &'a Buffer,
    pub rows: usize,
}

impl Engine {
    /// Calls `run` for each panel of `out`.
    pub(crate) fn each_panel(
        self,
        panels: Panels,
        out: &mut [f32],
        run: impl Fn(usize, &mut [f32]) + Sync + Send,
    ) {
        each_chunk(self.shares_panels, &mut out[..panels.len()], panels.width * panels.rows, run);
    }

    /// Computes one panel of `out = left right`. `finish` gives the last operation on each tile, from the
    /// number of the tile's first row. While a tile is in cache, each of its rows is passed to `after`
    /// with its number.
    #[inline(always)]
    pub(crate) fn product<'b>(
        self,
        product: &Product,
        columns: usize,
        panel: usize,
        out: &mut [f32],
        finish: impl Fn(usize) -> Finish<'b>,
        after: impl Fn(usize, &mut [f32]),
    ) {
        let (left, width) = (product.panels, self.kernel.width());
        let len = left.columns * width;
        let b = &product.right.as_slice()[panel * len..][..len];
        // Parts of the inner index are the outer loop, so that a part of the right operand stays in cache for
        // all rows. The chains continue from part to part.
        let part = DEPTH.div_ceil(width);
        for first in (0..left.panels()).step_by(part) {
            let panels = first..left.panels().min(first + part);
            let is_last = panels.end == left.panels();
            // An array, because a step must not allocate.
            let mut segments = [Segment::default(); MAX_SEGMENTS];
            let segments = &mut segments[..panels.len()];
            for (segment, p) in segments.iter_mut().zip(panels) {
                let (k, a, b) = (left.columns_of(p), left.panel(p), p * width * width);
                *segment = Segment { k, a, b, ends_leaf: false };
            }
            for (row, rows) in strips(product.rows, self.kernel) {
                let a = &product.values[row * width..];
                let tile = Tile { a, left: Left::Rows, b, rows, columns, ahead: 0 };
                let out = &mut out[row * width..];
                // Bias and activation apply to the complete chain, which ends with the last part.
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
}

/// Calls `run` on each chunk of `size` elements, on the threads of the pool if `parallel`.
pub(crate) fn each_chunk(
    parallel: bool,
    values: &mut [f32],
    size: usize,
    run: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    if parallel {
        // Chunks are few and take long, so each is a separate job that an idle thread can steal.
        let chunks = values.par_chunks_mut(size).enumerate().with_max_len(1);
        chunks.for_each(|(index, chunk)| run(index, chunk));
    } else {
        values.chunks_mut(size).enumerate().for_each(|(index, chunk)| run(index, chunk));
    }
}
