//! A worker of local training: turns tasks of the coordinator into results.

use super::NEVER;
use crossbeam::channel::{Receiver, Sender};
use ps_coord::{WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerId};
use ps_core::{Gradients, NodeSum};
use ps_plan::Section;
use ps_run::Job;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Work that the coordinator assigns to a worker.
pub(super) struct Task {
    /// The step, which is also the version of the weights, and the leaves to compute.
    pub work: (u64, Range<u32>),
    pub weights: Arc<Vec<f32>>,
}

/// The answer of a worker to a [`Task`].
pub(super) struct TaskResult {
    pub worker: WorkerId,
    /// The step and the sums of its nodes; `None` if the worker's thread has ended.
    pub sums: Option<(u64, Vec<NodeSum>)>,
}

/// A worker's round logic and its buffers.
pub(super) struct Worker<'a> {
    job: &'a Job,
    id: WorkerId,
    core: WorkerCore,
    gradients: Gradients,
}

impl<'a> Worker<'a> {
    pub(super) fn new(job: &'a Job, id: WorkerId) -> Self {
        let config = WorkerConfig {
            heartbeat_ms: NEVER,
            server_timeout_ms: NEVER,
            weights_timeout_ms: NEVER,
            reconnect_min_ms: NEVER,
            reconnect_max_ms: NEVER,
            give_up_ms: NEVER,
            jitter_seed: u64::from(id.0),
        };
        let mut core = WorkerCore::new(0, config);
        let mut connect = Vec::new();
        core.step(0, WorkerEvent::Timeout, &mut connect);
        core.step(0, WorkerEvent::Connected, &mut connect);
        Worker { job, id, core, gradients: job.gradients() }
    }

    /// The body of a worker's thread: works on tasks until the channel is closed.
    pub(super) fn serve(mut self, assigned: Receiver<Task>, results: Sender<TaskResult>) {
        let notice = EndNotice { worker: self.id, results: results.clone() };
        for task in assigned {
            let sums = self.work_on(task);
            if results.send(TaskResult { worker: self.id, sums }).is_err() {
                break;
            }
        }
        drop(notice);
    }

    /// Keeps the buffer of a sum that is no longer needed, so that a later task can reuse it.
    pub(super) fn recycle(&mut self, sum: NodeSum) {
        self.gradients.recycle(sum);
    }

    fn sums(&mut self, weights: &[f32], step: u64, leaves: Range<u32>) -> Vec<NodeSum> {
        if Section::of(leaves.start) == Section::Training {
            return self.gradients.compute(weights, &self.job.data.train, step, leaves);
        }
        // Workers of a cluster receive weights of this precision, and policies decide by the loss, which must
        // have the same bits everywhere.
        let weights = self.job.model.precision().round(weights);
        let metric_sums = self.gradients.evaluate_leaves(&weights, self.job.parts(), step, leaves);
        metric_sums
            .into_iter()
            .map(|(node, metric_sums)| NodeSum { node, gradient: Vec::new(), metric_sums })
            .collect()
    }

    /// Computes the sums of a task. The weights are released before the sums are sent, so that the update can
    /// be made in place instead of in a copy.
    pub(super) fn work_on(&mut self, task: Task) -> Option<(u64, Vec<NodeSum>)> {
        let Task { work: (step, leaves), weights } = task;
        let mut sums = Vec::new();
        let mut actions = Vec::new();
        self.core.step(0, WorkerEvent::Weights { version: step }, &mut actions);
        self.core.step(0, WorkerEvent::Assigned { step, leaves }, &mut actions);
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                WorkerAction::Compute { step, leaves } => {
                    sums = self.sums(&weights, step, leaves.clone());
                    let mut more = Vec::new();
                    self.core.step(0, WorkerEvent::Computed { step, leaves }, &mut more);
                    actions.extend(more);
                }
                WorkerAction::Discard { .. } => sums.clear(),
                WorkerAction::Finish(_) => return None,
                _ => {}
            }
        }
        Some((step, sums))
    }
}

/// Reports that a worker's thread has ended, even by a panic. At the end of a run nothing receives this.
struct EndNotice {
    worker: WorkerId,
    results: Sender<TaskResult>,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        let _ = self.results.try_send(TaskResult { worker: self.worker, sums: None });
    }
}
