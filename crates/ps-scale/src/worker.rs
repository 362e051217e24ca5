//! Workers: carries out what their state machines decide.

use crate::cluster::{Cluster, Stragglers};
use crate::costs::Costs;
use crate::host::Thread;
use crate::network::Process;
use crate::round::{Done, Message, Rounds};
use crate::servers::NEVER;
use ps_coord::{ServerEvent, WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerId};
use ps_plan::Node;
use ps_plan::seed::{Purpose, random};
use std::collections::VecDeque;
use std::ops::Range;

/// A worker of the simulation.
pub(crate) struct Worker {
    pub(crate) process: Process,
    core: WorkerCore,
    pub(crate) compute: Vec<Thread>,
    /// The version of each chunk of weights that has arrived.
    pub(crate) received: Vec<u64>,
    work: Option<Work>,
    /// Number of threads that are computing.
    pub(crate) computing: usize,
}

/// An assignment of leaves that a worker is computing.
#[derive(Clone, Debug)]
struct Work {
    step: u64,
    leaves: Range<u32>,
    nodes: Vec<Node>,
    /// Seconds that the whole computation takes.
    seconds: f64,
    /// Index of its next stage.
    stage: usize,
}

impl Worker {
    pub(crate) fn new(process: Process, compute: Vec<Thread>, cluster: &Cluster) -> Self {
        let config = WorkerConfig {
            heartbeat_ms: NEVER,
            server_timeout_ms: NEVER,
            weights_timeout_ms: NEVER,
            reconnect_min_ms: NEVER,
            reconnect_max_ms: NEVER,
            give_up_ms: NEVER,
            jitter_seed: 0,
        };
        let received = vec![0; cluster.parts.iter().map(Vec::len).sum()];
        Worker { process, core: WorkerCore::new(0, config), compute, received, work: None, computing: 0 }
    }
}

impl Rounds<'_> {
    /// Lets all workers connect.
    pub(crate) fn start_workers(&mut self) {
        (0..self.workers.len()).for_each(|number| self.worker_steps(number, [WorkerEvent::Timeout]));
    }

    /// Passes an assignment of leaves to a worker. The weights of that step are already in transit.
    pub(crate) fn worker_is_given(&mut self, number: usize, step: u64, leaves: Range<u32>) {
        let weights = WorkerEvent::Weights { version: step };
        self.worker_steps(number, [weights, WorkerEvent::Assigned { step, leaves }]);
    }

    fn worker_steps(&mut self, number: usize, events: impl IntoIterator<Item = WorkerEvent>) {
        let mut events = VecDeque::from_iter(events);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            let now = self.millis();
            let worker = &mut self.workers[number];
            worker.core.step(now, event, &mut actions);
            let (process, id) = (worker.process, WorkerId(number as u32));
            for action in actions {
                match action {
                    WorkerAction::Connect => {
                        events.push_back(WorkerEvent::Connected);
                        self.server_steps(ServerEvent::Joined { worker: id });
                    }
                    WorkerAction::Compute { step, leaves } => self.begin(number, step, leaves),
                    WorkerAction::Push { step, leaves } => {
                        for node in self.tree.cover(leaves) {
                            let done = ServerEvent::Contributed { worker: id, step, node, digest: None };
                            self.send(process, Message::ToServer(Box::new(done)));
                        }
                    }
                    WorkerAction::ReportDropped { .. } => {
                        let dropped = ServerEvent::Dropped { worker: id };
                        self.send(process, Message::ToServer(Box::new(dropped)));
                    }
                    // Connections do not fail, so other actions need nothing.
                    _ => {}
                }
            }
        }
    }

    fn begin(&mut self, number: usize, step: u64, leaves: Range<u32>) {
        let words = random(self.cluster.seed, Purpose::Simulation, step as u32, number as u64);
        let [first, second, third, straggles] = words.map(|word| f64::from(word) / 4_294_967_296.0);
        // The sum of three uniform numbers is approximately normal, with mean 3/2 and variance 1/4.
        let deviation = 2.0 * (first + second + third - 1.5);
        let nodes = self.tree.cover(leaves.clone());
        let mut seconds = self.costs.compute_seconds(leaves.len() as u32, nodes.len());
        seconds *= (1.0 + self.costs.jitter * deviation).max(0.0);
        if let Some(Stragglers { share, factor }) = self.cluster.stragglers
            && straggles < share
        {
            seconds *= factor;
        }
        self.workers[number].work = Some(Work { step, leaves, nodes, seconds, stage: 0 });
        self.compute(number);
    }

    /// Advances a worker's computation as far as possible.
    pub(crate) fn compute(&mut self, number: usize) {
        loop {
            let worker = &mut self.workers[number];
            let Some(work) = worker.work.as_mut().filter(|_| worker.computing == 0) else { return };
            let stage = self.stages.get(work.stage).copied();
            work.stage += 1;
            match stage {
                Some(Stage::Needs(chunks)) => {
                    let received = &worker.received[..chunks];
                    if received.iter().any(|&version| version < work.step) {
                        work.stage -= 1;
                        return;
                    }
                    // A worker keeps weights of two versions only, so this step can no longer be computed.
                    if received.iter().any(|&version| version > work.step + 1) {
                        let Work { step, leaves, .. } = work.clone();
                        worker.work = None;
                        return self.worker_steps(number, [WorkerEvent::Superseded { step, leaves }]);
                    }
                }
                Some(Stage::Works(share)) => {
                    let seconds = work.seconds * share;
                    worker.computing = worker.compute.len();
                    for thread in worker.compute.clone() {
                        self.hand(thread, 0.0, seconds, Done::Computed { worker: number });
                    }
                    return;
                }
                // Other workers have computed these leaves in the meantime, so the sums are not sent.
                Some(Stage::Gives(..)) if !worker.core.wants_sums() => {}
                Some(Stage::Gives(first, end)) => self.push(number, first..end),
                None => {
                    let Work { step, leaves, .. } = work.clone();
                    worker.work = None;
                    return self.worker_steps(number, [WorkerEvent::Computed { step, leaves }]);
                }
            }
        }
    }

    /// Sends some chunks of a worker's nodes. The shards take turns, and each worker begins with a different
    /// one. If links are shared evenly, this keeps any single incoming link from being crowded.
    fn push(&mut self, number: usize, chunks: Range<usize>) {
        let Some(Work { step, nodes, .. }) = self.workers[number].work.clone() else { return };
        let (process, parts) = (self.workers[number].process, self.parts.len());
        for node in nodes {
            let longest = self.parts.iter().map(|part| part.chunks.len()).max().unwrap_or(0);
            for chunk in 0..longest {
                for turn in 0..parts {
                    let number = (number + 1 + turn) % parts;
                    let part = &self.parts[number];
                    if chunk < part.chunks.len() && chunks.contains(&(part.first + chunk)) {
                        self.send(process, Message::Gradient { step, node, part: number, chunk });
                    }
                }
            }
        }
    }
}

/// A stage of a worker's computation. Stages follow one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Wait until this number of chunks of weights, counted from the first, has arrived.
    Needs(usize),
    /// Compute for this share of the total time.
    Works(f64),
    /// Send the chunks of the gradient in this range, which are final.
    Gives(usize, usize),
}

pub(crate) fn stages(cluster: &Cluster, costs: &Costs) -> Vec<Stage> {
    let starts: Vec<usize> = cluster
        .parts
        .iter()
        .flatten()
        .scan(0, |at, &bytes| Some(std::mem::replace(at, *at + bytes as usize / 4)))
        .collect();
    let all = starts.len();
    let before = |element| starts.partition_point(|&start| start < element);
    let mut stages = Vec::new();
    let mut done = 0.0;
    let mut work_until = |share: f64, stages: &mut Vec<Stage>| {
        // The shares are medians of separate measurements, which need not ascend.
        stages.push(Stage::Works((share - done).max(0.0)));
        done = share.max(done);
    };
    for &(element, share) in &costs.needs {
        work_until(share, &mut stages);
        stages.push(Stage::Needs(before(element)));
    }
    stages.push(Stage::Needs(all));
    let mut end = all;
    for &(element, share) in &costs.gives {
        work_until(share, &mut stages);
        let first = before(element).min(end);
        stages.push(Stage::Gives(first, end));
        end = first;
    }
    work_until(1.0, &mut stages);
    stages.push(Stage::Gives(0, end));
    stages.retain(|stage| !matches!(stage, Stage::Works(share) if *share <= 0.0));
    stages
}
