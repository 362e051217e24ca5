//! The reference trainer: a page of plain loops straight from `docs/numerics.md`, one sample, one thread, one
//! number at a time. Everything else is compared with it, so it shares no arithmetic with the fast path but
//! the elementary functions, the heads and the update.

use crate::fold::NodeSum;
use crate::kernel::Kernel;
use crate::metrics::Tally;
use crate::model::Model;
use crate::optim::OptimizerConfig;
use crate::samples::Samples;
use crate::schedule::Schedule;
use crate::trainer::{Diverged, StepReport, Trainer};
use ps_plan::{BatchPlan, EVALUATION_LEAF, Node, Step};

/// Trains from the initial weights to the last step, telling `report` of each, and returns the weights.
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

/// Takes `trainer`, which is before its first step, to the end of the run, telling `report` of each step.
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
            let last = plan.step(step.step - 1);
            batch_sum(model, &weights, samples, plan, last).tally
        });
        let validated = validation.filter(|_| step.validation > 0);
        let validated = validated.map(|part| evaluate(model, &weights, part));
        let mut root = batch_sum(model, &weights, samples, plan, step);
        let done = trainer.finish_seeing(&mut root, last_batch, validated)?;
        report(&done, trainer.weights());
    }
    Ok(trainer)
}

/// Loss and metrics of all samples: leaves of [`EVALUATION_LEAF`], added pairwise level by level.
pub fn evaluate(model: &Model, weights: &[f32], samples: &dyn Samples) -> Tally {
    let indices: Vec<usize> = (0..samples.len()).collect();
    let leaves = indices.chunks(EVALUATION_LEAF).map(|indices| leaf_sum(model, weights, samples, indices));
    let mut level: Vec<NodeSum> = leaves.collect();
    while level.len() > 1 {
        level = level.chunks(2).map(add_pair).collect();
    }
    level.pop().map_or_else(|| Tally::new(model.classes()), |root| root.tally)
}

/// The sum over all samples of `step`: its leaves, added pairwise level by level.
pub fn batch_sum(
    model: &Model,
    weights: &[f32],
    samples: &dyn Samples,
    plan: BatchPlan,
    step: Step,
) -> NodeSum {
    let mut level: Vec<NodeSum> =
        (0..step.tree().leaves()).map(|index| leaf(model, weights, samples, plan, step, index)).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(add_pair).collect();
    }
    let mut root = level.pop().expect("a step has at least one leaf");
    root.node = step.tree().root();
    root
}

/// The sum over the samples of one leaf of `step`.
pub fn leaf(
    model: &Model,
    weights: &[f32],
    samples: &dyn Samples,
    plan: BatchPlan,
    step: Step,
    index: u32,
) -> NodeSum {
    let order = plan.order(step);
    let indices: Vec<usize> =
        step.offsets(index..index + 1).map(|offset| order.at(step.first + offset)).collect();
    // The loops are compiled for the processor's vectors; a fused multiply-add rounds once on any of them, so
    // this changes the time and nothing else.
    let sum = Kernel::detect().vectorize(
        #[inline(always)]
        || leaf_sum(model, weights, samples, &indices),
    );
    NodeSum { node: Node::leaf(index), ..sum }
}

/// A node of the next level: left plus right, or an odd last node unchanged.
fn add_pair(pair: &[NodeSum]) -> NodeSum {
    let mut sum = pair[0].clone();
    sum.node = sum.node.parent();
    if let Some(right) = pair.get(1) {
        for (a, b) in sum.gradient.iter_mut().zip(&right.gradient) {
            *a += b;
        }
        sum.tally.add(&right.tally);
    }
    sum
}

/// The sum over the samples `indices` of one leaf, in that order, each added by fused multiply-adds.
#[inline(always)]
fn leaf_sum(model: &Model, weights: &[f32], samples: &dyn Samples, indices: &[usize]) -> NodeSum {
    let layers = model.layers();
    let last = layers.len() - 1;
    let mut gradient = vec![0.0_f32; model.parameters()];
    let mut tally = Tally::new(model.classes());
    // W transposed, `[inputs, outputs]`, so that the innermost loop below runs over outputs.
    let transposed: Vec<Vec<f32>> = layers
        .iter()
        .map(|layer| {
            let mut t = vec![0.0; layer.inputs * layer.outputs];
            for o in 0..layer.outputs {
                for i in 0..layer.inputs {
                    t[i * layer.outputs + o] = weights[layer.weight + o * layer.inputs + i];
                }
            }
            t
        })
        .collect();
    // activations[l] is the input of layer l; the last one is the output of the last layer.
    let mut activations: Vec<Vec<f32>> = vec![vec![0.0; model.features()]];
    activations.extend(layers.iter().map(|layer| vec![0.0; layer.outputs]));

    for &index in indices {
        samples.write_row(index, &mut activations[0]);

        // Forward: z = x W^T + b, then the activation on all but the last layer.
        for (l, layer) in layers.iter().enumerate() {
            let (before, after) = activations.split_at_mut(l + 1);
            let (x, z) = (&before[l], &mut after[0]);
            z.fill(0.0);
            for i in 0..layer.inputs {
                for (z, &w) in z.iter_mut().zip(&transposed[l][i * layer.outputs..][..layer.outputs]) {
                    *z = x[i].mul_add(w, *z);
                }
            }
            for (z, &b) in z.iter_mut().zip(&weights[layer.bias..][..layer.outputs]) {
                *z += b;
                if l < last {
                    *z = model.activation().apply(*z);
                }
            }
        }

        // Backward: delta is the derivative of the loss by z, from the last layer to the first.
        let mut delta = activations[last + 1].clone();
        let target = samples.target(index);
        tally.count(target, model.head().backward(&mut delta, target));
        for (l, layer) in layers.iter().enumerate().rev() {
            let x = &activations[l];
            for o in 0..layer.outputs {
                let row = &mut gradient[layer.weight + o * layer.inputs..][..layer.inputs];
                for (g, &x) in row.iter_mut().zip(x) {
                    *g = delta[o].mul_add(x, *g);
                }
                gradient[layer.bias + o] += delta[o];
            }
            if l > 0 {
                let mut below = vec![0.0; layer.inputs];
                for o in 0..layer.outputs {
                    let row = &weights[layer.weight + o * layer.inputs..][..layer.inputs];
                    for (b, &w) in below.iter_mut().zip(row) {
                        *b = delta[o].mul_add(w, *b);
                    }
                }
                for (b, &a) in below.iter_mut().zip(x) {
                    *b = model.activation().backward(a, *b);
                }
                delta = below;
            }
        }
    }
    NodeSum { node: Node::leaf(0), gradient, tally }
}

/// The outputs of one sample's forward pass, `[outputs]`, before the head: for evaluation by hand.
pub fn forward(model: &Model, weights: &[f32], row: &[f32]) -> Vec<f32> {
    activations(model, weights, row).pop().unwrap_or_default()
}

/// What goes into each layer in one sample's forward pass, `row` first, and last the outputs before the head.
pub fn activations(model: &Model, weights: &[f32], row: &[f32]) -> Vec<Vec<f32>> {
    let mut all = vec![row.to_vec()];
    for (l, layer) in model.layers().iter().enumerate() {
        let x = &all[l];
        let mut z = vec![0.0; layer.outputs];
        for (o, z) in z.iter_mut().enumerate() {
            let w = &weights[layer.weight + o * layer.inputs..][..layer.inputs];
            *z = x.iter().zip(w).fold(0.0, |sum: f32, (&x, &w)| x.mul_add(w, sum)) + weights[layer.bias + o];
            if l + 1 < model.layers().len() {
                *z = model.activation().apply(*z);
            }
        }
        all.push(z);
    }
    all
}
