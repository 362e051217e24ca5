//! Gradients of a range of leaves, on the current rayon pool.
//!
//! Weights are packed once a step. Then each block of rows goes forward through all layers, through the head
//! and back to the first layer's outputs; then each tile of each weight's gradient folds its leaves through
//! the tree while it is in cache, the last layer's first. Where weights are still arriving, all blocks go through the
//! layers that are there before the others are waited for ([`Flow`]). Rows, tiles and panels are shared out among threads, sums never are, so the
//! number of threads changes no bit.

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
use crate::metrics::Tally;
use crate::model::Model;
use crate::product::PackedWeight;
use crate::samples::Samples;
use flow::Whole;
use network::{Network, Pass};
use ps_plan::{BatchPlan, EVALUATION_LEAF, Node, Section, Step};
use rayon::prelude::*;
use scratch::{Scratch, Spare, dense_layers, tally};
use std::ops::Range;

/// Most rows that go forward and backward as one block: more would leave the cache, fewer would read the
/// weights more often.
const MAX_BLOCK: usize = 96;
/// Fewest rows of a block; a kernel's tile is not much lower.
const MIN_BLOCK: usize = 12;
/// Work below this many multiply-adds a pass is not worth sharing out: a thread that sleeps wakes in some 10 µs, and
/// each of a step's four or five parts wakes it again.
const PARALLEL_WORK: usize = 4_000_000;
/// Models up to this many parameters go through a large batch part by part, gradients included, so that what one
/// part has computed is still in cache when its gradient is; of larger models the gradients themselves would not be.
const SMALL_MODEL: usize = 1 << 16;
/// Of models from this many parameters on, threads share out the panels of a layer, so that each reads a part of the
/// weights, rather than the rows of a batch that is one block anyway: the weights come from memory.
const LARGE_MODEL: usize = 1 << 20;
/// Parameters of a weight whose gradient leaves as soon as it is final: as many as travel in a chunk.
const LEAVING_TOGETHER: usize = 1 << 16;
/// Rows of such a part.
const PART_ROWS: usize = 128;
/// Rows that an evaluation computes at once.
const EVALUATION_ROWS: usize = 2048;

/// Computes gradients of a model's minibatches; keeps its buffers from step to step.
pub struct Gradients {
    model: Model,
    plan: BatchPlan,
    kernel: Kernel,
    /// The weights as the products read them, by layer; of layers without a weight, nothing.
    packed: Vec<PackedWeight>,
    /// One for each thread that computes a part of its own; there is always one.
    scratch: Vec<Scratch>,
    /// Sums given back by [`Gradients::recycle`].
    spare: Spare,
    /// Whether gradients are those of an evaluation, in which nothing is random.
    evaluates: bool,
}

impl Gradients {
    /// For a model whose steps follow `plan`.
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

    /// The same for gradients of what the model computes in an evaluation, in which nothing is random.
    pub fn of_evaluation(self) -> Self {
        Gradients { evaluates: true, ..self }
    }

    /// The sums of the nodes that cover `leaves` of step `step`, ascending, at `weights` (`[parameters]`), which are
    /// rounded to the model's precision first.
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

    /// The same, appended to `sums`. Once all buffers have their sizes, and what was computed comes back by
    /// [`Gradients::recycle`], a step asks the system for no memory.
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

    /// The same with weights that may still be arriving, and sums that leave part by part. Returns whether it was
    /// computed: `false` if the weights do not come.
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
            flow.node(sum.node).clone_from(&sum.tally);
            flow.gradient(number)[..sum.gradient.len()].copy_from_slice(&sum.gradient);
            flow.finished(number, 0);
            self.recycle(sum);
        }
        true
    }

    /// Loss and metrics of the nodes that cover `leaves`, ascending, of a section without gradients, at `weights` as
    /// gradients are computed at them. `training` and `validation` are the parts that it looks at.
    pub fn evaluate_leaves(
        &mut self,
        weights: &[f32],
        [training, validation]: [&dyn Samples; 2],
        step: u64,
        leaves: Range<u32>,
    ) -> Vec<(Node, Tally)> {
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
        // The loss of a batch that is looked at again must be comparable to that of its step.
        let draws = if section == Section::LastBatch { self.training(last) } else { None };
        let mut fold = Fold::new(place.tree());
        self.pack(
            weights,
            0..self.packed.len(),
            self.is_parallel(place.offsets(leaves.clone()).len()),
            false,
        );
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
                let tally = tally(classes, targets, outcomes);
                fold.insert(NodeSum { node: Node::leaf(leaf), gradient: Vec::new(), tally });
            }
        }
        // Its nodes may have names of nodes below them, where the tree's end cuts them short.
        let mut tallies = fold.into_sums().into_iter();
        let named = |node| Some((node, tallies.next()?.tally));
        place.tree().cover(leaves).into_iter().filter_map(named).collect()
    }

    /// The same with weights that may still be arriving. Returns whether they came.
    pub fn evaluate_flowing(
        &mut self,
        flow: &mut dyn Flow,
        samples: [&dyn Samples; 2],
        step: u64,
        leaves: Range<u32>,
    ) -> bool {
        let Some((_, weights)) = flow.weights(self.model.parameters()) else { return false };
        let tallies = self.evaluate_leaves(weights, samples, step, leaves);
        tallies.into_iter().for_each(|(node, tally)| flow.evaluated(node, tally));
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
        tree.cover_each(leaves.clone(), |node| {
            scratch.sum_tally(node, step, leaves.start, flow.node(node));
        });
        for (k, dense) in dense_layers(&self.model).rev() {
            let mut number = 0;
            tree.cover_each(leaves.clone(), |node| {
                scratch.find_rows(dense, node, step, leaves.start);
                let products = scratch.weight_gradient(k, dense, self.kernel);
                products.biases(&mut flow.gradient(number)[dense.bias_range()]);
                // What is final leaves while the next rows are computed.
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

    /// Takes the samples that were gathered through `layers`, whose weights are packed, and after the last one back;
    /// `weights` are there for the biases.
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
        let shares_panels = parallel && scratch.rows() <= MAX_BLOCK && self.model.parameters() >= LARGE_MODEL;
        let by_rows = parallel && !shares_panels;
        let block = block_rows(scratch.rows(), by_rows);
        let network = Network::new(self.kernel, &self.model, weights, &self.packed, training);
        let network = Network { layers, ..network.sharing_panels(shares_panels) };
        scratch.run(&network, samples, block, by_rows, Pass::Gradient);
    }

    /// Leaves of a part: a power of two, so that a part is a node of the tree.
    fn part_leaves(&self, step: Step) -> u32 {
        1 << (PART_ROWS / step.leaf).max(1).ilog2()
    }

    /// Whether a step of these leaves is computed part by part; see [`SMALL_MODEL`].
    fn goes_by_parts(&self, step: Step, leaves: &Range<u32>) -> bool {
        self.model.parameters() <= SMALL_MODEL && leaves.len() > self.part_leaves(step) as usize
    }

    /// Goes through the parts one by one, each thread through a run of them, and folds what comes out.
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
        for fold in folds {
            for sum in fold.into_sums() {
                whole.insert_and_return(sum, &mut |merged| self.spare.put(merged));
            }
        }
        sums.extend(whole.into_sums());
        // What a step took from the threads' spare sums they need again.
        for scratch in &mut self.scratch {
            if scratch.spare.is_empty()
                && let Some(sum) = self.spare.take()
            {
                scratch.spare.put(sum);
            }
        }
    }

    /// Takes back a sum that is no longer needed, so that a later step need not allocate one.
    pub fn recycle(&mut self, sum: NodeSum) {
        if sum.gradient.len() == self.model.parameters() {
            self.spare.put(sum);
        }
    }

    /// The same for a gradient of which only that has come back.
    pub fn recycle_gradient(&mut self, gradient: Vec<f32>) {
        let (node, tally) = (Node::leaf(0), Tally::new(self.model.classes()));
        self.recycle(NodeSum { node, gradient, tally });
    }

    /// Loss and metrics of all `samples`, in leaves of [`EVALUATION_LEAF`] summed in the tree.
    pub fn evaluate(&mut self, weights: &[f32], samples: &dyn Samples) -> Tally {
        let mut leaves = Vec::new();
        let classes = self.model.classes();
        self.forward_all(weights, samples, Pass::Loss, |scratch, _| {
            let (targets, outcomes) = scratch.results();
            let pairs = targets.chunks(EVALUATION_LEAF).zip(outcomes.chunks(EVALUATION_LEAF));
            leaves.extend(pairs.map(|(targets, outcomes)| tally(classes, targets, outcomes)));
        });
        fold_tallies(leaves).unwrap_or_else(|| Tally::new(classes))
    }

    /// What the model says of all `samples`, `[samples, outputs]` row-major; see [`crate::Head::predict`].
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

    /// Runs `pass` over all samples, some at a time, and lets `take` look at the results, and at which sample
    /// they start.
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

    /// What the random numbers of a step are drawn by.
    fn training(&self, step: Step) -> Option<Training> {
        (!self.evaluates).then(|| self.model.training(self.plan.seed, step.step))
    }

    fn is_parallel(&self, rows: usize) -> bool {
        rayon::current_num_threads() > 1 && rows * self.model.cost() >= PARALLEL_WORK
    }

    /// Lays the weights of `layers` out as the products read them.
    fn pack(&mut self, weights: &[f32], layers: Range<usize>, parallel: bool, with_backward: bool) {
        let first = self.model.first_trained();
        for k in layers {
            let with_backward = with_backward && k > first;
            let how = [parallel, with_backward];
            self.model.layers()[k].pack(self.kernel, weights, how, &mut self.packed[k]);
        }
    }
}

/// Rows of a block.
fn block_rows(rows: usize, parallel: bool) -> usize {
    let shares = if parallel { rayon::current_num_threads() } else { 1 };
    // As many equal blocks for every thread as the largest block demands.
    let rounds = rows.div_ceil(shares * MAX_BLOCK);
    rows.div_ceil(shares * rounds).clamp(MIN_BLOCK, MAX_BLOCK)
}

/// The sum of consecutive leaves in the tree.
fn fold_tallies(mut level: Vec<Tally>) -> Option<Tally> {
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
