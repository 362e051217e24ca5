//! Momentum, warm restarts, noise and other seeds each lead out of a poor minimum.

use ps_core::optim::{Noise, Sgd};
use ps_core::{
    Activation, Head, LearningRate, MetricSums, Model, NodeSum, OptimizerConfig, ScheduleKind, Trainer,
};
use ps_plan::BatchPlan;

const STEPS: u64 = 20_000;

/// A function with two valleys: a narrow and shallow one of 0.418 at 1.170, and a wide and deep one of −0.181
/// at −0.968. The ridge between them has a height of 0.687, at 0.725.
fn height(w: f64) -> f64 {
    1.0 - narrow(w) - wide(w) + 0.02 * w * w
}

fn narrow(w: f64) -> f64 {
    0.5 * (-(w - 1.2).powi(2) / 0.1).exp()
}

fn wide(w: f64) -> f64 {
    1.2 * (-(w + 1.0).powi(2) / 2.0).exp()
}

fn slope(w: f64) -> f64 {
    20.0 * (w - 1.2) * narrow(w) + (w + 1.0) * wide(w) + 0.04 * w
}

/// Returns where descent over `height` ends. It starts at the initial value of the first weight.
fn descend(seed: u64, optimizer: OptimizerConfig, rate: LearningRate) -> f64 {
    let model = Model::new(1, &[1], Activation::Tanh, Head::SquaredError, 0);
    let plan = BatchPlan::new(seed, 1, 1, 1, STEPS as u32, None);
    let mut trainer = Trainer::new(&model, plan, optimizer, rate);
    let place = |trainer: &Trainer| f64::from(trainer.weights()[0]);
    while !trainer.is_done() {
        let w = place(&trainer);
        let mut gradient = vec![0.0; model.parameters()];
        gradient[0] = slope(w) as f32;
        let metric_sums = MetricSums { samples: 1, loss: height(w), ..MetricSums::new(0) };
        let node = plan.step(trainer.version()).tree().root();
        trainer.finish(&mut NodeSum { node, gradient, metric_sums }).unwrap();
    }
    place(&trainer)
}

fn plain() -> OptimizerConfig {
    Sgd::default().into()
}

fn is_good(w: f64) -> bool {
    (w + 0.968).abs() < 0.1
}

/// Returns a seed whose run starts on the far side of the poor minimum, higher than the ridge.
fn seed_of_the_poor_side() -> u64 {
    let model = Model::new(1, &[1], Activation::Tanh, Head::SquaredError, 0);
    (0..).find(|seed| model.initial(*seed)[0] > 1.45).unwrap()
}

#[test]
fn plain_descent_ends_in_the_poor_minimum() {
    let end = descend(seed_of_the_poor_side(), plain(), LearningRate::constant(0.02));
    assert!((end - 1.170).abs() < 0.01, "{end}");
}

#[test]
fn momentum_carries_over_the_ridge() {
    let momentum = Sgd { momentum: 0.98, ..Sgd::default() };
    let end = descend(seed_of_the_poor_side(), momentum.into(), LearningRate::constant(0.02));
    assert!(is_good(end), "{end}");
}

#[test]
fn warm_restarts_escape_at_a_rate_that_the_minimum_is_too_narrow_for() {
    // A minimum is stable for rates below 2 divided by its curvature: 0.21 for the narrow one, 1.6 for the
    // wide one.
    let restarts = LearningRate {
        schedule: ScheduleKind::CosineRestarts,
        every: 200,
        steps: STEPS,
        ..LearningRate::constant(0.6)
    };
    let end = descend(seed_of_the_poor_side(), plain(), restarts);
    let constant = descend(seed_of_the_poor_side(), plain(), LearningRate::constant(0.02));
    assert!(is_good(end) && !is_good(constant), "{end} {constant}");
}

#[test]
fn decaying_noise_escapes_and_settles_in_the_good_minimum() {
    let noisy = || OptimizerConfig { noise: Some(Noise { scale: 3000.0, decay: 0.9 }), ..plain() };
    let model = Model::new(1, &[1], Activation::Tanh, Head::SquaredError, 0);
    let seeds = (0..).filter(|seed| model.initial(*seed)[0] > 0.8).take(16);
    let ends: Vec<[f64; 2]> = seeds
        .map(|seed| {
            [plain(), noisy()].map(|optimizer| descend(seed, optimizer, LearningRate::constant(0.02)))
        })
        .collect();
    assert!(ends.iter().all(|[without, _]| !is_good(*without)), "{ends:?}");
    assert!(ends.iter().filter(|[_, with]| is_good(*with)).count() > 8, "{ends:?}");
}

#[test]
fn other_seeds_start_elsewhere() {
    let ends = (0..8).map(|seed| descend(seed, plain(), LearningRate::constant(0.02)));
    let good = ends.filter(|end| is_good(*end)).count();
    assert!((1..8).contains(&good), "{good} of 8 seeds end in the good minimum");
}
