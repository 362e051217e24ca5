//! The passes of a block of samples: forward through the layers, through the head, and back.

use crate::block::Block;
use crate::kernel::Kernel;
use crate::layer::{Context, Training, add};
use crate::metrics::SampleMetrics;
use crate::model::Model;
use crate::product::{Engine, PackedWeight};
use crate::samples::Samples;
use std::ops::Range;

/// How many samples ahead features are prefetched: samples may lie anywhere in memory, and reading one takes
/// about as long as one memory access.
const SAMPLES_AHEAD: usize = 4;

/// Which passes to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Forward, the loss, and back to the derivatives with respect to each layer's output.
    Gradient,
    /// Forward and the loss.
    Loss,
    /// Forward and the head's prediction.
    Prediction,
}

/// The samples of a block, and the results for each.
pub(super) struct BlockSamples<'a> {
    pub indices: &'a [usize],
    pub targets: &'a [f32],
    pub outcomes: &'a mut [SampleMetrics],
}

/// What all blocks of a step share.
pub(super) struct Network<'a> {
    pub model: &'a Model,
    pub context: Context<'a>,
    /// The layers to run; later ones follow when their weights have arrived.
    pub layers: Range<usize>,
}

impl<'a> Network<'a> {
    /// Creates a network of all layers, for a training step or for an evaluation.
    pub(super) fn new(
        kernel: Kernel,
        model: &'a Model,
        weights: &'a [f32],
        packed: &'a [PackedWeight],
        training: Option<Training>,
    ) -> Self {
        let engine = Engine { kernel, shares_panels: false };
        Network { model, context: Context { engine, training, weights, packed }, layers: 0..packed.len() }
    }

    /// Selects how threads divide a product; see [`Engine::shares_panels`].
    pub(super) fn sharing_panels(mut self, shares_panels: bool) -> Self {
        self.context.engine.shares_panels = shares_panels;
        self
    }

    /// Runs a block through [`Network::layers`]. If the last layer is among them, `pass` says what follows.
    pub(super) fn run(
        &self,
        samples: &dyn Samples,
        block_samples: &mut BlockSamples,
        block: &mut Block,
        pass: Pass,
    ) {
        // If weights arrive in parts, the block already holds the values of earlier layers.
        if self.layers.start == 0 {
            self.read(samples, block_samples, block);
        }
        let layers = self.model.layers();
        for k in self.layers.clone() {
            layers[k].forward(k, self.model.fusion(k), &self.context, block);
        }
        if self.layers.end < layers.len() {
            return;
        }
        self.take_outputs(block_samples, block, pass);
        if pass == Pass::Gradient {
            for k in (self.model.first_trained() + 1..layers.len()).rev() {
                layers[k].backward(k, self.model.fusion(k), &self.context, block);
                // Each addition rounds, so the order is part of the specification: first the layer's own
                // rule, then its readers in ascending order.
                for reader in self.model.readers(k) {
                    let (rows, from, to) = block.delta_pair(reader + 1, k);
                    from.each_panel(rows).zip(to.each_panel(rows)).for_each(|(from, to)| add(from, to));
                }
            }
        }
    }

    /// Writes the features of a block's samples to the input of the first layer.
    fn read(&self, samples: &dyn Samples, block_samples: &BlockSamples, block: &mut Block) {
        let (features, row) = block.features();
        for &index in block_samples.indices.iter().take(SAMPLES_AHEAD) {
            samples.prefetch(index);
        }
        for (r, &index) in block_samples.indices.iter().enumerate() {
            if let Some(&ahead) = block_samples.indices.get(r + SAMPLES_AHEAD) {
                samples.prefetch(ahead);
            }
            samples.write_row(index, row);
            self.context.engine.kernel.vectorize(
                #[inline(always)]
                || features.panels.write_row(features.values, r, row),
            );
        }
    }

    /// Replaces the outputs of each sample by the derivatives of its loss or by the head's prediction.
    fn take_outputs(&self, block_samples: &mut BlockSamples, block: &mut Block, pass: Pass) {
        let (head, samples) = (self.model.head(), block.samples());
        let (outputs, row) = block.outputs();
        self.context.engine.kernel.vectorize(
            #[inline(always)]
            || {
                for r in 0..samples {
                    outputs.panels.read_row(outputs.values, r, row);
                    if pass == Pass::Prediction {
                        head.predict(row);
                    } else {
                        block_samples.outcomes[r] = head.backward(row, block_samples.targets[r]);
                    }
                    outputs.panels.write_row(outputs.values, r, row);
                }
            },
        );
    }
}
