//! A cluster of real processes with certificates and tokens, set up as in the documentation.

use downhill_tests::{Running, downhill, program, run};
use std::fs;
use std::path::Path;
use std::process::Command;

const RUN: &str = r#"
[data]
train = "digits:600"
[model]
kind = "mlp"
hidden = [16]
[train]
epochs = 3
batch = 64
leaf = 8
[learning_rate]
initial = 0.1
"#;

/// Adds the flags that `downhill certs` printed for a process, which are those of the documentation.
fn with_certificate(command: &mut Command, folder: &Path, name: &str) {
    let file = |name: String| folder.join("certs").join(name);
    command.arg("--tls-cert").arg(file(format!("{name}.pem")));
    command.arg("--tls-key").arg(file(format!("{name}-key.pem")));
    command.arg("--tls-ca").arg(file("ca.pem".into()));
}

fn worker(folder: &Path, address: &str) -> Command {
    let mut command = program("ps-worker");
    command.args(["--threads", "1", "--server", address]);
    command.arg("--token-file").arg(folder.join("token"));
    command
}

#[test]
fn processes_behind_certificates_and_a_token_train_to_the_same_hash() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::write(dir.join("run.toml"), RUN).unwrap();
    fs::write(dir.join("token"), "# for this test\n0123456789abcdef0123456789abcdef\n").unwrap();
    let mut train = downhill(&["train"]);
    let wanted = run(train.arg(dir.join("run.toml")).arg("--out").arg(dir.join("alone"))).hash();

    let certs = || {
        let mut certs = downhill(&["certs", "--workers", "2", "--days", "1", "--host", "train.example"]);
        certs.arg("--out").arg(dir.join("certs"));
        run(&mut certs)
    };
    let made = certs();
    assert!(made.status.success(), "{made}");
    for expected in
        ["ps-server RUN.toml", "--tls-key", "worker-2-key.pem (secret)", "ps-worker --server train.example"]
    {
        assert!(made.stdout.contains(expected), "{expected}: {made}");
    }
    #[cfg(unix)]
    for name in ["ca-key.pem", "server-key.pem", "worker-1-key.pem"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(dir.join("certs").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = fs::read(dir.join("certs/server-key.pem")).unwrap();
    let again = certs();
    assert_eq!(again.status.code(), Some(1), "{again}");
    assert!(again.stderr.contains("is not overwritten"), "{again}");
    assert_eq!(fs::read(dir.join("certs/server-key.pem")).unwrap(), before);

    let mut server = program("ps-server");
    server.arg(dir.join("run.toml")).arg("--out").arg(dir.join("run"));
    server.args(["--listen", "127.0.0.1:0", "--min-workers", "2"]);
    server.arg("--token-file").arg(dir.join("token"));
    with_certificate(&mut server, dir, "server");
    let mut server = Running::start(&mut server);
    let line = server.line(|line| line.starts_with("listening on https://"));
    let address = line.trim_start_matches("listening on ").to_owned();

    // Refused: no certificates, no token, and no certificates on an address that requires them.
    let refused = |mut command: Command, expected: &str| {
        let ended = run(&mut command);
        assert_eq!(ended.status.code(), Some(42), "{ended}");
        assert!(ended.stderr.contains(expected), "{ended}");
    };
    refused(worker(dir, address.trim_start_matches("https://")), "requires TLS");
    let mut stranger = program("ps-worker");
    stranger.args(["--server", &address]);
    with_certificate(&mut stranger, dir, "worker-1");
    refused(stranger, "requires a token");
    let ended = run(&mut worker(dir, &address));
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(ended.stderr.contains("https needs --tls-cert"), "{ended}");

    let workers: Vec<Running> = ["worker-1", "worker-2"]
        .into_iter()
        .map(|name| {
            let mut command = worker(dir, &address);
            with_certificate(&mut command, dir, name);
            Running::start(&mut command)
        })
        .collect();
    assert_eq!(server.finish().hash(), wanted);
    for mut worker in workers {
        let ended = worker.finish();
        assert!(ended.status.success(), "{ended}");
    }
}

#[test]
fn a_workers_certificate_is_not_accepted_for_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::write(dir.join("run.toml"), RUN).unwrap();
    let mut certs = downhill(&["certs", "--workers", "1"]);
    assert!(run(certs.arg("--out").arg(dir.join("certs"))).status.success());
    let mut server = program("ps-server");
    server.arg(dir.join("run.toml")).arg("--out").arg(dir.join("run")).args(["--listen", "127.0.0.1:0"]);
    with_certificate(&mut server, dir, "worker-1");
    let mut server = Running::start(&mut server);
    let line = server.line(|line| line.starts_with("listening on "));
    let mut worker = program("ps-worker");
    worker.args(["--server", line.trim_start_matches("listening on ")]);
    with_certificate(&mut worker, dir, "worker-1");
    let ended = run(&mut worker);
    assert_eq!(ended.status.code(), Some(42), "{ended}");
    assert!(ended.stderr.contains("the server's certificate"), "{ended}");
}
