//! Weights in the layout that the kernel reads: panels of columns, row by row.

use super::each_chunk;
use super::matrix::copy;
use crate::kernel::{Buffer, Kernel, MAX_COLUMNS, transpose};

/// The shape of a weight, `[outputs, inputs]` row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightShape {
    pub inputs: usize,
    pub outputs: usize,
}

impl WeightShape {
    /// Whether the input gradient is computed transposed, with samples in the lanes, which saves a second
    /// packing of the weight. For few outputs, packing is cheaper than transposing.
    pub(crate) fn is_wide(self) -> bool {
        self.outputs > 16
    }
}

/// A weight in the layout that the products read.
#[derive(Default)]
pub(crate) struct PackedWeight {
    /// Panels of outputs: element (output, input) is at `panel * inputs * width + input * width + output %
    /// width`. This is the right operand of the forward product and, for a wide weight, the left one of
    /// the input gradient.
    pub forward: Buffer,
    /// Panels of inputs, the right operand of the input gradient: element (output, input) is at `panel *
    /// outputs * width + output * width + input % width`. Empty for a wide weight.
    pub backward: Buffer,
}

impl PackedWeight {
    /// Packs `weight` (`[outputs, inputs]`). `backward` is packed only on request.
    pub(crate) fn pack(
        &mut self,
        kernel: Kernel,
        shape: WeightShape,
        weight: &[f32],
        parallel: bool,
        with_backward: bool,
    ) {
        let (WeightShape { inputs, outputs }, width) = (shape, kernel.width());
        let packed = self.forward.resize(inputs * outputs.next_multiple_of(width));
        each_chunk(parallel, packed, inputs * width, |panel, packed| {
            let columns = width.min(outputs - panel * width);
            let rows = &weight[panel * width * inputs..];
            // A few inputs at a time, so that written cache lines stay in cache until they are complete.
            for (at, packed) in packed.chunks_mut(INPUTS_AT_A_TIME * width).enumerate() {
                let (from, depth) = (&rows[at * INPUTS_AT_A_TIME..], packed.len() / width);
                if columns == width {
                    transpose(kernel, from, inputs, [width, depth], packed, width);
                    continue;
                }
                // The last panel is padded with zeros.
                let mut whole = [0.0; MAX_COLUMNS * INPUTS_AT_A_TIME];
                for (whole, row) in whole.chunks_mut(INPUTS_AT_A_TIME).zip(from.chunks(inputs)).take(columns)
                {
                    copy(&mut whole[..depth], &row[..depth]);
                }
                transpose(kernel, &whole, INPUTS_AT_A_TIME, [width, depth], packed, width);
            }
        });
        // For a wide weight, a second packed copy costs more than it saves: 3 ms for 2048 x 2048, while
        // transposing the deltas of 128 rows takes at most 0.3 ms.
        if with_backward && !shape.is_wide() {
            let packed = self.backward.resize(outputs * inputs.next_multiple_of(width));
            each_chunk(parallel, packed, outputs * width, |panel, packed| {
                let columns = width.min(inputs - panel * width);
                let rows = weight[panel * width..].chunks(inputs);
                for (out, row) in packed.chunks_exact_mut(width).zip(rows) {
                    copy(&mut out[..columns], &row[..columns]);
                    out[columns..].fill(0.0);
                }
            });
        }
    }

    /// Writes the weight in the layout of the parameter vector, `[outputs, inputs]`.
    pub(crate) fn unpack(&self, kernel: Kernel, inputs: usize, weight: &mut [f32]) {
        let width = kernel.width();
        let panels = self.forward.as_slice().chunks(inputs * width);
        for (weight, panel) in weight.chunks_mut(width * inputs).zip(panels) {
            transpose(kernel, panel, width, [inputs, weight.len() / inputs], weight, inputs);
        }
    }
}

/// Number of inputs that are packed at a time.
const INPUTS_AT_A_TIME: usize = 64;
