//! The memory layout of a block's values and deltas: the order in which the kernel reads them, as left
//! operand, right operand or result.

use crate::kernel::Kernel;

/// A `[rows, columns]` matrix divided into panels of `width` columns. Each panel is contiguous, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub columns: usize,
    pub rows: usize,
    /// Number of columns per panel.
    pub width: usize,
}

/// The position of a matrix in a block of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixSlot {
    pub panels: Panels,
    /// Index of its first element in the block.
    pub at: usize,
}

impl Panels {
    /// Number of panels.
    pub(crate) fn panels(self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// Number of columns of `panel` that the matrix has; the last panel may be incomplete.
    pub(crate) fn columns_of(self, panel: usize) -> usize {
        self.width.min(self.columns - panel * self.width)
    }

    /// Number of columns that the kernel computes for `panel`: half of them if that is enough, otherwise all.
    pub(crate) fn tile_columns(self, panel: usize) -> usize {
        // With AVX-512, ten outputs then fill ten of 16 lanes instead of ten of 32.
        if 2 * self.columns_of(panel) <= self.width { self.width / 2 } else { self.width }
    }

    /// Index of the first element of `panel`.
    pub(crate) fn panel(self, panel: usize) -> usize {
        panel * self.width * self.rows
    }

    /// Number of elements, including those of the last panel's missing columns.
    pub(crate) fn len(self) -> usize {
        self.panels() * self.width * self.rows
    }

    /// Writes `row` (`[columns]`) as row `index` of the matrix.
    #[inline(always)]
    pub(crate) fn write_row(self, matrix: &mut [f32], index: usize, row: &[f32]) {
        for (panel, columns) in row.chunks(self.width).enumerate() {
            copy(&mut matrix[self.panel(panel) + index * self.width..][..columns.len()], columns);
        }
    }

    /// Reads row `index` of the matrix into `row` (`[columns]`).
    #[inline(always)]
    pub(crate) fn read_row(self, matrix: &[f32], index: usize, row: &mut [f32]) {
        for (panel, columns) in row.chunks_mut(self.width).enumerate() {
            let from = &matrix[self.panel(panel) + index * self.width..][..columns.len()];
            copy(columns, from);
        }
    }
}

/// Copies `from` to `to`, which must have the same length. A panel's row is so short that a call of `memcpy`
/// would cost more than the copy.
#[inline(always)]
pub(super) fn copy(to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len());
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<16>(), from.as_chunks::<16>());
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// Divides `count` rows into as few tiles as possible, of nearly equal height: their first rows and heights.
pub(crate) fn strips(count: usize, kernel: Kernel) -> impl Iterator<Item = (usize, usize)> {
    // 13 rows are cut into 6 and 7 rather than 12 and 1, because every tile loads the same right operand,
    // however few rows it has.
    let tiles = count.div_ceil(kernel.max_rows());
    (0..tiles).map(move |tile| {
        let start = tile * count / tiles;
        (start, (tile + 1) * count / tiles - start)
    })
}
