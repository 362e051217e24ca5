//! The memory in which a block of samples passes through a model.
//!
//! The *value* at boundary k is the input of layer k: boundary 0 holds the samples, and the last boundary the
//! outputs before the head. The *delta* at a boundary is the derivative of the loss with respect to its
//! value. An elementwise layer may overwrite the value or delta that it reads.

use crate::product::{MatrixSlot, Panels};

/// The shape of one sample's value at a boundary, `[rows_per_sample, columns]`.
///
/// A product treats all rows alike, whichever sample they belong to: a layer that applies the same weight at
/// several positions of a sample, such as a convolution, has several rows per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows per sample; 1 for samples and outputs.
    pub rows_per_sample: usize,
    /// Elements per row.
    pub columns: usize,
}

/// What a block stores for one boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub shape: Shape,
    /// Whether the value overwrites that of the previous boundary.
    pub overwrites_value: bool,
    pub delta: Delta,
}

/// Where the delta of a boundary is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delta {
    /// Not stored: no layer before the boundary has parameters.
    None,
    /// In memory that no other boundary uses.
    Own,
    /// In the memory of the previous boundary, whose delta overwrites it.
    Overwritten,
}

/// Where the matrices of a block are stored: first the values, then the deltas, then scratch space for one
/// transposed delta, then one row.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockLayout {
    samples: usize,
    width: usize,
    values: Vec<MatrixSlot>,
    /// One for each value; boundaries without a delta have no columns.
    deltas: Vec<MatrixSlot>,
    transposed: usize,
    row: usize,
    len: usize,
}

/// A matrix that is read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub panels: Panels,
    pub values: &'a [f32],
}

/// A matrix that is written.
pub(crate) struct MatrixMut<'a> {
    pub panels: Panels,
    pub values: &'a mut [f32],
}

/// The matrices of a layer's forward pass.
pub(crate) struct Forward<'a> {
    pub rows: usize,
    pub input: Matrix<'a>,
    pub output: MatrixMut<'a>,
}

/// The matrices of a layer's input gradient.
pub(crate) struct Backward<'a> {
    pub rows: usize,
    /// The value at the layer's input.
    pub input: Matrix<'a>,
    /// The delta at the layer's output.
    pub above: Matrix<'a>,
    /// The delta at the layer's input.
    pub below: MatrixMut<'a>,
    /// Scratch space for `above` transposed, with its rows rounded up to whole panels.
    pub transposed: &'a mut [f32],
}

/// Consecutive samples of a batch that pass through a model together.
pub(crate) struct Block<'a> {
    layout: &'a BlockLayout,
    /// Position of the block's first sample in the batch.
    first: usize,
    /// Number of samples, at most [`BlockLayout::samples`].
    samples: usize,
    memory: &'a mut [f32],
}

impl BlockLayout {
    /// Lays out blocks of `samples` samples for panels of `width` columns. The last value shares its memory
    /// with its delta, because the head replaces one by the other. `transposed` is the size of the widest
    /// delta that is ever transposed.
    pub(crate) fn lay_out(
        &mut self,
        boundaries: &[Boundary],
        transposed: usize,
        samples: usize,
        width: usize,
    ) {
        // A layout serves a single model, so the number of boundaries identifies it.
        if self.samples == samples && self.width == width && self.values.len() == boundaries.len() {
            return;
        }
        (self.samples, self.width, self.len) = (samples, width, 0);
        self.values.clear();
        self.deltas.clear();
        let mut slot = |shape: Shape, is_new: bool, before: Option<&MatrixSlot>| {
            let rows = samples * shape.rows_per_sample;
            let panels = Panels { columns: shape.columns, rows, width };
            match before {
                Some(before) if !is_new => MatrixSlot { panels, at: before.at },
                _ => {
                    let at = self.len;
                    self.len += panels.len();
                    MatrixSlot { panels, at }
                }
            }
        };
        for boundary in &boundaries[..boundaries.len() - 1] {
            let value = slot(boundary.shape, !boundary.overwrites_value, self.values.last());
            self.values.push(value);
        }
        for boundary in boundaries {
            let shape = match boundary.delta {
                Delta::None => Shape { columns: 0, ..boundary.shape },
                Delta::Own | Delta::Overwritten => boundary.shape,
            };
            let delta = slot(shape, boundary.delta != Delta::Overwritten, self.deltas.last());
            self.deltas.push(delta);
        }
        self.values.extend(self.deltas.last());
        let rows = boundaries.iter().map(|boundary| boundary.shape.rows_per_sample).max().unwrap_or(1);
        self.transposed = self.len;
        // In a transposed delta, samples are columns, which fill whole panels.
        self.len += transposed * (samples * rows).next_multiple_of(width);
        self.row = self.len;
        // Only features and outputs pass through the row.
        let ends = [boundaries.first(), boundaries.last()].into_iter().flatten();
        let widest = ends.map(|boundary| boundary.shape.columns).max().unwrap_or(0);
        self.len += widest.next_multiple_of(width);
    }

    /// Samples per block.
    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    /// Columns per panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Size of a block, in elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where each block stores the value at a boundary.
    pub(crate) fn value(&self, boundary: usize) -> MatrixSlot {
        self.values[boundary]
    }

    /// Where each block stores the delta at a boundary.
    pub(crate) fn delta(&self, boundary: usize) -> MatrixSlot {
        self.deltas[boundary]
    }

    /// Where each block stores the outputs before the head.
    pub(crate) fn outputs(&self) -> MatrixSlot {
        self.deltas[self.deltas.len() - 1]
    }
}

impl<'a> Matrix<'a> {
    /// Iterates over the panels, each cut to its first `rows` rows.
    pub(crate) fn each_panel(self, rows: usize) -> impl Iterator<Item = &'a [f32]> {
        let Panels { rows: room, width, .. } = self.panels;
        self.values.chunks(room * width).take(self.panels.panels()).map(move |panel| &panel[..rows * width])
    }
}

impl<'a> MatrixMut<'a> {
    /// Iterates over the panels, each cut to its first `rows` rows.
    pub(crate) fn each_panel(self, rows: usize) -> impl Iterator<Item = &'a mut [f32]> {
        let Panels { rows: room, width, .. } = self.panels;
        let panels = self.values.chunks_mut(room * width).take(self.panels.panels());
        panels.map(move |panel| &mut panel[..rows * width])
    }
}

impl<'a> Block<'a> {
    /// Creates a block of the `samples` samples from batch position `first` on. `memory` is `[layout.len()]`.
    pub(crate) fn new(layout: &'a BlockLayout, first: usize, samples: usize, memory: &'a mut [f32]) -> Self {
        Block { layout, first, samples, memory }
    }

    /// Position of the block's first sample in the batch.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// Number of samples in the block.
    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    /// The samples' features, and scratch space for one row of them.
    pub(crate) fn features(&mut self) -> (MatrixMut<'_>, &mut [f32]) {
        self.with_row(self.layout.values[0])
    }

    /// The outputs before the head, which their derivatives later overwrite, and scratch space for one
    /// row of them.
    pub(crate) fn outputs(&mut self) -> (MatrixMut<'_>, &mut [f32]) {
        self.with_row(self.layout.outputs())
    }

    /// The matrices of the forward pass of layer `k`, whose output does not overwrite its input.
    pub(crate) fn forward(&mut self, k: usize) -> Forward<'_> {
        let (from, to) = (self.layout.values[k], self.layout.values[k + 1]);
        let rows = self.rows(from);
        let (before, output) = self.memory.split_at_mut(to.at);
        Forward {
            rows,
            input: Matrix { panels: from.panels, values: &before[from.at..] },
            output: MatrixMut { panels: to.panels, values: output },
        }
    }

    /// The output of layer `k`, filled with a copy of the layer's input, and its number of rows.
    pub(crate) fn copied_value(&mut self, k: usize) -> (usize, MatrixMut<'_>) {
        let (from, to) = (self.layout.values[k], self.layout.values[k + 1]);
        let len = from.panels.len();
        if from.at != to.at {
            self.memory.copy_within(from.at..from.at + len, to.at);
        }
        (self.rows(to), MatrixMut { panels: to.panels, values: &mut self.memory[to.at..to.at + len] })
    }

    /// The value at an earlier boundary, and the output of layer `k`, filled with a copy of its input; the
    /// first field is their number of rows.
    pub(crate) fn value_and_copy(&mut self, boundary: usize, k: usize) -> (usize, Matrix<'_>, MatrixMut<'_>) {
        let (rows, _) = self.copied_value(k);
        // No value overwrites that of a source, so the source lies before the output.
        let (value, to) = (self.layout.values[boundary], self.layout.values[k + 1]);
        let (before, output) = self.memory.split_at_mut(to.at);
        let value = Matrix { panels: value.panels, values: &before[value.at..] };
        (rows, value, MatrixMut { panels: to.panels, values: output })
    }

    /// The delta at boundary `later` and the one at boundary `to`; the first field is their number of rows.
    pub(crate) fn delta_pair(&mut self, later: usize, to: usize) -> (usize, Matrix<'_>, MatrixMut<'_>) {
        let (later, to) = (self.layout.deltas[later], self.layout.deltas[to]);
        let rows = self.rows(to);
        let (before, from) = self.memory.split_at_mut(later.at);
        let to = MatrixMut { panels: to.panels, values: &mut before[to.at..] };
        (rows, Matrix { panels: later.panels, values: from }, to)
    }

    /// The matrices of the input gradient of layer `k`, which does not overwrite the delta at its output.
    pub(crate) fn backward(&mut self, k: usize) -> Backward<'_> {
        let (value, above, below) = (self.layout.values[k], self.layout.deltas[k + 1], self.layout.deltas[k]);
        let rows = self.rows(value);
        // Deltas are stored in the order of their boundaries, after all values but the last.
        let (before, rest) = self.memory.split_at_mut(above.at);
        let (values, deltas) = before.split_at_mut(below.at);
        let (above_values, transposed) = rest.split_at_mut(self.layout.transposed - above.at);
        let transposed = &mut transposed[..self.layout.row - self.layout.transposed];
        Backward {
            rows,
            input: Matrix { panels: value.panels, values: &values[value.at..] },
            above: Matrix { panels: above.panels, values: above_values },
            below: MatrixMut { panels: below.panels, values: deltas },
            transposed,
        }
    }

    /// The output of layer `k`, and the delta there, which the delta at the layer's input overwrites; the
    /// first field is their number of rows.
    pub(crate) fn overwritten_delta(&mut self, k: usize) -> (usize, Matrix<'_>, MatrixMut<'_>) {
        let (value, delta) = (self.layout.values[k + 1], self.layout.deltas[k + 1]);
        let rows = self.rows(value);
        let (values, deltas) = self.memory.split_at_mut(delta.at);
        (
            rows,
            Matrix { panels: value.panels, values: &values[value.at..] },
            MatrixMut { panels: delta.panels, values: &mut deltas[..delta.panels.len()] },
        )
    }

    fn with_row(&mut self, slot: MatrixSlot) -> (MatrixMut<'_>, &mut [f32]) {
        let (matrices, row) = self.memory.split_at_mut(self.layout.row);
        let panels = slot.panels;
        (MatrixMut { panels, values: &mut matrices[slot.at..] }, &mut row[..panels.columns])
    }

    fn rows(&self, slot: MatrixSlot) -> usize {
        self.samples * (slot.panels.rows / self.layout.samples)
    }
}
