//! A run that is killed at any moment and restarted with the same command resumes, and ends with the same
//! weights and metrics as an undisturbed run.

#![cfg(unix)]
mod longer;

use downhill_tests::{Ended, Running, children, downhill, program, run};
use ps_plan::seed::{Purpose, Stream};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A model of several chunks, with steps of a few milliseconds, momentum and a validation part.
const RUN: &str = r#"
[data]
train = "digits:4096"
validation = 0.1
[model]
kind = "mlp"
hidden = [256, 64]
[train]
epochs = 8
batch = 128
leaf = 16
[optimizer]
momentum = 0.9
weight_decay = 0.0001
[learning_rate]
initial = 0.05
schedule = "cosine"
"#;

/// Like [`RUN`], but with all policies that watch the loss, so that checkpoints contain their decisions. The
/// guard is so sensitive that the run recovers a few times. The model is smaller, because the noise takes
/// more time than the gradients.
const WATCHING: &str = r#"
[data]
train = "digits:4096"
validation = 0.1
[model]
kind = "mlp"
hidden = [64, 32]
[train]
epochs = 8
batch = 128
leaf = 16
early_stopping = 50
probe_every = 3
[optimizer]
kind = "adam"
clip_norm = 1.0
noise = 0.0001
[learning_rate]
initial = 0.01
schedule = "plateau"
factor = 0.5
patience = 0
threshold = 0.2
[guard]
mode = "recover"
rise = 1.05
factor = 0.7
every = 10
"#;

/// A temporary folder with a run and its results.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        TestDir::of(RUN)
    }

    fn of(run: &str) -> Self {
        let dir = TestDir(tempfile::tempdir().unwrap());
        fs::write(dir.path("run.toml"), run).unwrap();
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path("socket").display())
    }

    fn train(&self, out: &str, flags: &[&str]) -> Command {
        let mut command = downhill(&["train"]);
        command.arg(self.path("run.toml")).arg("--out").arg(self.path(out));
        command.args(["--checkpoint-every", "5"]).args(flags);
        command
    }

    fn server(&self, out: &str) -> Command {
        let mut command = program("ps-server");
        command.arg(self.path("run.toml")).arg("--out").arg(self.path(out));
        command.args(["--checkpoint-every", "5", "--listen", &self.address()]);
        command
    }

    fn worker(&self) -> Running {
        let mut command = program("ps-worker");
        Running::start(command.args(["--threads", "1", "--server", &self.address()]))
    }

    /// Returns the steps of all checkpoints.
    fn checkpoints(&self, out: &str) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.path(out).join("checkpoints")) else { return Vec::new() };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut steps: Vec<u64> =
            entries.filter_map(|entry| name(entry.ok()?).strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        steps
    }

    /// Lets a process run until it has saved more steps than there were before, and a random time longer.
    fn let_run(&self, out: &str, process: &mut Running, random: &mut Stream) -> bool {
        let found = self.checkpoints(out).pop();
        while self.checkpoints(out).pop() == found {
            if process.ends_within(Duration::from_millis(1)) {
                return false;
            }
        }
        !process.ends_within(Duration::from_micros(u64::from(random.below(20_000))))
    }

    /// Kills a run at a random moment after it was saved.
    fn kill_once(&self, out: &str, random: &mut Stream) {
        let mut process = Running::start(&mut self.train(out, &[]));
        assert!(self.let_run(out, &mut process, random), "{}", process.finish());
        process.kill();
        process.finish();
    }

    /// Returns the override for a number of epochs that ends a little after the newest checkpoint.
    fn epochs_beyond(&self, out: &str) -> String {
        // Of the 4096 samples, 410 are the validation part. The others are 28.8 batches of 128.
        const STEPS_PER_EPOCH: u64 = 29;
        let made = self.checkpoints(out).pop().unwrap();
        format!("train.epochs={}", made / STEPS_PER_EPOCH + 2)
    }

    /// Returns metrics and summary of a run, without durations.
    fn records(&self, out: &str) -> (Vec<Value>, Value) {
        const TIMES: [&str; 4] = ["seconds", "samples_per_second", "workers", "slowest"];
        let plain = |text: &str| {
            let mut value: Value = serde_json::from_str(text).unwrap();
            let object = value.as_object_mut().unwrap();
            TIMES.iter().for_each(|key| drop(object.remove(*key)));
            value
        };
        let read = |name: &str| fs::read_to_string(self.path(out).join(name)).unwrap();
        (read("metrics.jsonl").lines().map(plain).collect(), plain(&read("summary.json")))
    }
}

fn seeded() -> Stream {
    let seed = std::process::id().into();
    println!("seed {seed}");
    Stream::new(seed, Purpose::Simulation, 0)
}

fn ask_to_end(process: &Running) {
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
}

#[test]
fn a_killed_train_resumes_with_any_threads_and_workers_to_the_same_result() {
    killed_train(RUN);
}

#[test]
fn a_killed_train_with_policies_resumes_with_any_threads_and_workers_to_the_same_result() {
    killed_train(WATCHING);
}

fn killed_train(file: &str) {
    let (dir, mut random) = (TestDir::of(file), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    // Otherwise the checkpoints would contain no decision of the guard, and the kills would test less than
    // they should.
    let recovered = dir.records("whole").0.iter().any(|line| line["event"] == "recovered");
    assert_eq!(recovered, file == WATCHING);
    let every = [&["--threads", "1"][..], &["--threads", "2"], &["--workers", "3"]];
    let mut kills = 0;
    for flags in every.iter().cycle().take(6) {
        let mut process = Running::start(&mut dir.train("killed", flags));
        if !dir.let_run("killed", &mut process, &mut random) {
            break;
        }
        process.kill();
        process.finish();
        kills += 1;
    }
    // On a fast machine, the run may end before the last kill.
    if !dir.path("killed/summary.json").exists() {
        let ended = run(&mut dir.train("killed", &["--threads", "1"]));
        assert_eq!(ended.hash(), wanted, "{ended}");
        assert!(ended.stderr.contains("resuming after"), "{ended}");
    }
    assert!(kills >= 3, "only {kills} kills");
    assert_eq!(dir.records("killed"), dir.records("whole"));
    // The default of `--checkpoint-keep`.
    assert_eq!(dir.checkpoints("killed").len(), 3);
}

#[test]
fn a_killed_server_resumes_and_its_workers_reconnect() {
    killed_server(RUN);
}

#[test]
fn a_killed_server_with_policies_resumes_and_its_workers_reconnect() {
    killed_server(WATCHING);
}

fn killed_server(file: &str) {
    let (dir, mut random) = (TestDir::of(file), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    let mut workers = [0, 1].map(|_| dir.worker());
    let mut kills = 0;
    let ended = loop {
        let mut server = Running::start(&mut dir.server("killed"));
        if kills == 6 || !dir.let_run("killed", &mut server, &mut random) {
            break server.finish();
        }
        server.kill();
        server.finish();
        kills += 1;
        if kills == 3 {
            // A worker is killed at the same time, and another one joins.
            workers[0].kill();
            workers[0] = dir.worker();
        }
    };
    assert_eq!(ended.hash(), wanted, "{ended}");
    assert!(kills >= 3, "only {kills} kills");
    assert_eq!(dir.records("killed"), dir.records("whole"));
    for worker in &mut workers {
        let ended = worker.finish();
        assert!(ended.status.success() && ended.stderr.contains("training is done"), "{ended}");
    }
}

#[test]
fn a_run_moves_from_one_process_to_servers_and_back() {
    let (dir, mut random) = (TestDir::new(), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    for by_server in [false, true, false] {
        let mut command = if by_server { dir.server("moved") } else { dir.train("moved", &[]) };
        let _worker = by_server.then(|| dir.worker());
        let mut process = Running::start(&mut command);
        assert!(dir.let_run("moved", &mut process, &mut random), "{}", process.finish());
        process.kill();
        process.finish();
    }
    assert_eq!(run(&mut dir.train("moved", &[])).hash(), wanted);
    assert_eq!(dir.records("moved"), dir.records("whole"));
}

#[test]
fn a_launch_whose_server_is_killed_ends_and_can_be_resumed() {
    let (dir, mut random) = (TestDir::new(), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    let launch = || {
        let mut command = downhill(&["launch"]);
        command.arg(dir.path("run.toml")).arg("--out").arg(dir.path("launched"));
        command.args(["--workers", "2", "--threads", "1", "--checkpoint-every", "5"]);
        command
    };
    let mut process = Running::start(launch().args(["--restart", "0"]));
    assert!(dir.let_run("launched", &mut process, &mut random), "{}", process.finish());
    let server = children(process.id(), "ps-server")[0].to_string();
    assert!(Command::new("kill").args(["-9", &server]).status().unwrap().success());
    let ended = process.finish();
    assert!(!ended.status.success() && ended.stderr.contains("the server"), "{ended}");
    assert_eq!(run(&mut launch()).hash(), wanted);
    assert_eq!(dir.records("launched"), dir.records("whole"));
}

#[test]
fn a_launch_restarts_killed_processes_and_ends_with_the_same_result() {
    killed_launch(RUN);
}

#[test]
fn a_launch_with_policies_restarts_killed_processes_and_ends_with_the_same_result() {
    killed_launch(WATCHING);
}

fn killed_launch(file: &str) {
    let (dir, mut random) = (TestDir::of(file), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    for how in [&["--shards", "1"][..], &["--shards", "2", "--tcp"], &["--shards", "beside"]] {
        let out = format!("launched-{}", how[1]);
        let mut command = downhill(&["launch"]);
        command.arg(dir.path("run.toml")).arg("--out").arg(dir.path(&out)).args(how);
        command.args(["--workers", "2", "--threads", "1", "--checkpoint-every", "5"]);
        let mut process = Running::start(&mut command);
        let mut kills = 0;
        for name in ["ps-server", "ps-worker", "ps-server"] {
            if !dir.let_run(&out, &mut process, &mut random) {
                break;
            }
            let victims = children(process.id(), name);
            // A process that was killed just before may not have been restarted yet.
            let Some(victim) = victims.get(random.below(victims.len().max(1) as u32) as usize) else {
                continue;
            };
            let killed = Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap();
            kills += u32::from(killed.success());
        }
        let ended = process.finish();
        assert_eq!(ended.hash(), wanted, "{how:?}\n{ended}");
        assert!(kills > 0, "{how:?}: nobody was killed");
        assert_eq!(dir.records(&out), dir.records("whole"), "{how:?}");
    }
}

#[test]
fn a_shard_whose_index_is_taken_after_a_restart_gets_another() {
    let (dir, mut random) = (TestDir::new(), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    let worker = || {
        let mut command = program("ps-worker");
        command.args(["--threads", "1", "--host-shard", "--server", &dir.address()]);
        Running::start(&mut command)
    };
    let server = || Running::start(dir.server("moved").args(["--shards-colocated", "2"]));
    let signal = |process: &Running, name: &str| {
        assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
    };
    let mut holder = server();
    let mut workers = [worker(), worker()];
    // The new worker of the first round holds the first shard. In the second round it is the survivor, and
    // another new worker takes that shard before it is back.
    for victim in [0, 1] {
        assert!(dir.let_run("moved", &mut holder, &mut random), "{}", holder.finish());
        let survivor = 1 - victim;
        signal(&workers[survivor], "-STOP");
        holder.kill();
        workers[victim].kill();
        holder.finish();
        holder = server();
        workers[victim] = worker();
        holder.log_line(|line| line.contains("shard attached"));
        signal(&workers[survivor], "-CONT");
    }
    let ended = holder.finish();
    assert_eq!(ended.hash(), wanted, "{ended}");
    assert_eq!(dir.records("moved"), dir.records("whole"));
}

#[test]
fn shards_are_saved_without_velocity_and_after_an_inspected_epoch_end() {
    let (dir, mut random) = (TestDir::new(), seeded());
    let at_rest = ["--set", "optimizer.momentum=0", "--set", "train.epochs=3"];
    let wanted = run(&mut dir.train("at-rest", &at_rest)).hash();
    let mut server = dir.server("at-rest-shards");
    server.args(at_rest).args(["--shard", "0/2"]);
    let shard = |sets: &[&str]| {
        let mut shard = program("ps-server");
        shard.arg(dir.path("run.toml")).args(["--shard", "1/2", "--coordinator", &dir.address()]);
        let listen = format!("unix:{}", dir.path("shard").display());
        Running::start(shard.args(["--listen", &listen]).args(sets))
    };
    let together = (shard(&at_rest), dir.worker());
    assert_eq!(run(&mut server).hash(), wanted);
    drop(together);

    // A run with momentum and an epoch end at every other step, at which the shards are asked for their
    // weights only.
    let short = ["train.batch=2048", "train.epochs=60", "model.hidden=[64, 32]"];
    let short = short.map(|set| ["--set", set]).concat();
    let short = short.as_slice();
    let wanted = run(&mut dir.train("whole", short)).hash();
    let mut stops = 0;
    let ended = loop {
        let mut server = dir.server("stopped");
        let mut server = Running::start(server.args(short).args(["--shard", "0/2"]));
        // Otherwise, shard and worker would wait for the next server.
        let (_shard, _worker) = (shard(short), dir.worker());
        if stops == 8 || !dir.let_run("stopped", &mut server, &mut random) {
            break server.finish();
        }
        ask_to_end(&server);
        let ended = server.finish();
        // The last steps may have been quicker than the signal.
        if ended.status.success() {
            break ended;
        }
        assert_eq!(ended.status.code(), Some(143), "{ended}");
        stops += 1;
    };
    assert!(stops > 3, "only {stops} stops");
    assert_eq!(ended.hash(), wanted, "{ended}");
    assert_eq!(dir.records("stopped"), dir.records("whole"));
}

#[test]
fn a_server_restarted_after_the_end_has_nothing_to_do() {
    let dir = TestDir::new();
    let mut server = Running::start(&mut dir.server("out"));
    let mut worker = dir.worker();
    let wanted = server.finish().hash();
    assert!(worker.finish().status.success());
    let records = dir.records("out");
    let again = run(&mut dir.server("out"));
    assert_eq!(again.hash(), wanted);
    assert!(again.stderr.contains("this run is finished"), "{again}");
    assert_eq!(dir.records("out"), records);
    // With another run file, the server does not claim that the run is finished.
    let other = run(dir.server("out").args(["--set", "optimizer.momentum=0.8"]));
    assert_eq!(other.status.code(), Some(2), "{other}");
    assert!(other.stderr.contains("optimizer.momentum = 0.9, but the run file has 0.8"), "{other}");
}

#[test]
fn a_run_stopped_on_request_loses_no_step() {
    let (dir, mut random) = (TestDir::new(), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    let reported = |ended: &Ended| {
        let line = ended.stdout.lines().find_map(|line| line.strip_prefix("trained"));
        let line = line.unwrap_or_else(|| panic!("{ended}"));
        let steps: String =
            line.trim().chars().take_while(|c| *c != ' ').filter(char::is_ascii_digit).collect();
        steps.parse::<u64>().unwrap()
    };
    for by_server in [true, false, true] {
        let mut command = if by_server { dir.server("stopped") } else { dir.train("stopped", &[]) };
        let _worker = by_server.then(|| dir.worker());
        let mut process = Running::start(&mut command);
        assert!(dir.let_run("stopped", &mut process, &mut random), "{}", process.finish());
        ask_to_end(&process);
        let ended = process.finish();
        assert_eq!(dir.checkpoints("stopped").pop(), Some(reported(&ended)), "{ended}");
    }
    assert_eq!(run(&mut dir.train("stopped", &[])).hash(), wanted);
    assert_eq!(dir.records("stopped"), dir.records("whole"));
}

#[test]
fn a_damaged_checkpoint_is_reported_and_without_a_valid_one_the_run_does_not_restart() {
    let dir = TestDir::new();
    let wanted = run(&mut dir.train("whole", &[])).hash();
    let mut process = Running::start(&mut dir.train("run", &[]));
    while dir.checkpoints("run").len() < 2 {
        assert!(!process.ends_within(Duration::from_millis(1)));
    }
    process.kill();
    process.finish();
    let damage = |steps: &[u64]| {
        for step in steps {
            let file = dir.path(&format!("run/checkpoints/step-{step:012}/weights.safetensors"));
            let mut bytes = fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(file, bytes).unwrap();
        }
    };
    let steps = dir.checkpoints("run");
    damage(&steps[steps.len() - 1..]);
    let copy = dir.path("copy");
    copy_folder(&dir.path("run"), &copy);
    // Warnings are printed even with --quiet.
    let ended = run(&mut dir.train("run", &["--quiet"]));
    assert_eq!(ended.hash(), wanted);
    assert!(
        ended.stderr.contains("damaged checkpoint: step-") && ended.stderr.contains("SHA-256"),
        "{ended}"
    );

    fs::remove_dir_all(dir.path("run")).unwrap();
    fs::rename(copy, dir.path("run")).unwrap();
    damage(&steps[..steps.len() - 1]);
    let ended = run(&mut dir.train("run", &[]));
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(
        ended.stderr.contains("all checkpoints are damaged") && ended.stderr.contains("--allow-fresh"),
        "{ended}"
    );
    assert_eq!(run(&mut dir.train("run", &["--allow-fresh"])).hash(), wanted);
}

#[test]
fn a_run_does_not_resume_from_checkpoints_of_another_run() {
    let dir = TestDir::new();
    let mut process = Running::start(&mut dir.train("run", &[]));
    while dir.checkpoints("run").is_empty() {
        assert!(!process.ends_within(Duration::from_millis(1)));
    }
    // Two processes cannot use the checkpoints at the same time.
    let ended = run(&mut dir.train("run", &[]));
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.stderr.contains("another process uses these checkpoints"), "{ended}");
    process.kill();
    process.finish();
    let ended = run(&mut dir.train("run", &["--set", "seed=2"]));
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(
        ended.stderr.contains("has seed = 1, but the run file has 2") && ended.stderr.contains("--out"),
        "{ended}"
    );
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
