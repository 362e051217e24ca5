//! The memory of a pass: the drawn samples and every matrix of every block.

use super::network::{BlockSamples, Network, Pass};
use crate::block::{Block, BlockLayout};
use crate::fold::NodeSum;
use crate::kernel::{Buffer, Kernel, Segment};
use crate::layer::{Dense, Layer};
use crate::metrics::{MetricSums, SampleMetrics};
use crate::model::Model;
use crate::product::WeightGradient;
use crate::samples::Samples;
use ps_plan::{BatchPlan, Node, Step};
use rayon::prelude::*;
use std::ops::Range;

/// Buffers that are reused from pass to pass.
#[derive(Default)]
pub(super) struct Scratch {
    indices: Vec<usize>,
    /// Position of the first sample in the batch. The others follow it.
    first: usize,
    targets: Vec<f32>,
    outcomes: Vec<SampleMetrics>,
    /// All blocks, one after the other.
    memory: Buffer,
    layout: BlockLayout,
    /// The rows of each leaf of the current node; see [`Scratch::find_rows`].
    segments: Vec<Segment>,
    /// Sums of leaves that wait for their siblings.
    metric_sums: Vec<MetricSums>,
    pub spare: Spare,
}

/// Sums that are no longer needed and whose memory can be reused.
#[derive(Default)]
pub(super) struct Spare(Vec<NodeSum>);

/// Maximum number of spare sums; any more are dropped.
const MAX_SPARE: usize = 16;

impl Spare {
    pub(super) fn put(&mut self, sum: NodeSum) {
        if self.0.len() < MAX_SPARE {
            self.0.push(sum);
        }
    }

    pub(super) fn take(&mut self) -> Option<NodeSum> {
        self.0.pop()
    }

    /// Returns a sum for `node` whose values are unspecified.
    pub(super) fn take_or_make(&mut self, node: Node, parameters: usize, classes: usize) -> NodeSum {
        let sum = self.take().map(|sum| NodeSum { node, ..sum });
        sum.unwrap_or_else(|| NodeSum {
            node,
            gradient: vec![0.0; parameters],
            metric_sums: MetricSums::new(classes),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Scratch {
    /// Draws the samples of `leaves` of a step.
    pub(super) fn gather(&mut self, samples: &dyn Samples, plan: BatchPlan, step: Step, leaves: Range<u32>) {
        let order = plan.order(step);
        let positions = step.offsets(leaves);
        self.gather_each(samples, positions.start, positions.map(|position| order.at(step.first + position)));
    }

    /// Gathers the samples `indices`, which are at consecutive batch positions from `first` on.
    pub(super) fn gather_each(
        &mut self,
        samples: &dyn Samples,
        first: usize,
        indices: impl Iterator<Item = usize>,
    ) {
        self.first = first;
        self.indices.clear();
        self.indices.extend(indices);
        self.targets.clear();
        self.targets.extend(self.indices.iter().map(|&index| samples.target(index)));
        self.outcomes.resize(self.indices.len(), SampleMetrics::default());
    }

    /// Runs the gathered samples through the model, block by block.
    pub(super) fn run(
        &mut self,
        network: &Network,
        samples: &dyn Samples,
        block: usize,
        parallel: bool,
        pass: Pass,
    ) {
        lay_out(&mut self.layout, network.model, network.context.engine.kernel, block);
        let (layout, len) = (&self.layout, self.layout.len());
        let memory = self.memory.resize(self.indices.len().div_ceil(block) * len);
        let first = self.first;
        let run = |number: usize,
                   memory: &mut [f32],
                   (indices, targets, outcomes): (&[usize], &[f32], &mut [SampleMetrics])| {
            let mut block = Block::new(layout, first + number * block, indices.len(), memory);
            network.run(samples, &mut BlockSamples { indices, targets, outcomes }, &mut block, pass);
        };
        if parallel {
            memory
                .par_chunks_mut(len)
                .zip(self.indices.par_chunks(block))
                .zip(self.targets.par_chunks(block).zip(self.outcomes.par_chunks_mut(block)))
                .enumerate()
                .with_max_len(1)
                .for_each(|(number, ((memory, indices), (targets, outcomes)))| {
                    run(number, memory, (indices, targets, outcomes));
                });
        } else {
            let blocks = memory.chunks_mut(len).zip(self.indices.chunks(block));
            let results = self.targets.chunks(block).zip(self.outcomes.chunks_mut(block));
            for (number, ((memory, indices), (targets, outcomes))) in blocks.zip(results).enumerate() {
                run(number, memory, (indices, targets, outcomes));
            }
        }
    }

    /// Number of rows of the last pass.
    pub(super) fn rows(&self) -> usize {
        self.indices.len()
    }

    /// Targets and outcomes of the last pass.
    pub(super) fn results(&self) -> (&[f32], &[SampleMetrics]) {
        (&self.targets, &self.outcomes)
    }

    /// Reads the head's result for one sample of the last pass.
    pub(super) fn read_output(&self, sample: usize, out: &mut [f32]) {
        let (outputs, samples) = (self.layout.outputs(), self.layout.samples());
        let at = sample / samples * self.layout.len() + outputs.at;
        outputs.panels.read_row(&self.memory.as_slice()[at..], sample % samples, out);
    }

    /// Computes the whole sum of one node of the last pass, which began with leaf `first_leaf`: the gradient
    /// tile by tile, the metric sums leaf by leaf.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn node_sum(
        &mut self,
        model: &Model,
        kernel: Kernel,
        node: Node,
        step: Step,
        first_leaf: u32,
        parallel: bool,
        spare: &mut Spare,
    ) -> NodeSum {
        let mut sum = spare.take_or_make(node, model.parameters(), model.classes());
        self.sum_metrics(node, step, first_leaf, &mut sum.metric_sums);
        let mut rest: &mut [f32] = &mut sum.gradient;
        for (k, dense) in dense_layers(model) {
            let (weight, after) = rest.split_at_mut(dense.inputs * dense.outputs);
            let (bias, after) = after.split_at_mut(dense.outputs);
            rest = after;
            self.find_rows(dense, node, step, first_leaf);
            self.weight_gradient(k, dense, kernel).all_panels(weight, bias, parallel);
        }
        sum
    }

    /// Sums the metric sums of one node of the last pass, which began with leaf `first_leaf`.
    pub(super) fn sum_metrics(
        &mut self,
        node: Node,
        step: Step,
        first_leaf: u32,
        metric_sums: &mut MetricSums,
    ) {
        self.fold_metric_sums(samples_of_leaves(node, step, first_leaf), metric_sums);
    }

    /// Finds where the rows of a node of the last pass lie in the matrices of a
    /// layer, for [`Scratch::weight_gradient`].
    pub(super) fn find_rows(&mut self, dense: &Dense, node: Node, step: Step, first_leaf: u32) {
        let leaves = samples_of_leaves(node, step, first_leaf);
        dense.find_leaves(&self.layout, leaves, &mut self.segments);
    }

    /// The products of layer `k`'s weight gradient, for the node that [`Scratch::find_rows`] was
    /// last called for.
    pub(super) fn weight_gradient(&self, k: usize, dense: &Dense, kernel: Kernel) -> WeightGradient<'_> {
        dense.weight_gradient(k, kernel, (&self.layout, self.memory.as_slice()), &self.segments)
    }

    /// Adds the metric sums of consecutive leaves in the tree whose first leaf is the first one given, by a
    /// binary counter like that of [`crate::kernel`].
    fn fold_metric_sums(&mut self, leaves: impl Iterator<Item = Range<usize>>, whole: &mut MetricSums) {
        let classes = whole.classes.len();
        let mut standing = 0;
        for (number, rows) in leaves.enumerate() {
            if self.metric_sums.len() == standing {
                self.metric_sums.push(MetricSums::new(classes));
            }
            let pairs = self.targets[rows.clone()].iter().zip(&self.outcomes[rows]);
            self.metric_sums[standing].clear();
            pairs.for_each(|(&target, &outcome)| self.metric_sums[standing].count(target, outcome));
            standing += 1;
            for _ in 0..(number + 1).trailing_zeros() {
                self.merge_last(&mut standing);
            }
        }
        // An odd last node moves up a level: the rest is added from the smallest subtree up.
        while standing > 1 {
            self.merge_last(&mut standing);
        }
        whole.clear();
        whole.add(&self.metric_sums[0]);
    }

    fn merge_last(&mut self, standing: &mut usize) {
        *standing -= 1;
        let (left, right) = self.metric_sums.split_at_mut(*standing);
        left[*standing - 1].add(&right[0]);
    }
}

/// The dense layers of a model, each with its index in the model.
pub(super) fn dense_layers(model: &Model) -> impl DoubleEndedIterator<Item = (usize, &Dense)> {
    model.layers().iter().enumerate().filter_map(|(k, layer)| Some((k, layer.dense()?)))
}

/// Lays out blocks of `samples` samples.
pub(super) fn lay_out(layout: &mut BlockLayout, model: &Model, kernel: Kernel, samples: usize) {
    // The first trained layer has no input gradient, so its delta is never transposed.
    let above_first = &model.layers()[model.first_trained() + 1..];
    let wide = above_first.iter().filter_map(Layer::dense).filter(|dense| dense.shape().is_wide());
    let transposed = wide.map(|dense| dense.outputs).max().unwrap_or(0);
    layout.lay_out(model.boundaries(), transposed, samples, kernel.width());
}

/// The samples of each leaf of a node, as row ranges of a pass that began with leaf `first_leaf`.
fn samples_of_leaves(node: Node, step: Step, first_leaf: u32) -> impl Iterator<Item = Range<usize>> {
    let first_row = step.offsets(first_leaf..first_leaf).start;
    step.tree().leaves_of(node).map(move |leaf| {
        let rows = step.offsets(leaf..leaf + 1);
        rows.start - first_row..rows.end - first_row
    })
}

/// The metric sums of one leaf.
pub(super) fn metric_sums(classes: usize, targets: &[f32], outcomes: &[SampleMetrics]) -> MetricSums {
    let mut metric_sums = MetricSums::new(classes);
    targets.iter().zip(outcomes).for_each(|(&target, &outcome)| metric_sums.count(target, outcome));
    metric_sums
}
