//! The output of `downhill bench` for programs. Its speed is not checked here.

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Output};

fn bench(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
    command.arg("bench").args(arguments.split_whitespace()).output().unwrap()
}

fn figures(arguments: &str) -> Vec<Value> {
    let output = bench(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "downhill bench {arguments}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_line_is_a_figure_with_a_unique_name() {
    let figures = figures(
        "--quick --json --only peak,kernel/forward/128x784x10,fold-update,wire,round/10kB,round/beside-tcp/10kB,\
         step/784-10/b64,cost/message,\
         cost/compute/784-512-256-10/leaf32/t1/leaves",
    );
    let names: BTreeSet<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), figures.len(), "{figures:?}");
    for figure in &figures {
        let value = figure["value"].as_f64().unwrap();
        assert!(value.is_finite() && value > 0.0, "{figure}");
        let unit = figure["unit"].as_str().unwrap();
        assert!(["GFLOP/s", "GB/s", "us", "samples/s"].contains(&unit), "{figure}");
        assert_eq!(figure.get("ratio").is_some(), figure.get("of").is_some(), "{figure}");
        if let Some(ratio) = figure.get("ratio") {
            let ratio = ratio.as_f64().unwrap();
            assert!(ratio.is_finite() && ratio > 0.0, "{figure}");
        }
    }
    for name in [
        "peak/fma",
        "kernel/forward/128x784x10",
        "fold-update",
        "wire/tcp/latency",
        "wire/grpc/bandwidth",
        "round/10kB/p50",
        "round/beside-tcp/10kB/p99",
        "step/784-10/b64/t1",
        "cost/message",
        "cost/compute/784-512-256-10/leaf32/t1/leaves/32",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    // Only the selected figures are measured.
    assert!(
        !names.iter().any(|name| name.starts_with("memory") || name.starts_with("round/1MB")),
        "{names:?}"
    );
}

#[test]
fn a_name_that_matches_no_figure_is_an_error() {
    for (only, told) in
        [("pace", "peak, kernel"), ("round/7kB", "no measurement has a name that starts with this")]
    {
        let output = bench(&format!("--quick --only {only}"));
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(only) && error.contains(told), "{error}");
    }
}

#[test]
fn people_get_a_table() {
    let output = bench("--quick --only peak");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("peak/fma ") && text.contains(" GFLOP/s") && text.lines().count() == 1,
        "{text}"
    );
}
