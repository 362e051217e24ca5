//! One run file gives one hash: with the plain trainer, threads, the simulator, processes, every instruction
//! set, and processes that are killed.

use downhill_tests::{Running, children, downhill, run, shared};
use ps_config::RunConfig;
use ps_core::Kernel;
use ps_core::kernel::KERNEL_VARIABLE;
use ps_core::layer::KINDS;
use ps_data::NoProgress;
use ps_plan::seed::{Purpose, Stream};
use ps_run::Job;
use ps_sim::{Faults, SimJob, simulate};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The arguments of a run, without the results folder.
struct Case {
    file: String,
    sets: Vec<String>,
}

impl Case {
    fn new(file: &str, sets: &[&str]) -> Self {
        Case { file: file.into(), sets: sets.iter().map(ToString::to_string).collect() }
    }

    fn command(&self, verb: &str, more: &[&str], out: &Path) -> Command {
        let mut command = downhill(&[verb, &self.file]);
        command.args(self.sets.iter().flat_map(|set| ["--set", set]));
        command.args(more).arg("--out").arg(out);
        command
    }

    fn hash(&self, verb: &str, more: &[&str]) -> String {
        let out = tempfile::tempdir().unwrap();
        run(&mut self.command(verb, more, &out.path().join("run"))).hash()
    }
}

#[test]
fn mnist_gives_one_hash_in_every_mode() {
    if shared("mnist/train-images-idx3-ubyte.gz").is_none() {
        return;
    }
    let case = Case::new("examples/mnist.toml", &["train.steps=60"]);
    let wanted = case.hash("train", &["--reference"]);
    for threads in ["1", "2", "3", "8"] {
        assert_eq!(case.hash("train", &["--threads", threads]), wanted, "{threads} threads");
    }
    assert_eq!(case.hash("train", &["--threads", "2", "--workers", "3"]), wanted, "3 workers as threads");
    for kernel in Kernel::available() {
        let out = tempfile::tempdir().unwrap();
        let mut command = case.command("train", &[], &out.path().join("run"));
        assert_eq!(run(command.env(KERNEL_VARIABLE, kernel.name())).hash(), wanted, "{}", kernel.name());
    }
    for workers in ["1", "2", "3", "5"] {
        assert_eq!(case.hash("launch", &["--workers", workers]), wanted, "{workers} worker processes");
    }
    for more in [&["--shards", "2"][..], &["--shards", "3", "--tcp"], &["--shards", "beside"]] {
        let arguments = [&["--workers", "2"], more].concat();
        assert_eq!(case.hash("launch", &arguments), wanted, "{arguments:?}");
    }
    let file = downhill_tests::root().join(&case.file);
    let config = RunConfig::load(&file, &case.sets).unwrap();
    let job = Job::load(config, file.parent().unwrap(), &NoProgress).unwrap();
    for servers in [1, 3] {
        let simulated = SimJob {
            model: job.model.clone(),
            plan: job.plan,
            optimizer: job.optimizer.clone(),
            rate: job.rate.clone(),
            control: job.control.clone(),
            samples: &job.data.train,
            validation: &job.data.train,
            kernel: job.kernel,
            workers: 3,
            servers,
            checkpoint_every: 20,
            audit: 0.0,
            expected: Some(wanted.clone()),
            mutation: Default::default(),
        };
        let report =
            simulate(&simulated, &Faults::none(), 1).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(report.hash, wanted, "simulator with {servers} servers");
    }
}

#[test]
fn gradients_at_rounded_weights_give_a_separate_hash() {
    // The model has several chunks, so that every shard holds some.
    let sets = ["wire.weights=bf16", "train.steps=60", "model.hidden=[512, 64]"];
    let case = Case::new("examples/digits.toml", &sets);
    let wanted = case.hash("train", &["--reference"]);
    // Otherwise the rounding would have no effect, and the comparisons below would prove nothing.
    assert_ne!(wanted, Case::new("examples/digits.toml", &sets[1..]).hash("train", &[]));
    for threads in ["1", "3"] {
        assert_eq!(case.hash("train", &["--threads", threads]), wanted, "{threads} threads");
    }
    let launches = [
        &["--workers", "3"][..],
        &["--workers", "2", "--shards", "2"],
        &["--workers", "2", "--shards", "beside"],
    ];
    for arguments in launches {
        assert_eq!(case.hash("launch", arguments), wanted, "{arguments:?}");
    }
}

#[test]
fn killing_workers_at_random_moments_changes_no_bit() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Stream::new(seed, Purpose::Simulation, 0);
    // The run uses digits. If MNIST is available, it is used instead, because it makes the steps longer.
    let mnist = shared("mnist/train-images-idx3-ubyte.gz").is_some();
    let case = match mnist {
        true => Case::new("examples/mnist.toml", &["train.steps=600"]),
        false => Case::new("examples/digits.toml", &["train.epochs=8"]),
    };
    let wanted = case.hash("train", &[]);
    let out = tempfile::tempdir().unwrap();
    let mut launch = Running::start(&mut case.command(
        "launch",
        &["--workers", "3", "--threads", "1", "--restart", "1000"],
        &out.path().join("run"),
    ));
    let mut kills = 0;
    while !launch.ends_within(Duration::from_millis(50 + u64::from(random.below(400)))) {
        let workers = children(launch.id(), "ps-worker");
        if !workers.is_empty() && kills < 12 {
            let victim = workers[random.below(workers.len() as u32) as usize];
            // The process may have exited by itself in the meantime.
            kills +=
                u32::from(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
        }
    }
    let ended = launch.finish();
    assert_eq!(ended.hash(), wanted, "{ended}");
    assert!(kills >= 3, "only {kills} workers could be killed\n{ended}");
    println!("{kills} workers killed");
}

#[test]
fn all_settings_of_columns_give_one_hash() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Stream::new(2, Purpose::Probe, 1);
    let mut table = String::from("# of no use\n");
    for row in 0..200 {
        let [a, b] = [random.unit(), random.unit()];
        let when = format!("{}.{}.20{:02} {}:30", 1 + row % 28, 1 + row % 12, 10 + row % 7, row % 24);
        let mut gap = |text: String| if random.below(9) == 0 { "-".into() } else { text };
        let comma = |value: f32| value.to_string().replace('.', ",");
        let (heavy, when) = (gap(comma(1.0 / (a + 0.001))), gap(when));
        let city = gap(["u", "v", "w", "x", &row.to_string()][row % 5].into());
        let size = if row % 10 == 3 { "-".into() } else { comma(3.0 * a - b) };
        table += &format!("{row};{heavy};{};{city};{when};{size}\n", comma(b));
    }
    std::fs::write(folder.path().join("table.csv"), table).unwrap();
    let text = r#"
seed = 3
[data]
train = "csv:table.csv"
rows = "0..170"
test = "csv:table.csv"
test_rows = "170.."
validation = 0.1
names = ["id", "heavy", "plain", "city", "when", "size"]
decimal = ","
missing_values = ["-"]
skip_missing_target = true
drop = ["id"]
standardize = true
[data.columns]
heavy = { clip = [0.05, 0.95], fill = "median" }
plain = { kind = "number", scale = "min-max" }
city = { min_count = 3, fill = "most-frequent", scale = "none" }
when = { format = "%d.%m.%Y %H:%M", parts = ["weekday", "hour", "days"], fill = 0.5 }
[model]
kind = "linear"
[train]
epochs = 3
batch = 50
leaf = 7
[learning_rate]
initial = 0.02
"#;
    let file = folder.path().join("run.toml");
    std::fs::write(&file, text).unwrap();
    let case = Case::new(file.to_str().unwrap(), &[]);
    let wanted = case.hash("train", &["--reference"]);
    assert_eq!(case.hash("train", &["--threads", "3", "--workers", "2"]), wanted);
    assert_eq!(case.hash("launch", &["--workers", "2", "--shards", "2"]), wanted);
    // The settings matter, and the processes compare them.
    let other = Case::new(&case.file, &["data.columns.heavy={ clip = [0.05, 0.9], fill = 'median' }"]);
    assert_ne!(other.hash("train", &[]), wanted);
}

#[test]
fn every_kind_of_model_gives_one_hash() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Stream::new(1, Purpose::Probe, 1);
    let mut table = String::from("a,b,c,colour,size,kind,many,group\n");
    for _ in 0..230 {
        let [a, b, c] = [random.unit(), random.unit(), random.unit()];
        let colour = ["red", "green", "blue"][random.below(3) as usize];
        let noise = random.unit() - 0.5;
        let (size, many) = (3.0 * a - b + 0.1 * noise, (4.0 * c + noise.abs()) as u32);
        let kind = if a + noise > b { "yes" } else { "no" };
        let group = ["x", "y", "z"][((a + c + 0.3 * noise) * 1.2).clamp(0.0, 2.0) as usize];
        table += &format!("{a},{b},{c},{colour},{size},{kind},{many},{group}\n");
    }
    std::fs::write(folder.path().join("table.csv"), table).unwrap();
    let mut models = vec![
        ("linear", "size", "kind = \"linear\"".to_string()),
        ("logistic", "kind", "kind = \"logistic\"".into()),
        ("softmax", "group", "kind = \"softmax\"".into()),
        ("poisson", "many", "kind = \"poisson\"".into()),
        ("mlp with a softmax head", "group", "kind = \"mlp\"\nhidden = [9, 5]".into()),
        (
            "mlp with a logistic head",
            "kind",
            "kind = \"mlp\"\nhidden = [7]\nactivation = \"sigmoid\"\nhead = \"logistic\"".into(),
        ),
        (
            "mlp with a squared-error head",
            "size",
            "kind = \"mlp\"\nhidden = [20]\nactivation = \"tanh\"\nhead = \"squared-error\"".into(),
        ),
    ];
    let layers = KINDS.iter().flat_map(|kind| kind.example).map(ToString::to_string);
    let layers = layers.collect::<Vec<_>>().join(", ");
    models.push(("every kind of layer", "group", format!("kind = \"mlp\"\nlayers = [{layers}]")));
    for (name, label, model) in models {
        let file = folder.path().join(format!("{}.toml", name.replace(' ', "-")));
        let text = format!(
            "seed = 3\n[data]\ntrain = \"csv:table.csv\"\nlabel = \"{label}\"\nvalidation = 0.1\nstandardize = true\n\
             [model]\n{model}\n[train]\nepochs = 3\nbatch = 50\nleaf = 7\n[optimizer]\nmomentum = 0.9\nweight_decay = 0.001\n\
             [learning_rate]\ninitial = 0.02\nschedule = \"cosine\"\nwarmup = 3\n"
        );
        std::fs::write(&file, text).unwrap();
        let case = Case::new(file.to_str().unwrap(), &[]);
        let wanted = case.hash("train", &["--reference"]);
        assert_eq!(case.hash("train", &["--threads", "3"]), wanted, "{name}, 3 threads");
        assert_eq!(case.hash("train", &["--workers", "2"]), wanted, "{name}, 2 workers as threads");
        assert_eq!(case.hash("launch", &["--workers", "2"]), wanted, "{name}, 2 worker processes");
        for kernel in Kernel::available() {
            let out = tempfile::tempdir().unwrap();
            let mut command = case.command("train", &[], &out.path().join("run"));
            assert_eq!(
                run(command.env(KERNEL_VARIABLE, kernel.name())).hash(),
                wanted,
                "{name}, {}",
                kernel.name()
            );
        }
    }
}
