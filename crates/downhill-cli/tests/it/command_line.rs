//! The real binary on a tiny run: all flags give the same bits, results are in the right place, and errors
//! are as documented.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const RUN: &str = r#"
seed = 3
[data]
train = "digits:200"
validation = 0.2
[model]
kind = "mlp"
hidden = [12]
[train]
epochs = 2
batch = 32
leaf = 4
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
"#;

/// A temporary folder with the run file, in which the binary is run.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let place = TestDir(tempfile::tempdir().unwrap());
        fs::write(place.path("tiny.toml"), RUN).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).env_remove("DOWNHILL_LOG");
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Returns the standard output of a command, which must succeed.
    fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "downhill {arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Returns the standard error of a command, which must exit with `code`.
    fn fail(&self, arguments: &str, code: i32) -> String {
        let output = self.run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "downhill {arguments}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        error
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hash(stdout: &str) -> String {
    let last = stdout.lines().last().unwrap_or_default();
    let hash = last.strip_prefix("weights sha256 ").unwrap_or_else(|| panic!("last line: {last}"));
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    hash.to_string()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn threads_workers_and_the_reference_give_the_same_bits() {
    let place = TestDir::new();
    let wanted = hash(&place.succeed("train tiny.toml --reference"));
    for flags in ["", "--threads 1", "--threads 3", "--workers 2", "--workers 3 --threads 1", "--workers 11"]
    {
        assert_eq!(hash(&place.succeed(&format!("train tiny.toml {flags}"))), wanted, "{flags}");
    }
    assert_ne!(hash(&place.succeed("train tiny.toml --set seed=4")), wanted);
}

#[test]
fn every_kind_of_model_gives_the_same_bits_with_any_number_of_workers() {
    let place = TestDir::new();
    let mut csv = String::from("a,b,c,class,count,value\n");
    for i in 0..90_u32 {
        let (a, b, c) = (i * 7 % 11, i * 5 % 13, i * i % 17);
        let class = if a + b > 11 { "high" } else { "low" };
        csv += &format!("{a},{b},{c},{class},{},{}\n", (a + c) / 4, 0.3 * f64::from(a) - 0.2 * f64::from(b));
    }
    fs::write(place.path("table.csv"), csv).unwrap();
    let cases = [
        ("linear", "value", ""),
        ("logistic", "class", ""),
        ("softmax", "class", ""),
        ("poisson", "count", ""),
        ("mlp", "class", "hidden = [5, 4]\nactivation = \"tanh\"\nhead = \"logistic\""),
        ("mlp", "value", "hidden = [6]\nactivation = \"sigmoid\"\nhead = \"squared-error\""),
    ];
    for (kind, label, more) in cases {
        let run = format!(
            "[data]\ntrain = \"csv:table.csv\"\nlabel = \"{label}\"\nstandardize = true\nvalidation = 0.1\n\
             [model]\nkind = \"{kind}\"\n{more}\n[train]\nepochs = 2\nbatch = 20\nleaf = 3\n\
             [learning_rate]\ninitial = 0.01\n"
        );
        fs::write(place.path("table.toml"), run).unwrap();
        let wanted = hash(&place.succeed("train table.toml --reference"));
        assert_eq!(hash(&place.succeed("train table.toml --workers 3")), wanted, "{kind}");
        assert_eq!(hash(&place.succeed("train table.toml --threads 2")), wanted, "{kind}");
    }
}

#[test]
fn a_run_leaves_its_run_file_metrics_weights_and_summary() {
    let place = TestDir::new();
    let stdout = place.succeed("train tiny.toml --out results/first");
    let folder = place.path("results/first");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["checkpoints", "metrics.jsonl", "model.safetensors", "run.toml", "summary.json"]);

    let summary = json(&folder.join("summary.json"));
    assert_eq!(summary["weights_sha256"], hash(&stdout));
    assert_eq!((&summary["outcome"], &summary["steps"]), (&"done".into(), &10.into()));
    assert!(summary["validation"]["accuracy"].is_number() && summary["test"].is_null());

    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((of("step"), of("epoch")), (10, 2));
    let last = lines.last().unwrap();
    let mut validation = summary["validation"].clone();
    // Only the final weights are scored.
    let scores = validation.as_object_mut().unwrap().remove("scores").unwrap();
    assert_eq!((&last["validation"], &last["validation"]["accuracy"]), (&validation, &scores["accuracy"]));
    assert!(last["train"]["class_errors"]["7"].is_number() && last["samples_per_second"].is_number());

    // A resolved run file is a valid run file of the same run.
    let again = place.succeed("train results/first/run.toml --data-root . --out results/second");
    assert_eq!(hash(&again), hash(&stdout));
    let weights = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(weights("results/second") == weights("results/first"), "equal results are equal files");
}

#[test]
fn runs_without_a_folder_are_numbered() {
    let place = TestDir::new();
    place.succeed("train tiny.toml");
    place.succeed("train tiny.toml");
    assert!(
        place.path("runs/tiny-1/summary.json").exists() && place.path("runs/tiny-2/summary.json").exists()
    );
}

#[test]
fn existing_results_are_not_overwritten() {
    let place = TestDir::new();
    place.succeed("train tiny.toml --out results");
    let before = fs::read(place.path("results/summary.json")).unwrap();
    let error = place.fail("train tiny.toml --out results --set seed=9", 2);
    assert!(error.contains("results") && error.contains("--out"), "{error}");
    assert_eq!(fs::read(place.path("results/summary.json")).unwrap(), before);

    fs::write(place.path("taken.csv"), "mine").unwrap();
    let error = place.fail("predict results --data digits:5 --output taken.csv", 2);
    assert!(error.contains("taken.csv"), "{error}");
    assert_eq!(fs::read_to_string(place.path("taken.csv")).unwrap(), "mine");
}

#[test]
fn usage_errors_exit_with_2_and_failures_with_1() {
    let place = TestDir::new();
    for (arguments, word) in [
        ("", "Usage"),
        ("train", "RUN.toml"),
        ("train tiny.toml --threads 0", "--threads"),
        ("train tiny.toml --workers 0", "--workers"),
        ("train tiny.toml --no-such-flag", "--no-such-flag"),
        ("train tiny.toml --set train.batches=3", "batch"),
        ("train tiny.toml --set train.batch=4000", "train.batch"),
        ("train tiny.toml --set data.train=nothing", "nothing"),
        ("train absent.toml", "absent.toml"),
        ("launch tiny.toml --workers 0", "--workers"),
        ("data inspect nonsense", "nonsense"),
    ] {
        let error = place.fail(arguments, 2);
        assert!(error.contains(word), "downhill {arguments}: {error}");
    }
    for (arguments, word) in [
        ("train tiny.toml --set data.train=csv:absent.csv", "absent.csv"),
        ("evaluate absent", "absent"),
        ("evaluate tiny.toml", "tiny.toml"),
        ("data inspect csv:absent.csv", "absent.csv"),
    ] {
        let error = place.fail(arguments, 1);
        assert!(error.contains(word), "downhill {arguments}: {error}");
    }
    assert!(!place.path("runs").exists(), "a run that cannot start leaves no folder");
}

#[test]
fn divergence_names_step_and_rate_and_leaves_no_weights() {
    let place = TestDir::new();
    let error = place.fail("train tiny.toml --out results --set learning_rate.initial=1e30", 1);
    for word in ["diverged at step", "learning rate", "learning_rate.initial="] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!place.path("results/model.safetensors").exists());
}

#[test]
fn evaluating_a_run_gives_the_figures_of_its_summary() {
    let place = TestDir::new();
    place.succeed("train tiny.toml --out results --set data.test=digits:50,seed=8");
    let summary = json(&place.path("results/summary.json"));
    let stdout = place.succeed("evaluate results");
    for (part, line) in ["validation", "test"].iter().zip(["validation ", "test "]) {
        let line = stdout.lines().find(|candidate| candidate.starts_with(line)).unwrap();
        let accuracy = 100.0 * summary[part]["accuracy"].as_f64().unwrap();
        assert!(line.contains(&format!("accuracy {accuracy:.2} %")), "{line}: {accuracy}");
    }
    assert_eq!(hash(&stdout), summary["weights_sha256"]);
    let other = place.succeed("evaluate results/model.safetensors --data digits:40,seed=5");
    assert!(other.contains("(40 samples)"), "{other}");
}

#[test]
fn damaged_weights_are_refused() {
    let place = TestDir::new();
    place.succeed("train tiny.toml --out results");
    let path = place.path("results/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(place.fail("evaluate results", 1).contains("damaged"));
    fs::write(&path, &bytes[..last - 9]).unwrap();
    assert!(place.fail("evaluate results", 1).contains("model.safetensors"));
}

#[test]
fn predictions_are_csv_with_a_line_for_each_sample() {
    let place = TestDir::new();
    place.succeed("train tiny.toml --out results");
    let stdout = place.succeed("predict results --data digits:30,seed=2");
    let mut lines = stdout.lines();
    assert!(lines.next().unwrap().starts_with("prediction,probability of 0,probability of 1,"));
    assert_eq!(lines.clone().count(), 30);
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let sum: f64 = cells[1..].iter().map(|cell| cell.parse::<f64>().unwrap()).sum();
        assert!(cells.len() == 11 && (sum - 1.0).abs() < 1e-5, "{line}");
    }
    place.succeed("predict results --data digits:30,seed=2 --output out.csv");
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap(), stdout);
}

#[test]
fn a_closed_output_pipe_is_not_an_error() {
    let place = TestDir::new();
    place.succeed("train tiny.toml --out results");
    let mut child = place
        .command("predict results --data digits:3000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let error = text(&output.stderr);
    assert!(output.status.success() && !error.contains("panicked"), "{:?}: {error}", output.status);
}

#[test]
fn progress_in_json_is_a_line_for_each_epoch() {
    let place = TestDir::new();
    let output = place.run("train tiny.toml --log-format json");
    let error = text(&output.stderr);
    let lines: Vec<serde_json::Value> =
        error.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert_eq!(lines.iter().filter(|line| line["kind"] == "epoch").count(), 2);
    hash(&text(&output.stdout));
}

#[test]
fn inspect_describes_a_source() {
    let place = TestDir::new();
    let stdout = place.succeed("data inspect digits:100");
    for word in ["samples", "100", "784", "28 x 28", "labels", "█"] {
        assert!(stdout.contains(word), "{word}: {stdout}");
    }
    fs::write(place.path("small.csv"), "size,colour,y\n1,red,0.5\n2,?,1.5\n,red,2\n").unwrap();
    let stdout = place.succeed("data inspect csv:small.csv --label y");
    for word in ["size", "1 missing", "red (2)", "column `y`", "0.5"] {
        assert!(stdout.contains(word), "{word}: {stdout}");
    }
    assert!(place.succeed("data inspect tiny.toml").contains("training: digits:200"));
}
