//! Gradients of a range of leaves, computed on the current rayon pool.
//!
//! Weights are packed once per step. Each block of rows then passes forward through all layers and the head,
//! and back to the outputs of the first layer. After that, each tile of each weight's gradient folds its
//! leaves through the tree while it is in cache, starting with the last layer. If weights are still arriving
//! ([`Flow`]), all blocks pass through the layers that are complete before the next ones are waited for.
//! Threads share rows, tiles and panels but never split a sum, so the number of threads changes no bit.

mod flow;
mod in_place;
mod network;
mod products;
mod scratch;
#[cfg(test)]
mod tests;

pub use flow::Flow;
pub use in_place::InPlace;
#[doc(hidden)]
pub use products::LayerProducts;

use crate::fold::{Fold, NodeSum};
use crate::kernel::Kernel;
use crate::layer::Training;
use crate::metrics::MetricSums;
use crate::model::Model;
use crate::product::PackedWeight;
use crate::samples::Samples;
use crate::scores::Scores;
use flow::Whole;
use network::{Network, Pass};
use ps_plan::{BatchPlan, EVALUATION_LEAF, Node, Section, Step};
use rayon::prelude::*;
use scratch::{Scratch, Spare, dense_layers, metric_sums};
use std::ops::Range;

/// Maximum number of rows that pass through the model as one block: more would not fit into the cache, fewer
/// would read the weights more often.
const MAX_BLOCK: usize = 96;
/// Minimum number of rows in a block, close to the height of a kernel's tile.
const MIN_BLOCK: usize = 12;
/// Minimum number of multiply-adds in a pass that threads share: a sleeping thread takes about 10 µs to wake,
/// and each of a step's four or five parts wakes it again.
const PARALLEL_WORK: usize = 4_000_000;
/// Models up to this many parameters compute a large batch part by part, gradients included, so that the
/// values of a part are still in cache for its gradient. In larger models the gradients themselves would not
/// stay in cache.
const SMALL_MODEL: usize = 1 << 16;
/// In models from this many parameters on, threads share the panels of a layer instead of the rows of the
/// batch, so that each thread reads only a part of the weights, which come from memory.
const LARGE_MODEL: usize = 1 << 20;
/// Number of parameters of a weight's gradient that leave together once they are final: those of one chunk.
const LEAVING_TOGETHER: usize = 1 << 16;
/// Number of rows in a part of a batch (see [`SMALL_MODEL`]).
const PART_ROWS: usize = 128;
/// Number of rows that an evaluation computes at once.
const EVALUATION_ROWS: usize = 2048;

/// Computes the gradients of a model's minibatches.
///
/// One value serves a whole run: it keeps its buffers from step to step. The result depends only on the
/// model, the plan, the weights and the samples, and not on the instruction set or the number of threads.
pub struct Gradients {
    model: Model,
    plan: BatchPlan,
    kernel: Kernel,
    /// By layer, the weights as the products read them; empty for a layer without a weight.
    packed: Vec<PackedWeight>,
    /// One per thread that computes a separate part; at least one.
    scratch: Vec<Scratch>,
    /// Sums that were returned by [`Gradients::recycle`].
    spare: Spare,
    /// Whether gradients are computed as in an evaluation, in which nothing is random.
    evaluates: bool,
}

impl Gradients {
    /// Creates buffers for a model whose steps follow `plan`.
    pub fn new(model: Model, plan: BatchPlan, kernel: Kernel) -> Self {
        Gradients {
            packed: model.layers().iter().map(|_| PackedWeight::default()).collect(),
            scratch: vec![Scratch::default()],
            spare: Spare::default(),
            evaluates: false,
            model,
            plan,
            kernel,
        }
    }

    /// Computes gradients as in an evaluation, in which nothing is random, instead of those of training.
    pub fn of_evaluation(self) -> Self {
        Gradients { evaluates: true, ..self }
    }

    /// Computes the sums of the nodes that cover `leaves` of step `step`, in ascending order, at `weights`
    /// (`[parameters]`), which are first rounded to the model's precision.
    pub fn compute(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        step: u64,
        leaves: Range<u32>,
    ) -> Vec<NodeSum> {
        let mut sums = Vec::new();
        self.compute_into(weights, samples, step, leaves, &mut sums);
        sums
    }

    /// Like [`Gradients::compute`], but appends to `sums`. Once the buffers have grown to their sizes, a step
    /// allocates no memory, provided that the sums come back by [`Gradients::recycle`].
    pub fn compute_into(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        step: u64,
        leaves: Range<u32>,
        sums: &mut Vec<NodeSum>,
    ) {
        assert_eq!(weights.len(), self.model.parameters());
        let weights = &*self.model.precision().round(weights);
        let step = self.plan.step(step);
        if step.offsets(leaves.clone()).is_empty() {
            return;
        }
        if self.goes_by_parts(step, &leaves) {
            self.compute_parts(weights, samples, step, leaves, sums);
            return;
        }
        let mut spare = std::mem::take(&mut self.spare);
        let mut whole = Whole::new(self.model.classes(), weights, &mut spare, sums);
        self.flow(&mut whole, samples, step, leaves);
        self.spare = spare;
    }

    /// Like [`Gradients::compute`], but with weights that may still be arriving and sums that leave part by
    /// part. Returns `false`, with nothing computed, if the weights will not arrive.
    pub fn compute_flowing(
        &mut self,
        flow: &mut dyn Flow,
        samples: &dyn Samples,
        step: u64,
        leaves: Range<u32>,
    ) -> bool {
        let step = self.plan.step(step);
        if step.offsets(leaves.clone()).is_empty() {
            return true;
        }
        if !self.goes_by_parts(step, &leaves) {
            return self.flow(flow, samples, step, leaves);
        }
        let Some((_, weights)) = flow.weights(self.model.parameters()) else { return false };
        let mut sums = Vec::new();
        self.compute_parts(weights, samples, step, leaves, &mut sums);
        for (number, sum) in sums.into_iter().enumerate() {
            flow.node(sum.node).clone_from(&sum.metric_sums);
            flow.gradient(number)[..sum.gradient.len()].copy_from_slice(&sum.gradient);
            flow.finished(number, 0);
            self.recycle(sum);
        }
        true
    }

    /// Computes loss and metrics of the nodes that cover `leaves`, in ascending order, for a section without
    /// gradients (validation, or the previous step's batch), at the same rounded `weights` that gradients
    /// use. `training` and `validation` are the two parts of the data set.
    pub fn evaluate_leaves(
        &mut self,
        weights: &[f32],
        [training, validation]: [&dyn Samples; 2],
        step: u64,
        leaves: Range<u32>,
    ) -> Vec<(Node, MetricSums)> {
        let classes = self.model.classes();
        let place = self.plan.step(step);
        let section = Section::of(leaves.start);
        let (samples, leaf) = match section {
            Section::Validation => (validation, EVALUATION_LEAF),
            _ => (training, place.leaf),
        };
        let last = self.plan.step(step.saturating_sub(1));
        let order = self.plan.order(last);
        let at = |offset: usize| {
            if section == Section::Validation { offset } else { order.at(last.first + offset) }
        };
        // A batch that is evaluated again must have the same random numbers as in its step, so that the
        // losses are comparable.
        let draws = if section == Section::LastBatch { self.training(last) } else { None };
        let mut fold = Fold::new(place.tree());
        self.pack(
            weights,
            0..self.packed.len(),
            self.is_parallel(place.offsets(leaves.clone()).len()),
            false,
        );
        // Whole leaves at a time, because the metrics of each leaf are summed separately.
        let together = (EVALUATION_ROWS / leaf).max(1);
        for first in leaves.clone().step_by(together) {
            let some = first..leaves.end.min(first.saturating_add(together as u32));
            let rows = place.offsets(some.clone());
            let parallel = self.is_parallel(rows.len());
            let block = block_rows(rows.len(), parallel);
            let network = Network::new(self.kernel, &self.model, weights, &self.packed, draws);
            let scratch = &mut self.scratch[0];
            scratch.gather_each(samples, rows.start, rows.map(at));
            scratch.run(&network, samples, block, parallel, Pass::Loss);
            let (targets, outcomes) = scratch.results();
            for (leaf, (targets, outcomes)) in some.zip(targets.chunks(leaf).zip(outcomes.chunks(leaf))) {
                let metric_sums = metric_sums(classes, targets, outcomes);
                fold.insert(NodeSum { node: Node::leaf(leaf), gradient: Vec::new(), metric_sums });
            }
        }
        // Where the end of the tree truncates a node, the fold may name it after a node below it; the cover
        // has the proper names.
        let mut metric_sums = fold.into_sums().into_iter();
        let named = |node| Some((node, metric_sums.next()?.metric_sums));
        place.tree().cover(leaves).into_iter().filter_map(named).collect()
    }

    /// Like [`Gradients::evaluate_leaves`], but with weights that may still be arriving. Returns whether
    /// they have arrived.
    pub fn evaluate_flowing(
        &mut self,
        flow: &mut dyn Flow,
        samples: [&dyn Samples; 2],
        step: u64,
        leaves: Range<u32>,
    ) -> bool {
        let Some((_, weights)) = flow.weights(self.model.parameters()) else { return false };
        let metric_sums = self.evaluate_leaves(weights, samples, step, leaves);
        metric_sums.into_iter().for_each(|(node, metric_sums)| flow.evaluated(node, metric_sums));
        true
    }

    fn flow(&mut self, flow: &mut dyn Flow, samples: &dyn Samples, step: Step, leaves: Range<u32>) -> bool {
        self.scratch[0].gather(samples, self.plan, step, leaves.clone());
        let parallel = self.is_parallel(self.scratch[0].rows());
        let mut next = 0;
        while next < self.packed.len() {
            let Some((here, weights)) = flow.weights(self.model.needed(next)) else { return false };
            let layers = next..self.model.complete(here);
            next = layers.end;
            self.pack(weights, layers.clone(), parallel, true);
            self.pass(weights, samples, step, layers, parallel);
        }
        let threads = rayon::current_num_threads();
        let (tree, scratch) = (step.tree(), &mut self.scratch[0]);
        // Servers accept no chunk of a node before its metric sums, so these come first.
        tree.cover_each(leaves.clone(), |node| {
            scratch.sum_metrics(node, step, leaves.start, flow.node(node));
        });
        // From the last layer to the first, and within a layer from the last rows to the first:
        // `Flow::finished` reports that everything from an index on is final.
        for (k, dense) in dense_layers(&self.model).rev() {
            let mut number = 0;
            tree.cover_each(leaves.clone(), |node| {
                scratch.find_rows(dense, node, step, leaves.start);
                let products = scratch.weight_gradient(k, dense, self.kernel);
                // The bias follows the weight in the vector, so it is reported together with the last rows.
                products.biases(&mut flow.gradient(number)[dense.bias_range()]);
                // Final rows leave while the next ones are computed.
                let panel = self.kernel.width() * dense.inputs;
                let together = (LEAVING_TOGETHER / panel).max(if parallel { 2 * threads } else { 1 });
                for first in (0..dense.outputs.div_ceil(self.kernel.width())).step_by(together).rev() {
                    let start = dense.weight + first * panel;
                    let rows = start..dense.bias.min(start + together * panel);
                    products.panels(first, &mut flow.gradient(number)[rows], parallel);
                    flow.finished(number, start);
                }
                number += 1;
            });
        }
        true
    }

    /// Passes the gathered samples through `layers`, whose weights are packed, and, after the last layer,
    /// back through all of them. `weights` provide the biases.
    fn pass(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        step: Step,
        layers: Range<usize>,
        parallel: bool,
    ) {
        let training = self.training(step);
        let scratch = &mut self.scratch[0];
        // In a prototype with two threads, splitting by outputs instead of rows took 30 % off a step of 64
        // rows, and less than 10 % off one of 1024 rows.
        let shares_panels = parallel && scratch.rows() <= MAX_BLOCK && self.model.parameters() >= LARGE_MODEL;
        let by_rows = parallel && !shares_panels;
        let block = block_rows(scratch.rows(), by_rows);
        let network = Network::new(self.kernel, &self.model, weights, &self.packed, training);
        let network = Network { layers, ..network.sharing_panels(shares_panels) };
        scratch.run(&network, samples, block, by_rows, Pass::Gradient);
    }

    /// Leaves per part: a power of two, so that each part is a node of the tree.
    fn part_leaves(&self, step: Step) -> u32 {
        1 << (PART_ROWS / step.leaf).max(1).ilog2()
    }

    /// Whether a step with these leaves is computed part by part; see [`SMALL_MODEL`].
    fn goes_by_parts(&self, step: Step, leaves: &Range<u32>) -> bool {
        self.model.parameters() <= SMALL_MODEL && leaves.len() > self.part_leaves(step) as usize
    }

    /// Computes the parts, each thread a contiguous run of them, and folds their sums.
    fn compute_parts(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        step: Step,
        leaves: Range<u32>,
        sums: &mut Vec<NodeSum>,
    ) {
        let parallel = self.is_parallel(step.offsets(leaves.clone()).len());
        self.pack(weights, 0..self.packed.len(), parallel, true);
        let part = self.part_leaves(step);
        let threads = if parallel { rayon::current_num_threads() as u32 } else { 1 };
        let (first, last) = (leaves.start / part, leaves.end.div_ceil(part));
        let threads = threads.min(last - first);
        self.scratch.resize_with(self.scratch.len().max(threads as usize), Scratch::default);
        let network = Network::new(self.kernel, &self.model, weights, &self.packed, self.training(step));
        let (plan, tree) = (self.plan, step.tree());
        let block = (part as usize * step.leaf).clamp(MIN_BLOCK, MAX_BLOCK);
        let run = |scratch: &mut Scratch, thread: u32| {
            // Consecutive parts fold to few nodes, so little remains to be added at the end.
            let bound = |thread: u32| first + (last - first) * thread / threads;
            let mut fold = Fold::new(tree);
            for number in bound(thread)..bound(thread + 1) {
                let leaves = leaves.start.max(number * part)..leaves.end.min((number + 1) * part);
                scratch.gather(samples, plan, step, leaves.clone());
                scratch.run(&network, samples, block, false, Pass::Gradient);
                let mut spare = std::mem::take(&mut scratch.spare);
                tree.cover_each(leaves.clone(), |node| {
                    let sum = scratch.node_sum(
                        network.model,
                        network.context.engine.kernel,
                        node,
                        step,
                        leaves.start,
                        false,
                        &mut spare,
                    );
                    fold.insert_and_return(sum, &mut |merged| spare.put(merged));
                });
                scratch.spare = spare;
            }
            fold
        };
        let mut folds: Vec<Fold> = if threads == 1 {
            vec![run(&mut self.scratch[0], 0)]
        } else {
            let scratches = self.scratch[..threads as usize].par_iter_mut().enumerate();
            scratches.map(|(thread, scratch)| run(scratch, thread as u32)).collect()
        };
        let mut whole = folds.remove(0);
        // The fold adds along the tree, so the order of threads affects no bit.
        for fold in folds {
            for sum in fold.into_sums() {
                whole.insert_and_return(sum, &mut |merged| self.spare.put(merged));
            }
        }
        sums.extend(whole.into_sums());
        // The threads need the sums that this step took from their spare ones again in the next step.
        for scratch in &mut self.scratch {
            if scratch.spare.is_empty()
                && let Some(sum) = self.spare.take()
            {
                scratch.spare.put(sum);
            }
        }
    }

    /// Returns a sum that is no longer needed, so that a later step can reuse its memory.
    pub fn recycle(&mut self, sum: NodeSum) {
        // Nodes that were only evaluated have no gradient whose memory could be reused.
        if sum.gradient.len() == self.model.parameters() {
            self.spare.put(sum);
        }
    }

    /// Like [`Gradients::recycle`], for a gradient without its node and metric sums.
    pub fn recycle_gradient(&mut self, gradient: Vec<f32>) {
        let (node, metric_sums) = (Node::leaf(0), MetricSums::new(self.model.classes()));
        self.recycle(NodeSum { node, gradient, metric_sums });
    }

    /// Computes loss and metrics of all `samples`, in leaves of [`EVALUATION_LEAF`] that are summed
    /// in the tree.
    pub fn evaluate(&mut self, weights: &[f32], samples: &dyn Samples) -> MetricSums {
        let mut leaves = Vec::new();
        let classes = self.model.classes();
        self.forward_all(weights, samples, Pass::Loss, |scratch, _| {
            let (targets, outcomes) = scratch.results();
            let pairs = targets.chunks(EVALUATION_LEAF).zip(outcomes.chunks(EVALUATION_LEAF));
            leaves.extend(pairs.map(|(targets, outcomes)| metric_sums(classes, targets, outcomes)));
        });
        fold_metric_sums(leaves).unwrap_or_else(|| MetricSums::new(classes))
    }

    /// Predicts all `samples`: `[samples, outputs]` row-major; see [`crate::Head::predict`].
    pub fn predict(&mut self, weights: &[f32], samples: &dyn Samples) -> Vec<f32> {
        let outputs = self.model.outputs();
        let mut predictions = vec![0.0; samples.len() * outputs];
        self.forward_all(weights, samples, Pass::Prediction, |scratch, first| {
            for (row, out) in
                predictions[first * outputs..].chunks_mut(outputs).take(scratch.rows()).enumerate()
            {
                scratch.read_output(row, out);
            }
        });
        predictions
    }

    /// Scores the predictions for all `samples`, whose mean loss at these weights is `loss`.
    pub fn score(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        class_names: &[String],
        loss: f64,
    ) -> Scores {
        let targets: Vec<f32> = (0..samples.len()).map(|index| samples.target(index)).collect();
        Scores::new(self.model.head(), self.predict(weights, samples), &targets, class_names, loss)
    }

    /// Runs `pass` over all samples, several at a time, and calls `take` with the results and the index of
    /// their first sample.
    fn forward_all(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        pass: Pass,
        mut take: impl FnMut(&Scratch, usize),
    ) {
        assert_eq!(weights.len(), self.model.parameters());
        self.pack(weights, 0..self.packed.len(), self.is_parallel(samples.len()), false);
        for first in (0..samples.len()).step_by(EVALUATION_ROWS) {
            let rows = first..samples.len().min(first + EVALUATION_ROWS);
            let parallel = self.is_parallel(rows.len());
            let block = block_rows(rows.len(), parallel);
            let network = Network::new(self.kernel, &self.model, weights, &self.packed, None);
            let scratch = &mut self.scratch[0];
            scratch.gather_each(samples, rows.start, rows);
            scratch.run(&network, samples, block, parallel, pass);
            take(scratch, first);
        }
    }

    /// The source of a step's random numbers; `None` in an evaluation.
    fn training(&self, step: Step) -> Option<Training> {
        (!self.evaluates).then(|| self.model.training(self.plan.seed, step.step))
    }

    fn is_parallel(&self, rows: usize) -> bool {
        rayon::current_num_threads() > 1 && rows * self.model.cost() >= PARALLEL_WORK
    }

    /// Packs the weights of `layers` as the products read them.
    fn pack(&mut self, weights: &[f32], layers: Range<usize>, parallel: bool, with_backward: bool) {
        let first = self.model.first_trained();
        for k in layers {
            let with_backward = with_backward && k > first;
            let how = [parallel, with_backward];
            self.model.layers()[k].pack(self.kernel, weights, how, &mut self.packed[k]);
        }
    }
}

/// Number of rows per block.
fn block_rows(rows: usize, parallel: bool) -> usize {
    let shares = if parallel { rayon::current_num_threads() } else { 1 };
    // Every thread gets the same number of equal blocks, as few as the largest block size allows.
    // With 128 rows as blocks of 96 and 32, two threads of a prototype reached only 46 % of their peak.
    let rounds = rows.div_ceil(shares * MAX_BLOCK);
    rows.div_ceil(shares * rounds).clamp(MIN_BLOCK, MAX_BLOCK)
}

/// Adds the metric sums of consecutive leaves in the tree.
fn fold_metric_sums(mut level: Vec<MetricSums>) -> Option<MetricSums> {
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| {
                let mut sum = pair[0].clone();
                pair.iter().skip(1).for_each(|right| sum.add(right));
                sum
            })
            .collect();
    }
    level.pop()
}
