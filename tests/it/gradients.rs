//! Compares the gradient for every head and activation with central differences of the loss. Both losses are
//! computed in binary64, by textbook formulas that are implemented here independently.

use crate::generated::{Table, Targets, table};
use ps_core::layer::KINDS;
use ps_core::{Activation, Dropout, Gradients, Head, Kernel, Layer, Model, Samples, reference};
use ps_plan::BatchPlan;
use ps_plan::seed::{Purpose, Stream, random};

const SAMPLES: usize = 21;
const FEATURES: usize = 5;
const CLASSES: usize = 4;
/// Half the distance between the two points of a difference. In binary64, its error is then about 1e-10.
const STEP: f64 = 1e-5;
/// Allowed difference between the binary32 gradient and the central difference, relative to the root mean
/// square of the gradient. It covers the units in the last place (6e-8) that sums of dozens of products and
/// the elementary functions may lose.
const TOLERANCE: f64 = 3e-6;
/// Minimum distance of a relu's input from 0 in every sample, well beyond the reach of `STEP`.
const FAR_FROM_KINK: f64 = 1e-3;

#[test]
fn gradients_agree_with_central_differences() {
    let hidden: [&[usize]; 3] = [&[], &[7], &[9, 4, 6]];
    for head in [Head::SquaredError, Head::Logistic, Head::Softmax, Head::Poisson] {
        for activation in [Activation::Relu, Activation::Tanh, Activation::Sigmoid] {
            for hidden in hidden {
                let name = format!("{head:?}, {activation:?}, {hidden:?}");
                check(&name, &Model::new(FEATURES, hidden, activation, head, CLASSES));
            }
        }
    }
    for kind in KINDS {
        check(kind.name, &Model::of_layers(FEATURES, kind.example, Head::Softmax, CLASSES));
    }
}

fn check(name: &str, model: &Model) {
    let samples = table(
        7,
        SAMPLES,
        FEATURES,
        match model.head() {
            Head::SquaredError => Targets::Value,
            Head::Logistic => Targets::Binary,
            Head::Softmax => Targets::Classes(CLASSES),
            Head::Poisson => Targets::Count,
        },
    );
    let weights = (0..).map(|seed| random_weights(model, seed)).find(|w| is_smooth(model, w, &samples));
    let weights = weights.expect("some weights are far from every kink");

    let plan = plan();
    let step = plan.step(0);
    let plain = reference::batch_sum(model, &weights, &samples, plan, step);
    let mut fast = Gradients::new(model.clone(), plan, Kernel::detect());
    let fast = fast.compute(&weights, &samples, 0, 0..step.tree().leaves()).pop().expect("the root");

    let mut w: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
    let total = loss(model, &w, &samples);
    assert!(
        (plain.metric_sums.loss / total - 1.0).abs() < 1e-6,
        "{name}: loss {} not {total}",
        plain.metric_sums.loss
    );
    let differences: Vec<f64> = (0..w.len())
        .map(|index| {
            let middle = w[index];
            w[index] = middle + STEP;
            let above = loss(model, &w, &samples);
            w[index] = middle - STEP;
            let below = loss(model, &w, &samples);
            w[index] = middle;
            (above - below) / (2.0 * STEP)
        })
        .collect();
    let scale = (differences.iter().map(|d| d * d).sum::<f64>() / differences.len() as f64).sqrt();
    assert!(scale > 1e-3, "{name}: a gradient of {scale} proves nothing");
    let mut worst = 0.0_f64;
    for (path, gradient) in [("reference", &plain.gradient), ("kernel", &fast.gradient)] {
        for (index, (&ours, wanted)) in gradient.iter().zip(&differences).enumerate() {
            let error = (f64::from(ours) - wanted).abs() / scale.max(wanted.abs());
            worst = worst.max(error);
            assert!(error < TOLERANCE, "{name}, {path}, parameter {index}: {ours}, not {wanted}");
        }
    }
    println!("{name}: {} parameters, largest error {worst:.1e}", w.len());
}

/// Returns weights with the magnitude of initial ones, and biases that are not 0.
fn random_weights(model: &Model, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Simulation, 1);
    (0..model.parameters()).map(|_| 1.6 * stream.unit() - 0.8).collect()
}

fn is_smooth(model: &Model, weights: &[f32], samples: &Table) -> bool {
    let w: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
    (0..samples.len()).all(|position| {
        let (_, sums) = forward(model, &w, samples, position);
        sums.iter().all(|z| z.abs() > FAR_FROM_KINK)
    })
}

/// Returns the last layer's outputs for the sample at a position of the batch, and all inputs of relus.
fn forward(model: &Model, w: &[f64], samples: &Table, position: usize) -> (Vec<f64>, Vec<f64>) {
    let index = plan().order(plan().step(0)).at(position);
    let row = &samples.values[index * FEATURES..][..FEATURES];
    let mut values: Vec<Vec<f64>> = vec![row.iter().map(|&x| f64::from(x)).collect()];
    let mut kinks = Vec::new();
    // Random words for each unit of this sample that may be dropped.
    let mut random_words = dropout_words(model, position);
    for layer in model.layers() {
        let x = &values[values.len() - 1];
        let output = match layer {
            Layer::Dense(dense) => {
                let rows = w[dense.weight_range()].chunks(dense.inputs).zip(&w[dense.bias_range()]);
                rows.map(|(row, b)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).collect()
            }
            Layer::Activation(Activation::Relu) => {
                kinks.extend(x);
                x.iter().map(|z| z.max(0.0)).collect()
            }
            Layer::Activation(Activation::Tanh) => x.iter().map(|z| z.tanh()).collect(),
            Layer::Activation(Activation::Sigmoid) => x.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
            Layer::Residual(residual) => x.iter().zip(&values[residual.source]).map(|(x, s)| x + s).collect(),
            Layer::Dropout(Dropout { rate, .. }) => {
                let (rate, words) = (f64::from(*rate), random_words.by_ref());
                let kept = words.map(|word| f64::from(word >> 8) / 16_777_216.0 >= rate);
                x.iter().zip(kept).map(|(x, kept)| if kept { x / (1.0 - rate) } else { 0.0 }).collect()
            }
        };
        values.push(output);
    }
    (values.pop().unwrap(), kinks)
}

/// Returns the random words of all dropout layers, for the sample at a position of the batch in step 0.
fn dropout_words(model: &Model, position: usize) -> impl Iterator<Item = u32> {
    let mut width = FEATURES as u64;
    let mut units = 0;
    for layer in model.layers() {
        match layer {
            Layer::Dense(dense) => width = dense.outputs as u64,
            Layer::Dropout(_) => units += width,
            _ => {}
        }
    }
    let first = position as u64 * units;
    (first..first + units).map(|number| random(plan().seed, Purpose::Dropout, 0, number)[0])
}

/// A plan with all samples in one batch.
fn plan() -> BatchPlan {
    BatchPlan::new(1, SAMPLES, SAMPLES, 4, 1, None)
}

/// Returns the sum of the negative log-likelihoods of all samples.
fn loss(model: &Model, w: &[f64], samples: &Table) -> f64 {
    let of_sample = |position: usize| {
        let (z, _) = forward(model, w, samples, position);
        let y = f64::from(samples.targets[plan().order(plan().step(0)).at(position)]);
        match model.head() {
            Head::SquaredError => (z[0] - y).powi(2) / 2.0,
            Head::Logistic => (1.0 + z[0].exp()).ln() - y * z[0],
            Head::Softmax => z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[y as usize],
            Head::Poisson => z[0].exp() - y * z[0],
        }
    };
    (0..samples.len()).map(of_sample).sum()
}
