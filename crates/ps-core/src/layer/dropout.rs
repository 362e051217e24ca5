//! Dropout: in training, sets a random fraction of the units to 0 for each sample.

use super::kind::{Accepts, Kind, Setting};
use super::{Activation, Context, LayerSpec, PlainContext, Training};
use crate::block::{Block, MatrixMut, Shape};
use ps_plan::seed::{Purpose, random};

/// Sets each unit to 0 with probability `rate` and multiplies the others by 1 / (1 - rate), which keeps the
/// mean (Srivastava et al. 2014). Outside of training it does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping a unit, at least 0 and below 1.
    pub rate: f32,
    pub(super) shape: Shape,
    /// Index of the layer's first unit among the units of all dropout layers, from which the random
    /// stream is derived.
    pub(super) first: u64,
}

pub(super) static KIND: Kind = Kind {
    name: "dropout",
    help: "in training, sets each unit to 0 with probability `rate` and divides the others by 1 - rate",
    settings: &[Setting { name: "rate", accepts: Accepts::Share }],
    example: &[
        LayerSpec::Dropout { rate: 0.1 },
        LayerSpec::Dense { units: 20 },
        LayerSpec::Activation(Activation::Tanh),
        LayerSpec::Dropout { rate: 0.3 },
        LayerSpec::Dense { units: 37 },
        LayerSpec::Dropout { rate: 0.5 },
    ],
    build: |settings| LayerSpec::Dropout { rate: settings[0] as f32 },
};

impl Dropout {
    /// Random numbers that each sample takes; see [`super::Layer::draws`].
    pub(super) fn draws(&self) -> u64 {
        (self.shape.rows_per_sample * self.shape.columns) as u64
    }

    pub(super) fn forward(&self, k: usize, context: &Context, block: &mut Block) {
        let first = block.first();
        let (rows, output) = block.copied_value(k);
        self.drop(context, first, rows, output);
    }

    pub(super) fn backward(&self, k: usize, context: &Context, block: &mut Block) {
        let first = block.first();
        let (rows, _, delta) = block.overwritten_delta(k);
        self.drop(context, first, rows, delta);
    }

    /// Drops units of some rows. The first row belongs to the sample at position `first` in the batch.
    fn drop(&self, context: &Context, first: usize, rows: usize, matrix: MatrixMut) {
        let Some(training) = context.training else { return };
        let (Shape { rows_per_sample, columns }, panels) = (self.shape, matrix.panels);
        context.engine.kernel.vectorize(
            #[inline(always)]
            || {
                for (panel, values) in matrix.each_panel(rows).enumerate() {
                    let existing = panels.columns_of(panel);
                    for (r, row) in values.chunks_mut(panels.width).enumerate() {
                        let (sample, row_of_sample) = (r / rows_per_sample, r % rows_per_sample);
                        let unit = row_of_sample * columns + panel * panels.width;
                        self.drop_units(training, first + sample, unit, &mut row[..existing]);
                    }
                }
            },
        );
    }

    /// Drops consecutive units of the sample at `position`; the first is unit `unit` of the layer.
    #[inline(always)]
    fn drop_units(&self, training: Training, position: usize, unit: usize, values: &mut [f32]) {
        let Training { seed, step, draws } = training;
        // The counter contains the position in the batch and nothing about workers or threads, so a leaf that
        // is computed again drops the same units.
        let first = position as u64 * draws + self.first + unit as u64;
        let scale = 1.0 / (1.0 - self.rate);
        for (at, value) in values.iter_mut().enumerate() {
            let word = random(seed, Purpose::Dropout, step as u32, first + at as u64)[0];
            let uniform = (word >> 8) as f32 * (1.0 / 16_777_216.0);
            *value = if uniform < self.rate { 0.0 } else { *value * scale };
        }
    }

    /// Both the forward pass of values and the backward pass of deltas.
    #[inline(always)]
    pub(super) fn plain(&self, context: &PlainContext, from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
        if let Some(training) = context.training {
            self.drop_units(training, context.position, 0, to);
        }
    }
}
