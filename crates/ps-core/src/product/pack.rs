//! Weights laid out as the kernel reads them: panels of columns, row after row.

use super::each_chunk;
use super::matrix::copy;
use crate::kernel::{Buffer, Kernel, MOST_COLUMNS, transpose};

/// The shape of a weight, `[outputs, inputs]` row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightShape {
    pub inputs: usize,
    pub outputs: usize,
}

impl WeightShape {
    /// Whether the input gradient is computed transposed, with samples in the lanes, so that the weight need not be packed
    /// a second time. For few outputs, packing costs less than transposing.
    pub(crate) fn is_wide(self) -> bool {
        self.outputs > 16
    }
}

/// A weight as the products read it.
#[derive(Default)]
pub(crate) struct PackedWeight {
    /// Panels of outputs: element (output, input) at `panel * inputs * width + input * width + output % width`. The
    /// right operand of the forward product and, of a wide weight, the left one of the input gradient.
    pub forward: Buffer,
    /// Of a weight that is not wide, panels of inputs, the right operand of the input gradient: element (output, input)
    /// at `panel * outputs * width + output * width + input % width`.
    pub backward: Buffer,
}

impl PackedWeight {
    /// Packs `weight` (`[outputs, inputs]`), for the input gradient only if asked to.
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
            // A few inputs at a time, so that the cache lines that are written stay in cache until they are complete.
            for (at, packed) in packed.chunks_mut(INPUTS_AT_A_TIME * width).enumerate() {
                let (from, depth) = (&rows[at * INPUTS_AT_A_TIME..], packed.len() / width);
                if columns == width {
                    transpose(kernel, from, inputs, [width, depth], packed, width);
                    continue;
                }
                // The last panel is padded with zeros.
                let mut whole = [0.0; MOST_COLUMNS * INPUTS_AT_A_TIME];
                for (whole, row) in whole.chunks_mut(INPUTS_AT_A_TIME).zip(from.chunks(inputs)).take(columns)
                {
                    copy(&mut whole[..depth], &row[..depth]);
                }
                transpose(kernel, &whole, INPUTS_AT_A_TIME, [width, depth], packed, width);
            }
        });
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

    /// Writes the weight as it lies in the parameters, `[outputs, inputs]`.
    pub(crate) fn unpack(&self, kernel: Kernel, inputs: usize, weight: &mut [f32]) {
        let width = kernel.width();
        let panels = self.forward.as_slice().chunks(inputs * width);
        for (weight, panel) in weight.chunks_mut(width * inputs).zip(panels) {
            transpose(kernel, panel, width, [inputs, weight.len() / inputs], weight, inputs);
        }
    }
}

/// Inputs that are packed at a time.
const INPUTS_AT_A_TIME: usize = 64;
