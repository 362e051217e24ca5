//! `downhill launch` explains that it needs two more binaries if they are missing.

use std::fs;
use std::process::Command;

#[test]
fn missing_binaries_are_named_with_the_command_that_builds_them() {
    let place = tempfile::tempdir().unwrap();
    let alone = place.path().join("downhill");
    // By another process: were the file open for writing here, a process that another test starts meanwhile would inherit
    // that, and the file could not be executed.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_downhill")).arg(&alone).status().unwrap();
    assert!(copied.success());
    let run = "[data]\ntrain = \"digits:64\"\n[model]\nkind = \"softmax\"\n[train]\nepochs = 1\nbatch = 32\n\
               [learning_rate]\ninitial = 0.1\n";
    fs::write(place.path().join("run.toml"), run).unwrap();
    let output = Command::new(alone).args(["launch", "run.toml"]).current_dir(place.path()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("ps-server does not exist") && error.contains("cargo build"), "{error}");
}
