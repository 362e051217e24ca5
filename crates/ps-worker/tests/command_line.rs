//! The program as seen by its user.

use std::net::TcpListener;
use std::process::{Command, Output};

fn worker(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ps-worker")).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("ps-worker cannot be started: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

#[test]
fn help_names_the_flags() {
    let (output, _) = worker(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for flag in ["--server", "--data-root", "--threads", "--name"] {
        assert!(help.contains(flag), "{help}");
    }
}

#[test]
fn the_version_names_the_numerics_version() {
    let (output, _) = worker(&["--version"]);
    let version = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    let expected = format!("numerics {})\n", ps_core::NUMERICS_VERSION);
    assert!(version.starts_with("ps-worker ") && version.ends_with(&expected), "{version}");
}

#[test]
fn a_usage_error_exits_with_code_2() {
    for arguments in
        [&["--sever", "127.0.0.1:1"][..], &[], &["--server", "localhost"], &["--server", "a:b:c"]]
    {
        let (output, text) = worker(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn an_unreachable_server_is_reported_with_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (output, text) = worker(&["--server", &address, "--connect-timeout", "1"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&address) && text.contains("refused"), "{text}");
}

#[test]
fn a_hosted_shard_on_a_public_address_requires_protection() {
    let flags = ["--server", "127.0.0.1:1", "--host-shard", "--shard-listen", "0.0.0.0:0"];
    let (output, text) = worker(&flags);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--shard-listen 0.0.0.0:0") && text.contains("--token-file"), "{text}");
}
