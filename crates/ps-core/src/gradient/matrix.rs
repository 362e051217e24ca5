//! Where an activation or its derivative lies in memory: in the order in which the kernel reads it, whether
//! as left operand, right operand or result.
//!
//! Rows (samples) are cut into blocks of `block` rows, columns into panels of `width` columns; a panel of a
//! block is contiguous, row after row. A block is one slice, so blocks can be filled in parallel.

use crate::kernel::Kernel;

/// The shape of a `[rows, columns]` matrix cut into blocks and panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub columns: usize,
    /// Rows of a block.
    pub block: usize,
    /// Columns of a panel.
    pub width: usize,
}

impl Shape {
    /// Number of panels.
    pub fn panels(self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// Columns of `panel` that exist.
    pub fn columns_of(self, panel: usize) -> usize {
        self.width.min(self.columns - panel * self.width)
    }

    /// Columns that the kernel computes for `panel`: all of a panel or, where that suffices, half of them.
    pub fn tile_columns(self, panel: usize) -> usize {
        if 2 * self.columns_of(panel) <= self.width { self.width / 2 } else { self.width }
    }

    /// Where `panel` starts in its block.
    pub fn panel(self, panel: usize) -> usize {
        panel * self.width * self.block
    }

    /// Elements of a block.
    pub fn block_len(self) -> usize {
        self.panels() * self.width * self.block
    }

    /// Writes `row` (`[columns]`) as row `index` of a block.
    #[inline(always)]
    pub fn write_row(self, block: &mut [f32], index: usize, row: &[f32]) {
        for (panel, columns) in row.chunks(self.width).enumerate() {
            copy(&mut block[self.panel(panel) + index * self.width..][..columns.len()], columns);
        }
    }

    /// Reads row `index` of a block into `row` (`[columns]`).
    #[inline(always)]
    pub fn read_row(self, block: &[f32], index: usize, row: &mut [f32]) {
        for (panel, columns) in row.chunks_mut(self.width).enumerate() {
            let from = &block[self.panel(panel) + index * self.width..][..columns.len()];
            copy(columns, from);
        }
    }
}

/// `to = from`, of equal lengths. A few lines of a panel are too short to be worth a call of `memcpy`, whose
/// time would show.
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
