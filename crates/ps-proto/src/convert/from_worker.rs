//! Checks of messages from a worker.

use super::{InvalidMessage, Shape, check_chunk, ensure};
use crate::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES, PROTOCOL_VERSION};
use crate::status::Refusal;
use crate::v1::{self, from_worker::Message};
use ps_core::MetricSums;
use ps_plan::{Node, Section};
use ps_plane::{GradientChunk, NodeDone, NodeMetrics};

/// A worker's request to be admitted, in this version of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Greeting {
    /// Its name; printable.
    pub name: String,
    /// Name and version of its program; printable.
    pub build: String,
    /// The fingerprints of its run file, data and machine.
    pub fingerprints: v1::Fingerprints,
}

/// A checked message from an admitted worker.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    /// The worker is alive.
    Heartbeat,
    /// The metric sums of a node, which precede its chunks.
    NodeMetrics(NodeMetrics),
    /// A chunk of a node's sum.
    Node(GradientChunk),
    /// The end of a node.
    NodeDone(NodeDone),
    /// The worker lacks weights for its work.
    WeightsWanted,
    /// It abandoned work that newer weights made useless.
    Dropped,
    /// The worker leaves; holds the reason.
    Goodbye(String),
}

/// Checks the first message of a stream, which must be `Hello`.
pub fn first_message(message: v1::FromWorker) -> Result<Greeting, Refusal> {
    match message.message {
        Some(Message::Hello(greeting)) => hello(greeting),
        _ => Err(InvalidMessage::new("the first message must be hello").into()),
    }
}

/// Checks `Hello`, except whether the fingerprints agree.
pub fn hello(hello: v1::Hello) -> Result<Greeting, Refusal> {
    let name = printable("worker_name", hello.worker_name, MAX_NAME_BYTES)?;
    let build = printable("build", hello.build, MAX_NAME_BYTES)?;
    // Checked before the fingerprints, which another version may lack: a worker of another release has to
    // learn that its version is the reason.
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(Refusal::Protocol { theirs: hello.protocol_version, build });
    }
    let fingerprints = fingerprints(hello.fingerprints)?;
    Ok(Greeting { name, build, fingerprints })
}

/// Checks the strings of `JoinRequest`; the server compares the versions.
pub fn join_request(request: v1::JoinRequest) -> Result<v1::JoinRequest, InvalidMessage> {
    let worker_name = printable("worker_name", request.worker_name, MAX_NAME_BYTES)?;
    let build = printable("build", request.build, MAX_NAME_BYTES)?;
    Ok(v1::JoinRequest { worker_name, build, ..request })
}

/// Checks the form of a process's fingerprints.
pub(super) fn fingerprints(theirs: Option<v1::Fingerprints>) -> Result<v1::Fingerprints, InvalidMessage> {
    let Some(theirs) = theirs else { return Err(InvalidMessage::new("hello without fingerprints")) };
    Ok(v1::Fingerprints {
        run: printable("fingerprints.run", theirs.run, MAX_TEXT_BYTES)?,
        data: printable("fingerprints.data", theirs.data, MAX_TEXT_BYTES)?,
        numerics: theirs.numerics,
        probe: printable("fingerprints.probe", theirs.probe, MAX_TEXT_BYTES)?,
    })
}

/// Checks a message of an admitted worker.
pub fn worker_message(message: v1::FromWorker, shape: &Shape) -> Result<WorkerMessage, InvalidMessage> {
    match message.message {
        Some(Message::Node(chunk)) => Ok(WorkerMessage::Node(gradient_chunk(chunk, shape)?)),
        Some(Message::NodeMetrics(metrics)) => Ok(WorkerMessage::NodeMetrics(node_metrics(metrics, shape)?)),
        Some(Message::NodeDone(v1::NodeDone { step, level, index })) => {
            let node = existing_node(step, level, index, shape)?;
            Ok(WorkerMessage::NodeDone(NodeDone { step, node }))
        }
        Some(Message::Heartbeat(_)) => Ok(WorkerMessage::Heartbeat),
        Some(Message::WeightsWanted(_)) => Ok(WorkerMessage::WeightsWanted),
        Some(Message::Dropped(v1::Dropped { step })) => {
            ensure!(step < shape.plan.steps, "step {step} of a run of {} steps", shape.plan.steps);
            Ok(WorkerMessage::Dropped)
        }
        Some(Message::Goodbye(goodbye)) => {
            Ok(WorkerMessage::Goodbye(printable("reason", goodbye.reason, MAX_TEXT_BYTES)?))
        }
        Some(Message::Hello(_)) => Err(InvalidMessage::new("hello came twice")),
        None => {
            Err(InvalidMessage::new("the message is empty, or of a kind that this version does not know"))
        }
    }
}

fn gradient_chunk(chunk: v1::NodeChunk, shape: &Shape) -> Result<GradientChunk, InvalidMessage> {
    let v1::NodeChunk { step, level, index, offset, total, gradient } = chunk;
    let node = existing_node(step, level, index, shape)?;
    let section = shape.plan.step(step).tree().section_of(node);
    ensure!(
        section == Section::Training,
        "node {node} of step {step} has no gradient: its leaves are evaluated"
    );
    let offset = check_chunk(offset, total, &gradient, 4, shape.parameters)?;
    Ok(GradientChunk { step, node, offset, bytes: gradient })
}

fn node_metrics(metrics: v1::NodeMetrics, shape: &Shape) -> Result<NodeMetrics, InvalidMessage> {
    let v1::NodeMetrics { step, level, index, tally } = metrics;
    let node = existing_node(step, level, index, shape)?;
    let tally =
        tally.ok_or_else(|| InvalidMessage::new(format!("node {node} of step {step} has no tally")))?;
    Ok(NodeMetrics { step, node, metric_sums: metric_sums(tally, step, node, shape)? })
}

/// Checks that a node exists in a step that exists.
fn existing_node(step: u64, level: u32, index: u32, shape: &Shape) -> Result<Node, InvalidMessage> {
    let node = Node { level, index };
    ensure!(step < shape.plan.steps, "step {step} of a run of {} steps", shape.plan.steps);
    let tree = shape.plan.step(step).tree();
    ensure!(tree.has(node), "node {node} does not exist at step {step}, which has {} leaves", tree.leaves());
    Ok(node)
}

fn metric_sums(tally: v1::Tally, step: u64, node: Node, shape: &Shape) -> Result<MetricSums, InvalidMessage> {
    let place = shape.plan.step(step);
    let samples = place.offsets(place.tree().leaves_of(node)).len() as u64;
    ensure!(
        tally.samples == samples,
        "node {node} of step {step}: tally of {} samples, its leaves have {samples}",
        tally.samples
    );
    let classes = shape.classes;
    ensure!(
        tally.class_samples.len() == classes
            && tally.class_errors.len() == classes
            && tally.class_predictions.len() == classes,
        "node {node} of step {step}: tally of {}, {} and {} classes, the model has {classes}",
        tally.class_samples.len(),
        tally.class_errors.len(),
        tally.class_predictions.len()
    );
    let pairs = tally.class_samples.iter().zip(&tally.class_errors);
    // Each addend is checked against the number of samples, so no sum of the fold can overflow.
    ensure!(
        pairs.clone().all(|(&all, &wrong)| wrong <= all && all <= samples)
            && tally.class_predictions.iter().all(|&predicted| predicted <= samples)
            && tally.correct <= samples,
        "node {node} of step {step}: tally counts more than its {samples} samples"
    );
    Ok(MetricSums {
        samples,
        loss: tally.loss,
        correct: tally.correct,
        classes: pairs.map(|(&all, &wrong)| [all, wrong]).collect(),
        target: tally.target,
        target_squared: tally.target_squared,
        residual_squared: tally.residual_squared,
        predicted: tally.class_predictions,
        residual_absolute: tally.residual_absolute,
    })
}

/// Checks the length of a string and replaces its control characters, because it goes to terminals and logs.
pub(super) fn printable(field: &str, text: String, limit: usize) -> Result<String, InvalidMessage> {
    ensure!(text.len() <= limit, "{field} has {} bytes, but the limit is {limit}", text.len());
    if text.chars().any(char::is_control) {
        return Ok(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{node_done, node_metrics, whole_gradient_chunks};
    use bytes::Bytes;
    use ps_core::Precision;
    use ps_plan::BatchPlan;

    /// Two epochs of 100 samples in steps of 40: 10, 10 and 5 leaves of 4.
    fn shape(parameters: usize) -> Shape {
        let plan = BatchPlan::new(1, 100, 40, 4, 2, None);
        Shape { plan, parameters, classes: 3, weights: Precision::F32 }
    }

    fn metric_sums(samples: u64) -> MetricSums {
        let classes = vec![[1, 0], [2, 1], [0, 0]];
        MetricSums { samples, loss: 1.5, classes, predicted: vec![1, 1, 1], ..MetricSums::default() }
    }

    fn good() -> v1::NodeChunk {
        let gradient = crate::tensor::share(vec![0.5; 7]);
        let message = whole_gradient_chunks(1, Node { level: 1, index: 2 }, gradient, 0..7).next().unwrap();
        let Some(Message::Node(chunk)) = message.message else { panic!("not a node") };
        chunk
    }

    fn refused(spoil: impl FnOnce(&mut v1::NodeChunk), expected: &str) {
        let mut chunk = good();
        spoil(&mut chunk);
        let text = gradient_chunk(chunk, &shape(7)).unwrap_err().to_string();
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    }

    #[test]
    fn the_chunks_of_a_node_reach_the_shards_that_keep_them() {
        let size = crate::limits::chunk_elements(1 << 21);
        let parameters = 8 * size + 1000;
        let shape = shape(parameters);
        let values: Vec<f32> = (0..parameters).map(|i| i as f32).collect();
        let node = Node { level: 4, index: 0 };
        let bytes = crate::tensor::share(values.clone());
        let mut arrived = vec![0.0; parameters];
        for kept in [size..parameters, 0..size, size..size] {
            for message in whole_gradient_chunks(3, node, bytes.clone(), kept) {
                let WorkerMessage::Node(part) = worker_message(message, &shape).unwrap() else { panic!() };
                assert_eq!((part.step, part.node), (3, node));
                let end = part.offset + part.bytes.len() / 4;
                crate::tensor::read(&part.bytes, &mut arrived[part.offset..end]);
            }
        }
        assert_eq!(arrived, values);
        let metrics = worker_message(node_metrics(3, node, metric_sums(40)), &shape).unwrap();
        assert_eq!(
            metrics,
            WorkerMessage::NodeMetrics(NodeMetrics { step: 3, node, metric_sums: metric_sums(40) })
        );
        let done = worker_message(node_done(3, node), &shape).unwrap();
        assert_eq!(done, WorkerMessage::NodeDone(NodeDone { step: 3, node }));
    }

    #[test]
    fn a_chunk_that_does_not_fit_the_run_is_refused() {
        assert!(gradient_chunk(good(), &shape(7)).is_ok());
        refused(|chunk| chunk.step = 6, "step 6 of a run of 6 steps");
        refused(|chunk| chunk.level = 5, "node (5, 2) does not exist at step 1");
        refused(|chunk| chunk.level = u32::MAX, "does not exist");
        refused(|chunk| chunk.index = 5, "node (1, 5) does not exist");
        refused(|chunk| chunk.total = 8, "tensor of 8 elements, the model has 7");
        refused(|chunk| chunk.offset = 1, "at element 1, where none begins");
        refused(|chunk| chunk.offset = u64::MAX, "where none begins");
        refused(|chunk| chunk.gradient = chunk.gradient.slice(..26), "of 26 bytes, it has 7 elements of 4");
        refused(|chunk| chunk.gradient = Bytes::new(), "of 0 bytes");
    }

    #[test]
    fn metric_sums_that_do_not_fit_their_node_are_refused() {
        let spoil = |change: fn(&mut v1::NodeMetrics), expected: &str| {
            let message = node_metrics(1, Node { level: 1, index: 2 }, metric_sums(8)).message;
            let Some(Message::NodeMetrics(mut metrics)) = message else { panic!("not metrics") };
            assert!(super::node_metrics(metrics.clone(), &shape(7)).is_ok());
            change(&mut metrics);
            let text = super::node_metrics(metrics, &shape(7)).unwrap_err().to_string();
            assert!(text.contains(expected), "{text:?} does not say {expected:?}");
        };
        fn tally_of(metrics: &mut v1::NodeMetrics) -> &mut v1::Tally {
            metrics.tally.as_mut().unwrap()
        }
        spoil(|metrics| metrics.tally = None, "has no tally");
        spoil(|metrics| metrics.step = 6, "step 6 of a run of 6 steps");
        spoil(|metrics| tally_of(metrics).samples = 9, "tally of 9 samples, its leaves have 8");
        spoil(
            |metrics| tally_of(metrics).class_samples = vec![1],
            "tally of 1, 3 and 3 classes, the model has 3",
        );
        spoil(|metrics| tally_of(metrics).class_errors.push(0), "tally of 3, 4 and 3 classes");
        spoil(|metrics| tally_of(metrics).class_predictions.clear(), "tally of 3, 3 and 0 classes");
        spoil(|metrics| tally_of(metrics).class_errors[0] = 2, "counts more");
        spoil(|metrics| tally_of(metrics).class_samples[0] = u64::MAX, "counts more");
        spoil(|metrics| tally_of(metrics).class_predictions[1] = 9, "counts more");
        spoil(|metrics| tally_of(metrics).correct = 9, "counts more");
    }

    #[test]
    fn a_request_to_join_is_short_and_printable() {
        let good = v1::JoinRequest {
            protocol_version: 7,
            worker_name: "a\u{1b}[2Jb".into(),
            build: "x".repeat(MAX_NAME_BYTES),
            ..Default::default()
        };
        let checked = join_request(good.clone()).unwrap();
        assert_eq!((&checked.worker_name[..], checked.protocol_version), ("a\u{fffd}[2Jb", 7));
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for (request, expected) in [
            (v1::JoinRequest { worker_name: long.clone(), ..good.clone() }, "worker_name has 257 bytes"),
            (v1::JoinRequest { build: long, ..good }, "build has 257 bytes"),
        ] {
            let text = join_request(request).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn the_first_message_is_a_greeting_of_our_version() {
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_name: "a\u{1b}[2Jb".into(),
            build: "test".into(),
            fingerprints: Some(v1::Fingerprints::default()),
        };
        let send = |hello: v1::Hello| first_message(v1::FromWorker { message: Some(Message::Hello(hello)) });
        assert_eq!(send(hello.clone()).unwrap().name, "a\u{fffd}[2Jb");
        let old = v1::Hello { protocol_version: 0, ..hello.clone() };
        assert_eq!(send(old), Err(Refusal::Protocol { theirs: 0, build: "test".into() }));
        let long = v1::Hello { worker_name: "x".repeat(257), ..hello.clone() };
        assert!(send(long).unwrap_err().to_string().contains("worker_name has 257 bytes"));
        assert!(send(v1::Hello { fingerprints: None, ..hello }).is_err());
        assert!(first_message(v1::FromWorker { message: None }).is_err());
        assert!(worker_message(v1::FromWorker { message: None }, &shape(7)).is_err());
    }
}
