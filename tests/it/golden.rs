//! Hashes of a few small runs under version 2 of `docs/numerics.md`. If one of them changes, so do the
//! results of users, and `NUMERICS_VERSION` must be increased.

use crate::generated::{Targets, table};
use ps_core::control::Guard;
use ps_core::optim::Sgd;
use ps_core::{
    Activation, Control, ControlConfig, Gradients, Head, Kernel, LearningRate, Model, ModelOptimizer,
    NUMERICS_VERSION, OptimizerParams, Samples, ScheduleKind, StepReport, Trainer, reference, weights_hash,
};
use ps_data::{DataConfig, NoProgress, Task};
use ps_plan::BatchPlan;
use std::path::Path;

const LINEAR: &str = "c1d95aa632bf27d6e4eca0d42f50e61d62216248a4faa26be508feaa29a65f95";
const LOGISTIC: &str = "98d1a62c9626781b04bfb1618c08e39519a57c9a05b0fec11a17a7286372d57b";
const SOFTMAX: &str = "331b66be4dada3ae8ea5cdf3c1124c7ba5075716da589c8501c6dc0808b513fa";
const POISSON: &str = "9727ed0e2f050207056b710599bc192f56dc2c0126ff3a2e79b32ae5c855d492";
const MLP_RELU: &str = "ba979585be8fb84c02021e817a95c0d42b81129c537fb2d1b5283bc24223d9f9";
const MLP_TANH: &str = "95f9122f376f7c067fc739e2cfb718bc6123abdb020d9466c4d544c58e86753e";
const MLP_SIGMOID: &str = "31f2be037c234b250a2f11a3837c0589bbfbf1981453dfcc1ef6311f8e3d195b";
const DIGITS_SOFTMAX: &str = "bf972cec2aa3bd63f0ba318ecfca77dce8f46d0478937df3586409ea2be4ef49";
const DIGITS_MLP: &str = "8bb058fd7aaf8abd74e78c5e9fd45006f3bc68ab7813df06bfd42ae594eff2cc";

// The hashes that changed with version 2.
const GUARD: &str = "a72a152aca1d62537608feaf08a3196b795293008a2b7a2afa9d3b4a28888f7a";
const GUARD_BELOW_0: &str = "6a5dfc6ef074c17a4cf368034b3217c8ce531dfa1f6e713ab8c233cfce7d2c96";
const PLATEAU_BELOW_0: &str = "fa4cc3d530897e1a11039717ee4bdd71a3e12db745bdeda7f9b2179c4f0325c4";

#[test]
fn version_2_has_these_hashes() {
    assert_eq!(NUMERICS_VERSION, 2, "the hashes in this file are those of version 2: find the new ones");
    let generated = |head: Head, hidden: &[usize], activation: Activation| {
        let targets = match head {
            Head::SquaredError => Targets::Value,
            Head::Logistic => Targets::Binary,
            Head::Softmax => Targets::Classes(3),
            Head::Poisson => Targets::Count,
        };
        let samples = table(1, 97, 6, targets);
        hash_of(&samples, &Model::new(6, hidden, activation, head, 3))
    };
    let hashes = [
        ("linear", generated(Head::SquaredError, &[], Activation::Relu), LINEAR),
        ("logistic", generated(Head::Logistic, &[], Activation::Relu), LOGISTIC),
        ("softmax", generated(Head::Softmax, &[], Activation::Relu), SOFTMAX),
        ("poisson", generated(Head::Poisson, &[], Activation::Relu), POISSON),
        ("mlp relu", generated(Head::Softmax, &[12, 7], Activation::Relu), MLP_RELU),
        ("mlp tanh", generated(Head::SquaredError, &[9], Activation::Tanh), MLP_TANH),
        ("mlp sigmoid", generated(Head::Logistic, &[9], Activation::Sigmoid), MLP_SIGMOID),
        ("digits softmax", digits(&[]), DIGITS_SOFTMAX),
        ("digits mlp", digits(&[20]), DIGITS_MLP),
        ("guard", guarded(Head::Softmax, LearningRate { warmup: 60, ..LearningRate::constant(40.0) }), GUARD),
        (
            "guard below 0",
            guarded(Head::Poisson, LearningRate { warmup: 60, ..LearningRate::constant(3.0) }),
            GUARD_BELOW_0,
        ),
        (
            "plateau below 0",
            guarded(
                Head::Poisson,
                LearningRate {
                    schedule: ScheduleKind::Plateau,
                    factor: 0.5,
                    patience: 0,
                    threshold: 0.01,
                    ..LearningRate::constant(0.02)
                },
            ),
            PLATEAU_BELOW_0,
        ),
    ];
    let table: String = hashes.iter().map(|(name, hash, _)| format!("{name}: {hash}\n")).collect();
    for (name, hash, wanted) in &hashes {
        assert_eq!(hash, wanted, "{name}; all of them:\n{table}");
    }
}

fn digits(hidden: &[usize]) -> String {
    let config = DataConfig { standardize: true, ..DataConfig::new("digits:200") };
    let data = ps_data::load(&config, Task::Classes, 1, Path::new("."), &NoProgress).unwrap();
    hash_of(&data.train, &Model::new(784, hidden, Activation::Relu, Head::Softmax, 10))
}

/// Returns the hash after twelve epochs with a guard, in a run in which the guard intervenes.
fn guarded(head: Head, rate: LearningRate) -> String {
    let (targets, classes) = match head {
        Head::Poisson => (Targets::Count, 0),
        _ => (Targets::Classes(3), 3),
    };
    let part = |samples| {
        let mut part = table(1, samples, 6, targets);
        if head == Head::Poisson {
            // Counts so large that a good fit has a loss below 0.
            part.targets.iter_mut().for_each(|count| *count += 6.0);
        }
        part
    };
    let (samples, validation) = (part(97), part(50));
    let model = Model::new(6, &[], Activation::Relu, head, classes);
    let plan = BatchPlan::new(7, samples.len(), 20, 6, 12, None).watching(validation.len(), 0);
    let guard = Guard { can_recover: true, factor: 0.5, retries: 10, rise: 1.5, every: 20 };
    let config = ControlConfig { guard: Some(guard), ..ControlConfig::default() };
    let optimizer = ModelOptimizer::new(Sgd { momentum: 0.5, ..Sgd::default() }, &model, plan.seed);
    let trainer = Trainer::controlled(&model, Control::new(config, optimizer, plan, rate));
    let mut events = 0;
    let mut count = |report: &StepReport, _: &[f32]| events += report.events.len();
    let trained = reference::run(&model, trainer, &samples, Some(&validation), &mut count).unwrap();
    assert!(events > 0, "{head:?}: nothing was decided");
    weights_hash(trained.weights())
}

/// Returns the hash after two epochs with all features switched on, by plain loops and by the kernels.
fn hash_of(samples: &dyn Samples, model: &Model) -> String {
    let plan = BatchPlan::new(7, samples.len(), 20, 6, 2, None);
    let sgd = OptimizerParams {
        weight_decay: 1e-3,
        l1: 1e-5,
        clip: Some(0.5),
        ..Sgd { momentum: 0.9, nesterov: true }.into()
    };
    let rate = LearningRate {
        schedule: ScheduleKind::Cosine,
        warmup: 3,
        steps: plan.steps,
        ..LearningRate::constant(0.05)
    };
    let plain = reference::train(model, plan, sgd, rate, samples, |_, _| {}).unwrap();

    let mut trainer = Trainer::new(model, plan, sgd, rate);
    let mut gradients = Gradients::new(model.clone(), plan, Kernel::detect());
    while !trainer.is_done() {
        let leaves = plan.step(trainer.version()).tree().leaves();
        let mut sums = gradients.compute(trainer.weights(), samples, trainer.version(), 0..leaves);
        trainer.finish(&mut sums.pop().unwrap()).unwrap();
    }
    assert_eq!(weights_hash(&plain), weights_hash(trainer.weights()));
    weights_hash(&plain)
}
