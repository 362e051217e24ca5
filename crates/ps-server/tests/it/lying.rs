//! A worker whose sums are finite but wrong is found out where sums are audited, and one that is refused leaves nothing behind.

use crate::overlap::{join, two_chunks};
use crate::support::{
    self, Server, Shard, Tapped, Worker, data, options, reference_hash, run_file, runtime, wide_run,
};
use ps_core::gradient::Flow;
use ps_core::{Gradients, weights_hash};
use ps_proto::convert::{node_chunks, node_metrics};
use ps_proto::limits::chunk_elements;
use ps_proto::v1::{self, from_server, from_worker::Message};
use ps_proto::{tensor, v1::FromWorker};
use ps_run::Job;
use ps_server::{Layout, ServerOptions};
use ps_worker::{Computer, Ended, WorkerError};
use std::ops::Range;
use tokio::sync::mpsc::Sender;

/// Computes as every worker does, but for one bit of one element in some steps.
struct Liar(Gradients);

impl Liar {
    fn of(run: &str, folder: &std::path::Path) -> Box<dyn Computer> {
        Box::new(Liar(support::job(run, folder).gradients()))
    }
}

impl Computer for Liar {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        let finished = |flow: &mut dyn Flow, number, from: usize| {
            if step >= 3 {
                let element = &mut flow.gradient(number)[from];
                *element = f32::from_bits(element.to_bits() ^ 1);
            }
            flow.finished(number, from);
        };
        self.0.compute_flowing(&mut Tapped { flow, finished }, &job.data.train, step, leaves)
    }
}

#[test]
fn a_worker_that_lies_is_named_and_banned_and_changes_no_bit() {
    let folder = data(1);
    // Long enough for all to be back before the end.
    for run in [run_file(100), wide_run(20, ""), wide_run(20, "[wire]\nweights = \"bf16\"\n")] {
        let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(3) });
        let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
        let honest = [0, 1].map(|_| Worker::start_named(&server.address, folder.path(), "honest"));
        server.finish_at_reference();
        let error = liar.finish().unwrap_err();
        assert_eq!(error.exit_code(), 42);
        let WorkerError::Banned(why) = error else { panic!("{error}") };
        assert!(why.contains("is not what they give"), "{why}");
        honest.into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
    }
}

#[test]
fn the_server_itself_is_the_second_where_there_is_only_one_worker() {
    let folder = data(1);
    let run = run_file(8);
    let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(1) });
    let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
    assert!(matches!(liar.finish(), Err(WorkerError::Banned(_))));
    // It does not get in again under the same name.
    let again = Worker::start(&server.address, folder.path()).finish().unwrap_err();
    assert_eq!(again.exit_code(), 42, "{again}");
    assert!(again.to_string().contains("it is banned"), "{again}");
    let honest = Worker::start_named(&server.address, folder.path(), "honest");
    server.finish_at_reference();
    assert_eq!(honest.finish().unwrap(), Ended::Done);
}

#[test]
fn without_audit_a_lie_gets_through() {
    let folder = data(1);
    let run = run_file(8);
    let server = Server::start(&run, folder.path(), options(1));
    let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
    let finished = server.finish().unwrap();
    assert!(finished.is_done);
    assert_ne!(weights_hash(&finished.weights), reference_hash(&support::job(&run, folder.path())));
    assert_eq!(liar.finish().unwrap(), Ended::Done);
}

/// Joins by hand as the only worker, waits for leaves, and pushes a wrong second chunk of each node that covers them. Returns
/// when the weights made of it have come, or, where none are to be made, at once.
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
                    sender.send(node_metrics(0, sum.node, sum.tally)).await.unwrap();
                    let range = chunk_elements(parameters)..parameters;
                    for chunk in node_chunks(0, sum.node, tensor::share(sum.gradient), range) {
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
    // What the server still says is not read, but its stream stays open as long as ours.
    tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    sender
}

#[test]
fn with_audit_chunks_of_a_node_that_never_ends_do_not_count() {
    let folder = data(1);
    let run = two_chunks(2);
    let job = support::job(&run, folder.path());
    let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(1) });
    runtime().block_on(async {
        let sender = push_a_wrong_chunk(&server, &job, false).await;
        let goodbye = Message::Goodbye(v1::Goodbye { reason: "enough".into() });
        sender.send(support::from_worker(goodbye)).await.unwrap();
        // Until the server has let go of it, its chunks have come.
        sender.closed().await;
    });
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}

#[test]
fn a_step_starts_over_without_what_a_refused_worker_has_sent() {
    let folder = data(1);
    let run = two_chunks(2);
    let job = support::job(&run, folder.path());
    let server = Server::start(&run, folder.path(), options(1));
    runtime().block_on(async {
        let sender = push_a_wrong_chunk(&server, &job, true).await;
        let nonsense = Message::Hello(v1::Hello::default());
        sender.send(support::from_worker(nonsense)).await.unwrap();
        sender.closed().await;
    });
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}

#[test]
fn all_go_back_to_what_is_saved_when_a_shard_refuses_a_worker_that_counts() {
    let folder = data(1);
    let run = wide_run(4, "");
    let layout = Layout { parts: 2, coordinator_keeps: true };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(2) });
    let shard = Shard::start(&server.address, 0, &run, folder.path());
    let worker = Worker::start(&server.address, folder.path());
    runtime().block_on(async {
        let (job, place) = (support::job(&run, folder.path()), server.places(1).await.swap_remove(0));
        // To the coordinator it is a worker that never does anything.
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
            sender.send(node_metrics(0, sum.node, sum.tally)).await.unwrap();
            let range = place.start as usize..place.end as usize;
            for chunk in node_chunks(0, sum.node, tensor::share(sum.gradient), range) {
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
