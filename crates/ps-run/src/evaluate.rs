//! Weights measured on samples: forward passes over fixed leaves, summed in the tree.

use ndarray::Array2;
use ps_core::{Kernel, Model, Samples, Tally};
use rayon::prelude::*;
use std::ops::Range;

/// Samples of an evaluation leaf: fixed, so that a loss has the same bits whatever the training batch is.
const LEAF: usize = 256;

/// Loss and metrics of `model` at `weights` over all of `split`.
pub fn evaluate(model: &Model, weights: &[f32], split: &dyn Samples) -> Tally {
    let mut level: Vec<Tally> = leaves(split)
        .map(|rows| {
            let mut outputs = forward(model, weights, split, rows.clone());
            let mut tally = Tally::new(model.classes());
            for (z, index) in outputs.chunks_exact_mut(model.outputs()).zip(rows) {
                model.head().backward(z, split.target(index), &mut tally);
            }
            tally
        })
        .collect();
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
    level.pop().unwrap_or_else(|| Tally::new(model.classes()))
}

/// What `model` says of each sample of `split`, `[samples, outputs]`: probabilities per class, the
/// probability of class 1, the value or the rate.
pub fn predict(model: &Model, weights: &[f32], split: &dyn Samples) -> Array2<f32> {
    let outputs: Vec<Vec<f32>> = leaves(split)
        .map(|rows| {
            let mut outputs = forward(model, weights, split, rows);
            outputs.chunks_exact_mut(model.outputs()).for_each(|z| model.head().predict(z));
            outputs
        })
        .collect();
    Array2::from_shape_vec((split.len(), model.outputs()), outputs.concat())
        .expect("every sample has as many outputs as the model")
}

/// The ranges of samples that form the leaves.
fn leaves(split: &dyn Samples) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let samples = split.len();
    (0..samples.div_ceil(LEAF)).into_par_iter().map(move |leaf| leaf * LEAF..samples.min((leaf + 1) * LEAF))
}

/// The last layer's outputs before the head, `[rows, outputs]`.
fn forward(model: &Model, weights: &[f32], split: &dyn Samples, rows: Range<usize>) -> Vec<f32> {
    let count = rows.len();
    let mut row = vec![0.0; model.features()];
    // Units run down and samples across, so that the innermost loop below runs over samples.
    let mut x = vec![0.0; model.features() * count];
    for (column, index) in rows.enumerate() {
        split.write_row(index, &mut row);
        for (unit, &value) in row.iter().enumerate() {
            x[unit * count + column] = value;
        }
    }
    for (index, layer) in model.layers().iter().enumerate() {
        let mut z = vec![0.0; layer.outputs * count];
        let hidden = index + 1 < model.layers().len();
        Kernel::detect().vectorize(
            #[inline(always)]
            || {
                for (unit, z) in z.chunks_exact_mut(count).enumerate() {
                    let row = &weights[layer.weight + unit * layer.inputs..][..layer.inputs];
                    for (x, &w) in x.chunks_exact(count).zip(row) {
                        z.iter_mut().zip(x).for_each(|(z, &x)| *z = x.mul_add(w, *z));
                    }
                    for z in z {
                        *z += weights[layer.bias + unit];
                        *z = if hidden { model.activation().apply(*z) } else { *z };
                    }
                }
            },
        );
        x = z;
    }
    let mut outputs = vec![0.0; x.len()];
    for (unit, values) in x.chunks_exact(count).enumerate() {
        for (row, &value) in values.iter().enumerate() {
            outputs[row * model.outputs() + unit] = value;
        }
    }
    outputs
}
