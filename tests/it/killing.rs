//! After a hundred signals to server, shards and workers, the weights are those of an undisturbed run.

#![cfg(unix)]

use downhill_tests::{downhill, run};

#[test]
fn a_hundred_signals_to_workers_and_servers_change_no_bit() {
    let seed = std::process::id().to_string();
    let flags = ["verify", "--workers", "4", "--shards", "2", "--signals", "100", "--pause", "0.3", "--seed"];
    let ended = run(downhill(&flags).arg(&seed));
    println!("{ended}");
    assert!(ended.status.success(), "{ended}");
    for harm in ["SIGKILL", "SIGTERM", "SIGSTOP"] {
        assert!(ended.stdout.contains(&format!("{harm} ")), "{ended}");
    }
    assert!(ended.stdout.contains("100 signals in") && ended.stdout.contains("to a server"), "{ended}");
    assert!(ended.stdout.contains("weights sha256 "), "{ended}");
}

#[test]
fn signals_to_a_single_server_change_no_bit() {
    let seed = std::process::id().to_string();
    let flags = ["verify", "--workers", "2", "--shards", "1", "--signals", "15", "--seed"];
    let ended = run(downhill(&flags).arg(&seed));
    assert!(ended.status.success(), "{ended}");
}
