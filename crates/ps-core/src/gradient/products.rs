//! The products of a single layer, for benchmarks.

use super::scratch::lay_out;
use super::{Gradients, block_rows};
use crate::block::{Block, BlockLayout};
use crate::kernel::{Buffer, Kernel, Segment};
use crate::layer::{Activation, Context, Dense};
use crate::model::Model;
use crate::product::Engine;
use ps_plan::BatchPlan;

/// Index of the layer that is measured: a dense one between two activations.
const LAYER: usize = 2;

/// The products of a single layer with `rows` samples and a weight of `[outputs, inputs]`, for benchmarks.
#[doc(hidden)]
pub struct LayerProducts {
    gradients: Gradients,
    weights: Vec<f32>,
    rows: usize,
    layout: BlockLayout,
    memory: Buffer,
    segments: Vec<Segment>,
}

#[doc(hidden)]
impl LayerProducts {
    pub fn new(kernel: Kernel, rows: usize, inputs: usize, outputs: usize, leaf: usize) -> Self {
        // With a layer before it, the measured layer has an input gradient.
        let model = Model::new(1, &[inputs, outputs], Activation::Relu, crate::Head::SquaredError, 1);
        let plan = BatchPlan::new(1, rows, rows, leaf, 1, None);
        let weights = model.initial(1);
        let mut gradients = Gradients::new(model, plan, kernel);
        gradients.pack(&weights, LAYER..LAYER + 1, false, true);
        let mut layout = BlockLayout::default();
        lay_out(&mut layout, &gradients.model, kernel, block_rows(rows, false));
        let mut memory = Buffer::default();
        memory.resize(rows.div_ceil(layout.samples()) * layout.len()).fill(0.5);
        let leaves = (0..rows).step_by(leaf).map(|row| row..rows.min(row + leaf));
        let mut segments = Vec::new();
        dense(&gradients.model).find_leaves(&layout, leaves, &mut segments);
        LayerProducts { gradients, weights, rows, layout, memory, segments }
    }

    fn blocks(&mut self, run: impl Fn(&Model, &Context, &mut Block)) {
        let Gradients { kernel, model, packed, .. } = &self.gradients;
        let engine = Engine { kernel: *kernel, shares_panels: false };
        let context = Context { engine, training: None, weights: &self.weights, packed };
        let (samples, len) = (self.layout.samples(), self.layout.len());
        let memory = self.memory.resize(self.rows.div_ceil(samples) * len);
        for (b, memory) in memory.chunks_mut(len).enumerate() {
            let rows = samples.min(self.rows - b * samples);
            run(model, &context, &mut Block::new(&self.layout, b * samples, rows, memory));
        }
    }

    pub fn forward(&mut self) {
        self.blocks(|model, context, block| {
            model.layers()[LAYER].forward(LAYER, model.fusion(LAYER), context, block);
        });
    }

    pub fn input_gradient(&mut self) {
        self.blocks(|model, context, block| {
            model.layers()[LAYER].backward(LAYER, model.fusion(LAYER), context, block);
        });
    }

    pub fn weight_gradient(&mut self, gradient: &mut [f32]) {
        let dense = dense(&self.gradients.model);
        let memory = (&self.layout, self.memory.as_slice());
        let products = dense.weight_gradient(LAYER, self.gradients.kernel, memory, &self.segments);
        let (weight, bias) = gradient.split_at_mut(dense.inputs * dense.outputs);
        products.all_panels(weight, bias, false);
    }

    pub fn pack(&mut self) {
        self.gradients.pack(&self.weights, LAYER..LAYER + 1, false, true);
    }
}

fn dense(model: &Model) -> Dense {
    *model.layers()[LAYER].dense().expect("the layer that is measured is dense")
}
