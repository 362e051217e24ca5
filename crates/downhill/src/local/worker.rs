//! A worker inside this process: answers letters from the owner of the weights with parcels of sums.

use super::NEVER;
use crossbeam::channel::{Receiver, Sender};
use ps_coord::{WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerId};
use ps_core::{Gradients, NodeSum};
use ps_plan::Section;
use ps_run::Job;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What the hub sends a worker.
pub struct Letter {
    /// Leaves to compute: the step, which is also the version of the weights, and which.
    pub work: (u64, Range<u32>),
    pub weights: Arc<Vec<f32>>,
}

/// What a worker sends the hub.
pub struct Parcel {
    pub worker: WorkerId,
    /// `None`: the worker's thread has ended.
    pub sums: Option<(u64, Vec<NodeSum>)>,
}

/// A worker's round logic and its buffers.
pub struct Worker<'a> {
    job: &'a Job,
    id: WorkerId,
    core: WorkerCore,
    gradients: Gradients,
}

impl<'a> Worker<'a> {
    pub fn new(job: &'a Job, id: WorkerId) -> Self {
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

    /// A worker thread: answers letters until no more can come.
    pub fn serve(mut self, mailbox: Receiver<Letter>, parcels: Sender<Parcel>) {
        let farewell = Farewell { worker: self.id, parcels: parcels.clone() };
        for letter in mailbox {
            let sums = self.answer(letter);
            if parcels.send(Parcel { worker: self.id, sums }).is_err() {
                break;
            }
        }
        drop(farewell);
    }

    /// Takes back a sum that is no longer needed.
    pub fn recycle(&mut self, sum: NodeSum) {
        self.gradients.recycle(sum);
    }

    fn sums(&mut self, weights: &[f32], step: u64, leaves: Range<u32>) -> Vec<NodeSum> {
        if Section::of(leaves.start) == Section::Training {
            return self.gradients.compute(weights, &self.job.data.train, step, leaves);
        }
        let weights = self.job.model.precision().round(weights);
        let tallies = self.gradients.evaluate_leaves(&weights, self.job.parts(), step, leaves);
        tallies.into_iter().map(|(node, tally)| NodeSum { node, gradient: Vec::new(), tally }).collect()
    }

    /// Computes what a letter asks for. The weights are let go before the sums are handed over, so that the
    /// update need not copy them.
    pub fn answer(&mut self, letter: Letter) -> Option<(u64, Vec<NodeSum>)> {
        let Letter { work: (step, leaves), weights } = letter;
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

/// Tells the hub that a worker's thread ends, by a panic too. At the end of the run nobody listens.
struct Farewell {
    worker: WorkerId,
    parcels: Sender<Parcel>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.parcels.try_send(Parcel { worker: self.worker, sums: None });
    }
}
