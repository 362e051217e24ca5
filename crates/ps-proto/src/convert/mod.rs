//! Checks of everything that arrives from the network, before any other code sees it.
//!
//! A check needs the run's [`Shape`]; its result is a plain value with the types of `ps-core` and `ps-coord`.
//! Whether values are finite is not checked here: training that diverges legitimately sends infinities, and
//! the data plane that folds them distinguishes the two cases.

mod from_server;
mod from_shard;
mod from_worker;

pub use from_server::{Invitation, ServerMessage, WeightsChunk, invitation, server_message};
pub use from_shard::{
    Attached, ShardGreeting, ShardMessage, StateChunk, ToShardMessage, applied, attached, measured, missing,
    optimizer_state_chunk, shard_greeting, shard_message, verdict_to_wire,
};
pub use from_shard::{shard_addresses, to_shard};
pub use from_worker::{Greeting, WorkerMessage, first_message, hello, join_request, worker_message};

use crate::limits::chunk_elements;
use crate::v1;
use bytes::Bytes;
use ps_coord::{Dismissal, WorkerId};
use ps_core::{MetricSums, Precision};
use ps_plan::{BatchPlan, Node};
use std::ops::Range;

/// The sizes against which messages are checked: the run's steps and the model's dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Divides the run into steps and leaves.
    pub plan: BatchPlan,
    /// Length of the flat parameter vector.
    pub parameters: usize,
    /// Number of classes in metric sums; 0 for regression.
    pub classes: usize,
    /// The precision in which weights travel to workers.
    pub weights: Precision,
}

/// An invalid message; holds what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMessage(String);

impl InvalidMessage {
    /// Creates an error from its text: lower case, with the field and its value.
    pub fn new(text: impl Into<String>) -> Self {
        InvalidMessage(text.into())
    }
}

impl std::fmt::Display for InvalidMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidMessage {}

impl From<ps_plane::Rejected> for InvalidMessage {
    fn from(rejected: ps_plane::Rejected) -> Self {
        InvalidMessage(rejected.to_string())
    }
}

/// Returns an error with a formatted text unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::convert::InvalidMessage::new(format!($($text)+)));
        }
    };
}
use ensure;

/// Checks one chunk of a tensor of `parameters` elements of `size` bytes each; returns the index of
/// its first element.
fn check_chunk(
    offset: u64,
    total: u64,
    bytes: &Bytes,
    size: usize,
    parameters: usize,
) -> Result<usize, InvalidMessage> {
    ensure!(
        total == parameters as u64,
        "chunk is of a tensor of {total} elements, the model has {parameters}"
    );
    // What has arrived is recorded chunk by chunk, so a copy of a range off this grid would not be recognised
    // and be added twice.
    let chunk = chunk_elements(parameters);
    ensure!(
        offset < total && offset.is_multiple_of(chunk as u64),
        "chunk at element {offset}, where none begins: chunks have {chunk} elements, the model has {total}"
    );
    // No information is lost: the offset is below the length of a vector in memory.
    let offset = offset as usize;
    let expected = chunk.min(parameters - offset);
    ensure!(
        bytes.len() == expected * size,
        "chunk at element {offset} of {} bytes, it has {expected} elements of {size} bytes",
        bytes.len()
    );
    Ok(offset)
}

/// The message of a chunk of weights.
pub fn weights_chunk(version: u64, offset: usize, total: usize, weights: Bytes) -> v1::WeightsChunk {
    v1::WeightsChunk { version, offset: offset as u64, total: total as u64, weights }
}

/// The messages with the elements `range` (whole chunks) of a node's gradient, whose bytes are `bytes`.
pub fn whole_gradient_chunks(
    step: u64,
    node: Node,
    gradient: Bytes,
    range: Range<usize>,
) -> impl Iterator<Item = v1::FromWorker> + Send {
    gradient_chunks(step, node, gradient.len() / 4, 0, gradient, range)
}

/// Like [`whole_gradient_chunks`], but `bytes` holds only the elements from `first` on, the beginning of a
/// chunk, of a gradient of `total` elements.
pub fn gradient_chunks(
    step: u64,
    node: Node,
    total: usize,
    first: usize,
    gradient: Bytes,
    range: Range<usize>,
) -> impl Iterator<Item = v1::FromWorker> + Send {
    let size = chunk_elements(total);
    let range = range.start.max(first)..range.end.min(first + gradient.len() / 4);
    range.clone().step_by(size).map(move |offset| {
        let end = range.end.min(offset + size);
        let chunk = v1::NodeChunk {
            step,
            level: node.level,
            index: node.index,
            offset: offset as u64,
            total: total as u64,
            gradient: gradient.slice(4 * (offset - first)..4 * (end - first)),
        };
        v1::FromWorker { message: Some(v1::from_worker::Message::Node(chunk)) }
    })
}

/// The message that precedes the chunks of a node.
pub fn node_metrics(step: u64, node: Node, metric_sums: MetricSums) -> v1::FromWorker {
    let tally = Some(metric_sums_to_wire(metric_sums));
    let metrics = v1::NodeMetrics { step, level: node.level, index: node.index, tally };
    v1::FromWorker { message: Some(v1::from_worker::Message::NodeMetrics(metrics)) }
}

/// The message that follows the chunks of a node.
pub fn node_done(step: u64, node: Node) -> v1::FromWorker {
    let done = v1::NodeDone { step, level: node.level, index: node.index };
    v1::FromWorker { message: Some(v1::from_worker::Message::NodeDone(done)) }
}

fn metric_sums_to_wire(metric_sums: MetricSums) -> v1::Tally {
    v1::Tally {
        samples: metric_sums.samples,
        loss: metric_sums.loss,
        correct: metric_sums.correct,
        class_samples: metric_sums.classes.iter().map(|class| class[0]).collect(),
        class_errors: metric_sums.classes.iter().map(|class| class[1]).collect(),
        target: metric_sums.target,
        target_squared: metric_sums.target_squared,
        residual_squared: metric_sums.residual_squared,
        class_predictions: metric_sums.predicted,
        residual_absolute: metric_sums.residual_absolute,
    }
}

/// The message that sends a worker away.
pub fn dismissed(dismissal: &Dismissal) -> v1::from_server::Message {
    v1::from_server::Message::Dismissed(dismissal_to_wire(dismissal))
}

/// The message with the reason why a peer is sent away.
pub fn dismissal_to_wire(dismissal: &Dismissal) -> v1::Dismissed {
    let (mut silent_ms, mut held_ms) = (0, 0);
    let (kind, reason) = match dismissal {
        Dismissal::Done => (v1::DismissalKind::Done, "training is done".to_owned()),
        Dismissal::Ended(reason) => (v1::DismissalKind::Ended, reason.clone()),
        Dismissal::Stopped(reason) => (v1::DismissalKind::Stopped, reason.clone()),
        Dismissal::Failed(reason) => (v1::DismissalKind::Failed, reason.clone()),
        Dismissal::Silent { silent_ms: ms } => {
            silent_ms = *ms;
            (v1::DismissalKind::Silent, format!("nothing was heard for {ms} ms"))
        }
        Dismissal::Stuck { held_ms: ms } => {
            held_ms = *ms;
            (v1::DismissalKind::Stuck, format!("nothing was delivered for {ms} ms"))
        }
        Dismissal::Rewound(reason) => (v1::DismissalKind::Rewound, reason.clone()),
        Dismissal::Banned(reason) => (v1::DismissalKind::Banned, reason.clone()),
    };
    v1::Dismissed { kind: kind.into(), reason, silent_ms, held_ms }
}

/// The message that admits a worker to a server that keeps the elements `kept`.
pub fn admitted(worker: WorkerId, parameters: usize, kept: Range<usize>) -> v1::from_server::Message {
    let admitted = v1::Admitted {
        worker_id: worker.0,
        parameters: parameters as u64,
        chunk: chunk_elements(parameters) as u64,
        start: kept.start as u64,
        end: kept.end as u64,
    };
    v1::from_server::Message::Admitted(admitted)
}
