//! Properties that hold for any events in any order.

use ps_coord::{
    Contributor, Departure, Digest, Dismissal, Outcome, ServerAction, ServerConfig, ServerCore, ServerEvent,
    WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerId, WorkerOutcome,
};
use ps_plan::seed::{Purpose, Stream};
use ps_plan::{BatchPlan, Coverage, Node};

fn config(shards: u32) -> ServerConfig {
    ServerConfig {
        plan: BatchPlan::new(1, 10, 7, 1, 4, Some(5)),
        start_version: 0,
        min_workers: 2,
        join_timeout_ms: 1_000,
        contact_timeout_ms: 1_000,
        work_timeout_ms: 300,
        notice_every_ms: 700,
        shards,
        first_shard: 0,
        audit: 0.5,
        audit_seed: 1,
    }
}

fn worker_config(jitter_seed: u64) -> WorkerConfig {
    WorkerConfig {
        heartbeat_ms: 100,
        server_timeout_ms: 1_000,
        weights_timeout_ms: 200,
        reconnect_min_ms: 100,
        reconnect_max_ms: 10_000,
        give_up_ms: 1_000_000,
        jitter_seed,
    }
}

/// Draws any event, sensible or not.
fn server_event(
    random: &mut Stream,
    version: u64,
    ids: u32,
    asked: &mut Vec<(u64, Node)>,
    wanted: &mut Option<u64>,
) -> ServerEvent {
    let worker = WorkerId(random.below(ids));
    let step = (version + u64::from(random.below(3))).saturating_sub(1);
    match random.below(40) {
        0..4 => ServerEvent::Joined { worker },
        4 => ServerEvent::Left { worker, reason: Departure::Leaving },
        5 => ServerEvent::Left { worker, reason: Departure::Disconnected("reset".into()) },
        6..20 => ServerEvent::Contributed {
            worker,
            step,
            node: Node { level: random.below(4), index: random.below(7) },
            digest: ids.is_multiple_of(3).then(|| Digest([u8::from(random.below(12) == 0); 32])),
        },
        20 if random.below(4) == 0 => ServerEvent::ShardLost { shard: 0 },
        20 => ServerEvent::Restored { version: random.below(2).into() },
        21 if random.below(2) == 0 => ServerEvent::Missing { shard: 0, step, leaves: vec![1..2, 3..4] },
        21 => ServerEvent::Applied { shard: 0, step },
        22 if random.below(2) == 0 => ServerEvent::Dropped { worker },
        22 => ServerEvent::WeightsWanted { worker },
        23..25 if !asked.is_empty() => {
            let (step, node) = asked.remove(0);
            ServerEvent::Recomputed { step, node, digest: Digest([0; 32]) }
        }
        23..30 => ServerEvent::Updated { step },
        30 if random.below(200) == 0 => ServerEvent::Diverged { step },
        30 if random.below(200) == 0 => match random.below(2) {
            0 => ServerEvent::Stop,
            _ => ServerEvent::End,
        },
        30 if random.below(20) == 0 => ServerEvent::CannotRollBack,
        30..34 => ServerEvent::Timeout,
        34 => ServerEvent::Identified { worker, contributor: Contributor(random.below(3)) },
        35 => ServerEvent::RolledBack { version: wanted.take().map_or(0, |since| since / 2) },
        _ => ServerEvent::MessageReceived { worker },
    }
}

#[test]
fn random_server_events_break_no_invariant() {
    let (mut done, mut few, mut went_back) = (0, 0, 0);
    for seed in 0..600 {
        let mut random = Stream::new(seed, Purpose::Simulation, 0);
        let (mut now, mut finished) = (0, None);
        let config = config(seed as u32 % 2);
        let mut core = ServerCore::new(now, config.clone());
        let mut coverage = Coverage::new(config.plan.step(0).tree());
        let mut updating = false;
        let (mut asked, mut wanted) = (Vec::new(), None);
        for round in 0..600 {
            now += u64::from(random.below(60));
            let before = core.version();
            let event = server_event(&mut random, before, 4 + round / 20, &mut asked, &mut wanted);
            if let ServerEvent::Contributed { step, node, .. } = event
                && (step, updating) == (before, false)
                && coverage.tree().has(node)
            {
                coverage.gather(node);
            }
            let begins_anew = matches!(
                event,
                ServerEvent::Restored { .. } | ServerEvent::ShardLost { .. } | ServerEvent::RolledBack { .. }
            );
            let mut actions = Vec::new();
            core.step(now, event, &mut actions);
            assert!(finished.is_none() || actions.is_empty(), "seed {seed}: {actions:?} after {finished:?}");
            let after = core.version();
            assert!(after == before || after == before + 1 || begins_anew, "seed {seed}");
            if after != before {
                coverage = Coverage::new(config.plan.step(after).tree());
            }
            updating &= after == before && !begins_anew;
            for action in actions {
                match action {
                    ServerAction::Update { step } => {
                        assert!(step == core.version() && coverage.is_complete(), "seed {seed}");
                        updating = true;
                    }
                    ServerAction::Recompute { step, node } => asked.push((step, node)),
                    ServerAction::RollBack { since } => {
                        assert!(since < core.version(), "seed {seed}: back to {since}, which is not past");
                        wanted = Some(since);
                        went_back += 1;
                    }
                    ServerAction::StartOver { step } => {
                        coverage = Coverage::new(config.plan.step(step).tree());
                    }
                    ServerAction::Finish(outcome) => finished = Some(outcome),
                    _ => {}
                }
            }
            assert_eq!(core.deadline().is_none(), finished.is_some(), "seed {seed}");
            // Everything that was due has been handled.
            assert!(core.deadline().is_none_or(|deadline| deadline > now), "seed {seed}");
            assert!(!core.status().to_string().is_empty());
        }
        done += u32::from(finished == Some(Outcome::Done));
        few += u32::from(matches!(finished, Some(Outcome::TooFewWorkers { .. })));
    }
    assert!(done > 20 && few > 20, "the events lead somewhere: {done} done, {few} deserted");
    assert!(went_back > 5, "the run goes back {went_back} times");
}

#[test]
fn random_worker_events_break_no_invariant() {
    for seed in 0..300 {
        let mut random = Stream::new(seed, Purpose::Simulation, 0);
        let (mut now, mut held, mut computing) = (0, None, None);
        let mut core = WorkerCore::new(now, worker_config(seed));
        for _ in 0..300 {
            now += u64::from(random.below(60));
            let (step, start) = (u64::from(random.below(4)), random.below(6));
            let leaves = start..start + random.below(3);
            let event = match random.below(30) {
                0..6 => WorkerEvent::Connected,
                6 => WorkerEvent::Disconnected("reset".into()),
                7..14 => WorkerEvent::Assigned { step, leaves },
                14..20 => WorkerEvent::Weights { version: step },
                20..26 => match computing.take() {
                    Some((step, leaves)) => WorkerEvent::Computed { step, leaves },
                    None => WorkerEvent::Computed { step, leaves },
                },
                26 if random.below(2) == 0 => WorkerEvent::Dismissed(Dismissal::Stuck { held_ms: 1 }),
                26 => WorkerEvent::Dismissed(Dismissal::Silent { silent_ms: 1 }),
                27 => WorkerEvent::MessageReceived,
                _ => WorkerEvent::Timeout,
            };
            if let WorkerEvent::Weights { version } = event {
                held = Some(version);
            }
            let mut actions = Vec::new();
            core.step(now, event, &mut actions);
            for action in actions {
                if let WorkerAction::Compute { step, leaves } = action {
                    assert_eq!(held, Some(step), "seed {seed}: computes at other weights");
                    assert!(computing.replace((step, leaves)).is_none(), "seed {seed}: two at once");
                }
            }
            assert!(core.deadline().is_some_and(|deadline| deadline > now), "seed {seed}");
        }
    }
}

#[test]
fn reconnect_pauses_are_jittered_and_bounded() {
    let mut totals = Vec::new();
    for seed in 0..20 {
        let mut core = WorkerCore::new(0, worker_config(seed));
        let mut actions = Vec::new();
        let mut now = 0;
        core.step(now, WorkerEvent::Timeout, &mut actions);
        for attempt in 0..20 {
            core.step(now, WorkerEvent::Disconnected("refused".into()), &mut actions);
            let pause = core.deadline().unwrap() - now;
            let longest = (100_u64 << attempt).min(10_000);
            assert!((longest / 2..=longest).contains(&pause), "attempt {attempt}: {pause} ms");
            now += pause;
            core.step(now, WorkerEvent::Timeout, &mut actions);
        }
        totals.push(now);
    }
    totals.sort_unstable();
    totals.dedup();
    assert!(totals.len() > 15, "{totals:?}");
}

#[test]
fn an_unreachable_server_is_reported_with_cause_and_duration() {
    let mut core = WorkerCore::new(0, worker_config(1));
    let mut actions = Vec::new();
    while let Some(deadline) = core.deadline() {
        core.step(deadline, WorkerEvent::Timeout, &mut actions);
        core.step(deadline, WorkerEvent::Disconnected("connection refused".into()), &mut actions);
    }
    let last = "connection refused".to_string();
    let outcome = WorkerOutcome::Unreachable { last, waited_ms: 1_000_000 };
    assert_eq!(actions.last(), Some(&WorkerAction::Finish(outcome)));
}
