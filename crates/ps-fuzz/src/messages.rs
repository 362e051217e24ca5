//! Messages of workers, servers, shards and coordinators, through decoding and validation.

use crate::{Seed, choice};
use bytes::Bytes;
use prost::Message;
use ps_coord::Dismissal;
use ps_core::optim::{PieceSums, UpdateNorms};
use ps_core::{MetricSums, Precision};
use ps_plan::{BatchPlan, Node};
use ps_proto::convert::{self, ServerMessage, ShardMessage, ToShardMessage, WorkerMessage};
use ps_proto::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES, PROTOCOL_VERSION};
use ps_proto::{Shape, v1};
use std::ops::Range;

/// A message from a worker or a shard.
pub(crate) fn from_worker(input: &[u8]) {
    let (choice, message) = choice(input);
    let shape = shape(choice);
    if choice & 0x80 != 0 {
        return from_shard(message, &shape);
    }
    let Ok(message) = v1::FromWorker::decode(message) else { return };
    if let Ok(greeting) = convert::first_message(message.clone()) {
        is_printable(&greeting.name, MAX_NAME_BYTES);
        is_printable(&greeting.build, MAX_NAME_BYTES);
    }
    match convert::worker_message(message, &shape) {
        Ok(WorkerMessage::Node(part)) => {
            is_in(part.offset, &part.bytes, 4, 0..shape.parameters);
            assert!(shape.plan.step(part.step).tree().has(part.node));
        }
        Ok(WorkerMessage::NodeMetrics(metrics)) => {
            // The server adds the metric sums of up to a whole batch.
            let mut sum = MetricSums::new(shape.classes);
            (0..shape.plan.batch).for_each(|_| sum.add(&metrics.metric_sums));
            assert!(sum.correct <= sum.samples);
        }
        Ok(WorkerMessage::NodeDone(done)) => assert!(shape.plan.step(done.step).tree().has(done.node)),
        Ok(WorkerMessage::Goodbye(reason)) => is_printable(&reason, MAX_TEXT_BYTES),
        Ok(WorkerMessage::Heartbeat | WorkerMessage::WeightsWanted | WorkerMessage::Dropped) => {}
        Err(invalid) => is_short(&invalid.to_string()),
    }
}

fn from_shard(message: &[u8], shape: &Shape) {
    let Ok(message) = v1::FromShard::decode(message) else { return };
    if let Ok(greeting) = convert::shard_greeting(message.clone()) {
        is_printable(&greeting.build, MAX_NAME_BYTES);
        is_printable(&greeting.address, MAX_NAME_BYTES);
    }
    let kept = 0..shape.parameters.min(ps_proto::limits::chunk_elements(shape.parameters));
    let message = convert::shard_message(message, shape, &kept);
    if let Ok(ShardMessage::Weights(chunk) | ShardMessage::State(_, chunk)) = message {
        is_in(chunk.offset, &chunk.bytes, 4, kept);
    }
}

/// A message or reply from a server, or a message from a coordinator to a shard.
pub(crate) fn from_server(input: &[u8]) {
    let (choice, message) = choice(input);
    let shape = shape(choice);
    match choice >> 5 {
        0 => {
            let Ok(reply) = v1::JoinReply::decode(message) else { return };
            if let Ok(invitation) = convert::invitation(reply) {
                is_printable(&invitation.build, MAX_NAME_BYTES);
                assert!(!invitation.heartbeat.is_zero() && invitation.silence > invitation.heartbeat);
            }
        }
        1 => {
            let Ok(reply) = v1::ShardsReply::decode(message) else { return };
            for (_, address, kept) in convert::shard_addresses(reply, shape.parameters).unwrap_or_default() {
                is_printable(&address, MAX_NAME_BYTES);
                assert!(kept.start <= kept.end && kept.end <= shape.parameters);
            }
        }
        2 => {
            let Ok(message) = v1::ToShard::decode(message) else { return };
            if let Ok(attached) = convert::attached(message.clone(), shape.parameters) {
                assert!(attached.kept.end <= shape.parameters);
            }
            let kept = 0..shape.parameters.min(ps_proto::limits::chunk_elements(shape.parameters));
            let message = convert::to_shard(message, shape.parameters, &kept);
            if let Ok(ToShardMessage::Weights(chunk) | ToShardMessage::State(_, chunk)) = message {
                is_in(chunk.offset, &chunk.bytes, 4, kept);
            }
        }
        _ => {
            let Ok(message) = v1::FromServer::decode(message) else { return };
            match convert::server_message(message, &shape) {
                Ok(ServerMessage::Weights(part)) => {
                    is_in(part.offset, &part.bytes, shape.weights.bytes(), 0..shape.parameters);
                }
                Ok(ServerMessage::Assign { step, leaves }) => {
                    let tree = shape.plan.step(step).tree();
                    assert!(tree.has_leaves(&leaves));
                }
                Ok(ServerMessage::Admitted(_, kept)) => assert!(kept.end <= shape.parameters),
                Ok(ServerMessage::Dismissed(_) | ServerMessage::Heartbeat) => {}
                Err(invalid) => is_short(&invalid.to_string()),
            }
        }
    }
}

/// Selects one of several runs.
fn shape(choice: u8) -> Shape {
    let plan = match choice & 3 {
        0 => BatchPlan::new(1, 100, 40, 4, 2, None),
        1 => BatchPlan::new(1, 5, 1, 1, 3, Some(7)),
        2 => BatchPlan::new(1, u32::MAX as usize, 1000, 1000, u32::MAX, None),
        _ => BatchPlan::new(1, 1 << 20, 1 << 10, 7, 1, None),
    };
    Shape {
        plan,
        parameters: if choice & 4 == 0 { 7 } else { 70_000 },
        classes: if choice & 8 == 0 { 3 } else { 0 },
        weights: if choice & 16 == 0 { Precision::F32 } else { Precision::Bf16 },
    }
}

/// An accepted chunk lies within the part that the server holds.
fn is_in(offset: usize, bytes: &Bytes, size: usize, kept: Range<usize>) {
    let end = offset + bytes.len() / size;
    assert!(bytes.len().is_multiple_of(size) && !bytes.is_empty());
    assert!(kept.start <= offset && end <= kept.end, "{offset}..{end} of {kept:?}");
}

/// An accepted string is safe to print to a terminal.
fn is_printable(text: &str, limit: usize) {
    assert!(text.chars().count() <= limit && !text.chars().any(char::is_control), "{text:?}");
}

/// The description of a message is short, however long the message is.
fn is_short(text: &str) {
    assert!(text.len() < 1000, "{text}");
}

fn fingerprints() -> Option<v1::Fingerprints> {
    Some(v1::Fingerprints { run: "r".into(), data: "d".into(), numerics: 1, probe: "p".into() })
}

pub(crate) fn worker_seeds() -> Vec<Seed> {
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        worker_name: "a".into(),
        build: "b".into(),
        fingerprints: fingerprints(),
    };
    let node = Node { level: 1, index: 2 };
    let metric_sums = MetricSums {
        samples: 8,
        loss: 1.5,
        classes: vec![[1, 0], [2, 1], [0, 0]],
        predicted: vec![1, 1, 1],
        ..MetricSums::default()
    };
    let chunk = convert::whole_gradient_chunks(1, node, Bytes::from(vec![1; 28]), 0..7).next();
    let shard = v1::ShardHello {
        protocol_version: PROTOCOL_VERSION,
        build: "b".into(),
        fingerprints: fingerprints(),
        index: Some(1),
        address: "unix:s".into(),
    };
    use v1::from_shard::Message::{Applied, Hello as ShardHello, Measured, Missing, State, Tainted, Weights};
    use v1::from_worker::Message::{Dropped, Goodbye, Hello, WeightsWanted};
    let worker = |message| encoded(0, &v1::FromWorker { message: Some(message) });
    let shard_says = |message| encoded(0x80, &v1::FromShard { message: Some(message) });
    vec![
        ("hello", worker(Hello(hello))),
        ("node", encoded(0, &chunk.expect("there are elements"))),
        ("node-metrics", encoded(0, &convert::node_metrics(1, node, metric_sums))),
        (
            "node-metrics-regression",
            encoded(8, &convert::node_metrics(1, node, MetricSums { samples: 8, ..MetricSums::default() })),
        ),
        ("node-done", encoded(0, &convert::node_done(1, node))),
        ("weights-wanted", worker(WeightsWanted(v1::WeightsWanted {}))),
        ("dropped", worker(Dropped(v1::Dropped { step: 1 }))),
        ("goodbye", worker(Goodbye(v1::Goodbye { reason: "bye\n".into() }))),
        ("shard-hello", shard_says(ShardHello(shard))),
        ("shard-applied", shard_says(Applied(convert::applied(3, &[UpdateNorms::default()])))),
        ("shard-measured", shard_says(Measured(convert::measured(3, &[PieceSums::default()])))),
        ("shard-missing", shard_says(Missing(convert::missing(1, &[0..1, 2..3])))),
        (
            "shard-state",
            shard_says(State(convert::optimizer_state_chunk(3, 1, 0, 7, Bytes::from(vec![1; 28])))),
        ),
        ("shard-tainted", shard_says(Tainted(v1::ShardTainted { step: 3, reason: "bad\n".into() }))),
        ("shard-weights", shard_says(Weights(convert::weights_chunk(3, 0, 7, Bytes::from(vec![1; 28]))))),
    ]
}

pub(crate) fn server_seeds() -> Vec<Seed> {
    let reply = v1::JoinReply {
        protocol_version: PROTOCOL_VERSION,
        build: "b".into(),
        run_toml: "seed = 1".into(),
        expected: fingerprints(),
        parameters: 7,
        samples: 100,
        steps: 6,
        heartbeat_interval_ms: 100,
        silence_timeout_ms: 500,
        shards: 1,
    };
    let verdict = v1::to_shard::Message::Verdict(v1::ShardVerdict {
        step: 3,
        action: v1::ShardAction::Step.into(),
        samples: 10,
        rate: 0.1,
        scale: 1.0,
        count: 4,
        count_after: 4,
        ..v1::ShardVerdict::default()
    });
    let place = v1::ShardPlace { index: 1, address: "127.0.0.1:1".into(), start: 0, end: 7 };
    let admitted = v1::ShardAdmitted { index: 1, start: 0, end: 7 };
    use v1::from_server::Message::{Assign, Weights};
    let server = |choice, message| encoded(choice, &v1::FromServer { message: Some(message) });
    let ended = convert::dismissed(&Dismissal::Ended("stopped".into()));
    let weights = |size| convert::weights_chunk(3, 0, 7, Bytes::from(vec![1; size]));
    vec![
        ("join-reply", encoded(0, &reply)),
        ("shards-reply", encoded(0x20, &v1::ShardsReply { shards: vec![place.clone(), place] })),
        ("shard-verdict", encoded(0x40, &v1::ToShard { message: Some(verdict) })),
        (
            "shard-admitted",
            encoded(0x40, &v1::ToShard { message: Some(v1::to_shard::Message::Admitted(admitted)) }),
        ),
        ("weights", server(0x60, Weights(weights(28)))),
        ("weights-bf16", server(0x70, Weights(weights(14)))),
        ("assign", server(0x60, Assign(v1::Assign { step: 2, leaf_start: 0, leaf_end: 5 }))),
        ("dismissed", server(0x60, ended)),
    ]
}

fn encoded(choice: u8, message: &impl Message) -> Vec<u8> {
    [&[choice][..], &message.encode_to_vec()].concat()
}
