//! Input gradients computed transposed, with samples in the lanes, so that a wide weight is packed only once.

use super::pack::{PackedWeight, WeightShape};
use super::{Engine, MAX_SEGMENTS, Panels, each_chunk, strips};
use crate::kernel::{Buffer, Finish, Left, Segment, Tile, multiply, transpose};
use std::cell::RefCell;

/// Length of the inner index that is computed at a time. It is shorter than in a forward product, because
/// each of its panels is a separate stream from memory.
const DEPTH: usize = 256;

thread_local! {
    /// Panels of a transposed product, each `[panels of rows, inputs of the panel, rows of their panel]`.
    static SUMS: RefCell<Buffer> = RefCell::default();
}

impl Engine {
    /// Computes `below = delta W` for a weight that is packed for the forward product only. While a row is in
    /// cache, `after` is called with its panel, its number and its values. `delta` is `rows` rows in the
    /// layout `above`; `transposed` has room for them, rounded up to whole panels.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn transposed_product(
        self,
        shape: WeightShape,
        weight: &PackedWeight,
        rows: usize,
        (above, delta): (Panels, &[f32]),
        (panels, below): (Panels, &mut [f32]),
        transposed: &mut [f32],
        after: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
    ) {
        self.transpose(above, delta, rows, transposed);
        let transposed = &*transposed;
        // Each thread gets consecutive panels, for all of which a part of the deltas stays in cache.
        let groups = if self.shares_panels { rayon::current_num_threads() } else { 1 };
        let group_panels = panels.panels().div_ceil(groups);
        let len = panels.width * panels.rows;
        each_chunk(self.shares_panels, &mut below[..panels.len()], group_panels * len, |group, out| {
            self.some_panels(shape, weight, transposed, group * group_panels, rows, (out, len), &after);
        });
    }

    /// Transposes `delta` (`[rows, outputs]`) into panels of `width` rows, each `[outputs, width]`.
    fn transpose(self, panels: Panels, delta: &[f32], rows: usize, transposed: &mut [f32]) {
        let width = panels.width;
        let stripes = transposed.chunks_mut(panels.columns * width).take(rows.div_ceil(width));
        for (s, transposed) in stripes.enumerate() {
            let samples = width.min(rows - s * width);
            for (panel, transposed) in transposed.chunks_mut(width * width).enumerate() {
                let from = &delta[panels.panel(panel) + s * width * width..];
                transpose(self.kernel, from, width, [samples, panels.columns_of(panel)], transposed, width);
            }
        }
    }

    /// Computes panels of `delta W` from panel `first` on, each `[rows, inputs of the panel]` and `len`
    /// elements of `out`: the product of the weight and the transposed delta, transposed back.
    #[allow(clippy::too_many_arguments)]
    fn some_panels(
        self,
        shape: WeightShape,
        weight: &PackedWeight,
        transposed: &[f32],
        first: usize,
        rows: usize,
        (out, len): (&mut [f32], usize),
        after: &impl Fn(usize, usize, &mut [f32]),
    ) {
        let width = self.kernel.width();
        let square = width * width;
        let weight = &weight.forward.as_slice()[first * square..];
        let inputs = |panel: usize| width.min(shape.inputs - (first + panel) * width);
        let (above, part) = (shape.outputs.div_ceil(width), DEPTH.div_ceil(width));
        let blocks = rows.div_ceil(width);
        SUMS.with_borrow_mut(|sums| {
            let sums = sums.resize(out.len() / len * blocks * square);
            // Parts of the inner index are the outer loop, so that a part of the right operand stays in cache
            // for the whole weight, which is read sequentially.
            for from in (0..above).step_by(part) {
                let mut segments = [Segment::default(); MAX_SEGMENTS];
                let segments = &mut segments[..part.min(above - from)];
                for (segment, p) in segments.iter_mut().zip(from..) {
                    let k = width.min(shape.outputs - p * width);
                    *segment = Segment { k, a: p * shape.inputs * width, b: p * square, ends_leaf: false };
                }
                for (panel, sums) in sums.chunks_mut(blocks * square).enumerate() {
                    for (input, height) in strips(inputs(panel), self.kernel) {
                        let a = &weight[panel * square + input * width..];
                        for (s, sums) in sums.chunks_mut(square).enumerate() {
                            let b = &transposed[s * shape.outputs * width..];
                            let columns = if 2 * (rows - s * width) <= width { width / 2 } else { width };
                            // The next tile's rows come from memory while this one is computed.
                            let ahead = if s == 0 { height * width } else { 0 };
                            let tile = Tile { a, left: Left::Rows, b, rows: height, columns, ahead };
                            let sums = &mut sums[input * width..];
                            multiply(self.kernel, &tile, segments, from > 0, Finish::Nothing, sums, width);
                        }
                    }
                }
            }
            // Transposing here and back costs 3 to 5 % of the peak rate, less than a second packing.
            for (panel, (sums, out)) in sums.chunks(blocks * square).zip(out.chunks_mut(len)).enumerate() {
                for (s, (sums, out)) in sums.chunks(square).zip(out.chunks_mut(square)).enumerate() {
                    let samples = width.min(rows - s * width);
                    transpose(self.kernel, sums, width, [inputs(panel), samples], out, width);
                    self.kernel.vectorize(
                        #[inline(always)]
                        || {
                            for (r, out) in out.chunks_mut(width).take(samples).enumerate() {
                                after(first + panel, s * width + r, out);
                            }
                        },
                    );
                }
            }
        });
    }
}
