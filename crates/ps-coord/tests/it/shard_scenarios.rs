//! The scenario commands for the coordinator's shard logic and for a shard's own logic.

use ps_coord::{
    ChunkId, CoordinatorAction, CoordinatorConfig, CoordinatorCore, CoordinatorEvent, Dismissal,
    FetchPurpose, FollowUp, ServerEvent, ShardAction, ShardCore, ShardEvent, ShardReport, WorkerId,
};
use std::collections::BTreeMap;
use std::ops::Range;

/// Chunks of one element each; `empty` shards keep none.
pub(crate) fn coordinator(settings: &BTreeMap<&str, u64>) -> CoordinatorCore {
    let number = |key, default| settings.get(key).copied().unwrap_or(default) as usize;
    let chunks = number("chunks", 1);
    let kept = (1..=number("shards", 2)).map(|shard| (shard * chunks..(shard + 1) * chunks).collect());
    CoordinatorCore::new(CoordinatorConfig {
        chunks: kept.chain((0..number("empty", 0)).map(|_| Vec::new())).collect(),
        state_vectors: number("state", 1),
        first_shard: 1,
        start_version: number("start_version", 0) as u64,
        answer_timeout_ms: 10_000,
    })
}

pub(crate) fn coordinator_event(words: &[&str], settings: &BTreeMap<&str, u64>) -> CoordinatorEvent {
    let number = |index: usize| words[index].parse().unwrap();
    let shard = || number(1) as u32;
    let step = || settings["step"];
    let has = |word| words.contains(&word);
    match words[0] {
        "attach" => CoordinatorEvent::AttachRequested { shard: words.get(1).map(|_| shard()) },
        "lose" => CoordinatorEvent::Lost { shard: shard() },
        "loaded" => CoordinatorEvent::Loaded { version: number(1) },
        "restored" => CoordinatorEvent::Restored { shard: shard(), number: settings["number"] },
        "gathered" => CoordinatorEvent::Gathered { step: step() },
        "measured" => CoordinatorEvent::Measured { shard: shard(), step: step() },
        "not-finite" => CoordinatorEvent::NotFinite { step: step() },
        "applied" => CoordinatorEvent::Applied { shard: shard(), step: step() },
        "diverged" => CoordinatorEvent::Diverged { shard: shard(), step: step() },
        "tainted" => {
            CoordinatorEvent::Tainted { shard: shard(), step: step(), why: "hello came twice".into() }
        }
        "refused" => CoordinatorEvent::Refused { worker: WorkerId(shard()), why: "hello came twice".into() },
        "lacks" => CoordinatorEvent::Missing {
            shard: shard(),
            step: step(),
            leaves: words[2..].iter().filter(|word| word.contains("..")).map(|word| range(word)).collect(),
        },
        "arrived" => {
            let vector = settings.get("vector").copied().unwrap_or(0) as usize;
            let chunk = ChunkId { version: settings["version"], vector, offset: settings["chunk"] as usize };
            CoordinatorEvent::Arrived { shard: shard(), chunk }
        }
        "made" => {
            let follow_up = FollowUp { inspect: has("inspect"), save: has("save"), state: has("state") };
            CoordinatorEvent::Made { step: step(), is_last: has("last"), follow_up }
        }
        "idle" => CoordinatorEvent::Idle,
        "closing" => CoordinatorEvent::Closing { with_state: has("state") },
        other => panic!("unknown command {other}"),
    }
}

pub(crate) fn coordinator_action(action: &CoordinatorAction) -> String {
    let purpose = |purpose: &FetchPurpose| match purpose {
        FetchPurpose::Inspect => "to inspect",
        FetchPurpose::Save => "to save",
    };
    match action {
        CoordinatorAction::Admit { shard } => format!("admit shard {shard}"),
        CoordinatorAction::Refuse(why) => format!("refuse: {why:?}"),
        CoordinatorAction::Restore { number } => format!("restore number={number}"),
        CoordinatorAction::Decide { step } => format!("decide step={step}"),
        CoordinatorAction::Diverge { step } => format!("diverge step={step}"),
        CoordinatorAction::Fetch { purpose: what_for, version, with_state } => {
            let what = if *with_state { "weights and state" } else { "weights" };
            format!("fetch {what} {version} {}", purpose(what_for))
        }
        CoordinatorAction::Keep { purpose: what_for } => format!("keep {}", purpose(what_for)),
        CoordinatorAction::Record { step } => format!("record step={step}"),
        CoordinatorAction::Inspect { version } => format!("inspect weights {version}"),
        CoordinatorAction::Capture { version } => format!("capture {version}"),
        CoordinatorAction::Save { purpose: what_for } => {
            format!("save what was fetched {}", purpose(what_for))
        }
        CoordinatorAction::Forget { purpose: what_for } => {
            format!("forget what was fetched {}", purpose(what_for))
        }
        CoordinatorAction::DiscardStep => "unmake".into(),
        CoordinatorAction::Report(event) => format!("report {}", report(event)),
        CoordinatorAction::Closed(result) => format!("closed: {result:?}"),
    }
}

fn report(event: &ServerEvent) -> String {
    match event {
        ServerEvent::Rewind(cause) => format!("rewind: {cause}"),
        other => format!("{other:?}"),
    }
}

pub(crate) fn shard(settings: &BTreeMap<&str, u64>) -> ShardCore {
    ShardCore::new(0..settings.get("elements").copied().unwrap_or(4) as usize)
}

pub(crate) fn shard_event(words: &[&str], settings: &BTreeMap<&str, u64>) -> ShardEvent {
    let step = || settings["step"];
    let version = || settings["version"];
    let worker = || WorkerId(words[1].strip_prefix('w').unwrap().parse().unwrap());
    let elements = || settings.get("elements").copied().unwrap_or(0) as usize;
    match words[0] {
        "attached" => ShardEvent::Attached { kept: usize_range(words[1]) },
        "coordinator-lost" => ShardEvent::CoordinatorLost,
        "dismissed" => ShardEvent::Dismissed(Dismissal::Done),
        "restore" => {
            ShardEvent::Restore { version: version(), number: settings["number"], elements: elements() }
        }
        "arrived" => ShardEvent::Arrived { version: version(), elements: elements() },
        "join" => ShardEvent::Joined { worker: worker() },
        "ask" => ShardEvent::WeightsWanted { worker: worker() },
        "refused" => {
            ShardEvent::Refused { counted: settings.get("step").copied(), why: "hello came twice".into() }
        }
        "gathered" => ShardEvent::Gathered { step: step() },
        "decided" => ShardEvent::Decided { step: step() },
        "completed" => ShardEvent::Completed { step: step() },
        "committed" => ShardEvent::Committed { step: step() },
        "diverged" => ShardEvent::Diverged { step: step() },
        "weights-asked" => {
            ShardEvent::WeightsRequested { version: version(), with_state: words.contains(&"state") }
        }
        "missing-asked" => ShardEvent::MissingRequested { step: step() },
        other => panic!("unknown command {other}"),
    }
}

pub(crate) fn shard_action(action: &ShardAction) -> String {
    match action {
        ShardAction::Keep { kept } => format!("keep elements {kept:?}"),
        ShardAction::SendAllAway => "send all workers away".into(),
        ShardAction::Serve { worker } => format!("serve {worker}"),
        ShardAction::ServeAll => "serve all".into(),
        ShardAction::TurnAway { worker } => format!("turn away {worker}"),
        ShardAction::Begin => "begin".into(),
        ShardAction::Resume { version } => format!("resume from {version}"),
        ShardAction::Measure { step } => format!("measure step={step}"),
        ShardAction::Follow { step } => format!("follow the verdict on step={step}"),
        ShardAction::Commit { step } => format!("commit step={step}"),
        ShardAction::Report(ShardReport::Restored { number }) => format!("report restored number={number}"),
        ShardAction::Report(ShardReport::Applied { step }) => format!("report applied step={step}"),
        ShardAction::Report(ShardReport::Diverged { step }) => format!("report diverged step={step}"),
        ShardAction::Report(ShardReport::Tainted { step, why }) => {
            format!("report tainted step={step}: {why}")
        }
        ShardAction::Report(ShardReport::Missing { step }) => {
            format!("report what is missing of step={step}")
        }
        ShardAction::SendWeights { version, with_state: false } => format!("send weights {version}"),
        ShardAction::SendWeights { version, with_state: true } => format!("send weights and state {version}"),
        ShardAction::WarnUselessVerdict { step } => format!("useless verdict on step={step}"),
        ShardAction::Finish(reason) => format!("finish: {reason}"),
    }
}

fn range(text: &str) -> Range<u32> {
    let (start, end) = text.split_once("..").unwrap();
    start.parse().unwrap()..end.parse().unwrap()
}

fn usize_range(text: &str) -> Range<usize> {
    let Range { start, end } = range(text);
    start as usize..end as usize
}
