//! The reference trainer: plain loops straight from `docs/numerics.md`, for one sample, one thread and
//! one number at a time. Everything else is compared with it, so it shares no arithmetic with the fast
//! path except the elementary functions, the heads and the update. Each layer's loops are in the file
//! of the layer.

use crate::fold::NodeSum;
use crate::kernel::Kernel;
use crate::layer::{self, Layer, PlainContext, Training};
use crate::metrics::MetricSums;
use crate::model::Model;
use crate::optim::OptimizerConfig;
use crate::samples::Samples;
use crate::schedule::Schedule;
use crate::trainer::{Diverged, StepReport, Trainer};
use ps_plan::{BatchPlan, EVALUATION_LEAF, Node, Step};

/// Trains from the initial weights to the last step and returns the weights. Calls `report` after each step.
pub fn train(
    model: &Model,
    plan: BatchPlan,
    optimizer: impl Into<OptimizerConfig>,
    rate: impl Into<Schedule>,
    samples: &dyn Samples,
    mut report: impl FnMut(&StepReport, &[f32]),
) -> Result<Vec<f32>, Diverged> {
    let trainer = Trainer::new(model, plan, optimizer, rate);
    let mut say = |report_of: &StepReport, weights: &[f32]| report(report_of, weights);
    Ok(run(model, trainer, samples, None, &mut say)?.weights().to_vec())
}

/// Runs `trainer`, which must be before its first step, to the end of the run. Calls `report`
/// after each step.
pub fn run(
    model: &Model,
    mut trainer: Trainer,
    samples: &dyn Samples,
    validation: Option<&dyn Samples>,
    report: &mut dyn FnMut(&StepReport, &[f32]),
) -> Result<Trainer, Diverged> {
    let plan = trainer.plan();
    while !trainer.is_done() {
        let step = plan.step(trainer.version());
        let weights = model.precision().round(trainer.weights());
        let last_batch = (step.last_batch > 0).then(|| {
            // Summed as in training, because the same units must be dropped as in that step.
            let last = plan.step(step.step - 1);
            batch_sum(model, &weights, samples, plan, last).metric_sums
        });
        let validated = validation.filter(|_| step.validation > 0);
        let validated = validated.map(|part| evaluate(model, &weights, part));
        let mut root = batch_sum(model, &weights, samples, plan, step);
        let done = trainer.finish_with_evaluations(&mut root, last_batch, validated)?;
        report(&done, trainer.weights());
    }
    Ok(trainer)
}

/// Computes loss and metrics of all samples, in leaves of [`EVALUATION_LEAF`] that are added pairwise,
/// level by level.
pub fn evaluate(model: &Model, weights: &[f32], samples: &dyn Samples) -> MetricSums {
    let indices: Vec<usize> = (0..samples.len()).collect();
    let leaves = indices.chunks(EVALUATION_LEAF);
    let metric_sums = leaves.map(|leaf| leaf_metric_sums(model, weights, samples, leaf)).collect();
    let sum = sum_levels(metric_sums, |sum: &mut MetricSums, right| sum.add(right));
    sum.unwrap_or_else(|| MetricSums::new(model.classes()))
}

/// Computes the sum over all samples of `step`: its leaves, added pairwise, level by level.
pub fn batch_sum(
    model: &Model,
    weights: &[f32],
    samples: &dyn Samples,
    plan: BatchPlan,
    step: Step,
) -> NodeSum {
    let leaves = 0..step.tree().leaves();
    let sums = leaves.map(|index| leaf(model, weights, samples, plan, step, index)).collect();
    // Not by `Fold`, which is compared with this.
    let mut root = sum_levels(sums, add).expect("a step has at least one leaf");
    root.node = step.tree().root();
    root
}

/// Computes the sum over the samples of one leaf of `step`.
pub fn leaf(
    model: &Model,
    weights: &[f32],
    samples: &dyn Samples,
    plan: BatchPlan,
    step: Step,
    index: u32,
) -> NodeSum {
    let (order, positions) = (plan.order(step), step.offsets(index..index + 1));
    let indices: Vec<usize> = positions.clone().map(|position| order.at(step.first + position)).collect();
    let training = Some(model.training(plan.seed, step.step));
    let sum = vectorized(
        #[inline(always)]
        || leaf_sum(model, weights, samples, &indices, training, positions.start),
    );
    NodeSum { node: Node::leaf(index), ..sum }
}

/// Runs loops compiled for the processor's vector instructions. A fused multiply-add rounds once on all of
/// them, so this affects nothing but time.
#[inline(always)]
fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
    Kernel::detect().vectorize(loops)
}

/// Adds `level` pairwise, level by level, until one sum is left; an odd last one goes to the next level
/// unchanged.
fn sum_levels<T: Clone>(mut level: Vec<T>, add: impl Fn(&mut T, &T)) -> Option<T> {
    while level.len() > 1 {
        let pairs = level.chunks(2).map(|pair| {
            let mut sum = pair[0].clone();
            pair[1..].iter().for_each(|right| add(&mut sum, right));
            sum
        });
        level = pairs.collect();
    }
    level.pop()
}

fn add(sum: &mut NodeSum, right: &NodeSum) {
    for (a, b) in sum.gradient.iter_mut().zip(&right.gradient) {
        *a += b;
    }
    sum.metric_sums.add(&right.metric_sums);
}

/// Computes the sum over the samples `indices` of one leaf, each added in that order by fused multiply-adds.
/// The first sample is at position `first` in the batch.
#[inline(always)]
fn leaf_sum(
    model: &Model,
    weights: &[f32],
    samples: &dyn Samples,
    indices: &[usize],
    training: Option<Training>,
    first: usize,
) -> NodeSum {
    let mut pass = Sample::new(model, PlainContext { weights, training, position: first });
    let mut gradient = vec![0.0_f32; model.parameters()];
    let mut metric_sums = MetricSums::new(model.classes());
    for (number, &index) in indices.iter().enumerate() {
        pass.context.position = first + number;
        pass.measure(samples, index, &mut metric_sums);
        pass.backward(model.first_trained() + 1);
        for (k, layer) in model.layers().iter().enumerate() {
            layer.plain_gradient(k, &pass.values, &pass.deltas, &mut gradient);
        }
    }
    NodeSum { node: Node::leaf(0), gradient, metric_sums }
}

/// Computes loss and metrics of the samples `indices` of one leaf, in that order.
fn leaf_metric_sums(model: &Model, weights: &[f32], samples: &dyn Samples, indices: &[usize]) -> MetricSums {
    let context = PlainContext { weights, training: None, position: 0 };
    let mut metric_sums = MetricSums::new(model.classes());
    vectorized(
        #[inline(always)]
        || {
            let mut pass = Sample::new(model, context);
            indices.iter().for_each(|&index| pass.measure(samples, index, &mut metric_sums));
        },
    );
    metric_sums
}

/// The memory of one sample's passes through a model.
struct Sample<'a> {
    model: &'a Model,
    context: PlainContext<'a>,
    /// By layer, the transposed weights; see [`crate::Layer::plain_transposed`].
    transposed: Vec<Vec<f32>>,
    /// The input of each layer, and last the outputs before the head.
    values: Vec<Vec<f32>>,
    /// The derivatives of the loss with respect to the values.
    deltas: Vec<Vec<f32>>,
}

impl<'a> Sample<'a> {
    #[inline(always)]
    fn new(model: &'a Model, context: PlainContext<'a>) -> Self {
        let transposed = |layer: &Layer| layer.plain_transposed(context.weights);
        let transposed = model.layers().iter().map(transposed).collect();
        let zeros = model.shapes().map(|shape| vec![0.0; shape.rows_per_sample * shape.columns]);
        let values: Vec<Vec<f32>> = zeros.collect();
        Sample { model, context, transposed, deltas: values.clone(), values }
    }

    /// Computes the values from the first to the last.
    #[inline(always)]
    fn forward(&mut self) {
        for (k, layer) in self.model.layers().iter().enumerate() {
            layer.plain_forward(k, &self.context, &self.transposed[k], &mut self.values);
        }
    }

    /// Computes the loss of sample `index` and the delta at the head, and counts the sample in `metric_sums`.
    #[inline(always)]
    fn measure(&mut self, samples: &dyn Samples, index: usize, metric_sums: &mut MetricSums) {
        samples.write_row(index, &mut self.values[0]);
        self.forward();
        let target = samples.target(index);
        let last = self.model.layers().len();
        self.deltas[last].copy_from_slice(&self.values[last]);
        metric_sums.count(target, self.model.head().backward(&mut self.deltas[last], target));
    }

    /// Computes the deltas from the last one to that at the input of layer `first`.
    #[inline(always)]
    fn backward(&mut self, first: usize) {
        for (k, layer) in self.model.layers().iter().enumerate().skip(first).rev() {
            layer.plain_backward(k, &self.context, &self.values, &mut self.deltas);
            for reader in self.model.readers(k) {
                let (before, after) = self.deltas.split_at_mut(reader + 1);
                layer::add(&after[0], &mut before[k]);
            }
        }
    }
}

/// A sample after the forward pass of an evaluation.
fn evaluated<'a>(model: &'a Model, weights: &'a [f32], row: &[f32]) -> Sample<'a> {
    let mut pass = Sample::new(model, PlainContext { weights, training: None, position: 0 });
    pass.values[0].copy_from_slice(row);
    pass.forward();
    pass
}

/// The input of each dense layer in one sample's forward pass, and last the outputs before the head.
pub fn dense_inputs(model: &Model, weights: &[f32], row: &[f32]) -> Vec<Vec<f32>> {
    let mut pass = evaluated(model, weights, row);
    let outputs = pass.values.pop();
    let inputs = model.layers().iter().zip(pass.values).filter(|(layer, _)| layer.dense().is_some());
    inputs.map(|(_, value)| value).chain(outputs).collect()
}

/// The derivative of the output `unit` before the head with respect to each element of `row`.
pub fn input_gradient(model: &Model, weights: &[f32], row: &[f32], unit: usize) -> Vec<f32> {
    let mut pass = evaluated(model, weights, row);
    pass.deltas[model.layers().len()][unit] = 1.0;
    pass.backward(0);
    pass.deltas.swap_remove(0)
}
