//! Gradients of a range of leaves, on the current rayon pool.
//!
//! Weights are packed once a step. Then each block of rows goes forward through all layers, through the head
//! and back to the first layer's outputs; then each tile of each weight's gradient folds its leaves through
//! the tree while it is in cache. Rows, tiles and panels are shared out among threads, sums never are, so the
//! number of threads changes no bit.

use crate::batch::{BatchPlan, Step};
use crate::fold::NodeSum;
use crate::kernel::{Buffer, Kernel, Left, Segment, Tile, fold_tiles, multiply};
use crate::matrix::{Shape, strips};
use crate::metrics::{Outcome, Tally};
use crate::model::{Activation, Layer, Model};
use crate::samples::Samples;
use crate::tree::{Node, Tree};
use rayon::prelude::*;
use std::ops::Range;

/// Most rows that go forward and backward as one block: more would leave the cache, fewer would read the
/// weights more often.
const MAX_BLOCK: usize = 96;
/// Fewest rows of a block; a kernel's tile is not much lower.
const MIN_BLOCK: usize = 12;
/// Work below this many multiply-adds is not worth waking another thread for (about 10 µs).
const PARALLEL_WORK: usize = 500_000;
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

    /// The sums of the nodes that cover `leaves` of step `step`, ascending, at `weights` (`[parameters]`).
    pub fn compute(
        &mut self,
        weights: &[f32],
        samples: &dyn Samples,
        step: u64,
        leaves: Range<u32>,
    ) -> Vec<NodeSum> {
        assert_eq!(weights.len(), self.model.parameters());
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

/// How far rows go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Forward, the loss, and back to the derivatives of each layer's outputs.
    Gradient,
    /// Forward and the loss.
    Loss,
    /// Forward and what the head predicts.
    Prediction,
}

/// Some rows of the batch, their results and their part of each matrix.
struct Block<'a> {
    indices: &'a [usize],
    targets: &'a [f32],
    outcomes: &'a mut [Outcome],
    inputs: Vec<&'a mut [f32]>,
    deltas: Vec<&'a mut [f32]>,
}

/// What all blocks of a step share.
struct Network<'a> {
    kernel: Kernel,
    model: &'a Model,
    weights: &'a [f32],
    forward: &'a [Buffer],
    backward: &'a [Buffer],
    block: usize,
}

impl Network<'_> {
    fn run(&self, samples: &dyn Samples, block: &mut Block, pass: Pass) {
        let layers = self.model.layers();
        let last = layers.len() - 1;
        let mut row = vec![0.0; layers[0].inputs.max(layers[last].outputs)];
        let (features, logits) = (self.shape(layers[0].inputs), self.shape(layers[last].outputs));
        for (r, &index) in block.indices.iter().enumerate() {
            samples.write_row(index, &mut row[..features.columns]);
            features.write_row(block.inputs[0], r, &row[..features.columns]);
        }
        let rows = block.indices.len();
        for (l, layer) in layers.iter().enumerate() {
            if l < last {
                let (inputs, outputs) = block.inputs.split_at_mut(l + 1);
                self.forward_layer(layer, l, rows, inputs[l], outputs[0], Some(self.model.activation()));
            } else {
                self.forward_layer(layer, l, rows, block.inputs[l], block.deltas[l], None);
            }
        }
        let head = self.model.head();
        self.kernel.vectorize(
            #[inline(always)]
            || {
                let row = &mut row[..logits.columns];
                for r in 0..rows {
                    logits.read_row(block.deltas[last], r, row);
                    if pass == Pass::Prediction {
                        head.predict(row);
                    } else {
                        block.outcomes[r] = head.backward(row, block.targets[r]);
                    }
                    logits.write_row(block.deltas[last], r, row);
                }
            },
        );
        if pass == Pass::Gradient {
            for l in (1..=last).rev() {
                let (below, above) = block.deltas.split_at_mut(l);
                self.backward_layer(&layers[l], l, rows, above[0], block.inputs[l], below[l - 1]);
            }
        }
    }

    /// `output = activation(input W^T + bias)`.
    fn forward_layer(
        &self,
        layer: &Layer,
        l: usize,
        rows: usize,
        input: &[f32],
        output: &mut [f32],
        activation: Option<Activation>,
    ) {
        let shape = self.shape(layer.outputs);
        self.product(
            self.shape(layer.inputs),
            input,
            &self.forward[l],
            shape,
            output,
            rows,
            |panel, _, out| {
                let bias = &self.weights[layer.bias + panel * shape.width..][..out.len()];
                match activation {
                    None => out.iter_mut().zip(bias).for_each(|(z, b)| *z += b),
                    Some(Activation::Relu) => add_and(out, bias, |z| Activation::Relu.apply(z)),
                    Some(Activation::Tanh) => add_and(out, bias, |z| Activation::Tanh.apply(z)),
                    Some(Activation::Sigmoid) => add_and(out, bias, |z| Activation::Sigmoid.apply(z)),
                }
            },
        );
    }

    /// `below = (delta W) * activation'(input)`, the derivative by the outputs of the layer below, whose
    /// values are this layer's `input`.
    fn backward_layer(
        &self,
        layer: &Layer,
        l: usize,
        rows: usize,
        delta: &[f32],
        input: &[f32],
        below: &mut [f32],
    ) {
        let shape = self.shape(layer.inputs);
        self.product(
            self.shape(layer.outputs),
            delta,
            &self.backward[l],
            shape,
            below,
            rows,
            |panel, row, out| {
                let values = &input[shape.panel(panel) + row * shape.width..][..out.len()];
                match self.model.activation() {
                    Activation::Relu => back(out, values, |a, d| Activation::Relu.backward(a, d)),
                    Activation::Tanh => back(out, values, |a, d| Activation::Tanh.backward(a, d)),
                    Activation::Sigmoid => back(out, values, |a, d| Activation::Sigmoid.backward(a, d)),
                }
            },
        );
    }

    /// `out = left right` for the rows of a block, each row of each tile handed to `finish` (its panel, its
    /// row in the block, its values) while it is in cache.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn product(
        &self,
        left: Shape,
        values: &[f32],
        right: &Buffer,
        shape: Shape,
        out: &mut [f32],
        rows: usize,
        finish: impl Fn(usize, usize, &mut [f32]),
    ) {
        let depth = left.columns;
        for panel in 0..shape.panels() {
            let columns = shape.tile_columns(panel);
            let segments = (0..left.panels()).map(|p| Segment {
                k: left.columns_of(p),
                a: left.panel(p),
                b: p * left.width * shape.width,
            });
            let segments: Vec<Segment> = segments.collect();
            let b = &right.as_slice()[panel * depth * shape.width..][..depth * shape.width];
            for (row, count) in strips(rows, self.kernel) {
                let a = &values[row * left.width..];
                let tile = Tile { a, left: Left::Rows, b, rows: count, columns };
                let at = shape.panel(panel) + row * shape.width;
                multiply(self.kernel, &tile, &segments, &mut out[at..], shape.width);
                self.kernel.vectorize(
                    #[inline(always)]
                    || {
                        for r in 0..count {
                            let out = &mut out[at + r * shape.width..][..shape.columns_of(panel)];
                            finish(panel, row + r, out);
                        }
                    },
                );
            }
        }
    }

    fn shape(&self, columns: usize) -> Shape {
        Shape { columns, block: self.block, width: self.kernel.width() }
    }
}

/// The products of one layer's weight gradient, `delta^T input` summed leaf by leaf.
struct WeightGradient<'a> {
    kernel: Kernel,
    input: Shape,
    delta: Shape,
    inputs: &'a [f32],
    deltas: &'a [f32],
    /// Rows of each leaf of the node.
    leaves: &'a [Range<usize>],
}

impl WeightGradient<'_> {
    /// Writes the rows of the weight's gradient that belong to a panel of outputs, `[outputs of the panel,
    /// inputs]`, and of the bias, `[outputs of the panel]`.
    fn panel(&self, panel: usize, weight: &mut [f32], bias: &mut [f32]) {
        let (segments, leaves) = self.segments();
        let depth = 2 + self.leaves.len().ilog2() as usize;
        let mut stack = vec![0.0; depth * self.kernel.max_rows() * self.kernel.width()];
        for below in 0..self.input.panels() {
            let columns = self.input.tile_columns(below);
            let b = &self.inputs[self.input.panel(below)..];
            for (first, rows) in strips(self.delta.columns_of(panel), self.kernel) {
                let a = &self.deltas[self.delta.panel(panel) + first..];
                let width = self.input.width;
                let tile = Tile { a, left: Left::Columns, b, rows, columns };
                fold_tiles(self.kernel, &tile, leaves.iter().map(|leaf| &segments[leaf.clone()]), &mut stack);
                for (row, sums) in stack.chunks(columns).take(rows).enumerate() {
                    let at = (first + row) * self.input.columns + below * width;
                    let existing = self.input.columns_of(below);
                    weight[at..at + existing].copy_from_slice(&sums[..existing]);
                }
            }
        }
        // The bias is a weight whose input is always 1; the right operand is delta itself.
        let segments: Vec<Segment> = segments.iter().map(|s| Segment { k: s.k, a: 0, b: s.a }).collect();
        let tile = Tile {
            a: &[1.0],
            left: Left::Constant,
            b: &self.deltas[self.delta.panel(panel)..],
            rows: 1,
            columns: self.delta.tile_columns(panel),
        };
        fold_tiles(self.kernel, &tile, leaves.iter().map(|leaf| &segments[leaf.clone()]), &mut stack);
        bias.copy_from_slice(&stack[..bias.len()]);
    }

    /// Where each leaf's rows lie, relative to a panel: a leaf that crosses blocks has several segments.
    fn segments(&self) -> (Vec<Segment>, Vec<Range<usize>>) {
        let block = self.input.block;
        let mut segments = Vec::with_capacity(self.leaves.len());
        let leaves = self.leaves.iter().map(|rows| {
            let start = segments.len();
            let mut row = rows.start;
            while row < rows.end {
                let end = rows.end.min((row / block + 1) * block);
                segments.push(Segment {
                    k: end - row,
                    a: row / block * self.delta.block_len() + row % block * self.delta.width,
                    b: row / block * self.input.block_len() + row % block * self.input.width,
                });
                row = end;
            }
            start..segments.len()
        });
        let leaves = leaves.collect();
        (segments, leaves)
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

#[inline(always)]
fn add_and(out: &mut [f32], bias: &[f32], activation: impl Fn(f32) -> f32) {
    out.iter_mut().zip(bias).for_each(|(z, b)| *z = activation(*z + b));
}

#[inline(always)]
fn back(out: &mut [f32], values: &[f32], derivative: impl Fn(f32, f32) -> f32) {
    out.iter_mut().zip(values).for_each(|(d, &a)| *d = derivative(a, *d));
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

/// Packs `columns` rows of `weight` (`[columns, depth]`) as columns of a panel: element (k, column) goes to
/// `packed[k * width + column]`, missing columns are 0.
fn pack_transposed(weight: &[f32], depth: usize, columns: usize, width: usize, packed: &mut [f32]) {
    // A cache line of each column at a time: read once, and the panel's rows stay in cache meanwhile.
    const LINE: usize = 16;
    for (block, packed) in packed.chunks_mut(LINE * width).enumerate() {
        let depths = packed.len() / width;
        for column in 0..columns {
            let from = &weight[column * depth + block * LINE..][..depths];
            for (k, &value) in from.iter().enumerate() {
                packed[k * width + column] = value;
            }
        }
        for row in packed.chunks_exact_mut(width) {
            row[columns..].fill(0.0);
        }
    }
}

/// Packs `columns` columns of `weight`, whose rows are `stride` apart: element (k, column) goes to
/// `packed[k * width + column]`, missing columns are 0.
fn pack_panel(weight: &[f32], stride: usize, columns: usize, width: usize, packed: &mut [f32]) {
    for (out, row) in packed.chunks_exact_mut(width).zip(weight.chunks(stride)) {
        out[..columns].copy_from_slice(&row[..columns]);
        out[columns..].fill(0.0);
    }
}

/// One layer's products alone, for benches: `rows` samples, a weight of `[outputs, inputs]`.
#[doc(hidden)]
pub struct LayerProducts {
    gradients: Gradients,
    weights: Vec<f32>,
    rows: usize,
    block: usize,
    leaf: usize,
}

#[doc(hidden)]
impl LayerProducts {
    pub fn new(kernel: Kernel, rows: usize, inputs: usize, outputs: usize, leaf: usize) -> Self {
        // A layer of one unit below makes the input gradient exist.
        let head = if outputs == 1 { crate::Head::SquaredError } else { crate::Head::Softmax };
        let model = Model::new(1, &[inputs], Activation::Relu, head, outputs);
        let plan = BatchPlan::new(1, rows, rows, leaf, 1, None);
        let weights = model.initial(1);
        let mut gradients = Gradients::new(model, plan, kernel);
        let block = gradients.block_rows(rows, false);
        gradients.pack(&weights, false, true);
        let shape = gradients.shape(inputs, block);
        let blocks = rows.div_ceil(block);
        gradients.inputs[1].resize(blocks * shape.block_len()).fill(0.5);
        gradients.deltas[0].resize(blocks * shape.block_len());
        let shape = gradients.shape(outputs, block);
        gradients.deltas[1].resize(blocks * shape.block_len()).fill(0.25);
        LayerProducts { gradients, weights, rows, block, leaf }
    }

    fn blocks(&mut self, run: impl Fn(&Network, &Layer, usize, &mut [f32], &mut [f32], &mut [f32])) {
        let this = &mut self.gradients;
        let layer = this.model.layers()[1];
        let shape = |columns| Shape { columns, block: self.block, width: this.kernel.width() };
        let (input, output) = (shape(layer.inputs).block_len(), shape(layer.outputs).block_len());
        let network = Network {
            kernel: this.kernel,
            model: &this.model,
            weights: &self.weights,
            forward: &this.forward,
            backward: &this.backward,
            block: self.block,
        };
        let blocks = self.rows.div_ceil(self.block);
        let (below, above) = this.deltas.split_at_mut(1);
        for b in 0..blocks {
            let rows = self.block.min(self.rows - b * self.block);
            run(
                &network,
                &layer,
                rows,
                &mut this.inputs[1].resize(blocks * input)[b * input..],
                &mut above[0].resize(blocks * output)[b * output..],
                &mut below[0].resize(blocks * input)[b * input..],
            );
        }
    }

    pub fn forward(&mut self) {
        self.blocks(|network, layer, rows, input, output, _| {
            network.forward_layer(layer, 1, rows, input, output, Some(Activation::Relu));
        });
    }

    pub fn input_gradient(&mut self) {
        self.blocks(|network, layer, rows, input, output, below| {
            network.backward_layer(layer, 1, rows, output, input, below);
        });
    }

    pub fn weight_gradient(&mut self, gradient: &mut [f32]) {
        let this = &self.gradients;
        let layer = this.model.layers()[1];
        let (input, delta) = (this.shape(layer.inputs, self.block), this.shape(layer.outputs, self.block));
        let leaves: Vec<Range<usize>> =
            (0..self.rows).step_by(self.leaf).map(|r| r..self.rows.min(r + self.leaf)).collect();
        let (inputs, deltas) = (this.inputs[1].as_slice(), this.deltas[1].as_slice());
        let products = WeightGradient { kernel: this.kernel, input, delta, inputs, deltas, leaves: &leaves };
        let (weight, bias) = gradient.split_at_mut(layer.inputs * layer.outputs);
        let panels = weight.chunks_mut(delta.width * layer.inputs).zip(bias.chunks_mut(delta.width));
        for (panel, (weight, bias)) in panels.enumerate() {
            products.panel(panel, weight, bias);
        }
    }

    pub fn pack(&mut self) {
        self.gradients.pack(&self.weights, false, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Head;
    use crate::reference;
    use crate::seed::{Purpose, Stream};

    struct Table {
        rows: Vec<Vec<f32>>,
        targets: Vec<f32>,
    }

    impl Samples for Table {
        fn len(&self) -> usize {
            self.rows.len()
        }
        fn features(&self) -> usize {
            self.rows[0].len()
        }
        fn write_row(&self, index: usize, row: &mut [f32]) {
            row.copy_from_slice(&self.rows[index]);
        }
        fn target(&self, index: usize) -> f32 {
            self.targets[index]
        }
    }

    fn table(samples: usize, features: usize, classes: u32) -> Table {
        let mut stream = Stream::new(5, Purpose::Probe, 0);
        Table {
            rows: (0..samples).map(|_| (0..features).map(|_| 2.0 * stream.unit() - 1.0).collect()).collect(),
            targets: (0..samples).map(|_| stream.below(classes) as f32).collect(),
        }
    }

    fn same(left: &NodeSum, right: &NodeSum, what: &str) {
        assert_eq!(left.tally, right.tally, "{what}");
        for (at, (l, r)) in left.gradient.iter().zip(&right.gradient).enumerate() {
            assert_eq!(l.to_bits(), r.to_bits(), "{what}: parameter {at}: {l} and {r}");
        }
    }

    #[test]
    fn every_kernel_thread_count_and_shape_gives_the_bits_of_the_reference() {
        let cases: [(usize, &[usize], Activation, Head, usize, usize, usize); 9] = [
            (7, &[], Activation::Relu, Head::SquaredError, 1, 20, 4),
            (33, &[], Activation::Relu, Head::Logistic, 2, 64, 8),
            (70, &[], Activation::Relu, Head::Softmax, 10, 128, 32),
            (5, &[], Activation::Relu, Head::Poisson, 4, 31, 7),
            (40, &[50], Activation::Relu, Head::Softmax, 10, 200, 32),
            (100, &[70, 33], Activation::Tanh, Head::Softmax, 40, 150, 16),
            (17, &[16, 16], Activation::Sigmoid, Head::SquaredError, 1, 97, 13),
            (3, &[1], Activation::Tanh, Head::Logistic, 2, 13, 1),
            (300, &[200], Activation::Relu, Head::Softmax, 3, 300, 150),
        ];
        for (features, hidden, activation, head, classes, batch, leaf) in cases {
            let samples = table(batch + batch / 2, features, classes as u32);
            let model = Model::new(features, hidden, activation, head, classes);
            let plan = BatchPlan::new(3, samples.len(), batch, leaf, 1, None);
            let mut weights = model.initial(1);
            let mut stream = Stream::new(9, Purpose::Probe, 0);
            weights.iter_mut().for_each(|w| *w += 0.1 * (stream.unit() - 0.5));
            for step in 0..plan.steps {
                let place = plan.step(step);
                let wanted = reference::batch_sum(&model, &weights, &samples, plan, place);
                for kernel in Kernel::available() {
                    for threads in [1, 3] {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                        let mut gradients = Gradients::new(model.clone(), plan, kernel);
                        let tree = place.tree();
                        let what = format!("{features} {hidden:?} {head:?} step {step} {}", kernel.name());
                        let got =
                            pool.install(|| gradients.compute(&weights, &samples, step, 0..tree.leaves()));
                        assert_eq!(got.len(), 1);
                        same(&got[0], &wanted, &what);
                        // The same from two ranges, folded.
                        let cut = tree.leaves() / 3;
                        let mut fold = crate::Fold::new(tree);
                        for leaves in [cut..tree.leaves(), 0..cut] {
                            let sums =
                                pool.install(|| gradients.compute(&weights, &samples, step, leaves.clone()));
                            sums.into_iter().for_each(|sum| assert!(fold.insert(sum)));
                        }
                        same(&fold.take_root().unwrap(), &wanted, &what);
                    }
                }
            }
        }
    }

    #[test]
    fn evaluation_and_prediction_agree_with_the_plain_forward_pass() {
        let samples = table(700, 20, 5);
        let model = Model::new(20, &[35], Activation::Tanh, Head::Softmax, 5);
        let weights = model.initial(4);
        let plan = BatchPlan::new(1, 700, 64, 8, 1, None);
        for kernel in Kernel::available() {
            let mut gradients = Gradients::new(model.clone(), plan, kernel);
            let tally = gradients.evaluate(&weights, &samples);
            let predictions = gradients.predict(&weights, &samples);
            let mut plain = Vec::new();
            let mut correct = 0;
            for (index, row) in samples.rows.iter().enumerate() {
                let mut z = reference::forward(&model, &weights, row);
                Head::Softmax.predict(&mut z);
                assert_eq!(&predictions[index * 5..][..5], z);
                let mut z = reference::forward(&model, &weights, row);
                let outcome = Head::Softmax.backward(&mut z, samples.targets[index]);
                correct += u64::from(outcome.detail == samples.targets[index]);
                plain.push(outcome);
            }
            let leaves =
                samples.targets.chunks(256).zip(plain.chunks(256)).map(|(t, o)| super::tally(5, t, o));
            assert_eq!(Some(tally.clone()), fold_tallies(leaves.collect()));
            assert_eq!((tally.samples, tally.correct), (700, correct));
        }
    }
}
