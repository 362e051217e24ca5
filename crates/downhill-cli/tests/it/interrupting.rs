//! Ctrl-C during a run: the current step is finished, the results are written, and the run can be resumed.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
        // After an epoch is reported, training is certainly under way.
        assert!(progress.next().unwrap().unwrap().starts_with("epoch 1/"));
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        // The pipe must be drained, or the run would block when it is full.
        std::thread::spawn(move || progress.for_each(drop));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.contains("stopped before the end"), "{stdout}");
        assert!(stdout.lines().last().unwrap().starts_with("weights sha256 "), "{stdout}");
        let summary = std::fs::read_to_string(place.path().join(&out).join("summary.json")).unwrap();
        assert!(summary.contains("\"outcome\": \"stopped\""), "{summary}");
    }
}

/// Runs a command until a line on its standard error satisfies `is_enough`, then interrupts it.
fn interrupted(command: &mut Command, is_enough: impl Fn(&str) -> bool) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    loop {
        let start = text.len();
        assert!(stderr.read_line(&mut text).unwrap() > 0, "{text}");
        if is_enough(&text[start..]) {
            break;
        }
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    stderr.read_to_string(&mut text).unwrap();
    Output { stderr: text.into_bytes(), ..child.wait_with_output().unwrap() }
}

#[test]
fn the_command_that_an_interrupted_run_prints_resumes_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("it's a folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("my run.toml"), ENDLESS).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
    command.args(["train", "it's a folder/my run.toml", "--set", "seed=4"]).current_dir(place.path());
    let stopped = interrupted(&mut command, |line| line.starts_with("epoch 1/"));
    assert_eq!(stopped.status.code(), Some(130));
    let printed = printed_command(&stopped);
    assert!(printed.ends_with(" --out 'runs/my run-1'"), "{printed}");
    // exec makes the signal reach the run instead of the shell.
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {printed}")]).current_dir(place.path());
    let resumed = interrupted(&mut shell, |line| line.starts_with("resuming after "));
    assert_eq!(resumed.status.code(), Some(130));
    // The command now names the folder, so the same command resumes the run again.
    assert_eq!(printed_command(&resumed), printed);
    assert!(!Path::new(place.path()).join("runs/my run-2").exists());
}

fn printed_command(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let command = text.lines().skip_while(|line| *line != "to resume this run:").nth(1);
    command.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

#[test]
fn a_quiet_run_that_is_interrupted_prints_its_hash_alone() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("endless.toml"), ENDLESS).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
    // A warning shows that training is under way.
    command.args(["train", "endless.toml", "--quiet", "--set", "learning_rate.initial=100"]);
    command.args(["--set", "guard.mode=warn"]).current_dir(place.path());
    let output = interrupted(&mut command, |line| line.starts_with("warning: step "));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().all(|line| line.starts_with("warning: ")), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("weights sha256 ") && stdout.lines().count() == 1, "{stdout}");
}
