//! Gradient and update in one pass, for a process that holds the weights and computes all leaves itself.
//!
//! The weights stay packed as the products read them, and each tile of a weight's gradient is applied
//! as soon as it is folded. A large model's gradient is never written to memory, and its weights are
//! packed only once.

use super::scratch::dense_layers;
use super::{Gradients, SMALL_MODEL};
use crate::kernel::{Kernel, Left, MAX_COLUMNS, Tile, fold_tiles, prefetch};
use crate::layer::Dense;
use crate::metrics::MetricSums;
use crate::model::Model;
use crate::optim::{Finite, OptimizerConfig, OptimizerParams, Update};
use crate::precision::Precision;
use crate::product::{MAX_TILE, PackedWeight, WeightGradient, strips};
use crate::samples::Samples;
use ps_plan::{BatchPlan, Step};
use rayon::prelude::*;

/// Weights that are trained in place. The result has the same bits as [`Gradients`] followed by an
/// update of [`crate::optim::ModelOptimizer`].
pub struct InPlace {
    gradients: Gradients,
    optimizer: OptimizerParams,
    /// `[parameters]`. For wide layers only the biases are current; their weights are in `gradients.packed`.
    weights: Vec<f32>,
    /// `[parameters]`, current for the same elements as `weights`; empty without momentum.
    velocity: Vec<f32>,
    /// By layer, the velocities of wide layers' weights, packed like the weights. Empty without momentum and
    /// for other layers.
    packed_velocity: Vec<PackedWeight>,
    /// Scratch space for the gradient of a layer that is not wide.
    narrow: Vec<f32>,
    /// Loss and metrics of the step that was computed but not applied yet.
    metric_sums: MetricSums,
}

impl InPlace {
    /// Whether training in place is possible and worthwhile.
    ///
    /// The model must be too large for the cache, because a small one is updated in cache anyway; gradients
    /// at rounded weights need the unrounded weights as well; and of the optimizers, only plain descent
    /// updates each weight from nothing but its own gradient and velocity.
    pub fn suits(model: &Model, optimizer: &OptimizerConfig) -> bool {
        model.parameters() > SMALL_MODEL && model.precision() == Precision::F32 && optimizer.is_plain()
    }

    /// Starts from the model's initial weights.
    pub fn new(
        model: &Model,
        plan: BatchPlan,
        optimizer: impl Into<OptimizerParams>,
        kernel: Kernel,
    ) -> Self {
        let (optimizer, weights) = (optimizer.into(), model.initial(plan.seed));
        let mut gradients = Gradients::new(model.clone(), plan, kernel);
        gradients.pack(&weights, 0..model.layers().len(), true, true);
        let has_velocity = !optimizer.optimizer.vectors().is_empty();
        let mut packed_velocity: Vec<_> = model.layers().iter().map(|_| PackedWeight::default()).collect();
        if has_velocity {
            for (k, _) in wide_layers(model) {
                packed_velocity[k].forward.resize(gradients.packed[k].forward.as_slice().len());
            }
        }
        InPlace {
            packed_velocity,
            velocity: if has_velocity { vec![0.0; weights.len()] } else { Vec::new() },
            narrow: Vec::new(),
            metric_sums: MetricSums::new(model.classes()),
            gradients,
            optimizer,
            weights,
        }
    }

    /// Replaces the weights and the velocity, `[parameters]` each; without momentum, the velocity is empty.
    pub fn restore(&mut self, weights: Vec<f32>, velocity: Vec<f32>) {
        assert_eq!(
            [weights.len(), velocity.len()],
            [self.weights.len(), self.velocity.len()],
            "they are of the same model and optimizer"
        );
        (self.weights, self.velocity) = (weights, velocity);
        let Gradients { model, kernel, .. } = &self.gradients;
        if !self.velocity.is_empty() {
            for (k, dense) in wide_layers(model) {
                let velocity = &self.velocity[dense.weight_range()];
                self.packed_velocity[k].pack(*kernel, dense.shape(), velocity, false, false);
            }
        }
        self.gradients.pack(&self.weights, 0..self.gradients.packed.len(), true, true);
    }

    /// The velocity, `[parameters]`; empty without momentum.
    pub fn velocity(&mut self) -> &[f32] {
        let Gradients { model, kernel, .. } = &self.gradients;
        if !self.velocity.is_empty() {
            for (k, dense) in wide_layers(model) {
                let velocity = &mut self.velocity[dense.weight_range()];
                self.packed_velocity[k].unpack(*kernel, dense.inputs, velocity);
            }
        }
        &self.velocity
    }

    /// The weights, `[parameters]`.
    pub fn weights(&mut self) -> &[f32] {
        let Gradients { model, packed, kernel, .. } = &self.gradients;
        for (k, dense) in wide_layers(model) {
            packed[k].unpack(*kernel, dense.inputs, &mut self.weights[dense.weight_range()]);
        }
        &self.weights
    }

    /// Computes the samples of a step forward and backward. Returns their loss and metrics.
    pub fn compute(&mut self, samples: &dyn Samples, step: Step) -> &MetricSums {
        let parallel = self.gradients.is_parallel(step.samples);
        let tree = step.tree();
        let gradients = &mut self.gradients;
        for k in 0..gradients.packed.len() {
            if !gradients.model.layers()[k].dense().is_some_and(|dense| dense.shape().is_wide()) {
                gradients.pack(&self.weights, k..k + 1, parallel, true);
            }
        }
        gradients.scratch[0].gather(samples, gradients.plan, step, 0..tree.leaves());
        gradients.pass(&self.weights, samples, step, 0..gradients.packed.len(), parallel);
        gradients.scratch[0].sum_metrics(tree.root(), step, 0, &mut self.metric_sums);
        &self.metric_sums
    }

    /// Updates all weights at this learning rate by the gradients of the step that was computed last.
    pub fn update(&mut self, step: Step, rate: f32) -> Finite {
        let parallel = self.gradients.is_parallel(step.samples);
        let update = Update::plain(self.optimizer, step.samples, rate);
        let Gradients { model, packed, kernel, scratch, .. } = &mut self.gradients;
        let mut finite = Finite::ALL;
        let (mut weights, mut velocity) = (&mut self.weights[..], &mut self.velocity[..]);
        // The backward pass is complete, so no product reads a weight after it is updated.
        for (k, dense) in dense_layers(model) {
            let size = dense.inputs * dense.outputs;
            scratch[0].find_rows(dense, step.tree().root(), step, 0);
            let products = scratch[0].weight_gradient(k, dense, *kernel);
            let weight = weights.split_off_mut(..size).unwrap_or_default();
            let bias = weights.split_off_mut(..dense.outputs).unwrap_or_default();
            // Empty without momentum.
            let weight_velocity = velocity.split_off_mut(..size).unwrap_or_default();
            let bias_velocity = velocity.split_off_mut(..dense.outputs).unwrap_or_default();
            finite = finite.and(if dense.shape().is_wide() {
                let weight = &mut packed[k].forward.as_mut_slice()[..];
                let weight_velocity = self.packed_velocity[k].forward.as_mut_slice();
                update_wide(&products, update, [weight, weight_velocity], [bias, bias_velocity], parallel)
            } else {
                self.narrow.resize(self.narrow.len().max(size), 0.0);
                let gradient = &mut self.narrow[..size];
                // A layer that is not wide has at most 16 outputs: one panel on every instruction set.
                products.panel(0, gradient);
                let finite = update.chunk(weight, gradient, weight_velocity);
                finite.and(update_bias(&products, 0, update, bias, bias_velocity))
            });
        }
        finite
    }
}

/// Updates a wide layer's packed weight and its bias, each with its velocity or with an empty slice.
fn update_wide(
    products: &WeightGradient,
    update: Update,
    [weight, weight_velocity]: [&mut [f32]; 2],
    [bias, bias_velocity]: [&mut [f32]; 2],
    parallel: bool,
) -> Finite {
    let width = products.kernel.width();
    let len = products.input.panels.columns * width;
    // Without threads, nothing is split.
    let min_len = if parallel { 1 } else { usize::MAX };
    let panels = weight.par_chunks_mut(len).zip(bias.par_chunks_mut(width)).enumerate();
    let run = |panel, [weight, weight_velocity]: [&mut [f32]; 2], [bias, bias_velocity]: [&mut [f32]; 2]| {
        let finite = update_panel(products, panel, update, weight, weight_velocity);
        finite.and(update_bias(products, panel, update, bias, bias_velocity))
    };
    // An empty slice has no chunks, and `zip` with it would skip all panels.
    if weight_velocity.is_empty() {
        panels
            .with_min_len(min_len)
            .map(|(panel, (weight, bias))| run(panel, [weight, &mut []], [bias, &mut []]))
            .reduce(|| Finite::ALL, Finite::and)
    } else {
        panels
            .zip(weight_velocity.par_chunks_mut(len).zip(bias_velocity.par_chunks_mut(width)))
            .with_min_len(min_len)
            .map(|((panel, (weight, bias)), (wv, bv))| run(panel, [weight, wv], [bias, bv]))
            .reduce(|| Finite::ALL, Finite::and)
    }
}

/// The layers whose weights stay packed, each with its index in the model.
fn wide_layers(model: &Model) -> impl Iterator<Item = (usize, &Dense)> {
    dense_layers(model).filter(|(_, dense)| dense.shape().is_wide())
}

/// Updates one panel of outputs of a packed weight, `[inputs, width]`, by its gradient, tile by tile.
/// `velocity` has the same shape or is empty.
fn update_panel(
    products: &WeightGradient,
    panel: usize,
    update: Update,
    weight: &mut [f32],
    velocity: &mut [f32],
) -> Finite {
    let (input, delta) = (products.input.panels, products.delta.panels);
    let (b, width) = (&products.memory[products.delta.at + delta.panel(panel)..], input.width);
    // Columns beyond the last output hold no gradient.
    let existing = delta.columns_of(panel);
    let mut sums = [0.0; MAX_TILE];
    let mut finite = Finite::ALL;
    products.with_stack(|stack| {
        for below in 0..input.panels() {
            let inputs = &products.memory[products.input.at + input.panel(below)..];
            for (first, rows) in strips(input.columns_of(below), products.kernel) {
                let at = (below * width + first) * width;
                let weight = &mut weight[at..at + rows * width];
                let velocity = velocity.get_mut(at..at + rows * width).unwrap_or_default();
                prefetch(bytemuck::cast_slice(weight));
                prefetch(bytemuck::cast_slice(velocity));
                // The packed weight has inputs as rows, so the operands are exchanged. A product is
                // commutative, so each chain keeps its bits.
                let tile =
                    Tile { a: &inputs[first..], left: Left::Columns, b, rows, columns: width, ahead: 0 };
                fold_tiles(products.kernel, &tile, products.segments, stack, &mut sums, width);
                if existing == width {
                    finite = finite.and(update.chunk(weight, &sums[..rows * width], velocity));
                    continue;
                }
                for (row, weight) in weight.chunks_mut(width).enumerate() {
                    let at = row * width..row * width + existing;
                    let velocity = velocity.get_mut(at.clone()).unwrap_or_default();
                    finite = finite.and(update.chunk(&mut weight[..existing], &sums[at], velocity));
                }
            }
        }
    });
    finite
}

/// Updates one panel of the bias by its gradient, `[outputs of the panel]`. `velocity` has the same length
/// or is empty.
fn update_bias(
    products: &WeightGradient,
    panel: usize,
    update: Update,
    bias: &mut [f32],
    velocity: &mut [f32],
) -> Finite {
    let mut sums = [0.0; MAX_COLUMNS];
    let sums = &mut sums[..bias.len()];
    products.bias(panel, sums);
    update.chunk(bias, sums, velocity)
}
