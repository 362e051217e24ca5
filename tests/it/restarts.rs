//! `downhill train --restarts`: the best of several seeds, for any number of threads and workers.

use downhill_tests::{Ended, downhill, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Exclusive or with two hidden units. Half of all seeds end in a poor minimum, in which the model separates
/// two samples from the others but not from each other.
const RUN: &str = r#"
seed = 2
[data]
train = "csv:xor.csv"
validation = "csv:xor.csv"
[model]
kind = "mlp"
hidden = [2]
activation = "tanh"
head = "logistic"
[train]
batch = 4
epochs = 3000
[learning_rate]
initial = 0.5
"#;

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let dir = TestDir(tempfile::tempdir().unwrap());
        fs::write(dir.path("run.toml"), RUN).unwrap();
        fs::write(dir.path("xor.csv"), "a,b,odd\n0,0,no\n0,1,yes\n1,0,yes\n1,1,no\n").unwrap();
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, out: &str, flags: &[&str]) -> Ended {
        run(downhill(&["train"]).arg(self.path("run.toml")).arg("--out").arg(self.path(out)).args(flags))
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn loss(folder: &Path) -> f64 {
    json(&folder.join("summary.json"))["validation"]["loss"].as_f64().unwrap()
}

#[test]
fn restarts_leave_a_poor_minimum_and_keep_the_best_by_validation() {
    let dir = TestDir::new();
    dir.train("one", &[]).hash();
    // In the poor minimum, two of the four samples lose about ln 2 each, which is a mean of 0.3466.
    assert!((loss(&dir.path("one")) - 0.3475).abs() < 0.001, "{}", loss(&dir.path("one")));
    let wanted = dir.train("many", &["--restarts", "4"]).hash();
    assert!(loss(&dir.path("many")) < 0.01);
    let records = json(&dir.path("many/restarts.json"));
    let best: Vec<&Value> =
        records.as_array().unwrap().iter().filter(|line| line["is_best"] == Value::Bool(true)).collect();
    let [best] = best[..] else { panic!("{records}") };
    let folder = dir.path("many").join(best["folder"].as_str().unwrap());
    assert_eq!(best["weights_sha256"].as_str(), Some(&wanted[..]));
    for file in ["model.safetensors", "summary.json", "metrics.jsonl", "run.toml"] {
        assert_eq!(
            fs::read(folder.join(file)).unwrap(),
            fs::read(dir.path("many").join(file)).unwrap(),
            "{file}"
        );
    }
    // Each of them is an ordinary run, and the common folder can be used like that of a run.
    let again = run(downhill(&["train"])
        .arg(folder.join("run.toml"))
        .args(["--data-root"])
        .arg(dir.path(""))
        .arg("--out")
        .arg(dir.path("again")));
    assert_eq!(again.hash(), wanted, "{again}");
    assert_eq!(run(downhill(&["evaluate"]).arg(dir.path("many"))).hash(), wanted);
}

#[test]
fn threads_workers_and_an_interruption_change_no_bit() {
    let dir = TestDir::new();
    let wanted = dir.train("many", &["--restarts", "4"]).hash();
    for (index, flags) in [&["--threads", "1"][..], &["--threads", "3", "--workers", "2"]].iter().enumerate()
    {
        let flags = [&["--restarts", "4"][..], flags].concat();
        assert_eq!(dir.train(&format!("many-{index}"), &flags).hash(), wanted, "{flags:?}");
    }
    // Simulates a process that was killed before the end. Runs that are complete are not repeated.
    for gone in ["summary.json", "restarts.json", "restart-3/summary.json"] {
        fs::remove_file(dir.path("many").join(gone)).unwrap();
    }
    fs::remove_dir_all(dir.path("many/restart-4")).unwrap();
    let before = fs::metadata(dir.path("many/restart-1/summary.json")).unwrap().modified().unwrap();
    assert_eq!(dir.train("many", &["--restarts", "4"]).hash(), wanted);
    assert_eq!(fs::metadata(dir.path("many/restart-1/summary.json")).unwrap().modified().unwrap(), before);
    let taken = dir.train("many", &["--restarts", "4"]);
    assert_eq!(taken.status.code(), Some(2), "{taken}");
    assert!(taken.stderr.contains("finished run"), "{taken}");
}

#[test]
fn restarts_require_validation_data() {
    let dir = TestDir::new();
    let text = RUN.replace("validation = \"csv:xor.csv\"\n", "");
    fs::write(dir.path("run.toml"), text).unwrap();
    let ended = dir.train("out", &["--restarts", "3"]);
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(ended.stderr.contains("data.validation") && ended.stderr.lines().count() == 1, "{ended}");
}
