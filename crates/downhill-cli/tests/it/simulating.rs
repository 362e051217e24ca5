//! `downhill simulate` with costs from a file, so that nothing is measured.

use serde_json::Value;
use std::fs;
use std::process::{Command, Output};

/// A step has 128 samples, which are 32 leaves.
const RUN: &str = r#"
[data]
train = "digits:256"
[model]
kind = "mlp"
hidden = [12]
[train]
batch = 128
leaf = 4
[learning_rate]
initial = 0.05
"#;

/// Costs in microseconds, or in nanoseconds per kB.
const FIGURES: &str = r#"
{"name": "peak/fma", "value": 120.5, "unit": "GFLOP/s"}
{"name": "cost/take/kB", "value": 25, "unit": "ns"}
{"name": "cost/check/kB", "value": 30, "unit": "ns"}
{"name": "cost/add/kB", "value": 90, "unit": "ns"}
{"name": "cost/update/kB", "value": 400, "unit": "ns"}
{"name": "cost/send/kB", "value": 200, "unit": "ns"}
{"name": "cost/receive/kB", "value": 180, "unit": "ns"}
{"name": "cost/message", "value": 20, "unit": "us"}
{"name": "cost/wire-wake", "value": 8, "unit": "us"}
{"name": "cost/handoff", "value": 25, "unit": "us"}
{"name": "cost/switch", "value": 5, "unit": "us"}
{"name": "cost/control", "value": 0.3, "unit": "us"}
{"name": "cost/control/worker", "value": 0.005, "unit": "us"}
{"name": "cost/compute/784-12-10/leaf4/t1/jitter", "value": 0.02, "unit": "x"}
{"name": "cost/compute/784-12-10/leaf4/t1/crowding", "value": 1.05, "unit": "x"}
{"name": "cost/compute/784-12-10/leaf4/t1/leaves/1", "value": 10000, "unit": "us"}
{"name": "cost/compute/784-12-10/leaf4/t1/leaves/32", "value": 320000, "unit": "us"}
{"name": "cost/compute/784-12-10/leaf4/t1/extra-node", "value": 20, "unit": "us"}
"#;

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let place = TestDir(tempfile::tempdir().unwrap());
        fs::write(place.0.path().join("tiny.toml"), RUN).unwrap();
        fs::write(place.0.path().join("figures.jsonl"), FIGURES).unwrap();
        place
    }

    fn run(&self, flags: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
        command.args(["simulate", "tiny.toml"]).args(flags.split_whitespace());
        command.current_dir(self.0.path()).env_remove("DOWNHILL_LOG").output().unwrap()
    }

    fn succeed(&self, flags: &str) -> String {
        let output = self.run(&format!("--bench figures.jsonl --threads 1 --cores-per-host 2 {flags}"));
        assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn rows(&self, flags: &str) -> Vec<Value> {
        self.succeed(&format!("--json {flags}"))
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn steps_per_second(&self, flags: &str) -> f64 {
        self.rows(flags)[0]["steps_per_second"].as_f64().unwrap()
    }

    fn fail(&self, flags: &str, code: i32) -> String {
        let output = self.run(flags);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        error
    }
}

#[test]
fn a_table_has_a_row_per_worker_count_and_marks_diminishing_returns() {
    let text = TestDir::new().succeed("--workers 1,4,200");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    let workers: Vec<&str> = lines[1..4].iter().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(workers, ["1", "4", "200"]);
    assert!(
        lines[4].starts_with("beyond 32 workers") && lines[4].contains("fewer leaves than workers"),
        "{text}"
    );
}

#[test]
fn the_same_figures_give_the_same_prediction_whatever_the_machine() {
    let place = TestDir::new();
    let flags = "--workers 1,8,32 --shards colocated --stragglers 0.1:2";
    assert_eq!(place.succeed(flags), place.succeed(flags));
    let rows = place.rows("--workers 1,8");
    // With one worker, a step takes 320 ms of computation, subject to jitter, and less than 1 ms of
    // everything else.
    let one = rows[0]["steps_per_second"].as_f64().unwrap();
    assert!((1.0 / one - 320.5e-3).abs() < 8e-3, "{one}");
    assert_eq!(rows[0]["samples_per_second"].as_f64().unwrap(), 128.0 * one);
    assert_eq!(rows[1]["waits_for"], "compute");
}

#[test]
fn flags_change_what_is_simulated() {
    let place = TestDir::new();
    let usual = place.steps_per_second("--workers 8");
    assert!(place.steps_per_second("--workers 8 --bandwidth 10Mbit") < 0.5 * usual);
    assert!(place.steps_per_second("--workers 8 --latency 200ms") < 0.2 * usual);
    assert!(place.steps_per_second("--workers 8 --stragglers 1:4") < 0.4 * usual);
    assert!(place.steps_per_second("--workers 8 --together") < 0.5 * usual);
    let crowded = place.steps_per_second("--workers 8 --bandwidth 10Mbit");
    assert!(place.steps_per_second("--workers 8 --bandwidth 10Mbit --set wire.weights=bf16") > crowded);
}

#[test]
fn figures_that_were_used_can_be_saved_and_used_again() {
    let place = TestDir::new();
    let first = place.succeed("--workers 3 --save saved.jsonl");
    fs::rename(place.0.path().join("saved.jsonl"), place.0.path().join("figures.jsonl")).unwrap();
    assert_eq!(place.succeed("--workers 3"), first);
}

#[test]
fn the_bench_measures_every_figure_the_simulation_needs() {
    let place = TestDir::new();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_downhill"));
    bench.args(["bench", "--quick", "--json", "--only", "cost", "--run", "tiny.toml"]);
    let output = bench.current_dir(place.0.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(place.0.path().join("figures.jsonl"), output.stdout).unwrap();
    let output = place.run("--bench figures.jsonl --workers 2");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !error.contains("measuring what"), "{error}");
}

#[test]
fn invalid_arguments_are_refused_with_a_reason() {
    let place = TestDir::new();
    for (flags, reason) in [
        ("--workers 0", "1..=1024"),
        ("--workers x", "invalid digit"),
        ("--bandwidth 10", "10Gbit"),
        ("--latency 5", "50us"),
        ("--stragglers 2:1", "P:FACTOR"),
        ("--shards none", "colocated"),
    ] {
        let error = place.fail(flags, 2);
        assert!(error.contains(reason), "{flags}: {error}");
    }
    assert!(place.fail("--bench nowhere.jsonl", 1).contains("nowhere.jsonl"));
    fs::write(place.0.path().join("figures.jsonl"), "{\"name\": 3}\n").unwrap();
    let error = place.fail("--bench figures.jsonl", 2);
    assert!(error.contains("figures.jsonl: line 1"), "{error}");
}
