//! The memory of a pass: samples as they were drawn, and every matrix of every block.

use super::matrix::Shape;
use super::network::{Block, Network, Pass};
use super::pack::is_wide;
use super::weight::{WeightGradient, segments};
use crate::fold::NodeSum;
use crate::kernel::{Buffer, Kernel, Segment};
use crate::metrics::{Outcome, Tally};
use crate::model::Model;
use crate::samples::Samples;
use ps_plan::{BatchPlan, Node, Step};
use rayon::prelude::*;
use std::ops::Range;

/// Buffers that one pass after the other uses.
#[derive(Default)]
pub(super) struct Scratch {
    indices: Vec<usize>,
    targets: Vec<f32>,
    outcomes: Vec<Outcome>,
    /// Block after block, each as [`Places`] says.
    memory: Buffer,
    places: Places,
    segments: Vec<Segment>,
    /// Sums of leaves that wait for their siblings.
    tallies: Vec<Tally>,
    pub spare: Spare,
}

/// Where the matrices of a block lie: every layer's input, then every layer's output, whose place the derivative by
/// it takes, then room for one of these turned round, then a row. Hidden outputs hold derivatives only: their values are
/// the next layer's input.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub block: usize,
    pub width: usize,
    columns: Vec<(usize, usize)>,
    inputs: Vec<usize>,
    deltas: Vec<usize>,
    turned: usize,
    row: usize,
    len: usize,
}

impl Places {
    /// For blocks of `block` rows.
    pub fn lay_out(&mut self, model: &Model, kernel: Kernel, block: usize) {
        if self.block == block && !self.inputs.is_empty() {
            return;
        }
        (self.block, self.width, self.len) = (block, kernel.width(), 0);
        self.columns = model.layers().iter().map(|layer| (layer.inputs, layer.outputs)).collect();
        let mut place = |columns: usize| {
            let at = self.len;
            self.len += Shape { columns, block, width: kernel.width() }.block_len();
            at
        };
        self.inputs = self.columns.iter().map(|columns| place(columns.0)).collect();
        self.deltas = self.columns.iter().map(|columns| place(columns.1)).collect();
        let turned = model.layers().iter().skip(1).filter(|layer| is_wide(layer));
        let turned = turned.map(|layer| layer.outputs * block.next_multiple_of(self.width)).max();
        self.turned = self.len;
        self.len += turned.unwrap_or(0);
        let widest = model.features().max(model.outputs());
        self.row = self.len;
        self.len += widest.next_multiple_of(kernel.width());
    }

    /// Elements of a block.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The input of layer `l`: its shape and where it starts.
    pub fn input(&self, l: usize) -> (Shape, usize) {
        (Shape { columns: self.columns[l].0, block: self.block, width: self.width }, self.inputs[l])
    }

    /// The output of layer `l`, and later the derivative by it.
    pub fn delta(&self, l: usize) -> (Shape, usize) {
        (Shape { columns: self.columns[l].1, block: self.block, width: self.width }, self.deltas[l])
    }

    /// A derivative with rows and columns exchanged; see [`Network::turn`].
    pub fn turned(&self) -> usize {
        self.turned
    }

    /// A row of the widest end of the model.
    pub fn row(&self) -> usize {
        self.row
    }
}

/// Sums that are no longer needed, to be filled anew.
#[derive(Default)]
pub(super) struct Spare(Vec<NodeSum>);

/// More are let go.
const MOST_SPARE: usize = 16;

impl Spare {
    pub fn put(&mut self, sum: NodeSum) {
        if self.0.len() < MOST_SPARE {
            self.0.push(sum);
        }
    }

    pub fn take(&mut self) -> Option<NodeSum> {
        self.0.pop()
    }

    /// A sum of `node` whose values are unspecified.
    pub fn take_or_make(&mut self, node: Node, parameters: usize, classes: usize) -> NodeSum {
        let sum = self.take().map(|sum| NodeSum { node, ..sum });
        sum.unwrap_or_else(|| NodeSum { node, gradient: vec![0.0; parameters], tally: Tally::new(classes) })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Scratch {
    /// Draws the samples of `leaves` of a step.
    pub fn gather(&mut self, samples: &dyn Samples, plan: BatchPlan, step: Step, leaves: Range<u32>) {
        let order = plan.order(step);
        self.indices.clear();
        self.indices.extend(step.offsets(leaves).map(|offset| order.at(step.first + offset)));
        self.take_targets(samples);
    }

    /// Takes these samples.
    pub fn gather_each(&mut self, samples: &dyn Samples, indices: impl Iterator<Item = usize>) {
        self.indices.clear();
        self.indices.extend(indices);
        self.take_targets(samples);
    }

    fn take_targets(&mut self, samples: &dyn Samples) {
        self.targets.clear();
        self.targets.extend(self.indices.iter().map(|&index| samples.target(index)));
        self.outcomes.resize(self.indices.len(), Outcome::default());
    }

    /// Takes the rows through the model, block by block.
    pub fn run(
        &mut self,
        network: &Network,
        samples: &dyn Samples,
        block: usize,
        parallel: bool,
        pass: Pass,
    ) {
        self.places.lay_out(network.model, network.kernel, block);
        let (places, len) = (&self.places, self.places.len());
        let memory = self.memory.resize(self.indices.len().div_ceil(block) * len);
        let run = |memory: &mut [f32], indices: &[usize], targets: &[f32], outcomes: &mut [Outcome]| {
            network.run(samples, places, &mut Block { indices, targets, outcomes, memory }, pass);
        };
        if parallel {
            memory
                .par_chunks_mut(len)
                .zip(self.indices.par_chunks(block))
                .zip(self.targets.par_chunks(block).zip(self.outcomes.par_chunks_mut(block)))
                .with_max_len(1)
                .for_each(|((memory, indices), (targets, outcomes))| run(memory, indices, targets, outcomes));
        } else {
            let blocks = memory.chunks_mut(len).zip(self.indices.chunks(block));
            let results = self.targets.chunks(block).zip(self.outcomes.chunks_mut(block));
            for ((memory, indices), (targets, outcomes)) in blocks.zip(results) {
                run(memory, indices, targets, outcomes);
            }
        }
    }

    /// Rows of the last pass.
    pub fn rows(&self) -> usize {
        self.indices.len()
    }

    /// Targets and outcomes of the last pass.
    pub fn results(&self) -> (&[f32], &[Outcome]) {
        (&self.targets, &self.outcomes)
    }

    /// What the last layer says of a row.
    pub fn read_output(&self, row: usize, out: &mut [f32]) {
        let last = self.places.deltas.len() - 1;
        let (shape, at) = self.places.delta(last);
        let block = row / self.places.block;
        shape.read_row(&self.memory.as_slice()[block * self.places.len + at..], row % self.places.block, out);
    }

    /// The whole sum of one node of the last pass, whose rows began with leaf `first_leaf`: its gradient tile by tile, its
    /// tally leaf by leaf.
    #[allow(clippy::too_many_arguments)]
    pub fn node_sum(
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
        self.open_node(node, step, first_leaf, &mut sum.tally);
        let mut rest: &mut [f32] = &mut sum.gradient;
        for (l, layer) in model.layers().iter().enumerate() {
            let (weight, after) = rest.split_at_mut(layer.inputs * layer.outputs);
            let (bias, after) = after.split_at_mut(layer.outputs);
            rest = after;
            self.weight_gradient(l, kernel).all_panels(weight, bias, parallel);
        }
        sum
    }

    /// Finds where the rows of a node of the last pass lie, whose rows began with leaf `first_leaf`, for
    /// [`Scratch::weight_gradient`], and sums its tally.
    pub fn open_node(&mut self, node: Node, step: Step, first_leaf: u32, tally: &mut Tally) {
        self.find_rows(node, step, first_leaf);
        self.fold_tallies(rows_of_leaves(node, step, first_leaf), tally);
    }

    /// The first half of [`Scratch::open_node`].
    pub fn find_rows(&mut self, node: Node, step: Step, first_leaf: u32) {
        segments(&self.places, rows_of_leaves(node, step, first_leaf), &mut self.segments);
    }

    /// The products of the open node's weight gradient in layer `l`.
    pub fn weight_gradient(&self, l: usize, kernel: Kernel) -> WeightGradient<'_> {
        WeightGradient {
            kernel,
            input: self.places.input(l),
            delta: self.places.delta(l),
            memory: self.memory.as_slice(),
            segments: &self.segments,
            leaves: self.segments.iter().filter(|segment| segment.ends_leaf).count(),
        }
    }

    /// The tallies of consecutive leaves, added in the tree whose first leaf is the first one, by a binary counter as
    /// in [`crate::kernel`].
    fn fold_tallies(&mut self, leaves: impl Iterator<Item = Range<usize>>, whole: &mut Tally) {
        let classes = whole.classes.len();
        let mut standing = 0;
        for (number, rows) in leaves.enumerate() {
            if self.tallies.len() == standing {
                self.tallies.push(Tally::new(classes));
            }
            let pairs = self.targets[rows.clone()].iter().zip(&self.outcomes[rows]);
            self.tallies[standing].clear();
            pairs.for_each(|(&target, &outcome)| self.tallies[standing].count(target, outcome));
            standing += 1;
            for _ in 0..(number + 1).trailing_zeros() {
                self.merge_last(&mut standing);
            }
        }
        // An odd last node passes up: what is left is added from the smallest up.
        while standing > 1 {
            self.merge_last(&mut standing);
        }
        whole.clear();
        whole.add(&self.tallies[0]);
    }

    fn merge_last(&mut self, standing: &mut usize) {
        *standing -= 1;
        let (left, right) = self.tallies.split_at_mut(*standing);
        left[*standing - 1].add(&right[0]);
    }
}

/// The rows of each leaf of a node in a pass that began with leaf `first_leaf`.
fn rows_of_leaves(node: Node, step: Step, first_leaf: u32) -> impl Iterator<Item = Range<usize>> {
    let first_row = step.offsets(first_leaf..first_leaf).start;
    step.tree().leaves_of(node).map(move |leaf| {
        let rows = step.offsets(leaf..leaf + 1);
        rows.start - first_row..rows.end - first_row
    })
}

/// The tally of one leaf.
pub(super) fn tally(classes: usize, targets: &[f32], outcomes: &[Outcome]) -> Tally {
    let mut tally = Tally::new(classes);
    targets.iter().zip(outcomes).for_each(|(&target, &outcome)| tally.count(target, outcome));
    tally
}
