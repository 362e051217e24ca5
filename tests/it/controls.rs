//! With every optimizer and every policy that watches the loss, the hash is the same for plain loops,
//! threads, workers, servers, shards and instruction sets. Runs that are killed and resumed are in
//! `resuming.rs`.

use downhill_tests::{downhill, run};
use ps_core::control::{EarlyStopping, Guard, Monitor};
use ps_core::kernel::KERNEL_VARIABLE;
use ps_core::optim::Sgd;
use ps_core::{
    Activation, Control, ControlConfig, Head, Kernel, LearningRate, MetricSums, Model, ModelOptimizer,
    Observed, ScheduleKind,
};
use ps_plan::BatchPlan;
use ps_run::{Line, METRICS_FILE};
use std::path::Path;
use std::process::Command;

/// A model of several chunks, so that every shard holds some, and small leaves.
const RUN: &str = r#"
seed = 1
[data]
train = "digits:600"
validation = 0.2
[model]
kind = "mlp"
hidden = [96, 40]
[train]
epochs = 4
batch = 48
leaf = 8
[learning_rate]
initial = 0.1
"#;

/// A run on digits with additional keys, and the event that it must report, if any.
struct Case {
    name: &'static str,
    sets: &'static [&'static str],
    event: Option<&'static str>,
}

const fn case(name: &'static str, sets: &'static [&'static str], event: Option<&'static str>) -> Case {
    Case { name, sets, event }
}

const OPTIMIZERS: &[Case] = &[
    case("adagrad", &["optimizer.kind=adagrad", "learning_rate.initial=0.02"], None),
    case(
        "rmsprop",
        &["optimizer.kind=rmsprop", "learning_rate.initial=0.002", "optimizer.momentum=0.5"],
        None,
    ),
    case("adam", &["optimizer.kind=adam", "learning_rate.initial=0.002"], None),
    case(
        "adamw",
        &[
            "optimizer.kind=adamw",
            "learning_rate.initial=0.002",
            "optimizer.weight_decay=0.1",
            "optimizer.decay_biases=false",
        ],
        None,
    ),
    case(
        "lars",
        &[
            "optimizer.kind=lars",
            "learning_rate.initial=2",
            "optimizer.momentum=0.9",
            "optimizer.weight_decay=0.001",
        ],
        None,
    ),
    case("lamb", &["optimizer.kind=lamb", "learning_rate.initial=0.01", "optimizer.weight_decay=0.01"], None),
    case(
        "ftrl",
        &["model.kind=softmax", "optimizer.kind=ftrl", "learning_rate.initial=0.2", "optimizer.l1=0.001"],
        None,
    ),
];

const WATCHES: &[Case] = &[
    case(
        "clip by the norm",
        &["learning_rate.initial=0.1", "optimizer.momentum=0.9", "optimizer.clip_norm=0.5"],
        None,
    ),
    case("noise", &["learning_rate.initial=0.1", "optimizer.noise=0.01"], None),
    case(
        "rates of groups",
        &[
            "learning_rate.initial=0.1",
            "optimizer.rates={ biases = 2.0, \"layers.0\" = 0.5 }",
            "optimizer.momentum=0.9",
        ],
        None,
    ),
    case("probes", &["learning_rate.initial=0.1", "train.probe_every=3"], None),
    case(
        "plateau",
        &[
            "learning_rate.initial=0.3",
            "learning_rate.schedule=plateau",
            "learning_rate.factor=0.3",
            "learning_rate.patience=0",
            "learning_rate.threshold=0.3",
            "train.monitor=f1",
            "optimizer.momentum=0.9",
        ],
        Some("lowered"),
    ),
    case(
        "early stopping",
        &[
            "learning_rate.initial=0.4",
            "optimizer.momentum=0.9",
            "train.early_stopping=1",
            "train.min_delta=0.3",
            "train.epochs=9",
        ],
        Some("stopped"),
    ),
    case(
        "warm restarts",
        &[
            "learning_rate.initial=0.1",
            "learning_rate.schedule=cosine-restarts",
            "learning_rate.every=10",
            "learning_rate.stretch=2",
        ],
        None,
    ),
    case(
        "armijo",
        &["train.batch=full", "train.epochs=30", "learning_rate.initial=4", "learning_rate.schedule=armijo"],
        None,
    ),
    case(
        "guard",
        &[
            "learning_rate.initial=6",
            "optimizer.momentum=0.9",
            "guard.mode=recover",
            "guard.every=5",
            "guard.factor=0.2",
            "train.probe_every=4",
        ],
        Some("recovered"),
    ),
    case(
        "all of it at once",
        &[
            "learning_rate.initial=0.5",
            "optimizer.kind=lamb",
            "learning_rate.schedule=plateau",
            "learning_rate.factor=0.5",
            "learning_rate.patience=0",
            "learning_rate.threshold=0.3",
            "guard.mode=recover",
            "guard.every=7",
            "guard.rise=1.2",
            "train.early_stopping=3",
            "train.monitor=balanced-accuracy",
            "train.probe_every=5",
            "optimizer.noise=0.001",
            "wire.weights=bf16",
        ],
        Some("recovered"),
    ),
];

impl Case {
    fn command(&self, verb: &str, more: &[&str], file: &Path, out: &Path) -> Command {
        let mut command = downhill(&[verb]);
        command.arg(file).args(self.sets.iter().flat_map(|set| ["--set", set]));
        command.args(more).arg("--out").arg(out);
        command
    }

    /// Returns the hash of a run, and its events.
    fn hash(&self, verb: &str, more: &[&str]) -> (String, Vec<(u64, String)>) {
        self.hash_with(verb, more, None)
    }

    /// Like [`Case::hash`], with the given instruction set.
    fn hash_with(&self, verb: &str, more: &[&str], kernel: Option<Kernel>) -> (String, Vec<(u64, String)>) {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("run.toml"), folder.path().join("run"));
        // A model without hidden layers must not set keys for them.
        let is_flat = self.sets.contains(&"model.kind=softmax");
        std::fs::write(&file, if is_flat { RUN.replace("hidden = [96, 40]", "") } else { RUN.into() })
            .unwrap();
        let mut command = self.command(verb, more, &file, &out);
        let ended = run(command.envs(kernel.map(|kernel| (KERNEL_VARIABLE, kernel.name()))));
        assert!(ended.status.success(), "{} by {verb} {more:?}: {ended}", self.name);
        (ended.hash(), events(&out))
    }

    #[track_caller]
    fn gives_one_hash(&self) {
        let wanted = self.hash("train", &["--reference"]);
        if let Some(event) = self.event {
            assert!(
                wanted.1.iter().any(|(_, it)| it == event),
                "{}: no {event} in {:?}",
                self.name,
                wanted.1
            );
        }
        let ways: &[(&str, &[&str])] = &[
            ("train", &["--threads", "1"]),
            ("train", &["--threads", "3"]),
            ("train", &["--threads", "2", "--workers", "3"]),
            ("launch", &["--workers", "1"]),
            ("launch", &["--workers", "3"]),
            ("launch", &["--workers", "2", "--shards", "2"]),
            ("launch", &["--workers", "3", "--shards", "3"]),
            ("launch", &["--workers", "2", "--shards", "beside"]),
        ];
        for (verb, more) in ways {
            assert_eq!(self.hash(verb, more), wanted, "{} by {verb} {more:?}", self.name);
        }
        for kernel in Kernel::available() {
            assert_eq!(
                self.hash_with("train", &[], Some(kernel)),
                wanted,
                "{} with {}",
                self.name,
                kernel.name()
            );
        }
    }
}

fn events(out: &Path) -> Vec<(u64, String)> {
    let lines = Line::read_all(&out.join(METRICS_FILE)).unwrap();
    let event = |line| match line {
        Line::Event(event) => Some((event.step, event.event)),
        _ => None,
    };
    lines.into_iter().filter_map(event).collect()
}

/// Creates the policies of a run that uses all of them together with a schedule, in steps that are epochs.
fn watching() -> Control {
    let model = Model::new(1, &[], Activation::Relu, Head::Poisson, 1);
    let plan = BatchPlan::new(1, 1, 1, 1, 1000, None).watching(1, 0);
    let rate = LearningRate {
        schedule: ScheduleKind::Plateau,
        factor: 0.5,
        patience: 2,
        threshold: 0.1,
        ..LearningRate::constant(0.5)
    };
    let config = ControlConfig {
        monitor: Monitor::Loss,
        early_stopping: Some(EarlyStopping { patience: 90, min_delta: 0.0 }),
        guard: Some(Guard { can_recover: true, factor: 0.7, retries: 2, rise: 1.5, every: 20 }),
        descent: None,
    };
    Control::new(config, ModelOptimizer::new(Sgd::default(), &model, 1), plan, rate)
}

#[test]
fn policy_state_round_trips_through_a_checkpoint_at_any_step() {
    // The loss falls below 0 and explodes three times. After the first two explosions it is that of the
    // weights after steps 40 and 80.
    let learning = |steps: u64| 3.0 - 0.1 * steps as f64;
    let loss = |step: u64| match step {
        0..=54 => learning(step),
        55 => 1e300,
        56..=99 => learning(step - 16),
        100 => f64::INFINITY,
        101..=149 => learning(step - 37),
        150.. => 1e5,
    };
    let validation = |step: u64| match step {
        0 => f64::INFINITY,
        1 | 30 => f64::NAN,
        _ => -0.01 * (step as f64).sqrt() + 1.0 / step as f64,
    };
    let metric_sums = |loss| MetricSums { samples: 1, loss, ..MetricSums::default() };
    let (mut whole, mut resumed) = (watching(), watching());
    let mut actions = std::collections::BTreeMap::new();
    for step in 0..170 {
        let observed = Observed {
            train: metric_sums(loss(step)),
            last_batch: None,
            validation: Some(metric_sums(validation(step))),
        };
        let at = whole.plan().step(step);
        let norms = whole.optimizer().norms(&[]);
        let decided = whole.decide(at, &observed, &norms).unwrap();
        // Checkpoints store the state as JSON, so it is converted to JSON and back.
        let text = serde_json::to_string(resumed.state()).unwrap();
        resumed = watching();
        resumed.resume(
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("step {step}: {error}: {text}")),
        );
        assert_eq!(resumed.decide(at, &observed, &norms).unwrap(), decided, "step {step}");
        for event in decided.1.events {
            *actions.entry(event.name()).or_insert(0) += 1;
        }
    }
    assert_eq!((actions["recovered"], actions["warned"]), (2, 1), "{actions:?}");
    assert!(actions["lowered"] > 3, "{actions:?}");
}

#[test]
fn every_optimizer_gives_one_hash() {
    OPTIMIZERS.iter().for_each(Case::gives_one_hash);
}

#[test]
fn all_policies_together_give_one_hash() {
    WATCHES.iter().for_each(Case::gives_one_hash);
}
