//! Maps the number of a step to its epoch, samples and leaves.

use crate::sample_order::SampleOrder;
use crate::tree::{Section, Tree};
use std::ops::Range;

/// Samples per leaf of the validation part and of any other evaluation.
pub const EVALUATION_LEAF: usize = 256;

/// Divides a run into epochs, steps and leaves. A leaf is a run of consecutive samples whose gradients are
/// summed first. [`BatchPlan::new`] checks the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Seed of the sample order.
    pub seed: u64,
    /// Number of training samples.
    pub samples: usize,
    /// Samples per step (the last step of an epoch may have fewer).
    pub batch: usize,
    /// Samples per leaf (the last leaf of a batch may have fewer).
    pub leaf: usize,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// Number of samples of the validation part, which is evaluated in the step after each epoch; 0 if
    /// there is none.
    pub validation: usize,
    /// If a step's number is a multiple of this, its batch is evaluated again in the next step; 0 for never.
    pub probe_every: u64,
}

/// The position of a step in the run, and the samples it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The step's number, from 0.
    pub step: u64,
    /// The epoch it belongs to, from 0.
    pub epoch: u32,
    /// Position of its first sample in the epoch's order.
    pub first: usize,
    /// Number of samples in its batch.
    pub samples: usize,
    /// Samples per leaf.
    pub leaf: usize,
    /// Samples of the previous step's batch if that step was probed; else 0.
    pub last_batch: usize,
    /// Samples of the validation part if it is evaluated in this step; else 0.
    pub validation: usize,
}

impl BatchPlan {
    /// Creates a plan of `epochs` epochs, shortened to `max_steps` steps if given. Nothing is
    /// validated or probed.
    ///
    /// # Panics
    /// If a number is 0, or not `leaf <= batch <= samples`.
    pub fn new(
        seed: u64,
        samples: usize,
        batch: usize,
        leaf: usize,
        epochs: u32,
        max_steps: Option<u64>,
    ) -> Self {
        assert!(1 <= leaf && leaf <= batch && batch <= samples && epochs >= 1, "the run file is checked");
        let whole = samples.div_ceil(batch) as u64 * u64::from(epochs);
        let steps = max_steps.map_or(whole, |max| whole.min(max));
        BatchPlan { seed, samples, batch, leaf, steps, validation: 0, probe_every: 0 }
    }

    /// Adds a validation part of `validation` samples, and probes every `probe_every`-th step.
    pub fn watching(self, validation: usize, probe_every: u64) -> Self {
        BatchPlan { validation, probe_every, ..self }
    }

    /// Whether a step is probed: its batch is evaluated again in the next step.
    pub fn probes(&self, step: u64) -> bool {
        self.probe_every > 0 && step.is_multiple_of(self.probe_every)
    }

    /// Number of steps of a full epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.batch) as u64
    }

    /// Returns the position of a step in the run.
    pub fn step(&self, step: u64) -> Step {
        let per_epoch = self.steps_per_epoch();
        let first = (step % per_epoch) as usize * self.batch;
        Step {
            step,
            epoch: (step / per_epoch) as u32,
            first,
            samples: self.batch.min(self.samples - first),
            leaf: self.leaf,
            last_batch: step
                .checked_sub(1)
                .filter(|&last| self.probes(last))
                .map_or(0, |last| self.batch.min(self.samples - (last % per_epoch) as usize * self.batch)),
            // Evaluated together with the next step, so that validation needs no separate round.
            validation: if step > 0 && self.ends_epoch(step - 1) { self.validation } else { 0 },
        }
    }

    /// Whether `step` is the last of its epoch, or of the run.
    pub fn ends_epoch(&self, step: u64) -> bool {
        (step + 1).is_multiple_of(self.steps_per_epoch()) || step + 1 == self.steps
    }

    /// The order in which the epoch of `step` visits the samples.
    pub fn order(&self, step: Step) -> SampleOrder {
        SampleOrder::new(self.seed, step.epoch, self.samples)
    }
}

impl Step {
    /// The tree over the step's leaves.
    pub fn tree(&self) -> Tree {
        Tree::new(self.samples.div_ceil(self.leaf) as u32)
            .with(Section::LastBatch, self.last_batch.div_ceil(self.leaf) as u32)
            .with(Section::Validation, self.validation.div_ceil(EVALUATION_LEAF) as u32)
    }

    /// The samples of a range of leaves of one section, as offsets into the batch, the previous batch or
    /// the validation part.
    pub fn offsets(&self, leaves: Range<u32>) -> Range<usize> {
        let section = Section::of(leaves.start);
        let (samples, leaf) = match section {
            Section::Training => (self.samples, self.leaf),
            Section::LastBatch => (self.last_batch, self.leaf),
            Section::Validation => (self.validation, EVALUATION_LEAF),
        };
        let at = |bound: u32| (bound - section.first()) as usize * leaf;
        at(leaves.start)..at(leaves.end).min(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_batch_and_last_leaf_may_be_short() {
        let plan = BatchPlan::new(1, 103, 32, 10, 2, None);
        assert_eq!((plan.steps_per_epoch(), plan.steps), (4, 8));
        let last = plan.step(7);
        assert_eq!((last.epoch, last.first, last.samples, last.tree().leaves()), (1, 96, 7, 1));
        let second = plan.step(5);
        assert_eq!((second.first, second.samples, second.tree().leaves()), (32, 32, 4));
        assert_eq!(second.offsets(2..4), 20..32);
        assert!(plan.ends_epoch(3) && plan.ends_epoch(7) && !plan.ends_epoch(4));
    }
}
