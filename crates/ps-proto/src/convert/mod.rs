//! Everything from the network is checked here before anything else sees it.
//!
//! A check needs to know the run's [`Shape`]; what passes is a plain value with the types of `ps-core` and
//! `ps-coord`. Whether a value is finite is not checked here: training that diverges sends infinities in all
//! honesty, and whoever folds them tells the two apart.

mod from_server;
mod from_worker;

pub use from_server::{Invitation, ServerMessage, WeightsPart, invitation, server_message};
pub use from_worker::{Greeting, NodePart, WorkerMessage, first_message, hello, worker_message};

use crate::v1;
use bytes::Bytes;
use ps_coord::{Dismissal, WorkerId};
use ps_core::{BatchPlan, NodeSum, Tally};

/// What messages are checked against: the run's steps and the model's sizes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How the run is cut into steps and leaves.
    pub plan: BatchPlan,
    /// Length of the flat parameter vector.
    pub parameters: usize,
    /// Classes that a tally counts; 0 for regression.
    pub classes: usize,
}

/// A message that cannot be right: what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonsense(String);

impl Nonsense {
    /// With its text, lower case, naming the field and its value.
    pub fn new(text: impl Into<String>) -> Self {
        Nonsense(text.into())
    }
}

impl std::fmt::Display for Nonsense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Nonsense {}

/// Fails with a text unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::convert::Nonsense::new(format!($($text)+)));
        }
    };
}
use ensure;

/// Checks one chunk of a tensor of `parameters` elements; gives its first element.
fn check_chunk(offset: u64, total: u64, bytes: &Bytes, parameters: usize) -> Result<usize, Nonsense> {
    let elements = bytes.len() / 4;
    ensure!(
        total == parameters as u64,
        "chunk is of a tensor of {total} elements, the model has {parameters}"
    );
    ensure!(bytes.len().is_multiple_of(4), "chunk of {} bytes, which is not a multiple of 4", bytes.len());
    ensure!(elements > 0, "chunk at element {offset} is empty");
    ensure!(
        bytes.len() <= crate::limits::MAX_CHUNK_BYTES,
        "chunk of {elements} elements, the limit is {}",
        crate::limits::MAX_CHUNK_BYTES / 4
    );
    ensure!(
        offset < total && elements as u64 <= total - offset,
        "chunk of {elements} elements at {offset} goes beyond the {total} of the model"
    );
    Ok(offset as usize)
}

/// The messages of the weights `bytes` (the whole tensor, as it travels): chunk `index`, or `None` past the end.
pub fn weights_chunk(version: u64, bytes: &Bytes, index: usize) -> Option<v1::WeightsChunk> {
    let total = bytes.len() / 4;
    let (offset, slice) = chunk(bytes, index)?;
    Some(v1::WeightsChunk { version, offset, total: total as u64, weights: slice })
}

/// The messages that carry a node's sum, in order.
pub fn node_chunks(step: u64, sum: NodeSum) -> impl Iterator<Item = v1::FromWorker> + Send {
    let NodeSum { node, gradient, tally } = sum;
    let total = gradient.len() as u64;
    let bytes = crate::tensor::share(gradient);
    let mut tally = Some(tally_to_wire(tally));
    let mut index = 0;
    std::iter::from_fn(move || {
        let (offset, gradient) = chunk(&bytes, index)?;
        index += 1;
        let is_last = offset + gradient.len() as u64 / 4 == total;
        let chunk = v1::NodeChunk {
            step,
            level: node.level,
            index: node.index,
            offset,
            total,
            gradient,
            tally: if is_last { tally.take() } else { None },
        };
        Some(v1::FromWorker { message: Some(v1::from_worker::Message::Node(chunk)) })
    })
}

/// First element and bytes of chunk `index` of a tensor.
fn chunk(bytes: &Bytes, index: usize) -> Option<(u64, Bytes)> {
    let size = 4 * crate::limits::chunk_elements(bytes.len() / 4);
    let start = index.checked_mul(size).filter(|&start| start < bytes.len())?;
    Some((start as u64 / 4, bytes.slice(start..bytes.len().min(start + size))))
}

fn tally_to_wire(tally: Tally) -> v1::Tally {
    v1::Tally {
        samples: tally.samples,
        loss: tally.loss,
        correct: tally.correct,
        class_samples: tally.classes.iter().map(|class| class[0]).collect(),
        class_errors: tally.classes.iter().map(|class| class[1]).collect(),
        target: tally.target,
        target_squared: tally.target_squared,
        residual_squared: tally.residual_squared,
    }
}

/// The message that sends a worker away.
pub fn dismissed(dismissal: &Dismissal) -> v1::from_server::Message {
    let (kind, reason, silent_ms) = match dismissal {
        Dismissal::Done => (v1::DismissalKind::Done, "training is done".to_owned(), 0),
        Dismissal::Ended(reason) => (v1::DismissalKind::Ended, reason.clone(), 0),
        Dismissal::Silent { silent_ms } => {
            (v1::DismissalKind::Silent, format!("nothing was heard for {silent_ms} ms"), *silent_ms)
        }
    };
    let dismissed = v1::Dismissed { kind: kind.into(), reason, silent_ms };
    v1::from_server::Message::Dismissed(dismissed)
}

/// The message that admits a worker.
pub fn admitted(worker: WorkerId, parameters: usize) -> v1::from_server::Message {
    let admitted = v1::Admitted {
        worker_id: worker.0,
        parameters: parameters as u64,
        max_chunk: crate::limits::MAX_CHUNK_BYTES as u64 / 4,
    };
    v1::from_server::Message::Admitted(admitted)
}
