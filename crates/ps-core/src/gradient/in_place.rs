//! Gradient and update in one, for a process that holds the weights and computes all leaves itself.
//!
//! The weights stay as the products read them, and each tile of a weight's gradient is applied as soon as it is folded:
//! a large model's gradient is never written to memory, and its weights are never packed again.

use super::pack::{PackedLayer, is_wide};
use super::weight::WeightGradient;
use super::{Gradients, SMALL_MODEL};
use crate::control::Decided;
use crate::kernel::Kernel;
use crate::metrics::Observed;
use crate::metrics::Tally;
use crate::model::Model;
use crate::optim::{Finite, OptimizerConfig, OptimizerParams, Update};
use crate::precision::Precision;
use crate::samples::Samples;
use crate::schedule::Schedule;
use crate::trainer::{Diverged, StepReport};
use ps_plan::BatchPlan;
use rayon::prelude::*;

/// Holder of the weights and their only user. What it makes has the bits of [`crate::Trainer`] and [`Gradients`].
pub struct InPlace {
    gradients: Gradients,
    optimizer: OptimizerParams,
    rate: Schedule,
    version: u64,
    /// `[parameters]`; of wide layers only the biases are up to date, their weights are in `gradients.packed`.
    weights: Vec<f32>,
    /// Likewise; empty without momentum.
    velocity: Vec<f32>,
    /// Velocities of wide layers' weights, as these are packed; empty without momentum and for other layers.
    packed_velocity: Vec<PackedLayer>,
    /// The gradient of a layer that is not wide.
    narrow: Vec<f32>,
    /// Loss and metrics of the step that was computed and is not applied yet.
    tally: Tally,
}

impl InPlace {
    /// Whether it is of use: small models are updated in cache anyway, and where gradients are computed at rounded
    /// weights the others are needed as well.
    ///
    /// Only plain descent updates each weight by its own gradient and velocity alone.
    pub fn suits(model: &Model, optimizer: &OptimizerConfig) -> bool {
        model.parameters() > SMALL_MODEL && model.precision() == Precision::F32 && optimizer.is_plain()
    }

    /// A run before its first step.
    pub fn new(
        model: &Model,
        plan: BatchPlan,
        optimizer: impl Into<OptimizerParams>,
        rate: impl Into<Schedule>,
        kernel: Kernel,
    ) -> Self {
        let (optimizer, weights) = (optimizer.into(), model.initial(plan.seed));
        let mut gradients = Gradients::new(model.clone(), plan, kernel);
        gradients.pack(&weights, 0..model.layers().len(), true, true);
        let has_velocity = !optimizer.optimizer.vectors().is_empty();
        let packed_velocity = model.layers().iter().zip(&gradients.packed).map(|(layer, packed)| {
            let mut velocity = PackedLayer::default();
            if has_velocity && is_wide(layer) {
                velocity.forward.resize(packed.forward.as_slice().len());
            }
            velocity
        });
        InPlace {
            packed_velocity: packed_velocity.collect(),
            velocity: if has_velocity { vec![0.0; weights.len()] } else { Vec::new() },
            narrow: Vec::new(),
            tally: Tally::new(model.classes()),
            gradients,
            optimizer,
            rate: rate.into(),
            version: 0,
            weights,
        }
    }

    /// Goes on after `version` steps, with the weights and velocity of then, `[parameters]` (no velocity without
    /// momentum).
    pub fn resume(&mut self, version: u64, weights: Vec<f32>, velocity: Vec<f32>) {
        assert_eq!(
            [weights.len(), velocity.len()],
            [self.weights.len(), self.velocity.len()],
            "they are of the same model and optimizer"
        );
        (self.version, self.weights, self.velocity) = (version, weights, velocity);
        let Gradients { model, kernel, .. } = &self.gradients;
        if !self.velocity.is_empty() {
            for (layer, packed) in model.layers().iter().zip(&mut self.packed_velocity) {
                if is_wide(layer) {
                    let velocity = &self.velocity[layer.weight..][..layer.inputs * layer.outputs];
                    packed.pack(*kernel, layer, velocity, false, false);
                }
            }
        }
        self.gradients.pack(&self.weights, 0..self.gradients.packed.len(), true, true);
    }

    /// The velocity after as many steps, `[parameters]`; empty without momentum.
    pub fn velocity(&mut self) -> &[f32] {
        let Gradients { model, kernel, .. } = &self.gradients;
        if !self.velocity.is_empty() {
            for (layer, packed) in model.layers().iter().zip(&self.packed_velocity) {
                if is_wide(layer) {
                    let velocity = &mut self.velocity[layer.weight..][..layer.inputs * layer.outputs];
                    packed.unpack(*kernel, layer, velocity);
                }
            }
        }
        &self.velocity
    }

    /// Steps made.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The weights after [`InPlace::version`] steps, `[parameters]`.
    pub fn weights(&mut self) -> &[f32] {
        let Gradients { model, packed, kernel, .. } = &self.gradients;
        for (layer, packed) in model.layers().iter().zip(packed).filter(|(layer, _)| is_wide(layer)) {
            let weight = &mut self.weights[layer.weight..][..layer.inputs * layer.outputs];
            packed.unpack(*kernel, layer, weight);
        }
        &self.weights
    }

    /// Takes the samples of the next step forward and back.
    pub fn compute(&mut self, samples: &dyn Samples) {
        let step = self.gradients.plan.step(self.version);
        let parallel = self.gradients.is_parallel(step.samples);
        let tree = step.tree();
        let gradients = &mut self.gradients;
        for l in 0..gradients.packed.len() {
            if !is_wide(&gradients.model.layers()[l]) {
                gradients.pack(&self.weights, l..l + 1, parallel, true);
            }
        }
        gradients.scratch[0].gather(samples, gradients.plan, step, 0..tree.leaves());
        gradients.pass(&self.weights, samples, 0..gradients.model.layers().len(), parallel);
        gradients.scratch[0].open_node(tree.root(), step, 0, &mut self.tally);
    }

    /// Makes the step that was computed. After divergence the weights are of no use.
    pub fn update(&mut self) -> Result<StepReport, Diverged> {
        let step = self.gradients.plan.step(self.version);
        let rate = self.rate.at(step.step);
        let diverged = Diverged { step: step.step, rate, loss: self.tally.mean_loss() };
        if !self.tally.loss.is_finite() {
            return Err(diverged);
        }
        let finite = self.apply(
            Update::plain(self.optimizer, step.samples, rate),
            self.gradients.is_parallel(step.samples),
        );
        // A weight that overflows shows in the next step's loss; after the last step nobody would look.
        if !finite.gradient || self.version + 1 >= self.gradients.plan.steps && !finite.weights {
            return Err(diverged);
        }
        self.version += 1;
        let observed = Observed { train: self.tally.clone(), ..Observed::default() };
        Ok(StepReport::new(step, rate, observed, Decided::default()))
    }

    fn apply(&mut self, update: Update, parallel: bool) -> Finite {
        let Gradients { model, packed, kernel, scratch, .. } = &mut self.gradients;
        let mut finite = Finite::ALL;
        let (mut weights, mut velocity) = (&mut self.weights[..], &mut self.velocity[..]);
        for (l, layer) in model.layers().iter().enumerate() {
            let size = layer.inputs * layer.outputs;
            let products = scratch[0].weight_gradient(l, *kernel);
            let weight = weights.split_off_mut(..size).unwrap_or_default();
            let bias = weights.split_off_mut(..layer.outputs).unwrap_or_default();
            // Without momentum there is none.
            let weight_velocity = velocity.split_off_mut(..size).unwrap_or_default();
            let bias_velocity = velocity.split_off_mut(..layer.outputs).unwrap_or_default();
            finite = finite.and(if is_wide(layer) {
                let weight = &mut packed[l].forward.as_mut_slice()[..];
                let weight_velocity = self.packed_velocity[l].forward.as_mut_slice();
                update_wide(&products, update, [weight, weight_velocity], [bias, bias_velocity], parallel)
            } else {
                self.narrow.resize(self.narrow.len().max(size), 0.0);
                let gradient = &mut self.narrow[..size];
                products.panel(0, gradient);
                let finite = update.chunk(weight, gradient, weight_velocity);
                finite.and(products.update_bias(0, update, bias, bias_velocity))
            });
        }
        finite
    }
}

/// Updates a wide layer's packed weight and its bias, each with its velocity or an empty slice.
fn update_wide(
    products: &WeightGradient,
    update: Update,
    [weight, weight_velocity]: [&mut [f32]; 2],
    [bias, bias_velocity]: [&mut [f32]; 2],
    parallel: bool,
) -> Finite {
    let width = products.kernel.width();
    let len = products.input.0.columns * width;
    // On one thread nothing is split.
    let least = if parallel { 1 } else { usize::MAX };
    let panels = weight.par_chunks_mut(len).zip(bias.par_chunks_mut(width)).enumerate();
    let run = |panel, [weight, weight_velocity]: [&mut [f32]; 2], [bias, bias_velocity]: [&mut [f32]; 2]| {
        let finite = products.update_panel(panel, update, weight, weight_velocity);
        finite.and(products.update_bias(panel, update, bias, bias_velocity))
    };
    if weight_velocity.is_empty() {
        panels
            .with_min_len(least)
            .map(|(panel, (weight, bias))| run(panel, [weight, &mut []], [bias, &mut []]))
            .reduce(|| Finite::ALL, Finite::and)
    } else {
        panels
            .zip(weight_velocity.par_chunks_mut(len).zip(bias_velocity.par_chunks_mut(width)))
            .with_min_len(least)
            .map(|((panel, (weight, bias)), (wv, bv))| run(panel, [weight, wv], [bias, bv]))
            .reduce(|| Finite::ALL, Finite::and)
    }
}
