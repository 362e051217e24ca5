//! A run as other programs see it: Prometheus, TensorBoard and Chromium. `tests/outside/install` installs
//! them; without them, the tests say what they skip.

#![cfg(unix)]
use downhill_tests::{Ended, Running, downhill, outside, outside_program, program, root, run};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const RUN: &str = r#"
[data]
train = "digits:4000"
validation = 0.1
[model]
kind = "mlp"
hidden = [32]
[train]
epochs = 4
batch = 64
leaf = 16
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
"#;

const TOKEN: &str = "0123456789abcdef-for-this-test";

fn test_dir() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run.toml"), RUN).unwrap();
    fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
    folder
}

fn train(dir: &Path, out: &str, more: &[&str]) -> Ended {
    let mut command = downhill(&["train"]);
    command.arg(dir.join("run.toml")).arg("--out").arg(dir.join(out)).args(more);
    run(&mut command)
}

/// Sends a request and returns the head (status line and headers) and the body of the response.
fn ask(address: &str, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    write!(stream, "GET {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Waits for a line on standard error such as `dashboard at http://127.0.0.1:1234/`, and returns the address.
fn address(running: &mut Running, what: &str) -> String {
    let before = format!("{what} at http://");
    let line = running.log_line(|line| line.contains(&before));
    line.split_once(&before).unwrap().1.split('/').next().unwrap().to_owned()
}

#[test]
fn training_continues_with_a_warning_if_the_port_is_in_use() {
    let folder = test_dir();
    let wanted = train(folder.path(), "plain", &[]).hash();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = train(folder.path(), "watched", &["--dashboard", &address, "--metrics", &address]);
    assert_eq!(ended.hash(), wanted);
    for flag in ["--dashboard", "--metrics"] {
        let expected =
            format!("{flag} {address}: another process uses this port; the run continues without it");
        assert!(ended.stderr.contains(&expected), "{ended}");
    }
    // Other machines have no access by default.
    let open = train(folder.path(), "open", &["--dashboard", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(2), "{open}");
    assert!(
        open.stderr.contains("other machines can reach") && !folder.path().join("open").exists(),
        "{open}"
    );
}

#[test]
fn runs_are_listed_and_compared_by_their_hashes() {
    let folder = test_dir();
    let dir = folder.path();
    let hash = train(dir, "a", &["--threads", "1"]).hash();
    assert_eq!(train(dir, "b", &["--workers", "3", "--threads", "2"]).hash(), hash);
    train(dir, "c", &["--set", "learning_rate.initial=0.06"]).hash();
    let mut launch = downhill(&["launch", "--workers", "2", "--shards", "2"]);
    assert_eq!(run(launch.arg(dir.join("run.toml")).arg("--out").arg(dir.join("d"))).hash(), hash);
    train(dir, "e", &["--reference"]).hash();
    let hashes = |run: &str| {
        let text = fs::read_to_string(dir.join(run).join("metrics.jsonl")).unwrap();
        text.lines().filter(|line| line.contains(r#""kind":"hash""#)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(hashes("a").len() > 20);
    for other in ["b", "d", "e"] {
        assert_eq!(hashes("a"), hashes(other), "{other}");
    }
    assert_ne!(hashes("a"), hashes("c"));

    let diff = |a: &str, b: &str| run(downhill(&["diff"]).arg(dir.join(a)).arg(dir.join(b)));
    let same = diff("a", "d");
    assert_eq!(same.status.code(), Some(0), "{same}");
    assert!(
        same.stdout.contains("run file     the same") && same.stdout.contains("the same after all"),
        "{same}"
    );
    let other = diff("a", "c");
    assert_eq!(other.status.code(), Some(1), "{other}");
    assert!(other.stdout.contains("learning_rate.initial 0.05 | 0.06"), "{other}");
    assert!(other.stdout.contains("different after"), "{other}");
    // Changes a hash in one run, as if one bit were different from some step on.
    let metrics = dir.join("b/metrics.jsonl");
    let lines = hashes("b");
    let (from, step) =
        (&lines[5], |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].to_string());
    let hash_of = serde_json::from_str::<Value>(from).unwrap()["weights_sha256"].as_str().unwrap().to_owned();
    let text = fs::read_to_string(&metrics).unwrap().replace(&hash_of, &"0".repeat(64));
    fs::write(&metrics, text).unwrap();
    let parted = diff("a", "b");
    let expected = format!("the same after {} steps, different after {}", step(&lines[4]), step(&lines[5]));
    assert!(parted.status.code() == Some(1) && parted.stdout.contains(&expected), "{expected}: {parted}");
    let nothing = diff("a", "nowhere");
    assert!(
        nothing.status.code() == Some(2) && nothing.stderr.contains("no run in this folder"),
        "{nothing}"
    );

    let listed = run(downhill(&["runs"]).arg(dir));
    assert!(listed.status.success(), "{listed}");
    assert_eq!(listed.stdout.lines().count(), 6, "{listed}");
    assert_eq!(listed.stdout.matches(&hash[..12]).count(), 4, "{listed}");
    let json = run(downhill(&["runs", "--json"]).arg(dir.join("c")));
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["state"], "done", "{json}");
    let empty = run(downhill(&["runs"]).arg(root().join("proto")));
    assert!(empty.status.code() == Some(1) && empty.stderr.contains("no run in"), "{empty}");
}

#[test]
fn a_trace_has_a_lane_for_each_worker() {
    let folder = test_dir();
    let path = folder.path().join("trace.json");
    train(folder.path(), "run", &["--workers", "2", "--trace", path.to_str().unwrap()]).hash();
    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let lanes: Vec<&str> = events
        .iter()
        .filter(|it| it["name"] == "thread_name")
        .map(|it| it["args"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(lanes, ["steps", "worker 0", "worker 1", "update"]);
    let steps = events.iter().filter(|event| event["name"] == "step").count();
    // A tenth of the 4000 samples is the validation part.
    assert_eq!(steps, 4 * 3600_usize.div_ceil(64));
    assert!(
        events.iter().filter(|event| event["ph"] == "X").all(|event| event["dur"].as_f64().unwrap() >= 0.0)
    );
}

#[test]
fn tensorboard_reads_the_event_files() {
    let folder = test_dir();
    train(folder.path(), "run", &["--tensorboard"]).hash();
    let Some(python) = outside("venv/bin/python") else { return };
    let script = root().join("tests/outside/event_files.py");
    let ended = run(Command::new(python).arg(script).arg(folder.path().join("run/tensorboard")));
    assert!(ended.status.success(), "{ended}");
    let read: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let epochs: Vec<Value> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "epoch")
        .collect();
    let validation = read["scalars"]["loss/validation"].as_array().unwrap();
    assert_eq!(validation.len(), 4);
    for (epoch, scalar) in epochs.iter().zip(validation) {
        assert_eq!(epoch["step"], scalar[0]);
        let difference = epoch["validation"]["loss"].as_f64().unwrap() - scalar[1].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{epoch} {scalar}");
    }
    assert!(read["scalars"]["learning_rate"].as_array().unwrap().len() > 100);
    for tensor in ["weights/layers.0.weight", "gradients/layers.0.weight", "weights/layers.1.bias"] {
        let histograms = read["histograms"][tensor].as_array().unwrap_or_else(|| panic!("{tensor}"));
        assert_eq!(histograms.len(), 4, "{tensor}");
    }
    assert_eq!(read["histograms"]["weights/layers.0.weight"][0][1], 784.0 * 32.0);
}

/// A server whose run takes a while, and two workers.
struct Cluster {
    _server: Running,
    _workers: Vec<Running>,
    dashboard: String,
    metrics: [String; 2],
}

fn cluster(dir: &Path) -> Cluster {
    let mut command = program("ps-server");
    command.arg(dir.join("run.toml")).args(["--set", "train.epochs=100000", "--listen", "127.0.0.1:0"]);
    command.args(["--dashboard", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--min-workers", "2"]);
    command.arg("--token-file").arg(dir.join("token")).arg("--out").arg(dir.join("run"));
    let mut server = Running::start(&mut command);
    let metrics = address(&mut server, "metrics");
    let dashboard = address(&mut server, "dashboard");
    let listen = server.listens();
    let mut workers: Vec<Running> = ["left", "right"]
        .into_iter()
        .map(|name| {
            let mut command = program("ps-worker");
            command.args(["--server", &listen, "--name", name, "--threads", "1", "--metrics", "127.0.0.1:0"]);
            Running::start(command.arg("--token-file").arg(dir.join("token")))
        })
        .collect();
    let of_worker = address(&mut workers[0], "metrics");
    Cluster { _server: server, _workers: workers, dashboard, metrics: [metrics, of_worker] }
}

#[test]
fn the_page_requires_a_token() {
    let folder = test_dir();
    let cluster = cluster(folder.path());
    let at = &cluster.dashboard;
    for path in ["/", "/state.json", "/events", "/chart/0", "/results/run.toml"] {
        let (head, _) = ask(at, path, "");
        assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
        let (head, _) = ask(at, path, "Authorization: Bearer something-else-entirely\r\n");
        assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let (head, page) = ask(at, "/", &bearer);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("default-src 'none'"), "{head}");
    assert!(page.contains("<title>Downhill</title>") && !page.contains("http://"), "{page}");
    let until = Instant::now() + Duration::from_secs(60);
    let state = loop {
        let (_, state) = ask(at, "/state.json", &bearer);
        let state: Value = serde_json::from_str(&state).unwrap();
        let many = |what: &str, least| state[what].as_array().is_some_and(|all| all.len() >= least);
        if many("rounds", 3) && many("workers", 2) && state["confusion"].is_object() {
            break state;
        }
        assert!(Instant::now() < until, "{state}");
    };
    assert_eq!(state["workers"].as_array().unwrap().len(), 2, "{state}");
    let counts = state["confusion"]["counts"].as_array().unwrap();
    let counted: u64 =
        counts.iter().flat_map(|row| row.as_array().unwrap()).map(|it| it.as_u64().unwrap()).sum();
    assert_eq!((counts.len(), counted), (10, 400));
    let (head, svg) = ask(at, "/chart/0?width=400&scale=log", &bearer);
    assert!(head.contains("image/svg+xml") && svg.starts_with("<svg"), "{head}");
    assert!(ask(at, "/results/model.safetensors", &bearer).0.starts_with("HTTP/1.1 404"));
    assert!(ask(at, "/results/..%2Ftoken", &bearer).0.starts_with("HTTP/1.1 404"));
    assert!(ask(at, "/results/run.toml", &bearer).1.contains("train = \"digits:4000\""));
    for metrics in &cluster.metrics {
        let (head, body) = ask(metrics, "/metrics", "");
        assert!(
            head.contains("application/openmetrics-text") && body.contains("downhill_build_info"),
            "{head}"
        );
        assert!(ask(metrics, "/", "").0.starts_with("HTTP/1.1 404"));
    }
}

#[test]
fn without_a_token_the_page_rejects_other_host_names() {
    let folder = test_dir();
    let mut command = downhill(&["train", "--set", "train.epochs=100000", "--dashboard", "127.0.0.1:0"]);
    let mut training = Running::start(
        command.arg(folder.path().join("run.toml")).arg("--out").arg(folder.path().join("run")),
    );
    let at = address(&mut training, "dashboard");
    assert!(ask(&at, "/state.json", "").0.starts_with("HTTP/1.1 200"));
    assert!(ask(&at, "/state.json", "Host: localhost:1\r\n").0.starts_with("HTTP/1.1 200"));
    // A host name that a website could point to this address.
    let (head, body) = ask(&at, "/state.json", "Host: evil.example\r\n");
    assert!(head.starts_with("HTTP/1.1 403") && body.contains("--token-file"), "{head}");
}

#[test]
fn chromium_shows_the_page_live() {
    let Some(modules) = outside("node_modules") else { return };
    if outside_program("/usr/bin/chromium").is_none() {
        return;
    }
    let folder = test_dir();
    let cluster = cluster(folder.path());
    let mut command = Command::new("node");
    command.arg(root().join("tests/outside/dashboard.mjs")).arg(modules);
    let ended = run(command.arg(format!("http://{}/", cluster.dashboard)).arg(TOKEN));
    assert!(ended.status.success(), "{ended}");
}

/// The events that a page receives.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(address: &str, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        Events(BufReader::new(stream))
    }

    /// Returns the next state whose phase `wanted` accepts.
    fn state(&mut self, wanted: impl Fn(&str) -> bool) -> Value {
        let mut phases = Vec::new();
        for line in self.0.by_ref().lines() {
            let line = line.unwrap();
            let Some(json) = line.strip_prefix("data: ") else { continue };
            let state: Value = serde_json::from_str(json).unwrap();
            let phase = state["phase"].as_str().unwrap_or("none").to_owned();
            if wanted(&phase) {
                return state;
            }
            phases.push(phase);
        }
        panic!("the process ended; phases were {phases:?}");
    }
}

fn signal(running: &Running, name: &str) {
    let sent = Command::new("kill").args([name, &running.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Starts a server that serves its dashboard and waits for a worker. Returns the addresses of both.
fn waiting_server(dir: &Path, more: &[&str]) -> (Running, String, String) {
    let mut command = program("ps-server");
    command.arg(dir.join("run.toml")).arg("--out").arg(dir.join("run"));
    command.args(["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0"]).args(more);
    let mut server = Running::start(&mut command);
    let dashboard = address(&mut server, "dashboard");
    let listen = server.listens();
    (server, dashboard, listen)
}

fn work(listen: &str) -> Ended {
    run(program("ps-worker").args(["--server", listen, "--threads", "1", "--connect-timeout", "60"]))
}

#[test]
fn an_open_page_gets_the_result_before_the_process_exits() {
    let folder = test_dir();
    let (mut server, dashboard, listen) = waiting_server(folder.path(), &[]);
    let mut page = Events::open(&dashboard, "/events");
    // The server does not wait for a page that already shows the end.
    let mut other = Events::open(&dashboard, "/events?after_end=yes");
    // The first state may be sent before the server first looks at its workers.
    while !page.state(|phase| phase == "starting")["state"].as_str().unwrap().contains("waits for workers") {}
    other.state(|phase| phase == "starting");
    assert!(work(&listen).status.success());
    let done = page.state(|phase| phase != "starting" && phase != "training" && phase != "finishing");
    assert!(done["phase"] == "done" && done["state"] == "completed all 228 steps", "{done}");
    assert_eq!(done["files"].as_array().unwrap().len(), 4, "{done}");
    drop(page);
    let ended = server.finish();
    assert_eq!(done["summary"]["weights_sha256"], ended.hash());
    assert_eq!(done["workers"][0]["state"], "dismissed", "{done}");
}

#[test]
fn an_open_page_shows_why_a_run_failed() {
    let folder = test_dir();
    let diverging = ["--set", "learning_rate.initial=1e30"];
    let (mut server, dashboard, listen) = waiting_server(folder.path(), &diverging);
    let mut page = Events::open(&dashboard, "/events");
    page.state(|phase| phase == "starting");
    work(&listen);
    let failed = page.state(|phase| phase == "failed");
    drop(page);
    let ended = server.finish();
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    let why = failed["state"].as_str().unwrap();
    let (why, _) = why.rsplit_once(" (").unwrap();
    assert!(ended.stderr.contains(why), "{why} is not in\n{ended}");
    let files: Vec<&str> =
        failed["files"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(files, ["metrics.jsonl", "run.toml"]);
}

#[test]
fn train_shows_its_phases_and_that_it_was_stopped() {
    let folder = test_dir();
    let mut command = downhill(&["train", "--set", "train.epochs=100000", "--dashboard", "127.0.0.1:0"]);
    command.arg(folder.path().join("run.toml")).arg("--out").arg(folder.path().join("run"));
    let mut training = Running::start(&mut command);
    let at = address(&mut training, "dashboard");
    let mut page = Events::open(&at, "/events");
    page.state(|phase| phase == "training");
    signal(&training, "-INT");
    let stopped = page.state(|phase| phase == "stopped");
    drop(page);
    let ended = training.finish();
    assert_eq!(ended.status.code(), Some(130), "{ended}");
    assert!(
        stopped["state"].as_str().unwrap().contains("to resume, start the run again with --out"),
        "{stopped}"
    );
    let hash = stopped["summary"]["weights_sha256"].as_str().unwrap();
    assert!(ended.stdout.contains(hash), "{hash}: {ended}");
}

#[test]
fn with_linger_the_result_is_served_until_ctrl_c() {
    let folder = test_dir();
    for (command, workers) in [("train", "1"), ("launch", "2")] {
        let mut staying =
            downhill(&[command, "--workers", workers, "--dashboard", "127.0.0.1:0", "--linger"]);
        staying.arg(folder.path().join("run.toml")).arg("--out").arg(folder.path().join(command));
        let mut staying = Running::start(&mut staying);
        let at = address(&mut staying, "dashboard");
        let hash = staying.line(|line| line.starts_with("weights sha256 "));
        staying
            .log_line(|line| line.contains("dashboard remains at") || line.contains("waiting for SIGTERM"));
        let state: Value = serde_json::from_str(&ask(&at, "/state.json", "").1).unwrap();
        assert_eq!(state["phase"], "done", "{command}: {state}");
        assert!(hash.ends_with(state["summary"]["weights_sha256"].as_str().unwrap()), "{hash}: {state}");
        signal(&staying, "-INT");
        let ended = staying.finish();
        // The run was already done.
        assert!(ended.status.success(), "{command}: {ended}");
    }
    let alone = run(downhill(&["train", "--linger"])
        .arg(folder.path().join("run.toml"))
        .env_remove("DOWNHILL_DASHBOARD"));
    assert!(alone.status.code() == Some(2) && alone.stderr.contains("--dashboard"), "{alone}");
}

#[test]
fn chromium_shows_the_result_when_the_process_is_gone() {
    let Some(modules) = outside("node_modules") else { return };
    if outside_program("/usr/bin/chromium").is_none() {
        return;
    }
    let folder = test_dir();
    let (mut server, dashboard, listen) = waiting_server(folder.path(), &["--set", "train.epochs=20"]);
    let mut command = Command::new("node");
    command.arg(root().join("tests/outside/finished.mjs")).arg(modules).arg(format!("http://{dashboard}/"));
    let mut browser = Running::start(&mut command);
    browser.line(|line| line == "open");
    assert!(work(&listen).status.success());
    server.finish().hash();
    let ended = browser.finish();
    assert!(ended.status.success(), "{ended}");
}

#[test]
fn prometheus_scrapes_server_and_workers() {
    let Some(mut command) = outside_program("prometheus") else { return };
    let folder = test_dir();
    let cluster = cluster(folder.path());
    let config = fs::read_to_string(root().join("deploy/prometheus/prometheus.yml")).unwrap();
    let [server, worker] = &cluster.metrics;
    let config = config
        .replace("5s", "1s")
        .replace("127.0.0.1:9470", server)
        .replace("127.0.0.1:9471", worker)
        .replace(", \"127.0.0.1:9472\"", "");
    fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    command.arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()));
    let mut prometheus = Running::start(command.arg(format!("--web.listen-address={port}")));
    prometheus.log_line(|line| line.contains("Server is ready"));
    let query = |query: &str| {
        let (_, body) = ask(&port.to_string(), &format!("/api/v1/query?query={query}"), "");
        let from = body.find('{').unwrap();
        let until = body.rfind('}').unwrap();
        let answer: Value = serde_json::from_str(&body[from..=until]).unwrap();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    };
    let until = Instant::now() + Duration::from_secs(60);
    for (wanted, least) in [
        ("sum(up)", 2.0),
        ("max(downhill_steps_total)", 10.0),
        ("sum(downhill_workers%7Bstate=%22training%22%7D)", 2.0),
        ("sum(downhill_step_part_seconds_total%7Bpart=%22compute%22%7D)", 0.0),
        ("sum(downhill_step_duration_seconds_bucket%7Ble=%22%2BInf%22%7D)", 10.0),
        ("sum(downhill_worker_leaves_total)", 10.0),
    ] {
        loop {
            let value = query(wanted).first().and_then(|it| it["value"][1].as_str()?.parse::<f64>().ok());
            if value.is_some_and(|value| value >= least) {
                break;
            }
            assert!(Instant::now() < until, "{wanted}: {value:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_lingering_server_answers_late_workers_and_serves_the_results() {
    let folder = test_dir();
    let dir = folder.path();
    let wanted = train(dir, "alone", &[]).hash();
    let serve = || {
        let mut command = program("ps-server");
        command.arg(dir.join("run.toml")).arg("--out").arg(dir.join("run"));
        command.args(["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--linger"]);
        Running::start(&mut command)
    };
    let mut server = serve();
    let dashboard = address(&mut server, "dashboard");
    let listen = server.listens();
    let work =
        || run(program("ps-worker").args(["--server", &listen, "--threads", "1", "--connect-timeout", "60"]));
    assert!(work().status.success());
    server.line(|line| line == format!("weights sha256 {wanted}"));
    server.log_line(|line| line.contains("waiting for SIGTERM"));
    let late = work();
    assert!(late.status.success() && late.stderr.contains("training is done"), "{late}");
    let status = run(&mut downhill(&["status", &listen]));
    assert!(status.stdout.contains("the run is over"), "{status}");
    assert!(ask(&dashboard, "/results/summary.json", "").1.contains(&wanted));
    let end = |mut server: Running| {
        server.terminate();
        assert!(server.finish().status.success());
    };
    end(server);
    // A server whose run is already finished shows it, too.
    let mut server = serve();
    let dashboard = address(&mut server, "dashboard");
    server.log_line(|line| line.contains("waiting for SIGTERM"));
    assert!(ask(&dashboard, "/results/summary.json", "").1.contains(&wanted));
    let state: Value = serde_json::from_str(&ask(&dashboard, "/state.json", "").1).unwrap();
    assert!(state["phase"] == "done" && state["step"] == 228, "{state}");
    assert_eq!(state["summary"]["weights_sha256"], wanted);
    assert!(ask(&dashboard, "/chart/0", "").1.starts_with("<svg"));
    end(server);
}
