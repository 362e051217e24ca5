//! How a block's values or their derivatives lie in memory: in the order in which the kernel reads them, whether
//! as left operand, right operand or result.

use crate::kernel::Kernel;

/// A `[rows, columns]` matrix cut into panels of `width` columns. A panel is contiguous, row after row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub columns: usize,
    pub rows: usize,
    /// Columns of a panel.
    pub width: usize,
}

/// A matrix of a block of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub panels: Panels,
    /// Where it starts in its block.
    pub at: usize,
}

impl Panels {
    /// Number of panels.
    pub(crate) fn panels(self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// Columns of `panel` that exist.
    pub(crate) fn columns_of(self, panel: usize) -> usize {
        self.width.min(self.columns - panel * self.width)
    }

    /// Columns that the kernel computes for `panel`: all of a panel or, where that suffices, half of them.
    pub(crate) fn tile_columns(self, panel: usize) -> usize {
        if 2 * self.columns_of(panel) <= self.width { self.width / 2 } else { self.width }
    }

    /// Where `panel` starts.
    pub(crate) fn panel(self, panel: usize) -> usize {
        panel * self.width * self.rows
    }

    /// Elements, those of the last panel's missing columns included.
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

/// `to = from`, of equal lengths. A row of a panel is so short that a call of `memcpy` would cost more than the
/// copy.
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

/// `count` rows in as few tiles as fit and as equal as can be: their first rows and lengths.
pub(crate) fn strips(count: usize, kernel: Kernel) -> impl Iterator<Item = (usize, usize)> {
    let tiles = count.div_ceil(kernel.max_rows());
    (0..tiles).map(move |tile| {
        let start = tile * count / tiles;
        (start, (tile + 1) * count / tiles - start)
    })
}
