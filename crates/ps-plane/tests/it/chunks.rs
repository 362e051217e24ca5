//! Planes whose weights are split into chunks, as servers keep them.

use crate::support::{Job, Never, Own, WORKER, begin, push, send, weights};
use ps_coord::WorkerId;
use ps_core::control::State;
use ps_core::optim::UpdateNorms;
use ps_core::{MetricSums, NodeSum, reference, weights_hash};
use ps_plan::Node;
use ps_plane::{NodeDone, NodeMetrics, Plane, Rejected};

/// The hash of the reference trainer's weights.
fn expected(job: &Job) -> String {
    let rate = job.rate();
    let samples = &crate::support::Points;
    let trained = reference::train(&job.model, job.plan, job.optimizer(), rate, samples, |_, _| {});
    weights_hash(&trained.unwrap())
}

fn hash(job: &Job, plane: &Plane) -> String {
    weights_hash(&weights(plane, job.model.parameters()))
}

#[test]
fn nodes_in_any_order_give_the_reference_weights() {
    let job = Job::new();
    let mut plane = job.plane();
    while plane.version() < job.plan.steps {
        let step = plane.version();
        // Each leaf from a different worker, the last first, and then a copy of all.
        for leaf in job.leaves(&plane).rev() {
            let sum = job.sums(&plane, leaf..leaf + 1).remove(0);
            push(&mut plane, WorkerId(leaf), step, &sum).unwrap();
        }
        let copy = job.sums(&plane, job.leaves(&plane)).remove(0);
        push(&mut plane, WORKER, step, &copy).unwrap();
        let report = plane.commit(&[]).unwrap();
        assert_eq!((report.step, report.metric_sums.samples), (step, job.plan.step(step).samples as u64));
    }
    assert_eq!(hash(&job, &plane), expected(&job));
}

#[test]
fn a_chunk_is_updated_once_its_leaves_arrive_and_its_old_weights_are_kept() {
    let job = Job::new();
    let mut plane = job.plane();
    let before = weights(&plane, job.model.parameters());
    let sum = job.sums(&plane, job.leaves(&plane)).remove(0);
    begin(&mut plane, WORKER, 0, &sum).unwrap();
    let made = send(&mut plane, WORKER, 0, &sum, 8..16).unwrap();
    assert_eq!(made.iter().map(|part| (part.version, part.offset)).collect::<Vec<_>>(), [(1, 8)]);
    assert!(!plane.is_complete() && !plane.is_gathered());
    assert_eq!(plane.missing(), [job.leaves(&plane)]);
    assert_eq!(weights(&plane, job.model.parameters()), before);
    assert_eq!(plane.weights_chunks().filter(|part| part.version == 1).count(), 1);
}

#[test]
fn starting_over_reverts_weights_state_and_sums() {
    let job = Job::new();
    let mut plane = job.plane();
    job.step(&mut plane);
    let before =
        (hash(&job, &plane), plane.state_at(1).into_iter().map(|part| part.bytes).collect::<Vec<_>>());
    // The first chunk is updated from a wrong sum.
    let mut sum = job.sums(&plane, job.leaves(&plane)).remove(0);
    sum.gradient[0] += 1.0;
    begin(&mut plane, WORKER, 1, &sum).unwrap();
    assert_eq!(send(&mut plane, WORKER, 1, &sum, 0..8).unwrap().len(), 1);
    assert!(plane.counts_on(WORKER));
    plane.start_over();
    assert!(!plane.counts_on(WORKER));
    let after =
        (hash(&job, &plane), plane.state_at(1).into_iter().map(|part| part.bytes).collect::<Vec<_>>());
    assert_eq!(before, after);
    while plane.version() < job.plan.steps {
        job.step(&mut plane);
    }
    assert_eq!(hash(&job, &plane), expected(&job));
}

#[test]
fn a_restored_plane_continues_with_the_same_bits() {
    let job = Job::new();
    let mut plane = job.plane();
    job.step(&mut plane);
    job.step(&mut plane);
    let parameters = job.model.parameters();
    let (saved, mut state) = (weights(&plane, parameters), vec![0.0; parameters]);
    for part in plane.state_at(2) {
        let elements = part.bytes.as_chunks().0;
        ps_core::chunk::read(elements, &mut state[part.offset..part.offset + elements.len()]);
    }
    let control: State = plane.control().state().clone();
    job.step(&mut plane);
    // In the middle of a step of another run.
    let mut other = job.plane();
    let sum = job.sums(&other, job.leaves(&other)).remove(0);
    begin(&mut other, WORKER, 0, &sum).unwrap();
    send(&mut other, WORKER, 0, &sum, 0..8).unwrap();
    other.restore_whole(2, &saved, &state, control);
    assert_eq!((other.version(), other.oldest()), (2, 2));
    job.step(&mut other);
    assert_eq!(hash(&job, &other), hash(&job, &plane));
    other.restart();
    assert_eq!(hash(&job, &other), weights_hash(&job.model.initial(job.plan.seed)));
}

#[test]
fn several_planes_together_give_the_weights_of_one() {
    let job = Job::new();
    let parameters = job.model.parameters();
    let (mut one, mut two) = (job.part(0..16), job.part(16..parameters).keep_previous());
    while one.version() < job.plan.steps {
        let step = one.version();
        let mut all = weights(&one, parameters);
        all.iter_mut().zip(weights(&two, parameters)).for_each(|(weight, other)| *weight += other);
        let sum = job.gradients().compute(&all, &crate::support::Points, step, job.leaves(&one)).remove(0);
        for plane in [&mut one, &mut two] {
            push(plane, WORKER, step, &sum).unwrap();
            // Any chunk of the sender may be part of another shard's sums.
            assert_eq!(plane.counted_at(WORKER), Some(step));
            plane.commit(&[]).unwrap();
        }
        assert_eq!((two.oldest(), two.version()), (step, step + 1));
        assert_eq!(
            (two.chunks_at(step).unwrap().len(), two.counted_at(WORKER)),
            (two.kept_chunks().len(), Some(step))
        );
        assert!(one.chunks_at(step).is_none());
    }
    let mut all = weights(&one, parameters);
    all.iter_mut().zip(weights(&two, parameters)).for_each(|(weight, other)| *weight += other);
    assert_eq!(weights_hash(&all), expected(&job));
}

#[test]
fn the_weights_before_a_step_are_served_until_the_next_one_begins() {
    let job = Job::new();
    let mut plane = job.plane().keep_previous();
    let first = plane.kept_chunks();
    job.step(&mut plane);
    assert_eq!(plane.chunks_at(0).unwrap(), first);
    assert_eq!(plane.weights_chunks().filter(|part| part.version == 0).count(), first.len());
    let sum = job.sums(&plane, job.leaves(&plane)).remove(0);
    begin(&mut plane, WORKER, 1, &sum).unwrap();
    assert_eq!(plane.oldest(), 0);
    send(&mut plane, WORKER, 1, &sum, 0..8).unwrap();
    assert_eq!((plane.oldest(), plane.chunks_at(0)), (1, None));
}

#[test]
fn invalid_messages_are_rejected() {
    let job = Job::new();
    let mut plane = job.plane();
    let sum = job.sums(&plane, job.leaves(&plane)).remove(0);
    let node = sum.node;
    assert_eq!(begin(&mut plane, WORKER, 3, &sum), Err(Rejected::NotOpen { step: 3, node, version: 0 }));
    let rejected = send(&mut plane, WORKER, 0, &sum, 0..8).unwrap_err();
    assert_eq!(rejected, Rejected::ChunkBeforeMetrics { step: 0, node });
    let done = NodeDone { step: 0, node };
    assert_eq!(plane.take_end(WORKER, done), Err(Rejected::DoneBeforeMetrics { step: 0, node }));
    begin(&mut plane, WORKER, 0, &sum).unwrap();
    send(&mut plane, WORKER, 0, &sum, 0..8).unwrap();
    let missing = plane.kept_chunks().len() - 1;
    assert_eq!(plane.take_end(WORKER, done), Err(Rejected::Incomplete { step: 0, node, missing }));
    let metric_sums = MetricSums { loss: f64::NAN, ..sum.metric_sums.clone() };
    let metrics = NodeMetrics { step: 0, node, metric_sums };
    let rejected = plane.take_metrics(WORKER, metrics, &mut Own(&job)).unwrap_err();
    assert_eq!(rejected, Rejected::NotFinite { step: 0, node });
    // A worker that was forgotten must begin the node again.
    begin(&mut plane, WORKER, 0, &sum).unwrap();
    plane.forget(WORKER);
    assert_eq!(plane.take_end(WORKER, done), Err(Rejected::DoneBeforeMetrics { step: 0, node }));
    for leaf in 0..64_u32 {
        let node = Node { level: 0, index: leaf % 4 };
        let metrics = NodeMetrics { step: 0, node, metric_sums: sum.metric_sums.clone() };
        plane.take_metrics(WorkerId(leaf), metrics, &mut Never).unwrap();
    }
}

#[test]
fn audited_nodes_count_once_complete_and_hash_equally_from_every_sender() {
    let job = Job::new();
    let mut plane = job.plane();
    plane.audit();
    let mut sum = job.sums(&plane, job.leaves(&plane)).remove(0);
    let node = sum.node;
    begin(&mut plane, WORKER, 0, &sum).unwrap();
    assert!(send(&mut plane, WORKER, 0, &sum, 0..usize::MAX).unwrap().is_empty());
    assert!(!plane.covers(0, node) && !plane.is_gathered());
    let digest = plane.take_end(WORKER, NodeDone { step: 0, node }).unwrap().unwrap();
    assert!(plane.covers(0, node) && plane.is_gathered() && plane.has_all_metrics());
    assert_eq!(plane.recompute_digest(node, &mut Own(&job)), digest);
    // A single different bit of the gradient, or of the metrics, changes the hash.
    let mut other = |sum: &NodeSum| {
        begin(&mut plane, WorkerId(8), 0, sum).unwrap();
        send(&mut plane, WorkerId(8), 0, sum, 0..usize::MAX).unwrap();
        plane.take_end(WorkerId(8), NodeDone { step: 0, node }).unwrap().unwrap()
    };
    let flipped = f64::from_bits(sum.metric_sums.loss.to_bits() ^ 1);
    assert_ne!(
        other(&NodeSum {
            metric_sums: MetricSums { loss: flipped, ..sum.metric_sums.clone() },
            ..sum.clone()
        }),
        digest
    );
    sum.gradient[20] = f32::from_bits(sum.gradient[20].to_bits() ^ 1);
    assert_ne!(other(&sum), digest);
    assert_eq!(plane.release().len(), plane.kept_chunks().len());
}

#[test]
fn a_non_finite_step_keeps_the_weights() {
    let job = Job::new();
    let parameters = job.model.parameters();
    // If other shards keep a part, a broken worker cannot be identified.
    let mut plane = job.part(0..16);
    let before = weights(&plane, parameters);
    let mut sum = job.gradients().compute(&job.model.initial(5), &crate::support::Points, 0, 0..4).remove(0);
    sum.gradient[3] = f32::INFINITY;
    push(&mut plane, WORKER, 0, &sum).unwrap();
    assert_eq!(plane.commit(&[]).unwrap_err().step, 0);
    assert_eq!((weights(&plane, parameters), plane.version()), (before, 0));
}

#[test]
fn a_probed_step_waits_for_the_decision_which_the_next_one_reports() {
    let mut job = Job::new();
    job.plan = job.plan.watching(0, 2);
    let mut plane = job.plane();
    let sum = job.sums(&plane, 0..4).remove(0);
    assert!(push(&mut plane, WORKER, 0, &sum).unwrap().is_empty());
    assert!(
        plane.awaits_decision() && plane.is_gathered() && plane.has_all_metrics() && !plane.is_complete()
    );
    let sums = plane.measure();
    assert!(plane.decide(&sums).is_some_and(|verdict| verdict.measures));
    assert_eq!(plane.release().len(), plane.kept_chunks().len());
    let update_norms: Vec<UpdateNorms> = plane.measure_update();
    assert!(!update_norms.is_empty());
    plane.commit(&update_norms).unwrap();
    // The next step's leaves include those of the previous batch.
    assert!(!plane.awaits_decision() && plane.missing_metrics().len() == 2);
}
