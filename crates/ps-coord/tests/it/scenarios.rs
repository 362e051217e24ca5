//! Runs every file of `tests/scenarios`, each of which contains blocks of commands, a line of dashes, and the
//! expected output. `UPDATE_SCENARIOS=1` rewrites the expectations; review the change as a diff.

use crate::shard_scenarios;
use ps_coord::{
    Contributor, CoordinatorCore, CoordinatorEvent, Departure, Digest, Dismissal, Millis, RewindCause,
    ServerAction, ServerConfig, ServerCore, ServerEvent, ShardCore, ShardEvent, WorkerAction, WorkerConfig,
    WorkerCore, WorkerEvent, WorkerId,
};
use ps_plan::{BatchPlan, Tree};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

#[test]
fn scenarios_match_their_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let written = std::fs::read_to_string(&path).unwrap();
        let came_out = replay(&written);
        if std::env::var_os("UPDATE_SCENARIOS").is_some() {
            std::fs::write(&path, came_out).unwrap();
        } else {
            assert_eq!(written, came_out, "{}: see UPDATE_SCENARIOS", path.display());
        }
    }
}

/// Returns the file with the expectations replaced by the actual output. A blank line ends the expectations
/// of a block.
fn replay(text: &str) -> String {
    let mut cast = Cast::default();
    let mut out = String::new();
    let mut in_expectations = false;
    for line in text.lines() {
        match line {
            "" => in_expectations = false,
            _ if in_expectations => continue,
            "----" => in_expectations = true,
            _ => {}
        }
        writeln!(out, "{line}").unwrap();
        if in_expectations {
            out.extend(cast.said.drain(..).map(|said| said + "\n"));
        } else if !line.is_empty() && !line.starts_with('#') {
            cast.command(line);
        }
    }
    out
}

/// The machine under test, its clock, and its output since the last line of dashes.
#[derive(Default)]
struct Cast {
    now: Millis,
    server: Option<(ServerCore, Tree)>,
    worker: Option<WorkerCore>,
    coordinator: Option<CoordinatorCore>,
    shard: Option<ShardCore>,
    said: Vec<String>,
}

impl Cast {
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let settings: BTreeMap<&str, u64> = words
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key, value.parse().unwrap_or_else(|_| panic!("{line}"))))
            .collect();
        match words[0] {
            "server" => self.server = Some(server(self.now, &settings)),
            "worker" => self.worker = Some(worker(self.now, &settings)),
            "coordinator" => self.coordinator = Some(shard_scenarios::coordinator(&settings)),
            "shard" => self.shard = Some(shard_scenarios::shard(&settings)),
            "advance" => self.advance(words[1].parse().unwrap()),
            "status" => self.status(),
            _ if self.coordinator.is_some() => {
                self.coordinator_step(shard_scenarios::coordinator_event(&words, &settings));
            }
            _ if self.shard.is_some() => self.shard_step(shard_scenarios::shard_event(&words, &settings)),
            _ if self.server.is_some() => self.server_command(&words, &settings),
            _ => self.worker_step(worker_event(&words)),
        }
    }

    /// Advances the clock and passes a timeout at every deadline on the way.
    fn advance(&mut self, by: Millis) {
        let end = self.now + by;
        loop {
            let deadline = match (&self.server, &self.worker, &self.coordinator) {
                (Some((server, _)), ..) => server.deadline(),
                (_, Some(worker), _) => worker.deadline(),
                (.., Some(coordinator)) => coordinator.deadline(),
                (None, None, None) => panic!("nobody to wait for"),
            };
            let Some(deadline) = deadline.filter(|&deadline| deadline <= end) else { break };
            self.now = self.now.max(deadline);
            match (&self.server, &self.worker) {
                (Some(_), _) => self.server_step(ServerEvent::Timeout),
                (_, Some(_)) => self.worker_step(WorkerEvent::Timeout),
                (None, None) => self.coordinator_step(CoordinatorEvent::Timeout),
            }
        }
        self.now = end;
    }

    fn status(&mut self) {
        let status = self.server.as_ref().unwrap().0.status();
        self.said.push(format!("version {} of {}: {status}", status.version, status.steps));
        for worker in status.workers {
            let speed = worker.speed.map_or("-".into(), |speed| format!("{speed:.1}"));
            self.said.push(format!(
                "  {} {}: {} leaves to come, {} contributions, {speed} leaves/s, heard at {}",
                worker.worker, worker.state, worker.leaves, worker.contributions, worker.last_heard
            ));
        }
    }

    fn server_command(&mut self, words: &[&str], settings: &BTreeMap<&str, u64>) {
        let (core, tree) = self.server.as_ref().unwrap();
        let step = settings.get("step").copied().unwrap_or(core.version());
        let who = words.get(1).and_then(|word| word.strip_prefix('w')).and_then(|id| id.parse().ok());
        let worker = WorkerId(who.unwrap_or(u32::MAX));
        let event = match words[0] {
            "join" => ServerEvent::Joined { worker },
            "leave" => ServerEvent::Left { worker, reason: Departure::Leaving },
            "lose" => {
                ServerEvent::Left { worker, reason: Departure::Disconnected("connection reset".into()) }
            }
            "refused" => {
                ServerEvent::Refused { worker, why: "hello came twice".into(), counted: words.len() > 2 }
            }
            "rewind" => {
                ServerEvent::Rewind(RewindCause::Tainted { shard: 1, why: "hello came twice".into() })
            }
            "heard" => ServerEvent::MessageReceived { worker },
            "dropped" => ServerEvent::Dropped { worker },
            "ask" => ServerEvent::WeightsWanted { worker },
            "applied" => ServerEvent::Applied { shard: words[1].parse().unwrap(), step },
            "lacks" => ServerEvent::Missing {
                shard: words[1].parse().unwrap(),
                step,
                leaves: words[2..].iter().map(|word| range(word)).collect(),
            },
            "losing" => ServerEvent::ShardLost { shard: words[1].parse().unwrap() },
            "identified" => {
                ServerEvent::Identified { worker, contributor: Contributor(words[2].parse().unwrap()) }
            }
            "back" => ServerEvent::RolledBack { version: words[1].parse().unwrap() },
            "stuck" => ServerEvent::CannotRollBack,
            "restored" => ServerEvent::Restored { version: words[1].parse().unwrap() },
            "recomputed" => ServerEvent::Recomputed {
                step,
                node: tree.cover(range(words[1]))[0],
                digest: digest(settings).unwrap(),
            },
            "updated" => ServerEvent::Updated { step },
            "diverged" => ServerEvent::Diverged { step },
            "stop" => ServerEvent::Stop,
            "end" => ServerEvent::End,
            "push" => {
                for node in tree.cover(range(words[2])) {
                    self.server_step(ServerEvent::Contributed {
                        worker,
                        step,
                        node,
                        digest: digest(settings),
                    });
                }
                return;
            }
            other => panic!("unknown command {other}"),
        };
        self.server_step(event);
    }

    fn server_step(&mut self, event: ServerEvent) {
        let mut actions = Vec::new();
        self.server.as_mut().unwrap().0.step(self.now, event, &mut actions);
        self.say(actions.iter().map(server_action));
    }

    fn worker_step(&mut self, event: WorkerEvent) {
        let mut actions = Vec::new();
        self.worker.as_mut().unwrap().step(self.now, event, &mut actions);
        self.say(actions.iter().map(worker_action));
    }

    fn coordinator_step(&mut self, event: CoordinatorEvent) {
        let mut actions = Vec::new();
        self.coordinator.as_mut().unwrap().step(self.now, event, &mut actions);
        self.say(actions.iter().map(shard_scenarios::coordinator_action));
    }

    fn shard_step(&mut self, event: ShardEvent) {
        let mut actions = Vec::new();
        self.shard.as_mut().unwrap().step(event, &mut actions);
        self.said.extend(actions.iter().map(shard_scenarios::shard_action));
    }

    fn say(&mut self, lines: impl Iterator<Item = String>) {
        self.said.extend(lines.map(|line| format!("t={} {line}", self.now)));
    }
}

fn server(now: Millis, settings: &BTreeMap<&str, u64>) -> (ServerCore, Tree) {
    let number = |key, default| settings.get(key).copied().unwrap_or(default);
    let leaves = number("leaves", 6) as usize;
    // One sample per leaf and one step per epoch, so that every step has the same tree.
    let plan = BatchPlan::new(1, leaves, leaves, 1, number("steps", 2) as u32, None);
    let config = ServerConfig {
        plan,
        start_version: number("start_version", 0),
        min_workers: number("min_workers", 1) as u32,
        join_timeout_ms: number("join_timeout_ms", 60_000),
        contact_timeout_ms: number("contact_timeout_ms", 100_000),
        work_timeout_ms: number("work_timeout_ms", 100_000),
        notice_every_ms: number("notice_every_ms", 100_000),
        shards: number("shards", 0) as u32,
        first_shard: 0,
        audit: number("audit", 0) as f64 / number("audit_of", 1) as f64,
        audit_seed: 1,
    };
    (ServerCore::new(now, config), plan.step(0).tree())
}

/// A stand-in for the hash of what was sent.
fn digest(settings: &BTreeMap<&str, u64>) -> Option<Digest> {
    settings.get("sum").map(|&sum| Digest([sum as u8; 32]))
}

fn worker(now: Millis, settings: &BTreeMap<&str, u64>) -> WorkerCore {
    let number = |key, default| settings.get(key).copied().unwrap_or(default);
    let config = WorkerConfig {
        heartbeat_ms: number("heartbeat_ms", 100_000),
        server_timeout_ms: number("server_timeout_ms", 100_000),
        weights_timeout_ms: number("weights_timeout_ms", 100_000),
        reconnect_min_ms: 100,
        reconnect_max_ms: 10_000,
        give_up_ms: number("give_up_ms", 100_000),
        jitter_seed: 1,
    };
    WorkerCore::new(now, config)
}

fn worker_event(words: &[&str]) -> WorkerEvent {
    let step = || words[1].parse().unwrap();
    match words[0] {
        "connected" => WorkerEvent::Connected,
        "disconnected" => WorkerEvent::Disconnected(words[1..].join(" ")),
        "assigned" => WorkerEvent::Assigned { step: step(), leaves: range(words[2]) },
        "weights" => WorkerEvent::Weights { version: step() },
        "computed" => WorkerEvent::Computed { step: step(), leaves: range(words[2]) },
        "superseded" => WorkerEvent::Superseded { step: step(), leaves: range(words[2]) },
        "dismissed" => WorkerEvent::Dismissed(match words[1] {
            "done" => Dismissal::Done,
            "silent" => Dismissal::Silent { silent_ms: 1000 },
            "stuck" => Dismissal::Stuck { held_ms: 1000 },
            "banned" => Dismissal::Banned("its sum is wrong".into()),
            "stopped" => Dismissal::Stopped("the server was stopped".into()),
            "failed" => Dismissal::Failed("training diverged".into()),
            _ => Dismissal::Ended(words[1..].join(" ")),
        }),
        "heard" => WorkerEvent::MessageReceived,
        "stop" => WorkerEvent::Stop,
        other => panic!("unknown command {other}"),
    }
}

fn range(text: &str) -> Range<u32> {
    let (start, end) = text.split_once("..").unwrap();
    start.parse().unwrap()..end.parse().unwrap()
}

fn server_action(action: &ServerAction) -> String {
    match action {
        ServerAction::SendWeights { worker, version } => format!("weights {version} to {worker}"),
        ServerAction::Assign { worker, step, leaves } => {
            format!("work {worker} step={step} leaves={leaves:?}")
        }
        ServerAction::Recompute { step, node } => format!("recompute node {node} of step {step}"),
        ServerAction::RequestMissing { step } => format!("ask shards what they lack of step={step}"),
        ServerAction::StartOver { step } => format!("start over step={step}"),
        ServerAction::Ban { worker, since: None, .. } => format!("ban {worker}"),
        ServerAction::Ban { worker, since: Some(since), .. } => {
            format!("ban {worker}, whose sums count since step {since}")
        }
        ServerAction::RollBack { since } => format!("go back to step {since} or before"),
        ServerAction::Update { step } => format!("update step={step}"),
        ServerAction::Dismiss { worker, reason } => format!("dismiss {worker}: {reason}"),
        ServerAction::Notice(line) => format!("notice: {line}"),
        ServerAction::Finish(outcome) => format!("finish: {outcome:?}"),
    }
}

fn worker_action(action: &WorkerAction) -> String {
    match action {
        WorkerAction::Connect => "connect".into(),
        WorkerAction::Compute { step, leaves } => format!("compute step={step} leaves={leaves:?}"),
        WorkerAction::Push { step, leaves } => format!("push step={step} leaves={leaves:?}"),
        WorkerAction::ReportDropped { step } => format!("tell dropped step={step}"),
        WorkerAction::Discard { step, leaves } => format!("discard step={step} leaves={leaves:?}"),
        WorkerAction::RequestWeights => "ask for weights".into(),
        WorkerAction::Heartbeat => "heartbeat".into(),
        WorkerAction::Notice(line) => format!("notice: {line}"),
        WorkerAction::Finish(outcome) => format!("finish: {outcome:?}"),
    }
}
