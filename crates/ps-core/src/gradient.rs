//! Gradients of a range of leaves, on the current rayon pool.

use crate::batch::BatchPlan;
use crate::fold::{Fold, NodeSum};
use crate::kernel::Kernel;
use crate::model::Model;
use crate::samples::Samples;
use std::ops::Range;

/// Computes gradients of a model's minibatches; keeps its buffers from step to step.
pub struct Gradients {
    model: Model,
    plan: BatchPlan,
    _kernel: Kernel,
}

impl Gradients {
    /// For a model whose steps follow `plan`.
    pub fn new(model: Model, plan: BatchPlan, kernel: Kernel) -> Self {
        Gradients { model, plan, _kernel: kernel }
    }

    /// The sums of the nodes that cover `leaves` of step `step`, ascending, at `weights` (`[parameters]`).
    pub fn compute(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        step: u64,
        leaves: Range<u32>,
    ) -> Vec<NodeSum> {
        let step = self.plan.step(step);
        let mut fold = Fold::new(step.tree());
        for leaf in leaves {
            let sum = crate::reference::leaf(&self.model, weights, samples, self.plan, step, leaf);
            fold.insert(sum);
        }
        fold.into_sums()
    }
}
