//! Properties of the shard logic that hold for any events in any order.

use ps_coord::{
    ChunkId, CoordinatorAction, CoordinatorConfig, CoordinatorCore, CoordinatorEvent, Dismissal,
    FetchPurpose, FollowUp, ServerEvent, ShardAction, ShardCore, ShardEvent, ShardReport, WorkerId,
};
use ps_plan::seed::{self, Stream};
use std::collections::{BTreeMap, BTreeSet};

const SHARDS: u32 = 3;
const VECTORS: usize = 2;

/// What the coordinator's driver must have seen before an action is valid.
#[derive(Default)]
struct Expected {
    /// Shards with a connection.
    present: BTreeSet<u32>,
    /// The number of the last restore, and the shards that have completed it since.
    order: u64,
    restored: BTreeSet<u32>,
    /// The step that was made and is either not complete or not recorded.
    made: Option<u64>,
    is_over: bool,
    /// Chunks that have not arrived, by the purpose of their fetch.
    missing: BTreeMap<FetchPurpose, BTreeSet<(u64, usize, usize)>>,
    is_captured: bool,
    is_closing: bool,
    is_closed: bool,
}

fn coordinator_event(random: &mut Stream, expected: &Expected, version: u64) -> CoordinatorEvent {
    let shard = random.below(SHARDS + 1);
    let step = (version + u64::from(random.below(3))).saturating_sub(1);
    match random.below(40) {
        0..5 => CoordinatorEvent::AttachRequested { shard: (random.below(2) == 0).then_some(shard) },
        5 => CoordinatorEvent::Lost { shard },
        6..14 => {
            CoordinatorEvent::Restored { shard, number: expected.order - u64::from(random.below(8) == 0) }
        }
        14 => CoordinatorEvent::Gathered { step },
        15..17 => CoordinatorEvent::Measured { shard, step },
        17 => CoordinatorEvent::Applied { shard, step },
        18 => CoordinatorEvent::Diverged { shard, step },
        19 if random.below(3) == 0 => CoordinatorEvent::Tainted { shard, step, why: "nonsense".into() },
        19 if random.below(3) == 0 => {
            CoordinatorEvent::Refused { worker: WorkerId(1), why: "nonsense".into() }
        }
        20 => CoordinatorEvent::Missing { shard, step, leaves: vec![1..2, 3..4] },
        21..23 => CoordinatorEvent::Idle,
        23 if random.below(20) == 0 && !expected.is_closing => {
            CoordinatorEvent::Closing { with_state: random.below(2) == 0 }
        }
        24 => CoordinatorEvent::Timeout,
        _ => {
            // Mostly a chunk that is missing.
            let missing: Vec<_> = expected.missing.values().flatten().copied().collect();
            let any = (step, random.below(3) as usize, random.below(SHARDS) as usize);
            let pick = random.below(missing.len().max(1) as u32) as usize;
            let (version, vector, offset) = missing.get(pick).copied().unwrap_or(any);
            CoordinatorEvent::Arrived { shard: offset as u32, chunk: ChunkId { version, vector, offset } }
        }
    }
}

impl Expected {
    fn note(&mut self, event: &CoordinatorEvent) {
        match *event {
            CoordinatorEvent::Lost { shard } if self.present.remove(&shard) => match self.is_closing {
                true => drop(self.restored.remove(&shard)),
                false => self.restored.clear(),
            },
            CoordinatorEvent::Closing { .. } => self.is_closing = true,
            CoordinatorEvent::Restored { shard, number } if number == self.order => {
                self.restored.extend(self.present.get(&shard));
            }
            CoordinatorEvent::Made { step, .. } => (self.made, self.is_over) = (Some(step), false),
            _ => {}
        }
    }

    fn check(&mut self, event: &CoordinatorEvent, action: &CoordinatorAction, version: u64) {
        let all = || (0..SHARDS).collect::<BTreeSet<_>>();
        match action {
            CoordinatorAction::Admit { shard } => assert!(self.present.insert(*shard), "{shard} twice"),
            CoordinatorAction::Restore { number } => {
                assert!(*number > self.order, "an order's number is used twice");
                assert_eq!(self.present, all(), "not all shards are present");
                self.order = *number;
                self.restored.clear();
            }
            CoordinatorAction::Report(ServerEvent::Restored { version: restored }) => {
                assert_eq!((&self.restored, *restored), (&all(), version));
            }
            CoordinatorAction::Report(
                ServerEvent::Applied { shard, .. } | ServerEvent::Missing { shard, .. },
            ) => {
                assert!(self.restored.contains(shard), "shard {shard} does not hold its weights");
            }
            CoordinatorAction::Report(ServerEvent::Updated { step } | ServerEvent::Concluded { step }) => {
                assert_eq!(self.made, Some(*step));
                assert!(!std::mem::replace(&mut self.is_over, true), "step {step} is over twice");
                let missing = self.missing.get(&FetchPurpose::Inspect);
                assert!(missing.is_none_or(BTreeSet::is_empty), "step {step} is over before it is inspected");
            }
            CoordinatorAction::Report(ServerEvent::ShardLost { .. } | ServerEvent::Rewind(_)) => {
                self.restored.clear();
            }
            CoordinatorAction::Decide { step } => assert_eq!((*step, &self.restored), (version, &all())),
            CoordinatorAction::Fetch { purpose, version, with_state } => {
                let vectors = if *with_state { 0..=VECTORS } else { 0..=0 };
                let chunks =
                    vectors.flat_map(|vector| (0..SHARDS as usize).map(move |offset| (vector, offset)));
                let chunks = chunks.map(|(vector, offset)| (*version, vector, offset)).collect();
                self.missing.insert(*purpose, chunks);
            }
            CoordinatorAction::Keep { purpose } => {
                let CoordinatorEvent::Arrived { chunk, .. } = event else { panic!("{event:?}") };
                let missing = self.missing.get_mut(purpose).unwrap();
                assert!(missing.remove(&(chunk.version, chunk.vector, chunk.offset)), "{chunk:?} twice");
            }
            CoordinatorAction::Record { step } => {
                assert_eq!((self.made.take(), self.is_over), (Some(*step), true));
            }
            CoordinatorAction::Capture { .. } => self.is_captured = true,
            CoordinatorAction::Save { purpose } => {
                assert!(std::mem::take(&mut self.is_captured), "nothing was set aside");
                let missing = self.missing.get(purpose).unwrap();
                assert!(missing.is_empty(), "saved without {missing:?}");
                if *purpose == FetchPurpose::Save {
                    self.missing.remove(purpose);
                }
            }
            CoordinatorAction::Inspect { .. } => assert!(self.missing[&FetchPurpose::Inspect].is_empty()),
            CoordinatorAction::Forget { purpose } => {
                self.missing.remove(purpose);
                self.is_captured &= *purpose != FetchPurpose::Save;
            }
            CoordinatorAction::DiscardStep => assert!(self.made.take().is_some()),
            CoordinatorAction::Closed(result) => {
                assert!(!std::mem::replace(&mut self.is_closed, true), "closed twice");
                let missing = self.missing.get(&FetchPurpose::Inspect);
                assert!(result.is_err() || missing.is_some_and(BTreeSet::is_empty));
            }
            CoordinatorAction::Refuse(_)
            | CoordinatorAction::Diverge { .. }
            | CoordinatorAction::Report(_) => {}
        }
    }
}

#[test]
fn random_coordinator_events_break_no_invariant() {
    let (mut steps, mut saves, mut closed) = (0, 0, 0);
    for seed in 0..2000 {
        let mut random = Stream::new(seed, seed::Purpose::Simulation, 1);
        let mut core = CoordinatorCore::new(CoordinatorConfig {
            chunks: (0..SHARDS as usize).map(|offset| vec![offset]).collect(),
            state_vectors: VECTORS,
            first_shard: 1,
            start_version: 0,
            answer_timeout_ms: 50,
        });
        let (mut expected, mut version, mut now) = (Expected::default(), 0, 0);
        let mut inbox = std::collections::VecDeque::new();
        for _ in 0..200 {
            now += u64::from(random.below(5));
            let may_make =
                expected.made.is_none() && !expected.is_closing && expected.restored.len() == SHARDS as usize;
            let event = match inbox.pop_front() {
                Some(event) => event,
                None if may_make && random.below(4) == 0 => {
                    let [inspect, save, state] = std::array::from_fn(|_| random.below(3) == 0);
                    let is_last = random.below(10) == 0;
                    let follow_up = FollowUp { inspect, save, state };
                    version += 1;
                    steps += 1;
                    CoordinatorEvent::Made { step: version - 1, is_last, follow_up }
                }
                None => coordinator_event(&mut random, &expected, version),
            };
            expected.note(&event);
            let mut actions = Vec::new();
            core.step(now, event.clone(), &mut actions);
            for action in actions {
                expected.check(&event, &action, version);
                if let CoordinatorAction::Restore { .. } = action {
                    version = random.below(version as u32 + 1).into();
                    inbox.push_back(CoordinatorEvent::Loaded { version });
                }
                saves += u32::from(matches!(action, CoordinatorAction::Save { .. }));
                closed += u32::from(matches!(action, CoordinatorAction::Closed(Ok(()))));
            }
        }
    }
    assert!(steps > 1000 && saves > 100 && closed > 10, "{steps} steps, {saves} saves, {closed} closed");
}

fn shard_event(random: &mut Stream, version: u64) -> ShardEvent {
    let step = (version + u64::from(random.below(3))).saturating_sub(1);
    match random.below(24) {
        0 => ShardEvent::Attached { kept: 0..4 },
        1 if random.below(4) == 0 => ShardEvent::Attached { kept: 4..8 },
        2 => ShardEvent::CoordinatorLost,
        3 if random.below(40) == 0 => ShardEvent::Dismissed(Dismissal::Done),
        4..7 => ShardEvent::Restore {
            version: random.below(3).into(),
            number: random.below(9).into(),
            elements: 4,
        },
        7..12 => ShardEvent::Arrived { version: random.below(3).into(), elements: random.below(4) as usize },
        12 => ShardEvent::Joined { worker: WorkerId(random.below(3)) },
        13 => ShardEvent::WeightsWanted { worker: WorkerId(random.below(3)) },
        14 => ShardEvent::Refused { counted: (random.below(2) == 0).then_some(step), why: "nonsense".into() },
        15..17 => ShardEvent::Gathered { step },
        17..19 => ShardEvent::Decided { step },
        19..22 => ShardEvent::Completed { step },
        22 => ShardEvent::WeightsRequested { version: step, with_state: random.below(2) == 0 },
        _ => ShardEvent::MissingRequested { step },
    }
}

#[test]
fn random_shard_events_break_no_invariant() {
    let mut applied = 0;
    for seed in 0..2000 {
        let mut random = Stream::new(seed, seed::Purpose::Simulation, 2);
        let mut core = ShardCore::new(0..4);
        // What is arriving: the version and the number of missing elements. Then whether the shard holds
        // weights and whether it is attached.
        let (mut arriving, mut holds, mut is_attached) = (None, false, true);
        let (mut measured, mut followed, mut number) = (None, None, None);
        let mut inbox = std::collections::VecDeque::new();
        'run: for _ in 0..200 {
            let event = inbox.pop_front().unwrap_or_else(|| shard_event(&mut random, core.version()));
            match &event {
                ShardEvent::Attached { .. } => is_attached = true,
                ShardEvent::CoordinatorLost => (is_attached, arriving) = (false, None),
                ShardEvent::Restore { version, number: order, elements } => {
                    (holds, number) = (false, Some(*order));
                    (measured, followed) = (None, None);
                    arriving = (*version > 0).then_some((*version, *elements));
                }
                ShardEvent::Arrived { version, elements } => {
                    if let Some((expected, missing)) = &mut arriving
                        && expected == version
                    {
                        *missing = missing.saturating_sub(*elements);
                    }
                }
                _ => {}
            }
            let mut actions = Vec::new();
            core.step(event.clone(), &mut actions);
            for action in actions {
                match action {
                    ShardAction::Keep { .. } => (holds, arriving) = (false, None),
                    ShardAction::Begin => holds = true,
                    ShardAction::Resume { version } => {
                        assert_eq!(arriving.take(), Some((version, 0)), "it resumes before all is here");
                        holds = true;
                    }
                    ShardAction::Serve { .. } => assert!(holds, "it serves weights that it does not hold"),
                    ShardAction::TurnAway { .. } => assert!(!holds),
                    ShardAction::Measure { step } => {
                        assert!(holds && step == core.version());
                        assert_ne!(measured.replace(step), Some(step), "it measures step {step} twice");
                    }
                    ShardAction::Follow { step } => {
                        assert_eq!(measured, Some(step), "a verdict before all leaves are in");
                        followed = Some(step);
                    }
                    ShardAction::Commit { step } => {
                        assert!(holds && step == core.version());
                        assert!(measured != Some(step) || followed == Some(step), "it did not wait");
                        inbox.push_back(match random.below(6) {
                            0 => ShardEvent::Diverged { step },
                            _ => ShardEvent::Committed { step },
                        });
                    }
                    ShardAction::Report(report) => {
                        assert!(is_attached, "{report:?} to nobody");
                        applied += u32::from(matches!(report, ShardReport::Applied { .. }));
                        if let ShardReport::Restored { number: returned } = report {
                            assert_eq!(Some(returned), number, "it returns the number of another order");
                        }
                    }
                    ShardAction::SendWeights { version, .. } => {
                        assert!(holds && version <= core.version() && version + 1 >= core.version());
                    }
                    ShardAction::Finish(_) => break 'run,
                    ShardAction::SendAllAway
                    | ShardAction::ServeAll
                    | ShardAction::WarnUselessVerdict { .. } => {}
                }
            }
        }
    }
    assert!(applied > 1000, "only {applied} steps applied");
}
