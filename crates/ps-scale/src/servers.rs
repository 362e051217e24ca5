//! The coordinator and the shards: carries out what their state machines decide.

use crate::cluster::{Cluster, WeightHolders};
use crate::network::Process;
use crate::round::{Done, Message, Rounds};
use ps_coord::{
    CoordinatorAction, CoordinatorConfig, CoordinatorCore, CoordinatorEvent, FollowUp, Millis, ServerAction,
    ServerConfig, ServerCore, ServerEvent, ShardAction, ShardCore, ShardEvent, ShardReport, WorkerId,
};
use ps_plan::{BatchPlan, Coverage, Tree};
use std::collections::VecDeque;

/// Longer than any simulated time: no process fails, and none stops.
pub(crate) const NEVER: Millis = Millis::MAX;

/// The process that assigns leaves to workers.
pub(crate) struct Coordinator {
    rounds: ServerCore,
    shards: CoordinatorCore,
    /// Events that were caused by actions and are not yet processed.
    events: VecDeque<ServerEvent>,
    timer: Option<Millis>,
}

/// A shard of the weights.
pub(crate) struct WeightShard {
    pub(crate) holder: Process,
    /// Index and state machine of the shard; `None` if the coordinator holds it.
    shard: Option<(u32, ShardCore)>,
    /// Index of its first chunk among all chunks.
    pub(crate) first: usize,
    pub(crate) chunks: Vec<u32>,
    pub(crate) version: u64,
    /// For each chunk, the leaves whose gradient has arrived.
    pub(crate) covered: Vec<Coverage>,
    /// Number of chunks updated in this step.
    made: usize,
}

impl Coordinator {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let others = match cluster.holders {
            WeightHolders::Servers => &cluster.parts[1..],
            WeightHolders::Workers => &cluster.parts[..],
        };
        let leaves = cluster.leaves as usize;
        let config = ServerConfig {
            // One sample per leaf: the round logic depends only on the number of leaves.
            plan: BatchPlan::new(cluster.seed, leaves, leaves, 1, u32::MAX, None),
            start_version: 0,
            min_workers: cluster.workers as u32,
            join_timeout_ms: NEVER,
            contact_timeout_ms: NEVER,
            work_timeout_ms: NEVER,
            notice_every_ms: NEVER,
            shards: others.len() as u32,
            first_shard: 0,
            audit: 0.0,
            audit_seed: 0,
        };
        let coordinator = CoordinatorConfig {
            chunks: others.iter().map(|chunks| (0..chunks.len()).collect()).collect(),
            state_vectors: 0,
            first_shard: 0,
            start_version: 0,
            answer_timeout_ms: NEVER,
        };
        Coordinator {
            rounds: ServerCore::new(0, config),
            shards: CoordinatorCore::new(coordinator),
            events: VecDeque::new(),
            timer: None,
        }
    }

    /// Number of steps made.
    pub(crate) fn version(&self) -> u64 {
        self.rounds.version()
    }
}

impl WeightShard {
    /// Creates all shards. The first one is held by the process `first_holder`.
    pub(crate) fn all(cluster: &Cluster, first_holder: Process, tree: Tree) -> Vec<WeightShard> {
        let first_shard = usize::from(cluster.holders == WeightHolders::Servers);
        let mut first = 0;
        let part = |(number, chunks): (usize, &Vec<u32>)| {
            let at = first;
            first += chunks.len();
            WeightShard {
                holder: first_holder + number,
                shard: number.checked_sub(first_shard).map(|shard| (shard as u32, ShardCore::new(at..first))),
                first: at,
                covered: vec![Coverage::new(tree); chunks.len()],
                chunks: chunks.clone(),
                version: 0,
                made: 0,
            }
        };
        cluster.parts.iter().enumerate().map(part).collect()
    }

    fn commit(&mut self) {
        self.version += 1;
        self.made = 0;
        self.covered.iter_mut().for_each(|covered| *covered = Coverage::new(covered.tree()));
    }
}

impl Rounds<'_> {
    /// Lets all shards join the run.
    pub(crate) fn start_shards(&mut self) {
        for _ in 0..self.parts.iter().filter(|part| part.shard.is_some()).count() {
            self.coordinator_steps(CoordinatorEvent::AttachRequested { shard: None });
        }
    }

    pub(crate) fn server_steps(&mut self, event: ServerEvent) {
        self.coordinator.events.push_back(event);
        self.coordinator_steps(CoordinatorEvent::Idle);
    }

    pub(crate) fn coordinator_steps(&mut self, event: CoordinatorEvent) {
        self.shard_logic(event);
        while let Some(event) = self.coordinator.events.pop_front() {
            let mut actions = Vec::new();
            self.coordinator.rounds.step(self.millis(), event, &mut actions);
            actions.into_iter().for_each(|action| self.server_performs(action));
            if self.coordinator.events.is_empty() {
                self.shard_logic(CoordinatorEvent::Idle);
            }
        }
        let deadline = self.coordinator.rounds.deadline().filter(|&deadline| deadline < NEVER);
        if let Some(deadline) = deadline
            && self.coordinator.timer.is_none_or(|timer| deadline < timer)
        {
            self.coordinator.timer = Some(deadline);
            self.set_timer(deadline);
        }
    }

    /// Handles a passed deadline of the round logic, after all messages that arrived earlier.
    pub(crate) fn coordinator_timer(&mut self) {
        self.coordinator.timer = None;
        self.coordinate(Done::Handled(Message::ToServer(Box::new(ServerEvent::Timeout))));
    }

    fn server_performs(&mut self, action: ServerAction) {
        match action {
            ServerAction::Assign { worker: WorkerId(worker), step, leaves } => {
                let worker = worker as usize;
                self.coordinate(Done::Decided(Message::Assign { worker, step, leaves }));
            }
            ServerAction::RequestMissing { step } => {
                for part in 0..self.parts.len() {
                    if self.parts[part].shard.is_some() {
                        self.coordinate(Done::Decided(Message::RequestMissing { part, step }));
                    }
                }
            }
            ServerAction::Update { step } => {
                // The other shards commit when their own state machines say so.
                self.parts.iter_mut().filter(|part| part.shard.is_none()).for_each(WeightShard::commit);
                let follow_up = FollowUp::default();
                self.shard_logic(CoordinatorEvent::Made { step, is_last: false, follow_up });
            }
            // Weights are sent chunk by chunk when they are updated, and no process fails, so other actions
            // need nothing.
            _ => {}
        }
    }

    fn shard_logic(&mut self, event: CoordinatorEvent) {
        let mut actions = Vec::new();
        self.coordinator.shards.step(self.millis(), event, &mut actions);
        for action in actions {
            match action {
                CoordinatorAction::Report(event) => self.coordinator.events.push_back(event),
                CoordinatorAction::Restore { number } => {
                    self.shard_logic(CoordinatorEvent::Loaded { version: 0 });
                    for part in 0..self.parts.len() {
                        let restore = ShardEvent::Restore { version: 0, number, elements: 0 };
                        self.shard_steps(part, restore);
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn shard_steps(&mut self, number: usize, event: ShardEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let part = &mut self.parts[number];
            let Some((shard, core)) = &mut part.shard else { return };
            let (shard, holder, mut actions) = (*shard, part.holder, Vec::new());
            core.step(event, &mut actions);
            for action in actions {
                match action {
                    ShardAction::Commit { step } => {
                        self.parts[number].commit();
                        events.push_back(ShardEvent::Committed { step });
                    }
                    ShardAction::Report(report) => {
                        let event = reported(shard, report, &self.parts[number].covered);
                        self.send(holder, Message::ToCoordinator(Box::new(event)));
                    }
                    // Every worker is sent each chunk of weights when it is updated, so other actions need
                    // nothing.
                    _ => {}
                }
            }
        }
    }

    /// Sends an updated chunk to every worker.
    pub(crate) fn updated(&mut self, number: usize, chunk: usize) {
        let part = &mut self.parts[number];
        part.made += 1;
        let (holder, step, is_whole) = (part.holder, part.version, part.made == part.chunks.len());
        let workers = self.workers.len();
        for turn in 0..workers {
            // Each shard begins with a different worker, so that they do not all send to the same one.
            let (version, worker) = (step + 1, (number + 1 + turn) % workers);
            self.send(holder, Message::Weights { version, worker, part: number, chunk });
        }
        if is_whole {
            self.shard_steps(number, ShardEvent::Completed { step });
        }
    }
}

/// Converts a report of a shard to an event of the coordinator.
fn reported(shard: u32, report: ShardReport, covered: &[Coverage]) -> CoordinatorEvent {
    match report {
        ShardReport::Restored { number } => CoordinatorEvent::Restored { shard, number },
        ShardReport::Applied { step } => CoordinatorEvent::Applied { shard, step },
        ShardReport::Missing { step } => {
            let leaves = covered.iter().flat_map(Coverage::missing).collect();
            CoordinatorEvent::Missing { shard, step, leaves }
        }
        ShardReport::Diverged { step } => CoordinatorEvent::Diverged { shard, step },
        ShardReport::Tainted { step, why } => CoordinatorEvent::Tainted { shard, step, why },
    }
}
