//! Servers and workers behind a proxy that delays, cuts, silences and damages their connections. The weights
//! must be those of an undisturbed run.
//!
//! `PROXY_SEED=N` makes the proxy repeat what it did with a seed that a test has printed.

#![cfg(unix)]
mod proxy;

use downhill_tests::{Ended, Running, downhill, program, run};
use proxy::{BOTH, Direction, Done, Fault, Proxy};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A model of 200 kB, which is sent to each worker and back in every step. A step takes a few milliseconds.
const RUN: &str = r#"
[data]
train = "digits:2048"
[model]
kind = "mlp"
hidden = [64]
[train]
epochs = 20
batch = 128
leaf = 16
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
"#;

/// Range of bytes after which a fault hits a connection of the rounds: within its first few steps, mostly in
/// the middle of a message.
const ROUNDS: std::ops::Range<u32> = 2_000..600_000;
/// Range of bytes for faults at the beginning of a connection: TCP, TLS, HTTP/2, the call and its response.
const BEGINNING: std::ops::Range<u32> = 0..3_000;

/// A temporary folder with a run and its results.
struct TestDir {
    folder: tempfile::TempDir,
    is_secure: bool,
}

impl TestDir {
    fn new() -> Self {
        TestDir::of(RUN)
    }

    fn of(run: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.toml"), run).unwrap();
        TestDir { folder, is_secure: false }
    }

    /// Creates a folder with certificates for all processes.
    fn secure() -> Self {
        let dir = TestDir { is_secure: true, ..TestDir::new() };
        let mut certs = downhill(&["certs", "--workers", "1", "--days", "1"]);
        let made = run(certs.arg("--out").arg(dir.path("certs")));
        assert!(made.status.success(), "{made}");
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the hash of an undisturbed run.
    fn hash(&self) -> String {
        let mut train = downhill(&["train"]);
        run(train.arg(self.path("run.toml")).arg("--out").arg(self.path("alone"))).hash()
    }

    fn certify(&self, command: &mut Command, name: &str) {
        if self.is_secure {
            let file = |name: String| self.path("certs").join(name);
            command.arg("--tls-cert").arg(file(format!("{name}.pem")));
            command.arg("--tls-key").arg(file(format!("{name}-key.pem")));
            command.arg("--tls-ca").arg(file("ca.pem".into()));
        }
    }

    /// Starts a server and waits until it listens. Returns its address as well.
    fn server(&self, flags: &[&str]) -> (Running, SocketAddr) {
        let mut command = program("ps-server");
        command
            .arg(self.path("run.toml"))
            .args(["--listen", "127.0.0.1:0", "--worker-timeout", "1"])
            .args(flags);
        self.certify(&mut command, "server");
        let mut server = Running::start(&mut command);
        let line = server.line(|line| line.starts_with("listening on "));
        let (_, address) = line.rsplit_once('/').unwrap_or_else(|| panic!("no address in {line}"));
        let address = address.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        (server, address)
    }

    /// Starts a server that writes results.
    fn coordinator(&self, flags: &[&str]) -> (Running, SocketAddr) {
        let out = self.path("run").display().to_string();
        self.server(&[&["--out", &out, "--checkpoint-every", "5"], flags].concat())
    }

    fn worker(&self, proxy: &Proxy, patience: &str) -> Running {
        let mut command = program("ps-worker");
        let server = proxy.address.to_string();
        command.args(["--threads", "1", "--server", &server, "--connect-timeout", patience]);
        self.certify(&mut command, "worker-1");
        Running::start(&mut command)
    }
}

/// Prints and returns the seed with which the proxies would do the same again.
fn seed() -> u64 {
    let given = std::env::var("PROXY_SEED").ok();
    let seed = given.map_or(std::process::id().into(), |seed| seed.parse().expect("PROXY_SEED is a number"));
    println!("PROXY_SEED={seed}");
    seed
}

/// Waits for all processes. The server must end with the hash `wanted`, and every worker must succeed.
fn finish(mut server: Running, workers: Vec<Running>, wanted: &str) -> Vec<Ended> {
    let server = server.finish();
    let workers = workers.into_iter().map(|mut worker| worker.finish()).collect();
    check(server, workers, wanted)
}

fn check(server: Ended, workers: Vec<Ended>, wanted: &str) -> Vec<Ended> {
    let all = || workers.iter().fold(server.to_string(), |all, worker| format!("{all}\n{worker}"));
    assert_eq!(server.hash(), wanted, "{}", all());
    for worker in &workers {
        let is_good = worker.status.success() && worker.stderr.contains("training is done");
        assert!(is_good, "{}", all());
    }
    workers
}

/// Returns how often workers reported that they lost or did not reach their server.
fn setbacks(workers: &[Ended]) -> usize {
    let signs = ["connection to the server lost", "server not reached", "cannot reach the server yet"];
    let lines = workers.iter().flat_map(|worker| worker.stderr.lines());
    lines.filter(|line| signs.iter().any(|sign| line.contains(sign))).count()
}

#[test]
fn delayed_and_cut_connections_change_no_bit() {
    let (dir, seed) = (TestDir::new(), seed());
    let wanted = dir.hash();
    let cards = [
        (Fault::Close, 4, ROUNDS),
        (Fault::Close, 2, BEGINNING),
        (Fault::Close, 1, 0..1),
        (Fault::Reset, 4, ROUNDS),
        (Fault::Reset, 2, BEGINNING),
        (Fault::Reset, 1, 0..1),
        (Fault::HalfClose, 4, ROUNDS),
        (Fault::HalfClose, 2, BEGINNING),
        (Fault::Swallow, 2, ROUNDS),
        (Fault::SwallowAll, 1, ROUNDS),
    ];
    let proxy = Proxy::start(seed, &cards);
    let (server, address) = dir.coordinator(&[]);
    proxy.lead_to(address);
    let workers = (0..3).map(|_| dir.worker(&proxy, "60")).collect();
    let workers = finish(server, workers, &wanted);
    let done = proxy.all_done();
    assert!(done.delays > 0 && setbacks(&workers) > 10, "{done}\n{workers:#?}");
}

/// A run on two shards with a proxy on each path: from the workers to the coordinator, from the workers to
/// the other shard, and from that shard to the coordinator.
struct Sharded {
    coordinator: Running,
    shard: Running,
    workers: Vec<Running>,
}

impl Sharded {
    /// Creates a folder with a model that is large enough for two shards.
    fn dir() -> TestDir {
        TestDir::of(&RUN.replace("hidden = [64]", "hidden = [128]").replace("epochs = 20", "epochs = 12"))
    }

    fn start(dir: &TestDir, proxies: &[Proxy; 3]) -> Self {
        let (coordinator, address) = dir.coordinator(&["--shard", "0/2"]);
        proxies[0].lead_to(address);
        proxies[2].lead_to(address);
        let [_, advertised, coordinates] = proxies.each_ref().map(|proxy| proxy.address.to_string());
        let (shard, address) =
            dir.server(&["--shard", "1/2", "--coordinator", &coordinates, "--advertise", &advertised]);
        proxies[1].lead_to(address);
        let workers = (0..3).map(|_| dir.worker(&proxies[0], "60")).collect();
        Sharded { coordinator, shard, workers }
    }

    /// Like [`finish`], for all processes of the run.
    fn finish(mut self, wanted: &str) -> Vec<Ended> {
        let workers = finish(self.coordinator, self.workers, wanted);
        let shard = self.shard.finish();
        assert!(shard.status.success(), "{shard}");
        workers
    }
}

#[test]
fn shards_behind_separate_proxies_change_no_bit() {
    let (dir, seed) = (Sharded::dir(), seed());
    let wanted = dir.hash();
    let cuts = [(Fault::Close, 2, ROUNDS), (Fault::Reset, 2, ROUNDS), (Fault::HalfClose, 1, ROUNDS)];
    let swallowed = [(Fault::Swallow, 2, ROUNDS), (Fault::SwallowAll, 1, ROUNDS)];
    let proxies = [
        Proxy::start(seed, &[&cuts[..], &swallowed].concat()),
        Proxy::start(seed + 1, &cuts),
        Proxy::start(seed + 2, &[(Fault::Close, 1, 0..100), (Fault::Reset, 1, 0..100)]),
    ];
    let mut cluster = Sharded::start(&dir, &proxies);
    // The rest of the run is long enough for all remaining faults.
    for bytes in [10_000_000, 40_000_000] {
        proxies[0].wait(|done| done.bytes > bytes);
        proxies[2].cut();
        cluster.coordinator.log_line(|line| line.contains(" is gone: "));
    }
    let workers = cluster.finish(&wanted);
    let done = proxies.each_ref().map(Proxy::all_done);
    assert!(done.iter().all(|done| done.delays > 0) && setbacks(&workers) > 5, "{done:?}\n{workers:#?}");
    assert!(done[2].faults[&Fault::Reset] >= 3, "{}", done[2]);
}

#[test]
fn a_silent_shard_is_detected_within_a_minute_and_changes_no_bit() {
    let (dir, seed) = (Sharded::dir(), seed());
    let wanted = dir.hash();
    let proxies = [0, 1, 2].map(|index| Proxy::start(seed + index, &[]));
    let mut cluster = Sharded::start(&dir, &proxies);
    proxies[0].wait(|done| done.bytes > 10_000_000);
    for proxy in &proxies[1..] {
        proxy.hold(&BOTH);
    }
    let since = Instant::now();
    cluster.coordinator.log_line(|line| line.contains(" is gone: "));
    for worker in &mut cluster.workers {
        worker.log_line(|line| line.contains("connection to the server lost"));
    }
    println!("missed after {:?}", since.elapsed());
    // Only HTTP/2 pings reveal a silent shard, which takes up to half a minute.
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    for proxy in &proxies[1..] {
        assert!(proxy.done().holds > 0, "{}", proxy.done());
        proxy.hold(&[]);
    }
    cluster.finish(&wanted);
}

#[test]
fn silence_for_longer_than_the_worker_timeout_changes_no_bit() {
    let (dir, seed) = (TestDir::new(), seed());
    let wanted = dir.hash();
    let proxy = Proxy::start(seed, &[]);
    let (mut server, address) = dir.coordinator(&[]);
    proxy.lead_to(address);
    let mut workers = [0, 1].map(|_| dir.worker(&proxy, "60"));
    for worker in &mut workers {
        worker.log_line(|line| line.contains("admitted"));
    }
    for directions in [&[Direction::Up][..], &[Direction::Down], &BOTH] {
        let Done { bytes, holds, .. } = proxy.done();
        proxy.wait(|done| done.bytes > bytes + 2_000_000);
        proxy.hold(directions);
        for worker in &mut workers {
            // Which side misses messages first depends on the direction that is silent.
            let is_silence = |line: &str| line.contains("nothing") || line.contains("no message");
            worker.log_line(|line| line.contains("connection to the server lost") && is_silence(line));
        }
        for _ in &workers {
            server.log_line(|line| line.contains(" lost at step "));
        }
        assert!(proxy.done().holds > holds, "{directions:?}: {}", proxy.done());
        proxy.hold(&[]);
        for worker in &mut workers {
            worker.log_line(|line| line.contains("admitted"));
        }
    }
    finish(server, workers.into(), &wanted);
    println!("{}", proxy.done());
}

#[test]
fn flipped_bits_under_tls_break_connections_and_change_no_bit() {
    let (dir, seed) = (TestDir::secure(), seed());
    let wanted = dir.hash();
    let proxy = Proxy::start(seed, &[(Fault::Flip, 12, ROUNDS), (Fault::Flip, 6, BEGINNING)]);
    // A handshake with a damaged length stalls for some seconds, during which the others may finish the run.
    let (mut server, address) = dir.coordinator(&["--linger"]);
    proxy.lead_to(address);
    let workers: Vec<Running> = (0..3).map(|_| dir.worker(&proxy, "60")).collect();
    let workers = workers.into_iter().map(|mut worker| worker.finish()).collect();
    server.terminate();
    let workers = check(server.finish(), workers, &wanted);
    let done = proxy.all_done();
    assert_eq!(done.faults[&Fault::Flip], 18, "{done}");
    // No process continues on a damaged connection. Only what was in transit to the end that notices the
    // damage can still arrive.
    let setbacks = setbacks(&workers);
    println!("{setbacks} setbacks");
    assert!(done.after_flip < 4 << 20 && setbacks >= 17, "{setbacks} setbacks, {done}\n{workers:#?}");
}

#[test]
fn a_worker_gives_up_on_a_server_that_never_answers() {
    let dir = TestDir::new();
    // The server was never reachable.
    let silent = Proxy::start(0, &[]);
    silent.hold(&BOTH);
    let secure = TestDir::secure();
    let (server, address) = dir.server(&["--out", &dir.path("run").display().to_string()]);
    silent.lead_to(address);
    let since = Instant::now();
    let strangers = [dir.worker(&silent, "2"), secure.worker(&silent, "2")];
    // The server was reachable and then stops answering.
    let proxy = Proxy::start(0, &[]);
    proxy.lead_to(address);
    let mut worker = dir.worker(&proxy, "4");
    worker.log_line(|line| line.contains("admitted"));
    proxy.wait(|done| done.bytes > 1_000_000);
    proxy.hold(&BOTH);
    let held = Instant::now();
    let ended = worker.finish();
    println!("given up after {:?}", held.elapsed());
    let is_clear = |ended: &Ended, what: &str| {
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("no server within") && last.contains(what), "{ended}");
    };
    is_clear(&ended, "no message from the server");
    assert!(held.elapsed() < Duration::from_secs(10), "{:?}", held.elapsed());
    for (mut stranger, what) in strangers.into_iter().zip(["no answer within", "no answer to TLS within"]) {
        is_clear(&stranger.finish(), what);
    }
    println!("never there: given up after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    for proxy in [silent, proxy] {
        assert!(proxy.done().holds > 0, "{}", proxy.done());
    }
    drop(server);
}
