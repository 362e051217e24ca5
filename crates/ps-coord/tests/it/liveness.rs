//! Measures, in virtual time, what a worker that stops computing but still answers costs the others.

use ps_coord::{
    Dismissal, Millis, Outcome, ServerAction, ServerConfig, ServerCore, ServerEvent, WorkerAction,
    WorkerConfig, WorkerCore, WorkerEvent, WorkerId,
};
use ps_plan::seed::{Purpose, Stream};
use ps_plan::{BatchPlan, Coverage, Node};
use std::collections::BTreeMap;
use std::ops::Range;

/// Time that a message takes.
const LATENCY_MS: Millis = 1;
/// Time that the update takes.
const UPDATE_MS: Millis = 2;

/// How far the sums of a worker get once it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// It stops computing.
    Computing,
    /// Its sums reach the coordinator but not the other shard.
    BeforeTheShard,
    /// Its sums reach the shard but not the coordinator.
    BeforeTheCoordinator,
}

#[derive(Clone, Debug)]
struct Setting {
    workers: u32,
    /// Number of shards besides the coordinator.
    shards: u32,
    leaves: usize,
    steps: u32,
    leaf_ms: Millis,
    /// The last worker stops at this step, in this way.
    stops: Option<(u64, Stop)>,
    /// The last worker joins at this step.
    joins: u64,
    /// Factor by which the last worker is slower.
    slowness: u64,
}

#[derive(Debug)]
enum SimulatedEvent {
    Server(ServerEvent),
    Worker(u32, WorkerEvent),
    Computed(u32, u64, Range<u32>),
    /// A node's sum reaches the shard.
    Gathered(u64, Node),
    Heartbeat(u32),
}

#[derive(Debug)]
struct Report {
    outcome: Outcome,
    /// Duration of each step.
    steps: Vec<Millis>,
    dismissals: Vec<(WorkerId, Dismissal)>,
    /// Leaves assigned to the last worker, by step.
    given: BTreeMap<u64, u32>,
}

/// Runs workers that compute at the same pace, on a network that loses nothing.
struct Run {
    setting: Setting,
    now: Millis,
    queue: BTreeMap<(Millis, u64), SimulatedEvent>,
    sequence: u64,
    server: ServerCore,
    /// By id; a worker that reconnects is added as another one.
    workers: Vec<WorkerCore>,
    /// Leaves of the open step that the shard has.
    coverage: Coverage,
    plan: BatchPlan,
    opened: Millis,
    report: Report,
}

impl Run {
    fn new(setting: Setting) -> Self {
        let plan = BatchPlan::new(1, setting.leaves, setting.leaves, 1, setting.steps, None);
        let config = ServerConfig {
            plan,
            start_version: 0,
            min_workers: if setting.joins > 0 { setting.workers - 1 } else { setting.workers },
            join_timeout_ms: 60_000,
            contact_timeout_ms: 10_000,
            work_timeout_ms: 30_000,
            notice_every_ms: 60_000,
            shards: setting.shards,
            first_shard: 1,
            audit: 0.0,
            audit_seed: 0,
        };
        Run {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            server: ServerCore::new(0, config),
            workers: Vec::new(),
            coverage: Coverage::new(plan.step(0).tree()),
            plan,
            opened: 0,
            report: Report {
                outcome: Outcome::Done,
                steps: Vec::new(),
                dismissals: Vec::new(),
                given: BTreeMap::new(),
            },
            setting,
        }
    }

    fn at(&mut self, after: Millis, event: SimulatedEvent) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    fn run(mut self) -> Report {
        if self.setting.shards > 0 {
            self.server_steps(ServerEvent::Restored { version: 0 });
        }
        for _ in 0..self.setting.workers - u32::from(self.setting.joins > 0) {
            self.join();
        }
        loop {
            let deadline = self.server.deadline();
            let next = self.queue.keys().next().map(|&(at, _)| at);
            match (next, deadline) {
                (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    let (_, event) = self.queue.pop_first().unwrap();
                    self.now = at;
                    self.handle(event);
                }
                (_, Some(deadline)) => {
                    self.now = self.now.max(deadline);
                    self.server_steps(ServerEvent::Timeout);
                }
                _ => return self.report,
            }
            if deadline.is_none() && self.server.deadline().is_none() {
                return self.report;
            }
        }
    }

    fn join(&mut self) {
        let worker = self.workers.len() as u32;
        let config = WorkerConfig {
            heartbeat_ms: 1_000_000,
            server_timeout_ms: 100_000_000,
            weights_timeout_ms: 100_000_000,
            reconnect_min_ms: 100_000_000,
            reconnect_max_ms: 100_000_000,
            give_up_ms: 1_000_000_000,
            jitter_seed: 0,
        };
        self.workers.push(WorkerCore::new(self.now, config));
        self.worker_steps(worker, WorkerEvent::Timeout);
        self.worker_steps(worker, WorkerEvent::Connected);
        self.server_steps(ServerEvent::Joined { worker: WorkerId(worker) });
        self.at(500, SimulatedEvent::Heartbeat(worker));
    }

    fn handle(&mut self, event: SimulatedEvent) {
        match event {
            SimulatedEvent::Server(event) => self.server_steps(event),
            SimulatedEvent::Worker(worker, event) => self.worker_steps(worker, event),
            SimulatedEvent::Computed(worker, step, leaves) => {
                self.worker_steps(worker, WorkerEvent::Computed { step, leaves });
            }
            SimulatedEvent::Gathered(step, node) => {
                if step == self.server.version() {
                    let was_complete = self.coverage.is_complete();
                    self.coverage.gather(node);
                    if self.coverage.is_complete() && !was_complete {
                        self.at(LATENCY_MS, SimulatedEvent::Server(ServerEvent::Applied { shard: 0, step }));
                    }
                }
            }
            SimulatedEvent::Heartbeat(worker) => {
                self.server_steps(ServerEvent::MessageReceived { worker: WorkerId(worker) });
                self.at(500, SimulatedEvent::Heartbeat(worker));
            }
        }
    }

    fn server_steps(&mut self, event: ServerEvent) {
        let mut actions = Vec::new();
        let before = self.server.version();
        self.server.step(self.now, event, &mut actions);
        let version = self.server.version();
        if version != before {
            self.report.steps.push(self.now - self.opened);
            self.opened = self.now;
            self.coverage = Coverage::new(self.plan.step(version).tree());
            if version == self.setting.joins {
                self.join();
            }
        }
        for action in actions {
            match action {
                ServerAction::SendWeights { worker, version } => {
                    self.at(LATENCY_MS, SimulatedEvent::Worker(worker.0, WorkerEvent::Weights { version }));
                }
                ServerAction::Assign { worker, step, leaves } => {
                    if worker.0 == self.setting.workers - 1 {
                        *self.report.given.entry(step).or_default() += leaves.len() as u32;
                    }
                    self.at(
                        LATENCY_MS,
                        SimulatedEvent::Worker(worker.0, WorkerEvent::Assigned { step, leaves }),
                    );
                }
                ServerAction::Update { step } => {
                    self.at(UPDATE_MS, SimulatedEvent::Server(ServerEvent::Updated { step }));
                }
                ServerAction::RequestMissing { step } => {
                    let leaves = self.coverage.missing();
                    let event = ServerEvent::Missing { shard: 0, step, leaves };
                    self.at(2 * LATENCY_MS, SimulatedEvent::Server(event));
                }
                ServerAction::Dismiss { reason: Dismissal::Done, .. } => {}
                ServerAction::Dismiss { worker, reason } => self.report.dismissals.push((worker, reason)),
                ServerAction::Finish(outcome) => self.report.outcome = outcome,
                _ => {}
            }
        }
    }

    fn worker_steps(&mut self, worker: u32, event: WorkerEvent) {
        let mut actions = Vec::new();
        self.workers[worker as usize].step(self.now, event, &mut actions);
        let is_last = worker == self.setting.workers - 1;
        let stops = self.setting.stops;
        let stop = |step| stops.filter(|&(from, _)| is_last && step >= from).map(|(_, stop)| stop);
        for action in actions {
            match action {
                WorkerAction::Compute { step, leaves } if stop(step) != Some(Stop::Computing) => {
                    let slowness = if is_last { self.setting.slowness } else { 1 };
                    let time = self.setting.leaf_ms * slowness * leaves.len() as u64;
                    self.at(time, SimulatedEvent::Computed(worker, step, leaves));
                }
                WorkerAction::Push { step, leaves } => {
                    let stop = stop(step);
                    for node in self.plan.step(step).tree().cover(leaves) {
                        if stop != Some(Stop::BeforeTheShard) && self.setting.shards > 0 {
                            self.at(LATENCY_MS, SimulatedEvent::Gathered(step, node));
                        }
                        if stop != Some(Stop::BeforeTheCoordinator) {
                            let worker = WorkerId(worker);
                            let event = ServerEvent::Contributed { worker, step, node, digest: None };
                            self.at(LATENCY_MS, SimulatedEvent::Server(event));
                        }
                    }
                }
                WorkerAction::ReportDropped { .. } => {
                    let worker = WorkerId(worker);
                    self.at(LATENCY_MS, SimulatedEvent::Server(ServerEvent::Dropped { worker }));
                }
                _ => {}
            }
        }
    }
}

fn median(steps: &[Millis]) -> Millis {
    let mut steps = steps.to_vec();
    steps.sort_unstable();
    steps[steps.len() / 2]
}

#[test]
fn a_silent_worker_delays_a_step_by_at_most_three_medians_and_200_ms() {
    for seed in 0..400 {
        let mut random = Stream::new(seed, Purpose::Simulation, 0);
        let workers = 2 + random.below(5);
        let shards = random.below(2);
        let steps = 60;
        let joins = [0, 0, 3, 10][random.below(4) as usize];
        let from = joins + u64::from(random.below(20));
        let how = match (shards, random.below(3)) {
            (1, 1) => Stop::BeforeTheShard,
            (1, 2) => Stop::BeforeTheCoordinator,
            _ => Stop::Computing,
        };
        let setting = Setting {
            workers,
            shards,
            leaves: workers as usize * (1 + random.below(40) as usize),
            steps,
            leaf_ms: 1 + u64::from(random.below(80)),
            stops: Some((from, how)),
            joins,
            slowness: 1,
        };
        let report = Run::new(setting.clone()).run();
        assert_eq!((report.outcome, report.steps.len()), (Outcome::Done, steps as usize), "seed {seed}");
        // Without faults, and with only the other workers from the beginning.
        let usual = |workers| {
            let setting = Setting { workers, stops: None, joins: 0, ..setting.clone() };
            median(&Run::new(setting).run().steps)
        };
        let is_within = |took: Millis, usual: Millis| took < 4 * usual + 200;
        let stopped_at = report.steps[from as usize];
        let slowest = report.steps.iter().copied().max().unwrap();
        assert!(
            is_within(stopped_at, usual(workers - u32::from(joins > 0)))
                && is_within(slowest, usual(workers - 1)),
            "seed {seed}: {stopped_at} and at most {slowest} ms, usually {} ms; {setting:?}: {:?}",
            usual(workers),
            report.steps
        );
    }
}

#[test]
fn a_worker_that_never_delivers_is_dismissed_and_a_slow_one_is_kept() {
    let setting = Setting {
        workers: 3,
        shards: 0,
        leaves: 24,
        steps: 3_000,
        leaf_ms: 10,
        stops: Some((5, Stop::Computing)),
        joins: 0,
        slowness: 1,
    };
    let report = Run::new(setting.clone()).run();
    let [(worker, Dismissal::Stuck { held_ms })] = &report.dismissals[..] else { panic!("{report:?}") };
    assert_eq!((worker.0, held_ms / 1000), (2, 90));

    // So slow that it cannot finish a single leaf before the others have done all.
    let slow = Run::new(Setting { stops: None, slowness: 40, ..setting.clone() }).run();
    assert_eq!((slow.dismissals.len(), slow.steps.len()), (0, 3_000));
    // It still does not hold up the others.
    assert!(median(&slow.steps) < 150, "{}", median(&slow.steps));

    // A worker that is three times as slow takes part.
    let slower = Run::new(Setting { stops: None, slowness: 3, ..setting }).run();
    assert!(slower.dismissals.is_empty());
    assert!(slower.given.range(100..).all(|(_, &leaves)| leaves > 1), "{:?}", slower.given);
}

#[test]
fn a_new_worker_gets_its_share_after_delivering_a_copy() {
    let setting = Setting {
        workers: 3,
        shards: 0,
        leaves: 96,
        steps: 40,
        leaf_ms: 5,
        stops: None,
        joins: 10,
        slowness: 1,
    };
    let report = Run::new(setting).run();
    let given: Vec<u32> = report.given.values().copied().collect();
    assert_eq!(given[0], 2, "{:?}", report.given);
    assert!(given[1] > 20, "{:?}", report.given);
    assert!(median(&report.steps[..10]) > median(&report.steps[12..]));
}
