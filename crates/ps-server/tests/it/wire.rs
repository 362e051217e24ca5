//! The wire protocol by hand, as a worker in another language sees it.

use crate::support::{
    self, Server, Shard, Worker, data, from_worker as message, options, run_file, runtime, wide_run,
};
use ps_core::weights_hash;
use ps_plan::Node;
use ps_proto::limits::chunk_elements;
use ps_proto::v1::parameter_server_client::ParameterServerClient;
use ps_proto::v1::{self, from_server, from_worker};
use ps_server::{ServerOptions, ShardLayout};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Greets, sends `messages`, and returns the status that ends the stream.
async fn answer_to(server: &Server, messages: Vec<from_worker::Message>) -> Status {
    answer_of(server.client().await, server, messages).await
}

/// Like [`answer_to`], but for a shard of `server`.
async fn answer_of(
    mut client: ParameterServerClient<Channel>,
    server: &Server,
    messages: Vec<from_worker::Message>,
) -> Status {
    let mut all = vec![server.hello().await];
    all.extend(messages.into_iter().map(message));
    // The stream stays open, so that the server must end it.
    let outgoing = tokio_stream::iter(all).chain(tokio_stream::pending());
    // tonic's client and codec, to show that the framing by hand is ordinary gRPC.
    let mut stream = match client.rounds(outgoing).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return status,
    };
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("the stream ended"),
            Err(status) => return status,
        }
    }
}

/// The parameters of the run's model: 3 inputs, 8 hidden units, 3 classes.
const PARAMETERS: usize = 3 * 8 + 8 + 8 * 3 + 3;

/// A well-formed chunk of a node of step 0, whose leaf has 4 samples.
fn node(value: f32) -> v1::NodeChunk {
    v1::NodeChunk {
        step: 0,
        level: 0,
        index: 1,
        offset: 0,
        total: PARAMETERS as u64,
        gradient: ps_proto::tensor::share(vec![value; PARAMETERS]),
    }
}

/// The metric sums of that node.
fn metrics() -> v1::NodeMetrics {
    let tally = v1::Tally {
        samples: 4,
        loss: 4.0,
        correct: 4,
        class_samples: vec![2, 1, 1],
        class_errors: vec![0; 3],
        class_predictions: vec![0; 3],
        ..v1::Tally::default()
    };
    v1::NodeMetrics { step: 0, level: 0, index: 1, tally: Some(tally) }
}

/// The end of that node.
fn done() -> v1::NodeDone {
    v1::NodeDone { step: 0, level: 0, index: 1 }
}

#[test]
fn invalid_messages_get_a_clear_status_and_change_no_bit() {
    let folder = data(1);
    let server = Server::start(&run_file(4), folder.path(), options(2));
    runtime().block_on(async {
        use from_worker::Message::{Hello, Node, NodeDone, NodeMetrics};
        let samples = |samples| Some(v1::Tally { samples, ..metrics().tally.unwrap() });
        let cases: Vec<(Vec<from_worker::Message>, &str)> = vec![
            (vec![Node(v1::NodeChunk { step: 3, ..node(1.0) })], "step 3, which is not open"),
            (vec![Node(v1::NodeChunk { step: 99, ..node(1.0) })], "step 99 of a run of 20"),
            (vec![Node(v1::NodeChunk { index: 9, ..node(1.0) })], "node (0, 9) does not exist"),
            (vec![Node(v1::NodeChunk { total: 1 << 60, ..node(1.0) })], "the model has 59"),
            (
                vec![Node(v1::NodeChunk { offset: 1, gradient: node(1.0).gradient.slice(4..), ..node(1.0) })],
                "where none begins",
            ),
            (vec![Node(node(1.0))], "arrived before the node's metric sums"),
            (vec![NodeDone(done())], "ended without its metric sums"),
            (vec![NodeMetrics(metrics()), NodeDone(done())], "1 chunks are missing"),
            (vec![NodeMetrics(v1::NodeMetrics { tally: None, ..metrics() })], "has no tally"),
            (vec![NodeMetrics(v1::NodeMetrics { tally: samples(0), ..metrics() })], "tally of 0 samples"),
            (vec![NodeMetrics(metrics()), Node(node(f32::NAN))], "not finite, but recomputing it"),
            (vec![Hello(v1::Hello::default())], "hello came twice"),
        ];
        for (invalid, expected) in cases {
            let status = answer_to(&server, invalid).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{expected}: {status}");
            assert!(status.message().contains(expected), "{status} does not say {expected}");
        }
    });
    let workers: Vec<Worker> = (0..2).map(|_| Worker::start(&server.address, folder.path())).collect();
    server.finish_at_reference();
    workers.into_iter().for_each(|worker| drop(worker.finish().unwrap()));
}

#[test]
fn a_shard_refuses_chunks_of_other_shards_and_keeps_serving() {
    let folder = data(1);
    let run = wide_run(2, "");
    let layout = ShardLayout { shards: 3, coordinator_keeps: true };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..options(1) });
    let shards: Vec<Shard> =
        (0..2).map(|index| Shard::start(&server.address, index, &run, folder.path())).collect();
    let parameters = support::job(&run, folder.path()).model.parameters();
    let size = chunk_elements(parameters);
    let chunk = |index: usize| {
        let (offset, values) = (index * size, vec![1.0; size.min(parameters - index * size)]);
        let gradient = ps_proto::tensor::share(values);
        v1::NodeChunk { offset: offset as u64, total: parameters as u64, gradient, ..node(1.0) }
    };
    runtime().block_on(async {
        let place = server.shard_addresses(2).await.swap_remove(0);
        let cases = [
            (vec![from_worker::Message::Node(chunk(0))], "this process holds 65536..131072"),
            (vec![from_worker::Message::Node(chunk(2))], "this process holds 65536..131072"),
            (vec![from_worker::Message::Node(v1::NodeChunk { step: 1, ..chunk(1) })], "which is not open"),
            (
                vec![from_worker::Message::Node(v1::NodeChunk { gradient: chunk(2).gradient, ..chunk(1) })],
                "it has 65536 elements",
            ),
            (vec![from_worker::Message::Node(chunk(1))], "arrived before the node's metric sums"),
            (vec![from_worker::Message::NodeDone(done())], "ended without its metric sums"),
        ];
        for (invalid, expected) in cases {
            let shard = support::client(&place.address).await;
            let status = answer_of(shard, &server, invalid).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{expected}: {status}");
            assert!(status.message().contains(expected), "{status} does not say {expected}");
        }
    });
    let worker = Worker::start(&server.address, folder.path());
    server.finish_at_reference();
    drop(worker.finish().unwrap());
    shards.into_iter().for_each(|shard| drop(shard.finish().unwrap()));
}

#[test]
fn incompatible_workers_are_refused_when_they_join() {
    let folder = data(1);
    let server = Server::start(&run_file(4), folder.path(), options(1));
    runtime().block_on(async {
        let mut client = server.client().await;
        let request = v1::JoinRequest { protocol_version: 7, build: "py 0.2".into(), ..Default::default() };
        let status = client.join(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("version 6, but the worker (py 0.2) speaks 7"), "{status}");

        let request = v1::JoinRequest {
            protocol_version: ps_proto::limits::PROTOCOL_VERSION,
            numerics_version: 9999,
            ..Default::default()
        };
        let status = client.join(request).await.unwrap_err();
        assert!(status.message().contains("the worker uses 9999"), "{status}");

        let outgoing = tokio_stream::iter([message(from_worker::Message::Heartbeat(v1::Heartbeat {}))]);
        let status = client.rounds(outgoing).await.unwrap_err();
        assert!(status.message().contains("first message must be hello"), "{status}");

        let Some(from_worker::Message::Hello(mut hello)) = server.hello().await.message else { panic!() };
        hello.fingerprints.as_mut().unwrap().probe = "otherwise".into();
        let outgoing = tokio_stream::iter([message(from_worker::Message::Hello(hello))]);
        let status = client.rounds(outgoing).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("probe gradient differs"), "{status}");
        assert!(status.message().contains("the worker has otherwise"), "{status}");
    });
    assert!(!server.stop().unwrap().is_done);
}

#[test]
fn a_worker_written_from_the_wire_contract_gives_the_reference_hash() {
    let folder = data(1);
    let server = Server::start(&run_file(2), folder.path(), options(1));
    let job = support::job(&run_file(2), folder.path());
    let dismissed = runtime().block_on(async {
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        sender.send(server.hello().await).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut stream = server.client().await.rounds(outgoing).await.unwrap().into_inner();
        let mut weights: (u64, Vec<f32>) = (u64::MAX, vec![0.0; PARAMETERS]);
        let mut assigned = None;
        let mut gradients = job.gradients();
        loop {
            match stream.message().await.unwrap().unwrap().message.unwrap() {
                from_server::Message::Weights(chunk) => {
                    assert_eq!((chunk.offset, chunk.total), (0, PARAMETERS as u64));
                    weights.0 = chunk.version;
                    ps_proto::tensor::read(&chunk.weights, &mut weights.1);
                }
                from_server::Message::Assign(assign) => assigned = Some(assign),
                from_server::Message::Dismissed(dismissed) => break dismissed,
                from_server::Message::Admitted(_) | from_server::Message::Heartbeat(_) => {}
            }
            // Work may arrive before its weights.
            let Some(assign) = assigned.take_if(|assign| assign.step == weights.0) else { continue };
            for leaf in assign.leaf_start..assign.leaf_end {
                // Single leaves instead of the smallest set of nodes, and each twice.
                for _ in 0..2 {
                    let range = leaf..leaf + 1;
                    let mut sums = gradients.compute(&weights.1, &job.data.train, assign.step, range);
                    let sum = sums.pop().unwrap();
                    assert_eq!(sum.node, Node::leaf(leaf));
                    let metrics = ps_proto::convert::node_metrics(assign.step, sum.node, sum.metric_sums);
                    sender.send(metrics).await.unwrap();
                    let gradient = ps_proto::tensor::share(sum.gradient);
                    let chunks = ps_proto::convert::whole_gradient_chunks(
                        assign.step,
                        sum.node,
                        gradient,
                        0..PARAMETERS,
                    );
                    for chunk in chunks {
                        sender.send(chunk).await.unwrap();
                    }
                    let done = ps_proto::convert::node_done(assign.step, sum.node);
                    sender.send(done).await.unwrap();
                }
            }
        }
    });
    assert_eq!(dismissed.kind(), v1::DismissalKind::Done);
    server.finish_at_reference();
}

#[test]
fn status_weights_health_and_reflection_are_served() {
    let folder = data(1);
    let options = ServerOptions { reflection: true, ..options(1) };
    let server = Server::start(&run_file(1_000_000), folder.path(), options);
    let worker = Worker::start(&server.address, folder.path());
    runtime().block_on(async {
        let status = server.reach(2).await;
        assert_eq!(status.workers.len(), 1);
        assert_eq!(status.workers[0].name, "test");
        assert!(status.loss.is_finite() && status.steps == 5_000_000);

        let chunks = server.client().await.pull_weights(v1::PullWeightsRequest {}).await.unwrap();
        let chunks: Vec<v1::WeightsChunk> = chunks.into_inner().map(|chunk| chunk.unwrap()).collect().await;
        assert_eq!(chunks.iter().map(|chunk| chunk.weights.len() / 4).sum::<usize>(), PARAMETERS);
        assert!(chunks[0].version >= 2);

        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        let request = tonic_health::pb::HealthCheckRequest { service: "downhill.v1.ParameterServer".into() };
        let reply = health.check(request).await.unwrap().into_inner();
        assert_eq!(reply.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);

        use tonic_reflection::pb::v1 as reflection;
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
        let request = reflection::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(
                reflection::server_reflection_request::MessageRequest::FileContainingSymbol(
                    "downhill.v1.ParameterServer".into(),
                ),
            ),
        };
        let mut replies =
            client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        let reply = replies.message().await.unwrap().unwrap().message_response.unwrap();
        use reflection::server_reflection_response::MessageResponse::FileDescriptorResponse;
        assert!(matches!(reply, FileDescriptorResponse(_)), "{reply:?}");
    });
    let finished = server.stop().unwrap();
    assert_eq!(weights_hash(&finished.weights).len(), 64);
    worker.kill();
}
