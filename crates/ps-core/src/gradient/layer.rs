//! One layer's products alone, for benches.

use super::Gradients;
use super::matrix::Shape;
use super::network::Network;
use super::weight::WeightGradient;
use crate::batch::BatchPlan;
use crate::kernel::Kernel;
use crate::model::{Activation, Layer, Model};
use std::ops::Range;

/// One layer's products alone, for benches: `rows` samples, a weight of `[outputs, inputs]`.
#[doc(hidden)]
pub struct LayerProducts {
    gradients: Gradients,
    weights: Vec<f32>,
    rows: usize,
    block: usize,
    leaf: usize,
}

#[doc(hidden)]
impl LayerProducts {
    pub fn new(kernel: Kernel, rows: usize, inputs: usize, outputs: usize, leaf: usize) -> Self {
        // A layer of one unit below makes the input gradient exist.
        let head = if outputs == 1 { crate::Head::SquaredError } else { crate::Head::Softmax };
        let model = Model::new(1, &[inputs], Activation::Relu, head, outputs);
        let plan = BatchPlan::new(1, rows, rows, leaf, 1, None);
        let weights = model.initial(1);
        let mut gradients = Gradients::new(model, plan, kernel);
        let block = gradients.block_rows(rows, false);
        gradients.pack(&weights, false, true);
        let shape = gradients.shape(inputs, block);
        let blocks = rows.div_ceil(block);
        gradients.inputs[1].resize(blocks * shape.block_len()).fill(0.5);
        gradients.deltas[0].resize(blocks * shape.block_len());
        let shape = gradients.shape(outputs, block);
        gradients.deltas[1].resize(blocks * shape.block_len()).fill(0.25);
        LayerProducts { gradients, weights, rows, block, leaf }
    }

    fn blocks(&mut self, run: impl Fn(&Network, &Layer, usize, &mut [f32], &mut [f32], &mut [f32])) {
        let this = &mut self.gradients;
        let layer = this.model.layers()[1];
        let shape = |columns| Shape { columns, block: self.block, width: this.kernel.width() };
        let (input, output) = (shape(layer.inputs).block_len(), shape(layer.outputs).block_len());
        let network = Network {
            kernel: this.kernel,
            model: &this.model,
            weights: &self.weights,
            forward: &this.forward,
            backward: &this.backward,
            block: self.block,
        };
        let blocks = self.rows.div_ceil(self.block);
        let (below, above) = this.deltas.split_at_mut(1);
        for b in 0..blocks {
            let rows = self.block.min(self.rows - b * self.block);
            run(
                &network,
                &layer,
                rows,
                &mut this.inputs[1].resize(blocks * input)[b * input..],
                &mut above[0].resize(blocks * output)[b * output..],
                &mut below[0].resize(blocks * input)[b * input..],
            );
        }
    }

    pub fn forward(&mut self) {
        self.blocks(|network, layer, rows, input, output, _| {
            network.forward_layer(layer, 1, rows, input, output, Some(Activation::Relu));
        });
    }

    pub fn input_gradient(&mut self) {
        self.blocks(|network, layer, rows, input, output, below| {
            network.backward_layer(layer, 1, rows, output, input, below);
        });
    }

    pub fn weight_gradient(&mut self, gradient: &mut [f32]) {
        let this = &self.gradients;
        let layer = this.model.layers()[1];
        let (input, delta) = (this.shape(layer.inputs, self.block), this.shape(layer.outputs, self.block));
        let leaves: Vec<Range<usize>> =
            (0..self.rows).step_by(self.leaf).map(|r| r..self.rows.min(r + self.leaf)).collect();
        let (inputs, deltas) = (this.inputs[1].as_slice(), this.deltas[1].as_slice());
        let products = WeightGradient { kernel: this.kernel, input, delta, inputs, deltas, leaves: &leaves };
        let (weight, bias) = gradient.split_at_mut(layer.inputs * layer.outputs);
        let panels = weight.chunks_mut(delta.width * layer.inputs).zip(bias.chunks_mut(delta.width));
        for (panel, (weight, bias)) in panels.enumerate() {
            products.panel(panel, weight, bias);
        }
    }

    pub fn pack(&mut self) {
        self.gradients.pack(&self.weights, false, true);
    }
}
