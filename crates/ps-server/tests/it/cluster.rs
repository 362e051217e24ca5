//! Any number of workers and any faults among them lead to the same hash.

use crate::support::{self, Server, Shard, Worker, data, options, run_file, runtime, wide_run};
use ps_coord::Dismissal;
use ps_net::{Address, Listener};
use ps_proto::v1::from_server::Message;
use ps_server::{ServerOptions, ShardLayout};
use ps_worker::{Ended, WorkerError};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use tokio_stream::StreamExt;

#[test]
fn any_number_of_workers_gives_the_reference_hash() {
    let folder = data(1);
    for workers in [1, 2, 3, 5] {
        let server = Server::start(&run_file(6), folder.path(), options(workers));
        let workers: Vec<Worker> =
            (0..workers).map(|_| Worker::start(&server.address, folder.path())).collect();
        server.finish_at_reference();
        for worker in workers {
            assert_eq!(worker.finish().unwrap(), Ended::Done);
        }
    }
}

#[test]
fn any_number_of_shards_gives_the_reference_hash() {
    let folder = data(1);
    for (parts, workers, more) in [(2, 2, ""), (3, 1, ""), (5, 2, ""), (3, 2, "[wire]\nweights = \"bf16\"\n")]
    {
        let run = wide_run(2, more);
        let layout = ShardLayout { shards: parts, coordinator_keeps: true };
        let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(workers) });
        let shards: Vec<Shard> =
            (1..parts).map(|index| Shard::start(&server.address, index - 1, &run, folder.path())).collect();
        let workers: Vec<Worker> =
            (0..workers).map(|_| Worker::start(&server.address, folder.path())).collect();
        server.finish_at_reference();
        shards.into_iter().for_each(|shard| assert_eq!(shard.finish().unwrap(), Dismissal::Done));
        workers.into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
    }
}

#[test]
fn colocated_shards_give_the_reference_hash() {
    let folder = data(1);
    // With more workers than chunks, one of them keeps none.
    for parts in [1, 2, 4] {
        let run = wide_run(2, "");
        let layout = ShardLayout { shards: parts, coordinator_keeps: false };
        let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(parts) });
        let workers: Vec<Worker> =
            (0..parts).map(|_| Worker::start_with_shard(&server.address, folder.path())).collect();
        server.finish_at_reference();
        workers.into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
    }
}

#[test]
fn a_worker_crash_with_several_shards_changes_no_bit() {
    let folder = data(1);
    let run = wide_run(12, "");
    let layout = ShardLayout { shards: 3, coordinator_keeps: true };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(2) });
    let shards: Vec<Shard> =
        (0..2).map(|index| Shard::start(&server.address, index, &run, folder.path())).collect();
    let victim = Worker::start(&server.address, folder.path());
    let survivor = Worker::start(&server.address, folder.path());
    runtime().block_on(server.reach(5));
    victim.kill();
    server.finish_at_reference();
    assert_eq!(survivor.finish().unwrap(), Ended::Done);
    shards.into_iter().for_each(|shard| assert_eq!(shard.finish().unwrap(), Dismissal::Done));
}

#[test]
fn a_worker_that_joins_while_shards_are_one_step_apart_can_compute_that_step() {
    let folder = data(1);
    for more in ["", "[wire]\nweights = \"bf16\"\n"] {
        let run = wide_run(1, more);
        let layout = ShardLayout { shards: 3, coordinator_keeps: true };
        let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(1) });
        let shards: Vec<Shard> =
            (0..2).map(|index| Shard::start(&server.address, index, &run, folder.path())).collect();
        // A worker sends its first step to only one shard, and disconnects.
        runtime().block_on(async {
            let place = server.shard_addresses(2).await.swap_remove(0);
            let hello = server.hello().await;
            let outgoing = tokio_stream::once(hello.clone()).chain(tokio_stream::pending());
            let mut orders = server.client().await.rounds(outgoing).await.unwrap().into_inner();
            while !matches!(orders.message().await.unwrap().unwrap().message, Some(Message::Assign(_))) {}

            let job = support::job(&run, folder.path());
            let tree = job.plan.step(0).tree();
            let weights = job.model.precision().round(&job.model.initial(job.plan.seed)).into_owned();
            let sum = job.gradients().compute(&weights, &job.data.train, 0, 0..tree.leaves()).remove(0);
            let metrics = ps_proto::convert::node_metrics(0, tree.root(), sum.metric_sums);
            let gradient = ps_proto::tensor::share(sum.gradient);
            let kept = place.start as usize..place.end as usize;
            let chunks = ps_proto::convert::whole_gradient_chunks(0, tree.root(), gradient, kept);
            let messages: Vec<_> = [hello, metrics].into_iter().chain(chunks).collect();
            let outgoing = tokio_stream::iter(messages).chain(tokio_stream::pending());
            let mut shard = support::client(&place.address).await;
            let stream = shard.rounds(outgoing).await.unwrap();
            support::reach(&mut shard, 1).await;
            drop((stream, orders));
        });
        let worker = Worker::start(&server.address, folder.path());
        server.finish_at_reference();
        assert_eq!(worker.finish().unwrap(), Ended::Done);
        shards.into_iter().for_each(|shard| assert_eq!(shard.finish().unwrap(), Dismissal::Done));
    }
}

#[test]
fn a_restarted_shard_changes_no_bit() {
    let folder = data(1);
    let run = wide_run(12, "");
    let layout = ShardLayout { shards: 3, coordinator_keeps: true };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(1) });
    let mut shards = [0, 1].map(|index| Some(Shard::start(&server.address, index, &run, folder.path())));
    let worker = Worker::start(&server.address, folder.path());
    for victim in [0, 1] {
        runtime().block_on(server.reach(5));
        shards[victim].take().unwrap().kill();
        shards[victim] = Some(Shard::start(&server.address, victim as u32, &run, folder.path()));
    }
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
    shards.into_iter().for_each(|shard| assert_eq!(shard.unwrap().finish().unwrap(), Dismissal::Done));
}

#[test]
fn a_shard_that_stays_lost_ends_the_run_and_is_named() {
    let folder = data(1);
    let run = wide_run(100_000, "");
    let layout = ShardLayout { shards: 2, coordinator_keeps: true };
    let patience = ServerOptions { join_timeout: Duration::from_secs(1), layout, ..options(1) };
    let server = Server::start(&run, folder.path(), patience);
    let shard = Shard::start(&server.address, 0, &run, folder.path());
    let worker = Worker::start(&server.address, folder.path());
    runtime().block_on(server.reach(2));
    shard.kill();
    let error = server.finish().err().unwrap().to_string();
    assert!(error.contains("shards [1] were missing for 1"), "{error}");
    worker.kill();
}

#[test]
fn a_surplus_shard_is_refused() {
    let folder = data(1);
    let server = Server::start(&run_file(2), folder.path(), options(1));
    let error = Shard::start(&server.address, 0, &run_file(2), folder.path()).finish().unwrap_err();
    assert!(error.to_string().contains("shard 0 of a run with 0 other shards"), "{error}");
    assert!(!server.stop().unwrap().is_done);
}

#[cfg(unix)]
#[test]
fn a_run_over_a_unix_socket_gives_the_reference_hash() {
    let folder = data(1);
    let address = Address::Unix(folder.path().join("downhill.sock"));
    let listener = Listener::bind(&address).unwrap();
    let server = Server::start_at(listener, &run_file(6), folder.path(), options(2));
    let workers: Vec<Worker> = (0..2).map(|_| Worker::start(&address, folder.path())).collect();
    server.finish_at_reference();
    workers.into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
    assert!(!folder.path().join("downhill.sock").exists());
}

#[test]
fn a_crashed_worker_and_a_late_worker_change_no_bit() {
    let folder = data(1);
    let server = Server::start(&run_file(400), folder.path(), options(2));
    let victim = Worker::start(&server.address, folder.path());
    let survivor = Worker::start(&server.address, folder.path());
    runtime().block_on(server.reach(20));
    victim.kill();
    let late = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(survivor.finish().unwrap(), Ended::Done);
    // The run may have ended before it connected.
    drop(late);
}

#[test]
fn a_worker_may_start_before_its_server() {
    let folder = data(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let worker = Worker::start(address, folder.path());
    let listener = TcpListener::bind(address).unwrap();
    let server = Server::start_at(listener, &run_file(2), folder.path(), options(1));
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}

#[test]
fn a_worker_with_different_data_is_refused_with_both_fingerprints() {
    let (folder, other) = (data(1), data(2));
    let server = Server::start(&run_file(2), folder.path(), options(1));
    let stranger = Worker::start(&server.address, other.path());
    let error = stranger.finish().unwrap_err();
    assert_eq!(error.exit_code(), 42);
    let text = error.to_string();
    for folder in [&folder, &other] {
        let fingerprint = support::job(&run_file(2), folder.path()).fingerprint.data;
        assert!(text.contains(&fingerprint), "{text} does not name {fingerprint}");
    }
    assert!(text.contains("data differs") && text.contains("--data-root"), "{text}");
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}

#[test]
fn a_worker_without_its_data_names_the_missing_file() {
    let folder = data(1);
    let empty = tempfile::tempdir().unwrap();
    let server = Server::start(&run_file(2), folder.path(), options(1));
    let error = Worker::start(&server.address, empty.path()).finish().unwrap_err();
    assert_eq!(error.exit_code(), 42);
    assert!(error.to_string().contains("flowers.csv"), "{error}");
    assert!(!server.stop().unwrap().is_done);
}

#[test]
fn garbage_on_the_port_has_no_effect() {
    let folder = data(1);
    let server = Server::start(&run_file(100), folder.path(), options(1));
    let say = |words: &[u8]| {
        let mut stream = TcpStream::connect(server.address.to_string()).unwrap();
        stream.write_all(words).unwrap();
        stream
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let silent = say(b"");
    let open = [
        say(b"SSH-2.0-OpenSSH_9.6\r\n"),
        say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        say(&[0xff; 10_000]),
        say(preface),
        say(&[preface.as_slice(), &[0x7f; 500]].concat()),
    ];
    let worker = Worker::start(&server.address, folder.path());
    runtime().block_on(server.reach(20));
    drop(open);
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
    drop(silent);
}

#[test]
fn workers_and_shards_wait_for_a_restarted_server() {
    let folder = data(1);
    let run = wide_run(40, "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options =
        || ServerOptions { layout: ShardLayout { shards: 2, coordinator_keeps: true }, ..options(1) };
    let first = Server::start_at(listener.try_clone().unwrap(), &run, folder.path(), options());
    let shard = Shard::start(&first.address, 0, &run, folder.path());
    let worker = Worker::start(&first.address, folder.path());
    runtime().block_on(first.reach(3));
    let finished = first.stop().unwrap();
    assert!(!finished.is_done && !finished.is_ended && finished.version >= 3);
    Server::start_at(listener, &run, folder.path(), options()).finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
    assert_eq!(shard.finish().unwrap(), Dismissal::Done);
}

#[test]
fn a_failure_to_write_the_results_fails_all_processes() {
    let folder = data(1);
    let run = wide_run(2, "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let job = support::job(&run, folder.path());
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let recorder = ps_run::Recorder::new(&job, None, ps_run::Style::Quiet).unwrap();
    let options = ServerOptions { layout: ShardLayout { shards: 2, coordinator_keeps: true }, ..options(1) };
    let full = |_| -> Result<(), _> {
        let error = std::io::ErrorKind::StorageFull.into();
        Err(ps_run::FolderError::File { path: "results".into(), error })
    };
    let server = std::thread::spawn(move || {
        runtime().block_on(ps_server::run(listener, job, options, recorder, std::future::pending(), full))
    });
    let shard = Shard::start(&address, 0, &run, folder.path());
    let worker = Worker::start(&address, folder.path());
    let error = server.join().unwrap().unwrap_err();
    assert!(matches!(error, ps_server::ServerError::Unsaved(_)), "{error}");
    let error = worker.finish().unwrap_err();
    assert!(matches!(error, WorkerError::RunFailed(_)) && error.exit_code() == 1, "{error}");
    assert!(matches!(shard.finish().unwrap(), Dismissal::Failed(_)));
}

#[test]
fn a_server_without_workers_gives_up_and_reports_how_many_are_missing() {
    let folder = data(1);
    let options = ServerOptions { join_timeout: Duration::from_millis(50), ..options(3) };
    let error = Server::start(&run_file(1), folder.path(), options).finish().err().unwrap();
    assert!(error.to_string().contains("0 of 3 workers"), "{error}");
}

#[test]
fn divergence_names_step_and_rate_and_ends_all_processes() {
    let folder = data(1);
    let run = run_file(400).replace("0.05", "1e30");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let job = support::job(&run, folder.path());
    let address = listener.local_addr().unwrap();
    let recorder = ps_run::Recorder::new(&job, None, ps_run::Style::Quiet).unwrap();
    let server = std::thread::spawn(move || {
        runtime().block_on(ps_server::run(listener, job, options(1), recorder, std::future::pending(), Ok))
    });
    let worker = Worker::start(address, folder.path());
    let error = server.join().unwrap().err().unwrap();
    assert!(matches!(error, ps_server::ServerError::Diverged(_)), "{error}");
    assert!(error.to_string().contains("learning rate"), "{error}");
    assert!(matches!(worker.finish().unwrap_err(), WorkerError::RunFailed(_)));
}

#[test]
fn another_service_at_the_address_is_distinguished_from_none() {
    let folder = data(1);
    for banner in ["SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // It serves until the process ends; nothing waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.write_all(banner.as_bytes()).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let error = Worker::start(address, folder.path()).finish().unwrap_err();
        assert!(matches!(error, WorkerError::NotDownhill { .. }), "{banner}: {error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn another_grpc_server_is_recognized() {
    let folder = data(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let other = std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (_, health) = tonic_health::server::health_reporter();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let stopped = async {
                let _ = stopped.await;
            };
            tonic::transport::Server::builder()
                .add_service(health)
                .serve_with_incoming_shutdown(incoming, stopped)
                .await
                .unwrap();
        });
    });
    let error = Worker::start(address, folder.path()).finish().unwrap_err();
    assert!(matches!(error, WorkerError::NotDownhill { .. }), "{error}");
    drop(stop);
    other.join().unwrap();
}

#[test]
fn no_more_than_max_workers_are_admitted() {
    let folder = data(1);
    let options = ServerOptions { max_workers: 1, ..options(1) };
    let server = Server::start(&run_file(100_000), folder.path(), options);
    let first = Worker::start(&server.address, folder.path());
    runtime().block_on(async {
        server.reach(1).await;
        let greeting = tokio_stream::once(server.hello().await).chain(tokio_stream::pending());
        let refused = server.client().await.rounds(greeting).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("limit of 1 workers"), "{refused}");
    });
    assert!(!server.stop().unwrap().is_done);
    first.kill();
}

#[test]
fn the_status_lists_workers_their_speed_and_what_the_run_waits_for() {
    let folder = data(1);
    let server = Server::start(&run_file(100_000), folder.path(), options(1));
    let worker = Worker::start_named(&server.address, folder.path(), "a-name");
    let status = runtime().block_on(server.reach(50));
    let [of_worker] = &status.workers[..] else { panic!("{status:?}") };
    assert_eq!((&*of_worker.name, &*of_worker.state), ("a-name", "training"));
    assert!(of_worker.nodes >= 50 && of_worker.silent_ms < 10_000, "{status:?}");
    assert!(status.state.contains("step "), "{status:?}");
    assert!(!server.stop().unwrap().is_done);
    worker.kill();
}
