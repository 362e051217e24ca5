//! The state of a real file system after a real process was killed, or after its disk failed, while it was
//! saving.
//!
//! strace kills the process or makes a system call fail, at each call in turn. Full and read-only file
//! systems are mounted in a namespace. If the system does not permit one of these, the test says so and
//! checks nothing.

#![cfg(target_os = "linux")]
use downhill_tests::{Ended, program, run};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The system calls that change the content of a disk, or make it durable.
const CALLS: &str = "write,fsync,rename,mkdir,unlinkat,rmdir,openat";
const SAVER: &str = env!("CARGO_BIN_EXE_saver");

/// A folder with checkpoints 1 and 2. The test itself never opens the store: a program that it starts
/// meanwhile would inherit the lock until its exec.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let dir = TestDir(tempfile::tempdir().unwrap());
        assert_eq!(dir.saver("save", &["1", "2"]).stdout, "saved 1\nsaved 2\n");
        dir
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("checkpoints")
    }

    fn saver(&self, command: &str, steps: &[&str]) -> Ended {
        run(Command::new(SAVER).arg(command).arg(self.folder()).args(steps).stdin(Stdio::null()))
    }

    /// Returns the newest checkpoint, as another process finds it.
    fn newest(&self) -> Result<u64, String> {
        let ended = self.saver("newest", &[]);
        let step = ended.stdout.trim().strip_prefix("newest ").and_then(|step| step.parse().ok());
        step.ok_or_else(|| ended.to_string())
    }

    /// Saves checkpoints 3 and 4 under strace, which injects `injection`. Also returns the logged calls.
    fn save(&self, injection: Option<&str>) -> (Ended, Vec<Call>) {
        let log = self.0.path().join("log");
        let mut command = traced(&log, injection);
        let ended = run(command.arg(SAVER).arg("save").arg(self.folder()).args(["3", "4"]));
        (ended, calls(&log))
    }
}

/// A system call in the log of strace.
#[derive(Debug)]
struct Call {
    name: String,
    /// The number of this call among those with the same name, counted from 1.
    number: usize,
    line: String,
}

impl Call {
    /// Returns the file or folder of a call with a file descriptor.
    fn path(&self) -> &str {
        self.line.split(['<', '>']).nth(1).unwrap_or_default()
    }

    fn failed(&self) -> bool {
        self.line.contains(" = -1 ")
    }
}

fn traced(log: &Path, injection: Option<&str>) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-e", &format!("trace={CALLS}"), "-o"]).arg(log);
    if let Some(injection) = injection {
        command.args(["-e", &format!("inject={injection}")]);
    }
    command.stdin(Stdio::null());
    command
}

/// Parses the calls in a log of strace, in order.
fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).unwrap();
    let mut calls: Vec<Call> = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let Some((name, _)) = line.split_once('(') else { continue };
        // `when=` of strace counts the calls of each name separately.
        let number = calls.iter().filter(|call| call.name == name).count() + 1;
        calls.push(Call { name: name.into(), number, line: line.into() });
    }
    calls
}

/// Returns whether strace is available, and prints a note if it is not.
fn has_strace() -> bool {
    let has = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    let has = has.is_ok_and(|status| status.success());
    if !has {
        println!("skipped: strace is not there, or may not trace");
    }
    has
}

#[test]
fn a_save_interrupted_at_any_system_call_leaves_the_new_or_the_old_checkpoint() {
    if !has_strace() {
        return;
    }
    let dir = TestDir::new();
    let (ended, clean) = dir.save(None);
    assert_eq!(ended.stdout, "saved 3\nsaved 4\n", "{ended}");
    assert_eq!(dir.newest(), Ok(4));
    let of_the_folder = clean.iter().filter(|call| call.line.contains("checkpoints"));
    let injections = of_the_folder.flat_map(|call| {
        // For the program, a file that cannot be opened is like one that cannot be written.
        let kinds: &[_] = if call.name == "openat" {
            &["error=EIO"]
        } else {
            &["error=EIO", "error=ENOSPC", "signal=KILL"]
        };
        kinds.iter().map(|kind| format!("{}:{kind}:when={}", call.name, call.number))
    });
    let injections: Vec<String> = injections.collect();
    let newest: Vec<u64> = injections.par_iter().map(|injection| check(injection)).collect();
    let [old, new] = [2..4, 4..5].map(|steps| newest.iter().filter(|step| steps.contains(*step)).count());
    println!("{} points, {old} with an older checkpoint, {new} with the newest", injections.len());
    // Both outcomes must occur often. Otherwise the faults would miss one side of the rename.
    assert!(injections.len() > 120 && old > 20 && new > 20, "{injections:?} {newest:?}");
}

/// Injects a fault into a save. Returns the newest checkpoint afterwards.
fn check(injection: &str) -> u64 {
    let dir = TestDir::new();
    let (ended, calls) = dir.save(Some(injection));
    let context = format!("{injection}\n{ended}\n{calls:#?}");
    let said = ended.stdout.lines().filter_map(|line| line.strip_prefix("saved ")?.parse().ok());
    let said: u64 = said.max().unwrap_or(2);
    let step = dir.newest().unwrap_or_else(|problem| panic!("{problem}\n{context}"));
    // There may be a newer checkpoint than the last one reported, because the process can die between the
    // rename and the report.
    assert!(step >= said, "{step} is there, {said} was called saved\n{context}");

    if let Some(at) = calls.iter().position(|call| call.name == "fsync" && call.failed()) {
        assert_eq!(ended.status.code(), Some(1), "{context}");
        assert!(ended.stderr.contains("cannot make it durable"), "{context}");
        // The state of such a disk is unknown: a second fsync could succeed although the data is lost.
        let again =
            calls[at + 1..].iter().any(|call| call.name == "fsync" && call.path() == calls[at].path());
        assert!(!again, "{} is tried again\n{context}", calls[at].path());
    }
    // Another process can continue.
    assert_eq!(dir.saver("save", &["9"]).stdout, "saved 9\n", "{context}");
    assert_eq!(dir.newest(), Ok(9), "{context}");
    step
}

/// A model with 50,890 parameters: a checkpoint has 407 kB, and the result half of that.
const RUN: &str = r#"
[data]
train = "digits:1024"
[model]
kind = "mlp"
hidden = [64]
[train]
epochs = 2
batch = 128
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
"#;

fn run_file(folder: &Path) -> PathBuf {
    let path = folder.join("run.toml");
    fs::write(&path, RUN).unwrap();
    path
}

#[test]
fn a_failed_fsync_ends_the_run() {
    if !has_strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (run_file(dir.path()), dir.path().join("log"));
    // strace counts the calls of each thread separately. Those of the main thread concern the file `holder`,
    // its folder, two result files before the first step, and the weights at the end. Those of the saving
    // thread concern its files and folders.
    for number in 1..=5 {
        let out = dir.path().join(format!("out-{number}"));
        let mut command = traced(&log, Some(&format!("fsync:error=EIO:when={number}")));
        let train = program("downhill");
        command.arg(train.get_program()).arg("train").arg(&file).arg("--out").arg(&out);
        let ended = run(command.args(["--checkpoint-every", "2", "--threads", "1"]));
        assert_eq!(ended.status.code(), Some(1), "{number}: {ended}");
        let results = if number >= 3 { "" } else { "cannot make it durable: " };
        assert!(ended.stderr.contains(&format!("{results}Input/output error")), "{number}: {ended}");
        assert!(!ended.stdout.contains("weights sha256"), "{number}: {ended}");
        // Started again, the run ends as it should.
        let mut again = program("downhill");
        run(again.arg("train").arg(&file).arg("--out").arg(&out)).hash();
    }
}

/// Runs a shell script in which a small file system is mounted at `$M`. Returns `None` and prints a note if
/// the system does not permit that.
fn with_mount(bytes: usize, script: &str, arguments: &[&Path]) -> Option<Ended> {
    let dir = tempfile::tempdir().unwrap();
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", script, "sh"]).args(arguments).env("M", dir.path());
        command.env("SAVER", SAVER).env("DOWNHILL", program("downhill").get_program()).stdin(Stdio::null());
        command
    };
    let mount = format!("mount -t tmpfs -o size={bytes} tmpfs \"$M\"");
    let may = shell(&mount).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !may {
        println!("skipped: no file system can be mounted in a namespace here");
        return None;
    }
    Some(run(&mut shell(&format!("{mount}\n{script}"))))
}

#[test]
fn a_full_disk_loses_only_the_checkpoint_that_does_not_fit() {
    let script = r#"
        "$SAVER" save "$M/checkpoints" 1 2
        cat /dev/zero >"$M/fill" 2>/dev/null
        "$SAVER" save "$M/checkpoints" 3
        "$SAVER" newest "$M/checkpoints"
        rm "$M/fill"
        "$SAVER" save "$M/checkpoints" 4
        "$SAVER" newest "$M/checkpoints"
    "#;
    let Some(ended) = with_mount(128 << 10, script, &[]) else { return };
    // On a full file system, the lock cannot be taken. The checkpoints can be read once there is room again.
    assert!(ended.stderr.contains("No space left on device"), "{ended}");
    assert!(ended.stdout.ends_with("saved 4\nnewest 4\n"), "{ended}");
    assert!(!ended.stdout.contains("saved 3"), "{ended}");
}

#[test]
fn a_run_whose_checkpoints_do_not_fit_warns_and_gives_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let file = run_file(dir.path());
    let wanted = run(program("downhill").arg("train").arg(&file)).hash();
    let script = r#""$DOWNHILL" train "$1" --out "$M/out" --checkpoint-every 2"#;
    let Some(ended) = with_mount(350 << 10, script, &[&file]) else { return };
    assert_eq!(ended.hash(), wanted, "{ended}");
    let warning = "warning: the checkpoint after 2 steps was not saved: writing ";
    assert!(ended.stderr.contains(warning) && ended.stderr.contains("No space left on device"), "{ended}");
}

#[test]
fn predictions_that_do_not_fit_on_the_disk_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = run_file(dir.path());
    let out = dir.path().join("out");
    run(program("downhill").arg("train").arg(&file).arg("--out").arg(&out)).hash();
    let script = r#"
        "$DOWNHILL" predict "$1" --data digits:2000 --output "$M/predictions.csv"
        echo "ended with $?: $(ls -A "$M")"
        "$DOWNHILL" predict "$1" --data digits:20 --output "$M/predictions.csv"
        echo "ended with $?: $(ls -A "$M")"
        "$DOWNHILL" predict "$1" --data digits:20 --output "$M/predictions.csv"
        echo "ended with $?: $(ls -A "$M")"
    "#;
    let Some(ended) = with_mount(64 << 10, script, &[&out]) else { return };
    let expected = "ended with 1: \nended with 0: predictions.csv\nended with 2: predictions.csv\n";
    assert_eq!(ended.stdout, expected, "{ended}");
    assert!(ended.stderr.contains("predictions.csv: No space left on device"), "{ended}");
}

#[test]
fn an_unwritable_folder_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = run_file(dir.path());
    let script = r#"
        "$SAVER" save "$M/checkpoints" 1 2
        mkdir "$M/out"
        mount -o remount,ro "$M"
        "$DOWNHILL" train "$1" --out "$M/out"
        echo "ended with $?"
        "$SAVER" save "$M/checkpoints" 3
        echo "ended with $?"
        mount -o remount,rw "$M"
        "$SAVER" newest "$M/checkpoints"
    "#;
    let Some(ended) = with_mount(1 << 20, script, &[&file]) else { return };
    assert_eq!(ended.stdout, "saved 1\nsaved 2\nended with 1\nended with 1\nnewest 2\n", "{ended}");
    assert!(ended.stderr.matches("Read-only file system").count() == 2, "{ended}");
}
