//! Weights laid out as the kernel reads right operands: panels of columns, row after row.

use super::matrix::copy;

/// Packs `columns` rows of `weight` (`[columns, depth]`) as columns of a panel: element (k, column) goes to
/// `packed[k * width + column]`, missing columns are 0.
pub(super) fn pack_transposed(
    weight: &[f32],
    depth: usize,
    columns: usize,
    width: usize,
    packed: &mut [f32],
) {
    // A cache line of each column at a time: read once, and the panel's rows stay in cache meanwhile.
    const LINE: usize = 16;
    for (block, packed) in packed.chunks_mut(LINE * width).enumerate() {
        let depths = packed.len() / width;
        for column in 0..columns {
            let from = &weight[column * depth + block * LINE..][..depths];
            for (row, &value) in packed.chunks_exact_mut(width).zip(from) {
                row[column] = value;
            }
        }
        for row in packed.chunks_exact_mut(width) {
            row[columns..].fill(0.0);
        }
    }
}

/// Packs `columns` columns of `weight`, whose rows are `stride` apart: element (k, column) goes to
/// `packed[k * width + column]`, missing columns are 0.
pub(super) fn pack_panel(weight: &[f32], stride: usize, columns: usize, width: usize, packed: &mut [f32]) {
    for (out, row) in packed.chunks_exact_mut(width).zip(weight.chunks(stride)) {
        copy(&mut out[..columns], &row[..columns]);
        out[columns..].fill(0.0);
    }
}
