//! Hostile clients of the ports, and files that are not regular: neither keeps workers out, blocks a program,
//! or uses up memory.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use downhill_tests::{Ended, Running, downhill, program, run};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUN: &str = r#"
[data]
train = "csv:data.csv"
[model]
kind = "mlp"
hidden = [8]
[train]
epochs = 2
batch = 20
leaf = 5
[learning_rate]
initial = 0.1
"#;

/// A temporary folder with a run and its data.
fn test_dir() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run.toml"), RUN).unwrap();
    let row = |row: u32| format!("{},{},{}\n", row % 7, row % 5, ["a", "b"][(row % 2) as usize]);
    let rows: String = (0..100).map(row).collect();
    fs::write(folder.path().join("data.csv"), format!("x,y,class\n{rows}")).unwrap();
    folder
}

fn train(dir: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = downhill(&["train"]);
    command.arg(dir.join("run.toml")).arg("--out").arg(dir.join(out)).args(more);
    command
}

/// Returns the part of a line on standard error after `before`, up to a slash.
fn address(running: &mut Running, before: &str) -> String {
    let line = running.log_line(|line| line.contains(before));
    line.split_once(before).unwrap().1.split('/').next().unwrap().to_owned()
}

#[test]
fn silent_connections_to_other_ports_do_not_block_workers() {
    let folder = test_dir();
    let dir = folder.path();
    let wanted = run(&mut train(dir, "alone", &[])).hash();
    // The server may open fewer files than there are hostile connections.
    let mut server = Command::new("sh");
    server.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]).arg(program("ps-server").get_program());
    server.arg(dir.join("run.toml")).arg("--out").arg(dir.join("run"));
    for flag in ["--listen", "--health", "--metrics", "--dashboard"] {
        server.args([flag, "127.0.0.1:0"]);
    }
    let mut server = Running::start(&mut server);
    let ports = ["health at ", "metrics at http://", "dashboard at http://"];
    let ports = ports.map(|before| address(&mut server, before));
    let listen = server.listens();
    let strangers: Vec<TcpStream> =
        ports.iter().flat_map(|port| (0..100).map(move |_| TcpStream::connect(port).unwrap())).collect();
    let mut worker = program("ps-worker");
    worker.args(["--server", &listen, "--threads", "1", "--connect-timeout", "20", "--data-root"]).arg(dir);
    let ended = run(&mut worker);
    assert!(ended.status.success(), "{ended}");
    let ended = server.finish();
    assert_eq!(ended.hash(), wanted);
    assert!(ended.stderr.contains("limit of open files (ulimit -n)"), "{ended}");
    assert!(ended.stderr.contains("connection refused: the limit of"), "{ended}");
    // Hundreds of refused connections cause only a few log lines.
    assert!(ended.stderr.matches("refused").count() < 12, "{ended}");
    drop(strangers);
}

#[test]
fn clients_that_read_no_events_do_not_block_the_page() {
    let folder = test_dir();
    let mut training =
        train(folder.path(), "run", &["--set", "train.epochs=10000000", "--dashboard", "127.0.0.1:0"]);
    let mut training = Running::start(&mut training);
    let port = address(&mut training, "dashboard at http://");
    let unread: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = TcpStream::connect(&port).unwrap();
            // A refused connection may already be closed.
            let _ = write!(stream, "GET /events HTTP/1.1\r\nHost: {port}\r\n\r\n");
            stream
        })
        .collect();
    // Older streams are closed in favor of newer ones.
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(&port)
            && write!(stream, "GET / HTTP/1.1\r\nHost: {port}\r\nConnection: close\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
        {
            break;
        }
        assert!(Instant::now() < until, "{answer}");
        std::thread::yield_now();
    }
    drop(unread);
}

/// Runs a command under a memory limit.
fn refusal(command: &mut Command) -> Ended {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 4000000; exec \"$@\"", "sh"]).arg(command.get_program());
    limited.args(command.get_args()).stdin(Stdio::null());
    run(&mut limited)
}

#[test]
fn special_files_are_refused_wherever_a_file_is_named() {
    let folder = test_dir();
    let dir = folder.path();
    let pipe = dir.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let zeros = Path::new("/dev/zero");
    for (file, what) in [(&*pipe, "this is a pipe, not a regular file"), (zeros, "this is a device")] {
        let file = file.to_str().unwrap();
        let data = format!("data.train=csv:{file}");
        let run_file = dir.join("run.toml");
        let run_file = run_file.to_str().unwrap();
        let server = |flags: &[&str]| {
            let mut command = program("ps-server");
            command.arg(run_file).args(["--listen", "127.0.0.1:0"]).args(flags);
            command
        };
        for mut command in [
            downhill(&["train", file]),
            downhill(&["train", run_file, "--set", &data]),
            downhill(&["data", "inspect", &format!("libsvm:{file}")]),
            downhill(&["evaluate", file]),
            server(&["--token-file", file]),
            server(&["--tls-cert", file, "--tls-key", file, "--tls-ca", file]),
        ] {
            let ended = refusal(&mut command);
            assert!(!ended.status.success() && ended.stderr.contains(what), "{command:?}: {ended}");
            assert!(ended.stderr.contains(file), "{command:?}: {ended}");
        }
    }
}

#[test]
fn a_model_that_exceeds_memory_is_refused_with_its_size() {
    let folder = test_dir();
    let dir = folder.path();
    let mut server = program("ps-server");
    server.arg(dir.join("run.toml")).args(["--listen", "127.0.0.1:0"]).arg("--out").arg(dir.join("a"));
    for mut command in [server, train(dir, "b", &[])] {
        let ended = run(command.args(["--set", "model.hidden=[1000000, 1000000]"]));
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        for expected in
            ["1000006000002 parameters needs about", " TiB of memory (weights 7.3 TiB", "model.hidden"]
        {
            assert!(ended.stderr.contains(expected), "{expected}: {ended}");
        }
    }
}

#[test]
fn a_dash_reads_standard_input() {
    let folder = test_dir();
    let dir = folder.path();
    let stdin = || File::open(dir.join("data.csv")).unwrap();
    let wanted = run(&mut train(dir, "file", &[])).hash();
    let from_stdin = ["--set", "data.train=csv:-"];
    assert_eq!(run(train(dir, "stdin", &from_stdin).stdin(stdin())).hash(), wanted);
    let ended = run(downhill(&["data", "inspect", "csv:-"]).stdin(stdin()));
    assert!(ended.status.success() && ended.stdout.contains("100"), "{ended}");
    // The data of the run cannot be read again, but predictions do not need it.
    let ended = run(downhill(&["evaluate"]).arg(dir.join("stdin")).stdin(stdin()));
    assert!(
        ended.status.code() == Some(1) && ended.stderr.contains("the run read standard input"),
        "{ended}"
    );
    let predict = |model: &str, source: &str| {
        let mut command = downhill(&["predict"]);
        run(command.arg(dir.join(model)).args(["--data", source]).stdin(stdin())).stdout
    };
    let from_file = predict("file", &format!("csv:{}", dir.join("data.csv").display()));
    assert_eq!(predict("stdin", "csv:-"), from_file);
    assert_eq!(predict("file", "-"), from_file);
    // Standard input cannot be read twice.
    let twice = [&from_stdin[..], &["--set", "data.test=csv:-"]].concat();
    let ended = run(train(dir, "twice", &twice).stdin(stdin()));
    assert!(ended.stderr.contains("standard input: it can be read only once"), "{ended}");
    let ended = run(downhill(&["launch"]).arg(dir.join("run.toml")).args(from_stdin));
    assert!(ended.status.code() == Some(2) && ended.stderr.contains("only one process"), "{ended}");
}
