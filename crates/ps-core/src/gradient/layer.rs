//! One layer's products alone, for benches.

use super::network::Network;
use super::scratch::Places;
use super::weight::{WeightGradient, segments};
use super::{Gradients, block_rows};
use crate::kernel::{Buffer, Kernel, Segment};
use crate::model::{Activation, Model};
use ps_plan::BatchPlan;

/// One layer's products alone, for benches: `rows` samples, a weight of `[outputs, inputs]`.
#[doc(hidden)]
pub struct LayerProducts {
    gradients: Gradients,
    weights: Vec<f32>,
    rows: usize,
    places: Places,
    memory: Buffer,
    segments: Vec<Segment>,
    leaves: usize,
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
        gradients.pack(&weights, 0..2, false, true);
        let mut places = Places::default();
        places.lay_out(&gradients.model, kernel, block_rows(rows, false));
        let mut memory = Buffer::default();
        memory.resize(rows.div_ceil(places.block) * places.len()).fill(0.5);
        let (mut segments_of_leaves, starts) = (Vec::new(), (0..rows).step_by(leaf));
        segments(&places, starts.map(|row| row..rows.min(row + leaf)), &mut segments_of_leaves);
        let (segments, leaves) = (segments_of_leaves, rows.div_ceil(leaf));
        LayerProducts { gradients, weights, rows, places, memory, segments, leaves }
    }

    fn blocks(&mut self, run: impl Fn(&Network, &Places, usize, &mut [f32])) {
        let Gradients { kernel, model, packed, .. } = &self.gradients;
        let weights = &self.weights;
        let network = Network::new(*kernel, model, weights, packed, false);
        let blocks = self.rows.div_ceil(self.places.block);
        let memory = self.memory.resize(blocks * self.places.len());
        for (b, memory) in memory.chunks_mut(self.places.len()).enumerate() {
            let rows = self.places.block.min(self.rows - b * self.places.block);
            run(&network, &self.places, rows, memory);
        }
    }

    pub fn forward(&mut self) {
        self.blocks(|network, places, rows, memory| {
            let layer = &network.model.layers()[1];
            let (input, output) = memory.split_at_mut(places.delta(1).1);
            let input = &input[places.input(1).1..];
            network.forward_layer(layer, 1, rows, places, input, output, Some(Activation::Relu));
        });
    }

    pub fn input_gradient(&mut self) {
        self.blocks(|network, places, rows, memory| {
            let layer = &network.model.layers()[1];
            let (matrices, turned) = memory.split_at_mut(places.turned());
            let (rest, delta) = matrices.split_at_mut(places.delta(1).1);
            let (inputs, below) = rest.split_at_mut(places.delta(0).1);
            let input = &inputs[places.input(1).1..];
            network.backward_layer(layer, 1, rows, places, delta, input, below, turned);
        });
    }

    pub fn weight_gradient(&mut self, gradient: &mut [f32]) {
        let layer = self.gradients.model.layers()[1];
        let products = WeightGradient {
            kernel: self.gradients.kernel,
            input: self.places.input(1),
            delta: self.places.delta(1),
            memory: self.memory.as_slice(),
            segments: &self.segments,
            leaves: self.leaves,
        };
        let (weight, bias) = gradient.split_at_mut(layer.inputs * layer.outputs);
        products.all_panels(weight, bias, false);
    }

    pub fn pack(&mut self) {
        self.gradients.pack(&self.weights, 0..2, false, true);
    }
}
