//! How processes end, and what their exit codes tell a supervisor: 0 means that training is done.

use downhill_tests::{Ended, Running, downhill, program, run};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A run of several thousand steps, with enough weights for two servers.
const RUN: &str = r#"
seed = 7
[data]
train = "digits:600"
[model]
kind = "mlp"
hidden = [180, 180]
[train]
epochs = 120
batch = 40
leaf = 10
[learning_rate]
initial = 0.05
"#;

/// A temporary folder with a run, its results and its sockets.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new(run: &str) -> Self {
        let dir = TestDir(tempfile::tempdir().unwrap());
        fs::write(dir.path("run.toml"), run).unwrap();
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn address(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// Returns the command of a server, the first of `shards`.
    fn server(&self, shards: u32) -> Command {
        let mut command = program("ps-server");
        command.arg(self.path("run.toml")).arg("--out").arg(self.path("out"));
        command.args(["--checkpoint-every", "5", "--listen", &self.address("socket")]);
        command.arg(format!("--shard=0/{shards}"));
        command
    }

    /// Starts the second of two servers.
    fn shard(&self) -> Running {
        let mut command = program("ps-server");
        command.arg(self.path("run.toml")).args(["--listen", &self.address("shard"), "--shard", "1/2"]);
        Running::start(command.args(["--coordinator", &self.address("socket")]))
    }

    fn worker(&self) -> Running {
        let mut command = program("ps-worker");
        Running::start(command.args(["--threads", "1", "--server", &self.address("socket")]))
    }

    /// Returns the hash of the run in one process.
    fn wanted(&self) -> String {
        run(downhill(&["train"]).arg(self.path("run.toml")).arg("--out").arg(self.path("alone"))).hash()
    }

    /// Waits for the first checkpoint.
    fn let_run(&self, server: &mut Running) {
        let is_saved = || {
            let entries = fs::read_dir(self.path("out/checkpoints")).into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.any(|name| name.starts_with("step-") && !name.ends_with(".part"))
        };
        while !is_saved() {
            assert!(!server.ends_within(Duration::from_millis(1)), "{}", server.finish());
        }
    }
}

fn send(process: &Running, signal: &str) {
    let sent = Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap();
    assert!(sent.success(), "{signal}");
}

fn code(ended: &Ended, wanted: i32) {
    assert_eq!(ended.status.code(), Some(wanted), "{ended}");
}

#[test]
fn a_stopped_worker_reports_it_and_the_run_continues() {
    let dir = TestDir::new(RUN);
    let wanted = dir.wanted();
    let mut server = Running::start(&mut dir.server(1));
    let [mut first, mut second] = [dir.worker(), dir.worker()];
    dir.let_run(&mut server);
    send(&first, "-TERM");
    code(&first.finish(), 143);
    send(&second, "-INT");
    code(&second.finish(), 130);
    let mut third = dir.worker();
    assert_eq!(server.finish().hash(), wanted);
    code(&third.finish(), 0);
}

#[test]
fn workers_and_shards_wait_for_a_stopped_server() {
    let dir = TestDir::new(RUN);
    let wanted = dir.wanted();
    let (mut shard, mut worker) = (dir.shard(), dir.worker());
    for signal in ["-TERM", "-INT"] {
        let mut server = Running::start(&mut dir.server(2));
        server.log_line(|line| line.contains("worker admitted"));
        dir.let_run(&mut server);
        send(&server, signal);
        let ended = server.finish();
        code(&ended, if signal == "-TERM" { 143 } else { 130 });
        assert!(ended.stdout.contains("stopped before the end"), "{ended}");
    }
    assert_eq!(run(&mut dir.server(2)).hash(), wanted);
    let (shard, worker) = (shard.finish(), worker.finish());
    code(&shard, 0);
    code(&worker, 0);
    assert!(shard.stderr.contains("reconnecting"), "{shard}");
}

#[test]
fn a_server_stopped_while_it_waits_for_a_shard_saves_the_shards_weights() {
    // Every step ends an epoch, after which the weights are fetched from the shard for validation. If the
    // shard is suspended, the coordinator waits for it, sometimes during such a fetch.
    let run = RUN.replace("batch = 40", "batch = \"full\"").replace("epochs = 120", "epochs = 100000");
    let run = run.replace("digits:600", "digits:40").replace("[model]", "validation = 0.1\n[model]");
    let dir = TestDir::new(&(run + "[optimizer]\nmomentum = 0.9\n"));
    for _ in 0..4 {
        let mut server = Running::start(&mut dir.server(2));
        let (shard, _worker) = (dir.shard(), dir.worker());
        server.log_line(|line| line.starts_with("epoch "));
        send(&shard, "-STOP");
        send(&server, "-TERM");
        send(&shard, "-CONT");
        code(&server.finish(), 143);
    }
}

#[test]
fn a_run_ended_on_request_stays_ended_unless_resumed_explicitly() {
    let dir = TestDir::new(RUN);
    let wanted = dir.wanted();
    let mut server = Running::start(&mut dir.server(2));
    let (mut shard, mut worker) = (dir.shard(), dir.worker());
    dir.let_run(&mut server);
    let stopped = run(&mut downhill(&["stop", &dir.address("socket")]));
    assert!(stopped.status.success() && stopped.stdout.starts_with("run ended; saved after "), "{stopped}");
    let ended = server.finish();
    code(&ended, 3);
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.starts_with("weights sha256 ") && ended.stdout.contains("ended on request"), "{ended}");
    for process in [&mut shard, &mut worker] {
        let ended = process.finish();
        code(&ended, 3);
        assert!(ended.stderr.contains("ended on request"), "{ended}");
    }
    // Started again with the same command, the run does not resume.
    let again = run(&mut dir.server(2));
    code(&again, 3);
    assert!(again.stderr.contains("--resume") && again.stdout.lines().last() == Some(last), "{again}");
    let listed = run(downhill(&["runs"]).arg(dir.path("")));
    assert!(listed.stdout.contains("ended"), "{listed}");
    let mut server = Running::start(dir.server(2).arg("--resume"));
    let (mut shard, mut worker) = (dir.shard(), dir.worker());
    // From now on, it behaves like any other run.
    server.log_line(|line| line.contains("worker admitted"));
    server.kill();
    server.finish();
    assert_eq!(run(&mut dir.server(2)).hash(), wanted);
    code(&shard.finish(), 0);
    code(&worker.finish(), 0);
}

#[test]
fn only_administrators_can_end_a_run() {
    let dir = TestDir::new(RUN);
    let token = |name: &str, text: &str| {
        fs::write(dir.path(name), format!("{text}\n")).unwrap();
        dir.path(name)
    };
    let workers = token("workers", "a-token-of-all-workers");
    let admin = token("admin", "a-token-of-administrators");
    let serve = |listen: &str, admin: &PathBuf| {
        let mut command = program("ps-server");
        command.arg(dir.path("run.toml")).arg("--out").arg(dir.path("out")).args(["--listen", listen]);
        command.arg("--token-file").arg(&workers).arg("--admin-token-file").arg(admin);
        Running::start(&mut command)
    };
    let both = serve("127.0.0.1:0", &workers).finish();
    code(&both, 2);
    assert!(both.stderr.contains("every worker could end the run"), "{both}");
    let mut server = serve("127.0.0.1:0", &admin);
    let address = server.listens();
    let stop = |flag: &str, file: &PathBuf| run(downhill(&["stop", &address, flag]).arg(file));
    let refused = stop("--token-file", &workers);
    code(&refused, 1);
    assert!(refused.stderr.contains("only an administrator may end the run"), "{refused}");
    let mut worker = program("ps-worker");
    worker.args(["--threads", "1", "--server", &address, "--token-file"]).arg(&workers);
    let mut worker = Running::start(&mut worker);
    server.log_line(|line| line.contains("worker admitted"));
    assert!(stop("--admin-token-file", &admin).status.success());
    code(&server.finish(), 3);
    code(&worker.finish(), 3);
}

#[test]
fn processes_stopped_before_the_run_begins_exit_with_an_error() {
    let dir = TestDir::new(RUN);
    let mut lonely = dir.worker();
    lonely.log_line(|line| line.contains("cannot reach the server yet"));
    let mut shard = dir.shard();
    shard.line(|line| line.starts_with("listening on "));
    for process in [&mut lonely, &mut shard] {
        send(process, "-TERM");
        code(&process.finish(), 143);
    }
    // The server is started only now, because with a single shard it would refuse the other one.
    let mut server = Running::start(dir.server(1).args(["--checkpoint-seconds", "0"]));
    server.line(|line| line.starts_with("listening on "));
    send(&server, "-TERM");
    code(&server.finish(), 143);
}

#[test]
fn a_coordinator_failure_fails_its_shards_and_workers() {
    let dir = TestDir::new(&RUN.replace("0.05", "1e30"));
    let mut server = Running::start(&mut dir.server(2));
    let (mut shard, mut worker) = (dir.shard(), dir.worker());
    for process in [&mut server, &mut shard, &mut worker] {
        code(&process.finish(), 1);
    }
}

#[test]
fn a_launched_run_that_is_ended_on_request_ends_as_a_whole() {
    let dir = TestDir::new(RUN);
    let mut command = downhill(&["launch"]);
    command.arg(dir.path("run.toml")).args([
        "--workers",
        "2",
        "--threads",
        "1",
        "--checkpoint-every",
        "5",
        "--out",
    ]);
    let mut launch = Running::start(command.arg(dir.path("out")));
    let found = launch.log_line(|line| line.contains("server found"));
    let address =
        found.split("server=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().replace('"', "");
    dir.let_run(&mut launch);
    assert!(run(&mut downhill(&["stop", &address])).status.success());
    let ended = launch.finish();
    code(&ended, 3);
    assert!(!ended.stderr.contains("restarting it") && !ended.stderr.contains("error"), "{ended}");
    // Launching the run again resumes it.
    let mut launch = Running::start(&mut command);
    launch.log_line(|line| line.contains("worker admitted"));
    send(&launch, "-INT");
    code(&launch.finish(), 130);
}
