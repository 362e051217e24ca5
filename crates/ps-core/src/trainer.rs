//! The holder of the weights: what whoever closes a round does with its root.

use crate::batch::BatchPlan;
use crate::fold::NodeSum;
use crate::metrics::Tally;
use crate::model::Model;
use crate::optim::{Optimizer, SgdConfig};
use crate::schedule::Schedule;
use std::sync::Arc;

/// Weights, optimizer and schedule of a run.
#[derive(Clone, Debug)]
pub struct Trainer {
    plan: BatchPlan,
    rate: Schedule,
    optimizer: Optimizer,
    /// Shared with whoever computes at them; copied for the update only while somebody still holds them.
    weights: Arc<Vec<f32>>,
    version: u64,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step.
    pub step: u64,
    /// Its epoch.
    pub epoch: u32,
    /// The learning rate it was made at.
    pub rate: f32,
    /// Loss and metrics of its batch, before the update.
    pub tally: Tally,
}

/// The loss or a weight is no longer finite; the weights are those before the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Diverged {
    /// The step.
    pub step: u64,
    /// The learning rate of the step.
    pub rate: f32,
    /// The mean loss of its batch.
    pub loss: f64,
}

impl std::fmt::Display for Diverged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Diverged { step, rate, loss } = self;
        let smaller = rate / 10.0;
        write!(
            f,
            "training diverged at step {step}: loss {loss}, learning rate {rate}; \
             try a smaller one, such as --set learning_rate.initial={smaller}"
        )
    }
}

impl std::error::Error for Diverged {}

impl Trainer {
    /// A run before its first step.
    pub fn new(model: &Model, plan: BatchPlan, optimizer: SgdConfig, rate: impl Into<Schedule>) -> Self {
        let weights = model.initial(plan.seed);
        let optimizer = Optimizer::new(optimizer, weights.len());
        Trainer { plan, rate: rate.into(), optimizer, weights: Arc::new(weights), version: 0 }
    }

    /// Goes on after `version` steps, with the weights and velocity of then, `[parameters]` (no velocity without
    /// momentum).
    pub fn resume(&mut self, version: u64, weights: Vec<f32>, velocity: Vec<f32>) {
        assert_eq!(weights.len(), self.weights.len(), "the weights are of the same model");
        self.optimizer.resume(velocity);
        self.weights = Arc::new(weights);
        self.version = version;
    }

    /// The optimizer's velocity, `[parameters]`; empty without momentum.
    pub fn velocity(&self) -> &[f32] {
        self.optimizer.velocity()
    }

    /// The weights after [`Trainer::version`] steps, `[parameters]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The same, to hold on to. The update copies them unless all such holds are dropped before it.
    pub fn shared_weights(&self) -> Arc<Vec<f32>> {
        Arc::clone(&self.weights)
    }

    /// Steps made.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.version >= self.plan.steps
    }

    /// How the run is cut into steps.
    pub fn plan(&self) -> BatchPlan {
        self.plan
    }

    /// Makes the next step from the sum of all its leaves, whose tally goes into the report. On divergence nothing
    /// changes.
    pub fn finish(&mut self, root: &mut NodeSum) -> Result<StepReport, Diverged> {
        let step = self.plan.step(self.version);
        assert_eq!(
            root.tally.samples, step.samples as u64,
            "the root sums every sample of step {}",
            step.step
        );
        let rate = self.rate.at(step.step);
        let diverged = Diverged { step: step.step, rate, loss: root.tally.mean_loss() };
        if !root.tally.loss.is_finite() || !all_finite(&root.gradient) {
            return Err(diverged);
        }
        // A weight that overflows shows in the next step's loss; after the last step nobody would look.
        let before = (self.version + 1 >= self.plan.steps).then(|| Arc::clone(&self.weights));
        self.optimizer.apply(
            Arc::make_mut(&mut self.weights).as_mut_slice(),
            &root.gradient,
            step.samples,
            rate,
        );
        if let Some(before) = before.filter(|_| !all_finite(&self.weights)) {
            self.weights = before;
            return Err(diverged);
        }
        self.version += 1;
        Ok(StepReport { step: step.step, epoch: step.epoch, rate, tally: std::mem::take(&mut root.tally) })
    }
}

/// Whether no element is NaN or infinite: looked at in runs without a way out, which are vectorised.
fn all_finite(values: &[f32]) -> bool {
    values.chunks(4096).all(|run| run.iter().fold(true, |finite, value| finite & value.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LearningRate;
    use crate::model::{Activation, Head};
    use crate::tree::Node;

    #[test]
    fn a_last_step_that_overflows_is_no_result() {
        let model = Model::new(1, &[], Activation::Relu, Head::SquaredError, 1);
        let plan = BatchPlan::new(1, 1, 1, 1, 1, None);
        let mut trainer = Trainer::new(&model, plan, SgdConfig::default(), LearningRate::constant(1e30));
        let tally = Tally { samples: 1, ..Tally::default() };
        let mut root = NodeSum { node: Node::leaf(0), gradient: vec![1e30, 1.0], tally };
        assert_eq!(trainer.finish(&mut root).unwrap_err().step, 0);
        assert_eq!((trainer.weights(), trainer.version()), (&[0.0, 0.0][..], 0));
    }
}
