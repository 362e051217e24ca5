//! Decisions for given losses. Every step is an epoch of one sample, so that any step may
//! follow a validation.

use super::*;
use crate::LearningRate;
use crate::layer::Activation;
use crate::model::{Head, Model};
use crate::optim::Sgd;

const RATE: f64 = 0.5;

fn control(config: ControlConfig, rate: LearningRate) -> Control {
    let model = Model::new(1, &[], Activation::Relu, Head::Poisson, 1);
    let plan = BatchPlan::new(1, 1, 1, 1, 1000, None).watching(1, 0);
    Control::new(config, ModelOptimizer::new(Sgd::default(), &model, 1), plan, rate)
}

fn guarded(guard: Guard) -> Control {
    control(ControlConfig { guard: Some(guard), ..ControlConfig::default() }, LearningRate::constant(RATE))
}

/// The defaults of a run file.
const GUARD: Guard = Guard { can_recover: true, factor: 0.5, retries: 10, rise: 3.0, every: 100 };

fn metric_sums(loss: f64) -> MetricSums {
    MetricSums { samples: 1, loss, ..MetricSums::default() }
}

fn decide(
    control: &mut Control,
    step: u64,
    loss: f64,
    validation: Option<f64>,
) -> Result<(Verdict, Vec<&'static str>), NotFinite> {
    let observed =
        Observed { train: metric_sums(loss), last_batch: None, validation: validation.map(metric_sums) };
    let norms = control.optimizer().norms(&[]);
    let (verdict, decided) = control.decide(control.plan().step(step), &observed, &norms)?;
    Ok((verdict, decided.events.iter().map(Event::name).collect()))
}

/// The loss of a run that learns normally, after `steps` steps from its first weights.
fn learning(steps: u64) -> f64 {
    0.02 + 2.3 * 0.95_f64.powi(steps as i32)
}

/// Feeds the guard `losses(step)` for the steps of `range`, and returns the steps at which it recovered.
fn recoveries(
    control: &mut Control,
    range: std::ops::Range<u64>,
    losses: impl Fn(u64) -> f64,
) -> Result<Vec<u64>, NotFinite> {
    let mut recoveries = Vec::new();
    for step in range {
        let (verdict, events) = decide(control, step, losses(step), None)?;
        let recovers = verdict.action == Action::Recover;
        assert_eq!(events, if recovers { vec!["recovered"] } else { vec![] }, "step {step}");
        if recovers {
            recoveries.push(step);
        }
    }
    Ok(recoveries)
}

#[test]
fn one_explosion_costs_one_recovery() {
    for explosion in [1e3, f64::INFINITY, f64::NAN] {
        let mut control = guarded(GUARD);
        assert_eq!(recoveries(&mut control, 0..60, learning), Ok(vec![]));
        assert_eq!(control.count(), 60);
        let (verdict, _) = decide(&mut control, 60, explosion, None).unwrap();
        assert_eq!((verdict.action, verdict.count), (Action::Recover, 0));
        // The kept weights are those before step 0, whose loss is far above what the run had reached.
        assert_eq!(recoveries(&mut control, 61..300, |step| learning(step - 61)), Ok(vec![]));
        assert_eq!(control.rate(300), (RATE * 0.5) as f32);
    }
}

#[test]
fn every_explosion_costs_one_recovery_until_none_is_left() {
    let mut control = guarded(Guard { retries: 3, ..GUARD });
    let losses = |step| if step % 50 == 49 { 1e3 } else { learning(step % 50) };
    assert_eq!(recoveries(&mut control, 0..199, losses), Ok(vec![49, 99, 149]));
    assert_eq!(control.rate(199), (RATE * 0.125) as f32);
    let (verdict, events) = decide(&mut control, 199, 1e3, None).unwrap();
    assert_eq!((verdict.action, events), (Action::Step, vec!["warned"]));
    assert_eq!(decide(&mut control, 200, 1e3, None).unwrap().1, [""; 0], "an explosion is reported once");
    assert_eq!(decide(&mut control, 201, f64::NAN, None), Err(NotFinite));
}

#[test]
fn a_rate_that_is_much_too_high_is_lowered_until_it_is_not() {
    let mut control = guarded(GUARD);
    assert_eq!(recoveries(&mut control, 0..1, learning), Ok(vec![]));
    // Each attempt explodes at its second step.
    let mut step = 1;
    for recovery in 1..=5 {
        assert_eq!(
            recoveries(&mut control, step..step + 2, |at| [30.0, 2.3][(at - step) as usize]),
            Ok(vec![step])
        );
        assert_eq!(control.rate(step), (RATE * 0.5_f64.powi(recovery)) as f32);
        step += 2;
    }
    assert_eq!(recoveries(&mut control, step..400, |at| learning(at - step)), Ok(vec![]));
}

#[test]
fn after_a_recovery_the_limit_is_that_of_the_weights_that_are_restored() {
    // The mean over the losses up to step 40, whose weights are the last to be kept before step 55.
    let (mut sum, mut weight) = (0.0, 0.0);
    for step in 0..=40 {
        sum = 0.1 * learning(step) + 0.9 * sum;
        weight = 0.1 + 0.9 * weight;
    }
    let limit = 3.0 * sum / weight;
    // The loss that takes the mean exactly to the limit in the step after the recovery.
    let edge = (limit * (0.1 + 0.9 * weight) - 0.9 * sum) / 0.1;
    for (loss, explodes) in [(0.999 * edge, false), (1.001 * edge, true)] {
        let mut control = guarded(Guard { every: 20, ..GUARD });
        assert_eq!(recoveries(&mut control, 0..55, learning), Ok(vec![]));
        let (verdict, _) = decide(&mut control, 55, 1e9, None).unwrap();
        assert_eq!((verdict.action, verdict.count), (Action::Recover, 40));
        let (verdict, _) = decide(&mut control, 56, loss, None).unwrap();
        assert_eq!(verdict.action == Action::Recover, explodes, "{loss}");
    }
}

#[test]
fn negative_losses_are_not_an_explosion() {
    for rise in [1.001, 1.2, 1.5, 2.0, 3.0] {
        for every in [1, 100] {
            let mut control = guarded(Guard { rise, every, ..GUARD });
            // From 1, like a Poisson regression at zero weights, through 0 to -49.
            assert_eq!(
                recoveries(&mut control, 0..500, |step| 1.0 - 0.1 * step as f64),
                Ok(vec![]),
                "rise {rise}"
            );
        }
    }
}

#[test]
fn a_loss_below_0_explodes_when_it_rises_above_the_limit() {
    for (loss, explodes) in [(-2.6, false), (-2.4, true)] {
        let mut control = guarded(Guard { rise: 1.5, ..GUARD });
        assert_eq!(recoveries(&mut control, 0..300, |_| -5.0), Ok(vec![]));
        // The limit is -5 + 0.5 * 5. The mean converges to the loss.
        let found = recoveries(&mut control, 300..400, |_| loss).unwrap();
        assert_eq!(!found.is_empty(), explodes, "{loss}: {found:?}");
    }
}

fn plateau(threshold: f64, is_absolute: bool) -> Control {
    let rate = LearningRate {
        schedule: ScheduleKind::Plateau,
        factor: 0.5,
        patience: 2,
        threshold,
        is_absolute,
        ..LearningRate::constant(RATE)
    };
    control(ControlConfig::default(), rate)
}

/// The steps before which the plateau lowered the rate.
fn lowered(control: &mut Control, losses: &[f64]) -> Vec<usize> {
    let mut steps = Vec::new();
    for (step, &loss) in losses.iter().enumerate() {
        let (_, events) = decide(control, step as u64, 1.0, Some(loss)).unwrap();
        if events == ["lowered"] {
            steps.push(step);
        }
    }
    steps
}

#[test]
fn a_relative_threshold_is_a_share_of_the_magnitude_of_the_best_loss() {
    // A loss of either sign must improve by a hundredth; less counts as a plateau even if the
    // loss falls steadily.
    for first in [5.0_f64, -5.0] {
        let falling = |share: f64| -> Vec<f64> {
            let fall = |step: i32| first - first.abs() * (1.0 - (1.0 - share).powi(step));
            (0..7).map(fall).collect()
        };
        assert_eq!(lowered(&mut plateau(0.01, false), &falling(0.001)), [3, 6], "{first}");
        assert_eq!(lowered(&mut plateau(0.01, false), &falling(0.02)), [0; 0], "{first}");
        assert_eq!(lowered(&mut plateau(0.01, false), &[first; 7]), [3, 6], "{first}");
        // The loss grows steadily.
        assert_eq!(lowered(&mut plateau(0.5, false), &falling(-0.002)), [3, 6], "{first}");
    }
}

#[test]
fn a_loss_that_equals_the_best_is_not_better() {
    for is_absolute in [false, true] {
        assert_eq!(lowered(&mut plateau(0.0, is_absolute), &[-1.0; 7]), [3, 6]);
        assert_eq!(lowered(&mut plateau(0.0, is_absolute), &[0.0; 7]), [3, 6]);
    }
    // These are below the best by exactly the threshold.
    assert_eq!(lowered(&mut plateau(0.25, false), &[-4.0, -5.0, -5.0, -5.0]), [3]);
    assert_eq!(lowered(&mut plateau(0.25, true), &[-4.0, -4.25, -4.25, -4.25]), [3]);
    assert_eq!(lowered(&mut plateau(0.25, true), &[-4.0, -4.25, -4.25, -4.26]), [0; 0]);
}

#[test]
fn a_validation_loss_that_is_not_finite_is_never_better() {
    for odd in [f64::NAN, f64::INFINITY] {
        for is_absolute in [false, true] {
            assert_eq!(lowered(&mut plateau(0.1, is_absolute), &[odd; 7]), [2, 5]);
            assert_eq!(lowered(&mut plateau(0.1, is_absolute), &[odd, odd, 1.0, 1.0, odd, 1.0, 0.5]), [5]);
        }
        let early_stopping = Some(EarlyStopping { patience: 2, min_delta: 0.0 });
        let config = ControlConfig { early_stopping, ..ControlConfig::default() };
        let mut control = control(config, LearningRate::constant(RATE));
        let kept: Vec<bool> = [odd, odd, odd, 2.0, odd, 1.0, odd]
            .iter()
            .enumerate()
            .map(|(step, &loss)| decide(&mut control, step as u64, 1.0, Some(loss)).unwrap().0.keep_best)
            .collect();
        assert_eq!(kept, [false, false, false, true, false, true, false]);
        let (verdict, events) = decide(&mut control, 7, 1.0, Some(odd)).unwrap();
        assert_eq!((verdict.action, events), (Action::Best, vec!["stopped"]));
    }
}
