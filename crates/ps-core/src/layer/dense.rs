//! Dense layers: every output is a weighted sum of all inputs.

use super::kind::{Accepts, Kind, Setting};
use super::{Activation, Context, Layer, LayerSpec};
use crate::block::{Backward, Block, BlockLayout, Forward, Shape};
use crate::kernel::{Finish, Kernel, MAX_COLUMNS, Segment};
use crate::params::Layout;
use crate::product::{Product, WeightGradient, WeightShape, segments};
use ps_plan::seed::{Purpose, random};
use std::ops::Range;

/// Computes `z = x W^T + b` for each row x. Holds the position of W and b in the flat parameter vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Rows per sample, all with the same weight.
    pub rows_per_sample: usize,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Index of the weight's first element in the flat vector; the weight is `[outputs, inputs]`, row-major.
    pub weight: usize,
    /// Index of the bias's first element in the flat vector; the bias is `[outputs]`.
    pub bias: usize,
}

pub(super) static KIND: Kind = Kind {
    name: "dense",
    help: "computes `units` weighted sums of all inputs",
    settings: &[Setting { name: "units", accepts: Accepts::Count(MAX_UNITS) }],
    example: &[LayerSpec::Dense { units: 6 }, LayerSpec::Dense { units: 19 }],
    build: |settings| LayerSpec::Dense { units: settings[0] as usize },
};

/// A layer with more units would not fit into the memory of any machine.
const MAX_UNITS: u64 = 1_000_000;

impl Dense {
    pub(super) fn new(input: Shape, units: usize, number: usize, parameters: &mut Layout) -> Self {
        assert!(input.columns > 0 && units > 0, "a layer without units: {input:?} to {units}");
        Dense {
            rows_per_sample: input.rows_per_sample,
            inputs: input.columns,
            outputs: units,
            weight: parameters.push(format!("layers.{number}.weight"), vec![units, input.columns]),
            bias: parameters.push(format!("layers.{number}.bias"), vec![units]),
        }
    }

    /// Number of parameters and width of the output; see [`super::LayerSpec::size`].
    pub(super) fn size(inputs: u128, units: usize) -> (u128, u128) {
        let outputs = units as u128;
        ((inputs + 1).saturating_mul(outputs), outputs)
    }

    /// Multiply-adds of a sample's forward pass; see [`Layer::cost`].
    pub(super) fn cost(&self) -> usize {
        self.rows_per_sample * self.inputs * self.outputs
    }

    /// The shape of the weight.
    pub(crate) fn shape(&self) -> WeightShape {
        WeightShape { inputs: self.inputs, outputs: self.outputs }
    }

    /// The weight's elements in the flat parameter vector.
    pub fn weight_range(&self) -> Range<usize> {
        self.weight..self.weight + self.inputs * self.outputs
    }

    /// The bias's elements in the flat parameter vector, which follow the weight.
    pub fn bias_range(&self) -> Range<usize> {
        self.bias..self.bias + self.outputs
    }

    /// Draws the weight from the uniform distribution on [-limit, limit]. Before relu, the limit is that of
    /// He et al. 2015 (limit² = 6 / inputs); elsewhere it is that of Glorot and Bengio 2010 (limit² = 6 /
    /// (inputs + outputs)). The bias stays 0.
    pub(super) fn initialize(&self, seed: u64, next: Option<&Layer>, weights: &mut [f32]) {
        let fan = match next {
            Some(Layer::Activation(Activation::Relu)) => self.inputs,
            _ => self.inputs + self.outputs,
        };
        let limit = (6.0 / fan as f64).sqrt() as f32;
        for (at, weight) in self.weight_range().zip(&mut weights[self.weight_range()]) {
            let word = random(seed, Purpose::Weights, 0, at as u64)[0];
            // With 24 bits, the conversion and the difference are exact.
            *weight = ((word >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0) * limit;
        }
    }

    /// Computes the forward pass, and the activation that follows if it is fused.
    pub(super) fn forward(
        &self,
        k: usize,
        activation: Option<Activation>,
        context: &Context,
        block: &mut Block,
    ) {
        let Forward { rows, input, output } = block.forward(k);
        let (engine, panels) = (context.engine, output.panels);
        let right = &context.packed[k].forward;
        let product = Product { panels: input.panels, values: input.values, right, rows };
        // Rectifying takes one instruction in the kernel; any other activation takes another pass
        // over the tile.
        let rectifies = activation == Some(Activation::Relu);
        let activation = activation.filter(|_| !rectifies);
        engine.each_panel(panels, output.values, |panel, out| {
            let existing = panels.columns_of(panel);
            // The kernel reads a bias for every column of a tile, even where the last panel has none.
            let mut bias = [0.0; MAX_COLUMNS];
            bias[..existing]
                .copy_from_slice(&context.weights[self.bias + panel * panels.width..][..existing]);
            let finish = if rectifies { Finish::AddAndRectify(&bias) } else { Finish::Add(&bias) };
            engine.product(
                &product,
                panels.tile_columns(panel),
                panel,
                out,
                |_| finish,
                |_, out| {
                    if let Some(activation) = activation {
                        activation.apply_all(&mut out[..existing]);
                    }
                },
            );
        });
    }

    /// Computes the input gradient, and the derivative of the preceding activation if it is fused.
    pub(super) fn backward(
        &self,
        k: usize,
        activation: Option<Activation>,
        context: &Context,
        block: &mut Block,
    ) {
        let Backward { rows, input, above, below, transposed } = block.backward(k);
        let (engine, panels) = (context.engine, below.panels);
        let derive = |panel: usize, row: usize, out: &mut [f32]| {
            if let Some(activation) = activation {
                let out = &mut out[..panels.columns_of(panel)];
                let values = &input.values[panels.panel(panel) + row * panels.width..][..out.len()];
                activation.derive_all(values, out);
            }
        };
        if self.shape().is_wide() {
            let above = (above.panels, above.values);
            let below = (panels, below.values);
            let weight = &context.packed[k];
            engine.transposed_product(self.shape(), weight, rows, above, below, transposed, derive);
            return;
        }
        let right = &context.packed[k].backward;
        let product = Product { panels: above.panels, values: above.values, right, rows };
        let rectifies = activation == Some(Activation::Relu);
        engine.each_panel(panels, below.values, |panel, out| {
            let finish = |row| match rectifies {
                true => Finish::WherePositive(&input.values[panels.panel(panel) + row * panels.width..]),
                false => Finish::Nothing,
            };
            engine.product(&product, panels.tile_columns(panel), panel, out, finish, |row, out| {
                if !rectifies {
                    derive(panel, row, out);
                }
            });
        });
    }

    /// Finds the rows of each leaf in blocks with this layout; `leaves` are ranges of samples.
    pub(crate) fn find_leaves(
        &self,
        layout: &BlockLayout,
        leaves: impl Iterator<Item = Range<usize>>,
        found: &mut Vec<Segment>,
    ) {
        let rows = self.rows_per_sample;
        let leaves = leaves.map(|samples| samples.start * rows..samples.end * rows);
        segments(layout.samples() * rows, layout.len(), layout.width(), leaves, found);
    }

    /// The products of the parameters' gradient over some leaves of the blocks in `memory`. The layer
    /// has index `k`.
    pub(crate) fn weight_gradient<'a>(
        &self,
        k: usize,
        kernel: Kernel,
        (layout, memory): (&BlockLayout, &'a [f32]),
        leaves: &'a [Segment],
    ) -> WeightGradient<'a> {
        let count = leaves.iter().filter(|segment| segment.ends_leaf).count();
        let (input, delta) = (layout.value(k), layout.delta(k + 1));
        WeightGradient { kernel, input, delta, memory, segments: leaves, leaves: count }
    }

    #[inline(always)]
    pub(super) fn plain_transposed(&self, weights: &[f32]) -> Vec<f32> {
        let weight = &weights[self.weight_range()];
        let mut transposed = vec![0.0; weight.len()];
        for o in 0..self.outputs {
            for i in 0..self.inputs {
                transposed[i * self.outputs + o] = weight[o * self.inputs + i];
            }
        }
        transposed
    }

    #[inline(always)]
    pub(super) fn plain_forward(
        &self,
        weights: &[f32],
        transposed: &[f32],
        input: &[f32],
        output: &mut [f32],
    ) {
        let bias = &weights[self.bias_range()];
        for (x, z) in input.chunks(self.inputs).zip(output.chunks_mut(self.outputs)) {
            z.fill(0.0);
            // With inputs outside, each output is one ascending chain, and the inner loop is vectorised.
            for (&x, weights) in x.iter().zip(transposed.chunks(self.outputs)) {
                for (z, &w) in z.iter_mut().zip(weights) {
                    *z = x.mul_add(w, *z);
                }
            }
            for (z, &b) in z.iter_mut().zip(bias) {
                *z += b;
            }
        }
    }

    #[inline(always)]
    pub(super) fn plain_backward(&self, weights: &[f32], above: &[f32], below: &mut [f32]) {
        let weight = &weights[self.weight_range()];
        for (delta, below) in above.chunks(self.outputs).zip(below.chunks_mut(self.inputs)) {
            below.fill(0.0);
            for (&delta, weights) in delta.iter().zip(weight.chunks(self.inputs)) {
                for (below, &w) in below.iter_mut().zip(weights) {
                    *below = delta.mul_add(w, *below);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn plain_gradient(&self, input: &[f32], above: &[f32], gradient: &mut [f32]) {
        let (weight, bias) = gradient[self.weight..].split_at_mut(self.inputs * self.outputs);
        for (x, delta) in input.chunks(self.inputs).zip(above.chunks(self.outputs)) {
            for (&delta, weight) in delta.iter().zip(weight.chunks_mut(self.inputs)) {
                for (g, &x) in weight.iter_mut().zip(x) {
                    *g = delta.mul_add(x, *g);
                }
            }
            for (g, &delta) in bias.iter_mut().zip(delta) {
                *g += delta;
            }
        }
    }
}
