//! An audit detects a worker whose sums are finite but wrong, and a worker that is refused leaves no data
//! behind.

use crate::overlap::{join, two_chunks};
use crate::security::{Authority, tokens};
use crate::support::{
    self, Server, Shard, Tapped, Worker, data, options, reference_hash, run_file, runtime, wide_run,
};
use ps_core::gradient::Flow;
use ps_core::{Gradients, weights_hash};
use ps_net::Security;
use ps_proto::convert::{node_metrics, whole_gradient_chunks};
use ps_proto::limits::chunk_elements;
use ps_proto::v1::parameter_server_client::ParameterServerClient;
use ps_proto::v1::{self, from_server, from_worker::Message};
use ps_proto::{tensor, v1::FromWorker};
use ps_run::{BANS_FILE, Ban, Job};
use ps_server::{ServerOptions, ShardLayout};
use ps_shard::transport::open_security;
use ps_worker::{Computer, Ended, WorkerError, WorkerOptions};
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// Computes correctly, except for one bit of one element from some step on.
struct Liar {
    gradients: Gradients,
    from: u64,
}

impl Liar {
    fn of(run: &str, folder: &Path) -> Box<dyn Computer> {
        Liar::from(3, run, folder)
    }

    fn from(from: u64, run: &str, folder: &Path) -> Box<dyn Computer> {
        Box::new(Liar { gradients: support::job(run, folder).gradients(), from })
    }
}

impl Computer for Liar {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        let finished = |flow: &mut dyn Flow, number, from: usize| {
            if step >= self.from {
                let element = &mut flow.gradient(number)[from];
                *element = f32::from_bits(element.to_bits() ^ 1);
            }
            flow.finished(number, from);
        };
        self.gradients.compute_flowing(&mut Tapped { flow, finished }, &job.data.train, step, leaves)
    }
}

#[test]
fn a_worker_that_sends_wrong_sums_is_banned_and_changes_no_bit() {
    let folder = data(1);
    // Long enough for all workers to reconnect before the end.
    for run in [run_file(100), wide_run(20, ""), wide_run(20, "[wire]\nweights = \"bf16\"\n")] {
        let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(3) });
        let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
        let honest = [0, 1].map(|_| Worker::start_named(&server.address, folder.path(), "honest"));
        server.finish_at_reference();
        let error = liar.finish().unwrap_err();
        assert_eq!(error.exit_code(), 42);
        let WorkerError::Banned(why) = error else { panic!("{error}") };
        assert!(why.contains("is wrong"), "{why}");
        honest.into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
    }
}

#[test]
fn the_server_audits_the_only_worker_itself() {
    let folder = data(1);
    let run = run_file(8);
    let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(1) });
    let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
    assert!(matches!(liar.finish(), Err(WorkerError::Banned(_))));
    // A name proves nothing: if workers share credentials, a ban does not exclude other workers with the same
    // name.
    let honest = Worker::start(&server.address, folder.path());
    let bans = server.finish_at_reference();
    assert_eq!(honest.finish().unwrap(), Ended::Done);
    let [ban] = &bans[..] else { panic!("{bans:?}") };
    assert_eq!((&ban.worker[..], &ban.credential, ban.step, ban.since), ("test", &None, 3, None));
    assert!(ban.line().contains("--individual-credentials"), "{}", ban.line());
}

/// A worker with the credentials in `security`.
fn with(server: &Server, folder: &Path, name: &str, security: &Security) -> WorkerOptions {
    WorkerOptions {
        name: name.into(),
        security: security.clone(),
        ..Worker::options(&server.address, folder)
    }
}

/// A dishonest worker that is banned by its credential is not admitted under any name; an honest worker with
/// its name is.
fn a_ban_follows(server: &Security, liar: &Security, honest: &Security) -> Ban {
    let folder = data(1);
    let run = run_file(8);
    let options =
        ServerOptions { audit: 1.0, security: server.clone(), individual_credentials: true, ..options(1) };
    let server = Server::start(&run, folder.path(), options);
    let lies = Liar::of(&run, folder.path());
    let first = Worker::start_computing_with(with(&server, folder.path(), "honest", liar), lies);
    assert!(matches!(first.finish(), Err(WorkerError::Banned(_))));
    for name in ["honest", "another"] {
        let again = Worker::start_with(with(&server, folder.path(), name, liar)).finish().unwrap_err();
        assert_eq!(again.exit_code(), 42, "{again}");
        assert!(again.to_string().contains("a worker with this credential sent a wrong sum"), "{again}");
    }
    let worker = Worker::start_with(with(&server, folder.path(), "honest", honest));
    let bans = server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
    let [ban] = &bans[..] else { panic!("{bans:?}") };
    ban.clone()
}

#[test]
fn a_ban_follows_the_line_of_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["token-of-the-first-worker", "token-of-the-second-worker"];
    let open = |name: &str, text: String| open_security(&tokens(folder.path(), name, &text)).unwrap();
    let server = open("server", format!("# one each\n{a}\n{b}\n"));
    let ban = a_ban_follows(&server, &open("a", a.into()), &open("b", b.into()));
    assert_eq!(ban.credential.as_deref(), Some("the token on line 2"));
}

#[test]
fn a_ban_follows_the_names_in_the_certificate() {
    let authority = Authority::new();
    let [server, liar, honest] = ["server", "worker-1", "worker-2"].map(|name| authority.security(name));
    let ban = a_ban_follows(&server, &liar, &honest);
    let credential = ban.credential.unwrap();
    assert!(credential.starts_with("the certificate \"CN=worker-1\" issued by "), "{credential}");
}

#[test]
fn a_ban_persists_across_restarts() {
    let folder = data(1);
    let [a, b] = ["token-of-the-first-worker", "token-of-the-second-worker"];
    let open = |name: &str, text: String| open_security(&tokens(folder.path(), name, &text)).unwrap();
    let security = open("server", format!("{a}\n{b}\n"));
    let out = folder.path().join("out");
    std::fs::create_dir_all(out.join("checkpoints")).unwrap();
    let ban =
        r#"[{"worker": "w", "address": "a", "credential": "the token on line 1", "step": 3, "reason": "r"}]"#;
    std::fs::write(out.join(BANS_FILE), ban).unwrap();
    let options = ServerOptions { security, individual_credentials: true, ..options(1) };
    let server = Server::start_in(&out, (100, 1), &run_file(4), folder.path(), options);
    let banned = Worker::start_with(with(&server, folder.path(), "banned", &open("a", a.into())));
    assert_eq!(banned.finish().unwrap_err().exit_code(), 42);
    let honest = Worker::start_with(with(&server, folder.path(), "honest", &open("b", b.into())));
    assert_eq!(server.finish_at_reference().len(), 1);
    assert_eq!(honest.finish().unwrap(), Ended::Done);
}

#[test]
fn individual_credentials_require_certificates_or_tokens() {
    let folder = data(1);
    std::fs::write(folder.path().join("run.toml"), run_file(1)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ps-server"));
    command.current_dir(folder.path()).args([
        "run.toml",
        "--listen",
        "127.0.0.1:0",
        "--individual-credentials",
    ]);
    let ended = command.output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{text}");
    assert!(text.contains("--individual-credentials needs --tls-cert"), "{text}");
}

#[test]
fn a_credential_admits_one_worker_at_a_time() {
    let folder = data(1);
    let [a, b] = ["token-of-the-first-worker", "token-of-the-second-worker"];
    let open = |name: &str, text: String| open_security(&tokens(folder.path(), name, &text)).unwrap();
    let [all, a, b] = [("server", format!("{a}\n{b}\n")), ("a", a.into()), ("b", b.into())]
        .map(|(name, text)| open(name, text));
    let options = ServerOptions { security: all, individual_credentials: true, ..options(2) };
    let server = Server::start(&run_file(4), folder.path(), options);
    let first = Worker::start_with(with(&server, folder.path(), "first", &a));
    runtime().block_on(async {
        let mut client = ParameterServerClient::new(server.address.connect(&a).await.unwrap());
        while client.status(v1::StatusRequest {}).await.unwrap().into_inner().workers.is_empty() {}
    });
    // It retries, because the server may not have noticed yet that the first connection is gone.
    let patience = Duration::from_millis(300);
    let second = WorkerOptions { patience, ..with(&server, folder.path(), "second", &a) };
    let error = Worker::start_with(second).finish().unwrap_err();
    assert!(error.to_string().contains("another worker is connected with the same credential"), "{error}");
    let second = Worker::start_with(with(&server, folder.path(), "second", &b));
    server.finish_at_reference();
    [first, second].into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
}

/// An honest worker that pauses in step 12 until it is released.
struct Waiting {
    gradients: Gradients,
    gate: mpsc::Receiver<()>,
    is_open: bool,
}

impl Computer for Waiting {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        if step >= 12 && !self.is_open {
            self.is_open = self.gate.recv().is_ok();
        }
        self.gradients.compute_flowing(flow, &job.data.train, step, leaves)
    }
}

/// Two workers; one joins after twelve steps and sends wrong sums from the fortieth on.
fn a_late_liar(server: &Server, run: &str, folder: &Path) -> [Worker; 2] {
    let (opened, gate) = mpsc::channel();
    let gradients = support::job(run, folder).gradients();
    let waiting = Box::new(Waiting { gradients, gate, is_open: false });
    let honest = Worker::start_computing_with(
        WorkerOptions { name: "honest".into(), ..Worker::options(&server.address, folder) },
        waiting,
    );
    runtime().block_on(server.reach(12));
    let liar = Worker::start_computing(&server.address, folder, Liar::from(40, run, folder));
    runtime().block_on(async {
        let mut client = server.client().await;
        while client.status(v1::StatusRequest {}).await.unwrap().into_inner().workers.len() < 2 {}
    });
    opened.send(()).unwrap();
    [honest, liar]
}

#[test]
fn the_run_rolls_back_to_before_the_first_contribution_of_a_banned_worker() {
    let folder = data(1);
    let run = run_file(400);
    let out = folder.path().join("out");
    let options = ServerOptions { audit: 0.3, ..options(1) };
    let server = Server::start_in(&out, (5, 1000), &run, folder.path(), options);
    let [honest, liar] = a_late_liar(&server, &run, folder.path());
    assert!(matches!(liar.finish(), Err(WorkerError::Banned(_))));
    let bans = server.finish_at_reference();
    assert_eq!(honest.finish().unwrap(), Ended::Done);
    let [ban] = &bans[..] else { panic!("{bans:?}") };
    assert!(ban.step >= 40 && ban.since >= Some(12), "{ban:?}");
    // A checkpoint that was due while another was being saved is skipped.
    assert!(ban.went_back_to >= Some(5) && ban.went_back_to <= ban.since, "{ban:?}");
    let written = std::fs::read_to_string(out.join(BANS_FILE)).unwrap();
    assert!(written.contains("\"went_back_to\""), "{written}");
}

#[test]
fn a_run_without_checkpoints_restarts_without_the_banned_worker() {
    let folder = data(1);
    let run = run_file(400);
    let options = ServerOptions { audit: 0.3, ..options(1) };
    let server = Server::start_in(&folder.path().join("out"), (1_000_000, 1), &run, folder.path(), options);
    let [honest, liar] = a_late_liar(&server, &run, folder.path());
    assert!(matches!(liar.finish(), Err(WorkerError::Banned(_))));
    let bans = server.finish_at_reference();
    assert_eq!(honest.finish().unwrap(), Ended::Done);
    assert_eq!(bans[0].went_back_to, Some(0), "{bans:?}");
}

#[test]
fn a_run_that_cannot_roll_back_fails_and_stays_failed() {
    let folder = data(1);
    let run = run_file(40);
    std::fs::write(folder.path().join("run.toml"), &run).unwrap();
    let out = folder.path().join("out");
    let server = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ps-server"));
        // Only the newest checkpoint is kept.
        command.current_dir(folder.path()).args(["run.toml", "--out", "out", "--listen", "127.0.0.1:0"]);
        command.args(["--audit", "0.3", "--checkpoint-every", "1", "--checkpoint-keep", "1"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut child = server(&[]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    let liar = Worker::start_computing(&address, folder.path(), Liar::from(20, &run, folder.path()));
    assert!(matches!(liar.finish(), Err(WorkerError::Banned(_))));
    let honest = Worker::start(&address, folder.path());
    assert_eq!(honest.finish().unwrap(), Ended::Done);
    stdout.read_to_string(&mut line).unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{line}{text}");
    assert!(text.contains("accept them with --accept-tainted"), "{text}");
    assert!(line.contains("\nbanned       test at 127.0.0.1:") && line.contains("\ntainted "), "{line}");
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    assert!(summary.contains("\"tainted\": true") && summary.contains("\"since\": 0"), "{summary}");

    let written = || std::fs::metadata(out.join("model.safetensors")).unwrap().modified().unwrap();
    let before = written();
    for (more, code) in [(&[][..], 1), (&["--accept-tainted"], 0)] {
        let again = server(more).output().unwrap();
        let text = String::from_utf8_lossy(&again.stderr);
        assert_eq!(again.status.code(), Some(code), "{text}");
        assert!(String::from_utf8_lossy(&again.stdout).contains("\ntainted      "), "{text}");
    }
    assert_eq!(written(), before);
}

#[test]
fn without_audits_a_wrong_sum_is_not_detected() {
    let folder = data(1);
    let run = run_file(8);
    let server = Server::start(&run, folder.path(), options(1));
    let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
    let finished = server.finish().unwrap();
    assert!(finished.is_done);
    assert_ne!(weights_hash(&finished.weights), reference_hash(&support::job(&run, folder.path())));
    assert_eq!(liar.finish().unwrap(), Ended::Done);
}

/// Joins by hand as the only worker, waits for leaves, and pushes a wrong second chunk of each node that
/// covers them. Returns when the weights computed from it have arrived, or, if none are expected, at once.
async fn push_a_wrong_chunk(server: &Server, job: &Job, is_made: bool) -> Sender<FromWorker> {
    let parameters = job.model.parameters();
    let (sender, mut stream) = join(server).await;
    loop {
        match stream.message().await.unwrap().unwrap().message.unwrap() {
            from_server::Message::Assign(assign) => {
                let leaves = assign.leaf_start..assign.leaf_end;
                let sums = job.gradients().compute(&job.model.initial(3), &job.data.train, 0, leaves);
                for mut sum in sums {
                    sum.gradient.iter_mut().for_each(|value| *value += 1.0);
                    sender.send(node_metrics(0, sum.node, sum.metric_sums)).await.unwrap();
                    let range = chunk_elements(parameters)..parameters;
                    for chunk in whole_gradient_chunks(0, sum.node, tensor::share(sum.gradient), range) {
                        sender.send(chunk).await.unwrap();
                    }
                }
                if !is_made {
                    break;
                }
            }
            from_server::Message::Weights(chunk) if chunk.version == 1 => break,
            _ => {}
        }
    }
    // The server's messages are ignored, but its stream stays open as long as this one.
    tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    sender
}

#[test]
fn with_audits_chunks_of_an_incomplete_node_do_not_count() {
    let folder = data(1);
    let run = two_chunks(2);
    let job = support::job(&run, folder.path());
    let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(1) });
    runtime().block_on(async {
        let sender = push_a_wrong_chunk(&server, &job, false).await;
        let goodbye = Message::Goodbye(v1::Goodbye { reason: "enough".into() });
        sender.send(support::from_worker(goodbye)).await.unwrap();
        // When the server closes the connection, it has received the chunks.
        sender.closed().await;
    });
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}

#[test]
fn a_step_starts_over_without_the_sums_of_a_refused_worker() {
    let folder = data(1);
    let run = two_chunks(2);
    let job = support::job(&run, folder.path());
    let server = Server::start(&run, folder.path(), options(1));
    runtime().block_on(async {
        let sender = push_a_wrong_chunk(&server, &job, true).await;
        let invalid = Message::Hello(v1::Hello::default());
        sender.send(support::from_worker(invalid)).await.unwrap();
        sender.closed().await;
    });
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}

#[test]
fn all_servers_rewind_when_a_shard_refuses_a_contributing_worker() {
    let folder = data(1);
    let run = wide_run(4, "");
    let layout = ShardLayout { shards: 2, coordinator_keeps: true };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(2) });
    let shard = Shard::start(&server.address, 0, &run, folder.path());
    let worker = Worker::start(&server.address, folder.path());
    runtime().block_on(async {
        let (job, place) =
            (support::job(&run, folder.path()), server.shard_addresses(1).await.swap_remove(0));
        // For the coordinator, it is a worker that never delivers.
        let (_idle, mut stream) = join(&server).await;
        let leaves = loop {
            if let from_server::Message::Assign(assign) =
                stream.message().await.unwrap().unwrap().message.unwrap()
            {
                break assign.leaf_start..assign.leaf_end;
            }
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        sender.send(server.hello().await).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut stream = support::client(&place.address).await.rounds(outgoing).await.unwrap().into_inner();
        let sums = job.gradients().compute(&job.model.initial(3), &job.data.train, 0, leaves);
        for mut sum in sums {
            sum.gradient.iter_mut().for_each(|value| *value += 1.0);
            sender.send(node_metrics(0, sum.node, sum.metric_sums)).await.unwrap();
            let range = place.start as usize..place.end as usize;
            for chunk in whole_gradient_chunks(0, sum.node, tensor::share(sum.gradient), range) {
                sender.send(chunk).await.unwrap();
            }
        }
        sender.send(support::from_worker(Message::Hello(v1::Hello::default()))).await.unwrap();
        while let Ok(Some(_)) = stream.message().await {}
    });
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
    drop(shard.finish().unwrap());
}
