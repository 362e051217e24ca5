//! Sending while computing: completed chunks leave at once, and incomplete nodes do no harm.

use crate::support::{self, Server, Tapped, Worker, data, options, run_file, runtime};
use ps_core::Gradients;
use ps_core::gradient::Flow;
use ps_proto::convert::{node_metrics, whole_gradient_chunks};
use ps_proto::limits::chunk_elements;
use ps_proto::v1::{from_server, from_worker::Message};
use ps_proto::{tensor, v1};
use ps_run::Job;
use ps_worker::{Computer, Ended};
use std::ops::Range;
use std::sync::mpsc;
use std::time::Duration;
use tonic::codec::Streaming;

/// Bound for waits that last this long only in case of a failure.
const LONG: Duration = Duration::from_secs(60);

/// A run whose model has two chunks and whose batches have one leaf.
pub(crate) fn two_chunks(epochs: u32) -> String {
    run_file(epochs)
        .replace("hidden = [8]", "hidden = [300, 300]")
        .replace("batch = 32", "batch = 150")
        .replace("leaf = 4", "leaf = 150")
}

/// Opens a stream of rounds by hand and returns both directions.
pub(crate) async fn join(
    server: &Server,
) -> (tokio::sync::mpsc::Sender<v1::FromWorker>, Streaming<v1::FromServer>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    sender.send(server.hello().await).await.unwrap();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut stream = server.client().await.rounds(outgoing).await.unwrap().into_inner();
    let admitted = stream.message().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(admitted, from_server::Message::Admitted(_)));
    (sender, stream)
}

/// Computes correctly, but pauses after the first completed chunks until the gate opens.
struct Gated {
    gradients: Gradients,
    gate: mpsc::Receiver<()>,
    was_opened: mpsc::Sender<bool>,
}

impl Computer for Gated {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        let second_chunk = chunk_elements(job.model.parameters());
        let (gate, mut was_opened) = (&self.gate, None);
        let finished = |flow: &mut dyn Flow, number, from| {
            flow.finished(number, from);
            // The first time that all of the second chunk is complete and not all of the first.
            if was_opened.is_none() && (1..second_chunk).contains(&from) {
                was_opened = Some(gate.recv_timeout(LONG).is_ok());
            }
        };
        let mut flow = Tapped { flow, finished };
        let is_computed = self.gradients.compute_flowing(&mut flow, &job.data.train, step, leaves);
        self.was_opened.send(was_opened.unwrap()).unwrap();
        is_computed
    }
}

#[test]
fn the_last_layer_is_updated_before_the_first_layers_gradient_is_computed() {
    let folder = data(1);
    let run = two_chunks(1);
    let job = support::job(&run, folder.path());
    let server = Server::start(&run, folder.path(), options(2));
    let (open, gate) = mpsc::channel();
    let (was_opened, opened) = mpsc::channel();
    let second = chunk_elements(job.model.parameters()) as u64;
    runtime().block_on(async {
        // The first of two workers gets no part of the only leaf, so it just listens.
        let (_sender, mut stream) = join(&server).await;
        let computer = Box::new(Gated { gradients: job.gradients(), gate, was_opened });
        let worker = Worker::start_computing(&server.address, folder.path(), computer);
        let mut made = Vec::new();
        loop {
            match stream.message().await.unwrap().unwrap().message.unwrap() {
                from_server::Message::Weights(chunk) if chunk.version == 1 => {
                    made.push(chunk.offset);
                    // Until now the other worker has not begun with the first layer's gradient.
                    let _ = open.send(());
                }
                from_server::Message::Assign(assign) => panic!("{assign:?}"),
                from_server::Message::Dismissed(_) => break,
                _ => {}
            }
        }
        // The run's last weights may be left out.
        assert_eq!(made[0], second);
        assert_eq!(worker.finish().unwrap(), Ended::Done);
    });
    assert!(opened.recv().unwrap());
    server.finish_at_reference();
}

#[test]
fn an_incomplete_node_changes_no_bit() {
    let folder = data(1);
    let run = two_chunks(2);
    let job = support::job(&run, folder.path());
    let parameters = job.model.parameters();
    let server = Server::start(&run, folder.path(), options(1));
    runtime().block_on(async {
        let (sender, mut stream) = join(&server).await;
        loop {
            match stream.message().await.unwrap().unwrap().message.unwrap() {
                from_server::Message::Assign(_) => {
                    let sums = job.gradients().compute(&job.model.initial(3), &job.data.train, 0, 0..1);
                    for sum in sums {
                        sender.send(node_metrics(0, sum.node, sum.metric_sums)).await.unwrap();
                        let range = chunk_elements(parameters)..parameters;
                        for chunk in whole_gradient_chunks(0, sum.node, tensor::share(sum.gradient), range) {
                            sender.send(chunk).await.unwrap();
                        }
                    }
                }
                // The second chunk is updated; the first one's gradient never arrives.
                from_server::Message::Weights(chunk) if chunk.version == 1 => break,
                _ => {}
            }
        }
        let goodbye = Message::Goodbye(v1::Goodbye { reason: "enough".into() });
        sender.send(support::from_worker(goodbye)).await.unwrap();
        while stream.message().await.unwrap().is_some() {}
    });
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    assert_eq!(worker.finish().unwrap(), Ended::Done);
}
