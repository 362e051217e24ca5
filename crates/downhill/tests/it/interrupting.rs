//! Ctrl-C in the middle of a run: the step in hand is finished and the results are written.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const ENDLESS: &str = r#"
[data]
train = "digits:64"
[model]
kind = "softmax"
[train]
epochs = 4000000
batch = 32
leaf = 8
[learning_rate]
initial = 0.001
"#;

#[test]
fn an_interrupted_run_writes_what_it_has_and_ends_with_130() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("endless.toml"), ENDLESS).unwrap();
    for workers in ["1", "2"] {
        let out = format!("stopped-{workers}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_downhill"))
            .args(["train", "endless.toml", "--out", &out, "--workers", workers])
            .current_dir(place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
        // Training is under way once an epoch is told of.
        assert!(progress.next().unwrap().unwrap().starts_with("epoch 1/"));
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        // Drained, or the run would stand still on a full pipe.
        std::thread::spawn(move || progress.for_each(drop));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.contains("stopped before its end"), "{stdout}");
        assert!(stdout.lines().last().unwrap().starts_with("weights sha256 "), "{stdout}");
        let summary = std::fs::read_to_string(place.path().join(&out).join("summary.json")).unwrap();
        assert!(summary.contains("\"outcome\": \"stopped\""), "{summary}");
    }
}
