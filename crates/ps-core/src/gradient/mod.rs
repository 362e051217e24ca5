//! Gradients of a range of leaves, on the current rayon pool.
//!
//! Weights are packed once a step. Then each block of rows goes forward through all layers, through the head
//! and back to the first layer's outputs; then each tile of each weight's gradient folds its leaves through
//! the tree while it is in cache. Rows, tiles and panels are shared out among threads, sums never are, so the
//! number of threads changes no bit.

mod layer;
mod matrix;
mod network;
mod pack;
#[cfg(test)]
mod tests;
mod weight;

#[doc(hidden)]
pub use layer::LayerProducts;

use crate::batch::{BatchPlan, Step};
use crate::fold::NodeSum;
use crate::kernel::{Buffer, Kernel};
use crate::metrics::{Outcome, Tally};
use crate::model::Model;
use crate::samples::Samples;
use crate::tree::{Node, Tree};
use matrix::Shape;
use network::{Block, Network, Pass};
use pack::{pack_panel, pack_transposed};
use rayon::prelude::*;
use std::ops::Range;
use weight::WeightGradient;

/// Most rows that go forward and backward as one block: more would leave the cache, fewer would read the
/// weights more often.
const MAX_BLOCK: usize = 96;
/// Fewest rows of a block; a kernel's tile is not much lower.
const MIN_BLOCK: usize = 12;
/// Work below this many multiply-adds a pass is not worth sharing out: a thread that sleeps wakes in some 10 µs, and
/// each of a step's four or five parts wakes it again.
const PARALLEL_WORK: usize = 4_000_000;
/// Rows that an evaluation computes at once.
const EVALUATION_ROWS: usize = 2048;
/// Samples of a leaf in an evaluation.
pub const EVALUATION_LEAF: usize = 256;

/// Computes gradients of a model's minibatches; keeps its buffers from step to step.
pub struct Gradients {
    model: Model,
    plan: BatchPlan,
    kernel: Kernel,
    /// Per layer, its weight as right operand of the forward product.
    forward: Vec<Buffer>,
    /// Per layer but the first, its weight as right operand of the input gradient.
    backward: Vec<Buffer>,
    /// Per layer, its input.
    inputs: Vec<Buffer>,
    /// Per layer, its output; the last one's becomes the derivative of the loss by it. Hidden ones hold such
    /// derivatives only: their values are the next layer's inputs.
    deltas: Vec<Buffer>,
    outcomes: Vec<Outcome>,
    targets: Vec<f32>,
    /// Gradients given back by [`Gradients::recycle`].
    spare: Vec<Vec<f32>>,
}

impl Gradients {
    /// For a model whose steps follow `plan`.
    pub fn new(model: Model, plan: BatchPlan, kernel: Kernel) -> Self {
        let buffers = || model.layers().iter().map(|_| Buffer::default()).collect();
        Gradients {
            forward: buffers(),
            backward: buffers(),
            inputs: buffers(),
            deltas: buffers(),
            outcomes: Vec::new(),
            targets: Vec::new(),
            spare: Vec::new(),
            model,
            plan,
            kernel,
        }
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
        assert_eq!(weights.len(), self.model.parameters());
        let weights = &*self.model.precision().round(weights);
        let step = self.plan.step(step);
        let order = self.plan.order(step);
        let indices: Vec<usize> =
            step.offsets(leaves.clone()).map(|offset| order.at(step.first + offset)).collect();
        if indices.is_empty() {
            return Vec::new();
        }
        let parallel = self.is_parallel(indices.len());
        self.pack(weights, parallel, true);
        let block = self.block_rows(indices.len(), parallel);
        self.run_blocks(weights, samples, &indices, block, parallel, Pass::Gradient);
        let tree = step.tree();
        tree.cover(leaves.clone())
            .into_iter()
            .map(|node| self.node_sum(node, tree, step, leaves.start, block, parallel))
            .collect()
    }

    /// Takes back a gradient that is no longer needed, so that a later step need not allocate one.
    pub fn recycle(&mut self, gradient: Vec<f32>) {
        if gradient.len() == self.model.parameters() && self.spare.len() < 8 {
            self.spare.push(gradient);
        }
    }

    /// Loss and metrics of all `samples`, in leaves of [`EVALUATION_LEAF`] summed in the tree.
    pub fn evaluate(&mut self, weights: &[f32], samples: &dyn Samples) -> Tally {
        let mut leaves = Vec::new();
        self.forward_all(weights, samples, Pass::Loss, |this, _, _| {
            leaves.extend(
                this.targets
                    .chunks(EVALUATION_LEAF)
                    .zip(this.outcomes.chunks(EVALUATION_LEAF))
                    .map(|(targets, outcomes)| tally(this.model.classes(), targets, outcomes)),
            );
        });
        fold_tallies(leaves).unwrap_or_else(|| Tally::new(self.model.classes()))
    }

    /// What the model says of all `samples`, `[samples, outputs]` row-major; see [`crate::Head::predict`].
    pub fn predict(&mut self, weights: &[f32], samples: &dyn Samples) -> Vec<f32> {
        let outputs = self.model.outputs();
        let mut predictions = vec![0.0; samples.len() * outputs];
        self.forward_all(weights, samples, Pass::Prediction, |this, first, block| {
            let shape = this.shape(outputs, block);
            let values = this.deltas[this.deltas.len() - 1].as_slice();
            for (row, out) in
                predictions[first * outputs..].chunks_mut(outputs).take(this.targets.len()).enumerate()
            {
                shape.read_row(&values[row / block * shape.block_len()..], row % block, out);
            }
        });
        predictions
    }

    /// Runs `pass` over all samples, some at a time, and lets `take` look at the results: at which sample
    /// they start, and the rows of a block.
    fn forward_all(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        pass: Pass,
        mut take: impl FnMut(&Self, usize, usize),
    ) {
        assert_eq!(weights.len(), self.model.parameters());
        self.pack(weights, self.is_parallel(samples.len()), false);
        for first in (0..samples.len()).step_by(EVALUATION_ROWS) {
            let indices: Vec<usize> = (first..samples.len().min(first + EVALUATION_ROWS)).collect();
            let parallel = self.is_parallel(indices.len());
            let block = self.block_rows(indices.len(), parallel);
            self.run_blocks(weights, samples, &indices, block, parallel, pass);
            take(self, first, block);
        }
    }

    fn is_parallel(&self, rows: usize) -> bool {
        rayon::current_num_threads() > 1 && rows * self.model.parameters() >= PARALLEL_WORK
    }

    fn block_rows(&self, rows: usize, parallel: bool) -> usize {
        let shares = if parallel { rayon::current_num_threads() } else { 1 };
        // As many equal blocks for every thread as the largest block demands.
        let rounds = rows.div_ceil(shares * MAX_BLOCK);
        rows.div_ceil(shares * rounds).clamp(MIN_BLOCK, MAX_BLOCK)
    }

    fn shape(&self, columns: usize, block: usize) -> Shape {
        Shape { columns, block, width: self.kernel.width() }
    }

    /// Lays the weights out as right operands, panel by panel.
    fn pack(&mut self, weights: &[f32], parallel: bool, with_backward: bool) {
        let width = self.kernel.width();
        for (l, layer) in self.model.layers().iter().enumerate() {
            let (inputs, outputs) = (layer.inputs, layer.outputs);
            let weight = &weights[layer.weight..][..inputs * outputs];
            let panels = self.forward[l].resize(inputs * outputs.next_multiple_of(width));
            each(parallel, panels.chunks_mut(inputs * width).enumerate().collect(), |(panel, packed)| {
                let first = panel * width;
                pack_transposed(&weight[first * inputs..], inputs, width.min(outputs - first), width, packed);
            });
            if l > 0 && with_backward {
                let panels = self.backward[l].resize(outputs * inputs.next_multiple_of(width));
                each(
                    parallel,
                    panels.chunks_mut(outputs * width).enumerate().collect(),
                    |(panel, packed)| {
                        let first = panel * width;
                        pack_panel(&weight[first..], inputs, width.min(inputs - first), width, packed);
                    },
                );
            }
        }
    }

    /// Takes the rows `indices` through the model, block by block.
    fn run_blocks(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        indices: &[usize],
        block: usize,
        parallel: bool,
        pass: Pass,
    ) {
        let blocks = indices.len().div_ceil(block);
        self.targets.clear();
        self.targets.extend(indices.iter().map(|&index| samples.target(index)));
        self.outcomes.resize(indices.len(), Outcome::default());
        let layers = self.model.layers();
        let shape = |columns| Shape { columns, block, width: self.kernel.width() };
        let mut jobs: Vec<Block> = indices
            .chunks(block)
            .zip(self.targets.chunks(block).zip(self.outcomes.chunks_mut(block)))
            .map(|(indices, (targets, outcomes))| Block {
                indices,
                targets,
                outcomes,
                inputs: Vec::new(),
                deltas: Vec::new(),
            })
            .collect();
        for (layer, (inputs, deltas)) in layers.iter().zip(self.inputs.iter_mut().zip(&mut self.deltas)) {
            let (input_len, delta_len) = (shape(layer.inputs).block_len(), shape(layer.outputs).block_len());
            let inputs = inputs.resize(blocks * input_len).chunks_mut(input_len);
            let deltas = deltas.resize(blocks * delta_len).chunks_mut(delta_len);
            for (job, (inputs, deltas)) in jobs.iter_mut().zip(inputs.zip(deltas)) {
                job.inputs.push(inputs);
                job.deltas.push(deltas);
            }
        }
        let network = Network {
            kernel: self.kernel,
            model: &self.model,
            weights,
            forward: &self.forward,
            backward: &self.backward,
            block,
        };
        each(parallel, jobs, |mut job| network.run(samples, &mut job, pass));
    }

    /// The sum of one node: its gradient tile by tile, its tally leaf by leaf.
    fn node_sum(
        &mut self,
        node: Node,
        tree: Tree,
        step: Step,
        first_leaf: u32,
        block: usize,
        parallel: bool,
    ) -> NodeSum {
        let first_row = step.offsets(first_leaf..first_leaf).start;
        let leaves: Vec<Range<usize>> = tree
            .leaves_of(node)
            .map(|leaf| {
                let rows = step.offsets(leaf..leaf + 1);
                rows.start - first_row..rows.end - first_row
            })
            .collect();
        let tallies = leaves
            .iter()
            .map(|rows| {
                tally(self.model.classes(), &self.targets[rows.clone()], &self.outcomes[rows.clone()])
            })
            .collect();
        let mut gradient = self.spare.pop().unwrap_or_else(|| vec![0.0; self.model.parameters()]);
        let width = self.kernel.width();
        let mut jobs = Vec::new();
        let mut rest: &mut [f32] = &mut gradient;
        for (l, layer) in self.model.layers().iter().enumerate() {
            let (weight, after) = rest.split_at_mut(layer.inputs * layer.outputs);
            let (bias, after) = after.split_at_mut(layer.outputs);
            rest = after;
            let panels = weight.chunks_mut(width * layer.inputs).zip(bias.chunks_mut(width)).enumerate();
            jobs.extend(panels.map(|(panel, (weight, bias))| (l, panel, weight, bias)));
        }
        each(parallel, jobs, |(l, panel, weight, bias)| {
            let layer = &self.model.layers()[l];
            let (input, delta) = (self.shape(layer.inputs, block), self.shape(layer.outputs, block));
            let products = WeightGradient {
                kernel: self.kernel,
                input,
                delta,
                inputs: self.inputs[l].as_slice(),
                deltas: self.deltas[l].as_slice(),
                leaves: &leaves,
            };
            products.panel(panel, weight, bias);
        });
        let tally = fold_tallies(tallies).expect("a node has at least one leaf");
        NodeSum { node, gradient, tally }
    }
}

/// Runs all jobs, on the threads of the pool or one after the other.
fn each<T: Send>(parallel: bool, jobs: Vec<T>, run: impl Fn(T) + Sync + Send) {
    if parallel {
        jobs.into_par_iter().with_max_len(1).for_each(run);
    } else {
        jobs.into_iter().for_each(run);
    }
}

/// The tally of one leaf.
fn tally(classes: usize, targets: &[f32], outcomes: &[Outcome]) -> Tally {
    let mut tally = Tally::new(classes);
    targets.iter().zip(outcomes).for_each(|(&target, &outcome)| tally.count(target, outcome));
    tally
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
