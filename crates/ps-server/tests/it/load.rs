//! Many workers at once.

#![cfg(unix)]

use crate::support::{Server, Worker, options, runtime};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ps_worker::Ended;
use std::fmt::Write;
use std::future::pending;
use tokio::task::JoinSet;

const WORKERS: u32 = 256;

/// A step has twice as many leaves as there are workers, so that each of them gets some.
const RUN: &str = r#"
[data]
train = "csv:points.csv"
[model]
kind = "linear"
[train]
epochs = 10
batch = 512
leaf = 1
[learning_rate]
initial = 0.1
"#;

#[test]
fn two_hundred_and_fifty_six_workers_give_the_reference_hash() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("x,y\n");
    for row in 0..1024 {
        writeln!(text, "{},{}", f64::from(row % 37) / 37.0, f64::from(row % 11) / 11.0).unwrap();
    }
    std::fs::write(folder.path().join("points.csv"), text).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let server = Server::start(RUN, folder.path(), options(WORKERS));
    // On one runtime, so that each worker needs only a few open files.
    runtime().block_on(async {
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(ps_worker::run(Worker::options(&server.address, folder.path()), pending()));
        }
        while let Some(ended) = workers.join_next().await {
            assert_eq!(ended.unwrap().unwrap(), Ended::Done);
        }
    });
    server.finish_at_reference();
}
