//! Planes in the process that computes all gradients.

use crate::support::{Job, Points};
use ps_core::optim::Sgd;
use ps_core::{
    Activation, Control, ControlConfig, Head, Kernel, LearningRate, Model, ModelOptimizer, reference,
    weights_hash,
};
use ps_plan::BatchPlan;
use ps_plane::Plane;

#[test]
fn shared_weights_match_the_reference_and_are_not_copied() {
    let job = Job::new();
    let mut plane = Plane::shared(job.model.clone(), job.control());
    let mut gradients = job.gradients();
    let address = plane.weights().as_ptr();
    while plane.version() < job.plan.steps {
        let (step, weights) = (plane.version(), plane.shared_weights().unwrap());
        let leaves = job.plan.step(step).tree().leaves();
        let sums = [2..leaves, 0..2].map(|leaves| gradients.compute(&weights, &Points, step, leaves));
        drop(weights);
        sums.into_iter().flatten().for_each(|sum| plane.take_sum(sum));
        assert_eq!(plane.finish().unwrap().metric_sums.samples, 20);
        assert_eq!(plane.take_gradient().len(), job.model.parameters());
        // The last update is checked, so it keeps a copy to return to.
        assert_eq!(plane.weights().as_ptr() == address, step + 1 < job.plan.steps);
    }
    let (rate, optimizer) = (job.rate(), job.optimizer());
    let expected = reference::train(&job.model, job.plan, optimizer, rate, &Points, |_, _| {}).unwrap();
    assert_eq!(plane.weights(), expected);
}

#[test]
fn a_non_finite_step_keeps_shared_weights() {
    let job = Job::new();
    let mut plane = Plane::shared(job.model.clone(), job.control());
    let before = plane.weights().to_vec();
    let mut sum = job.gradients().compute(&before, &Points, 0, 0..4).remove(0);
    sum.gradient[3] = f32::NAN;
    plane.take_sum(sum);
    assert_eq!(plane.finish().unwrap_err().step, 0);
    assert_eq!(plane.version(), 0);
    assert_eq!(plane.weights(), before);
}

#[test]
fn weights_updated_in_place_match_the_reference() {
    let model = Model::new(3, &[40], Activation::Relu, Head::Softmax, 2);
    let plan = BatchPlan::new(5, 40, 20, 5, 3, None);
    let (optimizer, rate) = (Sgd { momentum: 0.9, ..Sgd::default() }, LearningRate::constant(0.1));
    let control =
        Control::new(ControlConfig::default(), ModelOptimizer::new(optimizer, &model, 5), plan, rate);
    let mut plane = Plane::fused(model.clone(), control.clone(), Kernel::detect());
    assert!(plane.shared_weights().is_none());
    for step in 0..plan.steps {
        // Another process continues in the middle.
        if step == 3 {
            let (weights, state) = (plane.weights().to_vec(), plane.state().to_vec());
            let decided = plane.control().state().clone();
            plane = Plane::fused(model.clone(), control.clone(), Kernel::detect());
            plane.restore_whole(3, &weights, &state, decided);
        }
        plane.compute(&Points);
        assert_eq!(plane.finish().unwrap().step, step);
    }
    let expected = reference::train(&model, plan, optimizer, rate, &Points, |_, _| {}).unwrap();
    assert_eq!(weights_hash(plane.weights()), weights_hash(&expected));
}
