//! Input and output of a plane.

use bytes::Bytes;
use ps_core::{MetricSums, NodeSum};
use ps_plan::Node;
use std::fmt;
use std::ops::Range;

/// A chunk of a node's gradient sum. The step, the node and the chunk exist in the run.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientChunk {
    /// The step it was computed for.
    pub step: u64,
    /// A node of the step's tree.
    pub node: Node,
    /// Index of its first element in the flat vector of parameters.
    pub offset: usize,
    /// The elements, in little-endian binary32.
    pub bytes: Bytes,
}

/// Metric sums that are consistent with the run and with the node's number of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMetrics {
    /// The step it was computed for.
    pub step: u64,
    /// A node of the step's tree.
    pub node: Node,
    /// Loss and metrics of its samples.
    pub metric_sums: MetricSums,
}

/// The end of a node: all of its chunks have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeDone {
    /// The step it was computed for.
    pub step: u64,
    /// A node of the step's tree.
    pub node: Node,
}

/// A chunk of weights as it travels to workers.
#[derive(Clone, Debug)]
pub struct WeightsChunk {
    /// Steps applied to it.
    pub version: u64,
    /// Index of its first element in the flat vector of parameters.
    pub offset: usize,
    /// Its elements, in the precision of the run.
    pub bytes: Bytes,
}

/// A chunk of a vector of the run's state, see [`ps_core::Control::vectors`].
#[derive(Clone, Debug)]
pub struct OptimizerStateChunk {
    /// Index of the vector.
    pub vector: usize,
    /// Index of the chunk's first element in the vector.
    pub offset: usize,
    /// The elements, in little-endian binary32.
    pub bytes: Bytes,
}

/// Recomputes gradients on the server, by which a plane distinguishes a diverging run from a broken
/// or malicious worker.
pub trait Recompute {
    /// The sum of `node` of `step` at `weights`, `[parameters]`, which are rounded to the precision
    /// that workers receive.
    fn node_sum(&mut self, weights: &[f32], step: u64, node: Node) -> NodeSum;
}

/// Why a message is invalid in the plane's state. Its sender is broken or malicious.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The message belongs to a step for which no weights exist yet.
    NotOpen {
        /// The step that the message names.
        step: u64,
        /// The node that the message names.
        node: Node,
        /// Steps applied to the weights.
        version: u64,
    },
    /// The chunk is not kept here.
    NotKept {
        /// The node that the message names.
        node: Node,
        /// Index of the chunk's first element.
        offset: usize,
        /// The elements that are kept here.
        kept: Range<usize>,
    },
    /// A chunk arrived before the metric sums of its node.
    ChunkBeforeMetrics {
        /// The step that the message names.
        step: u64,
        /// The node that the message names.
        node: Node,
    },
    /// The end of a node arrived before its metric sums.
    DoneBeforeMetrics {
        /// The step that the message names.
        step: u64,
        /// The node that the message names.
        node: Node,
    },
    /// The end of a node arrived before some of its chunks.
    Incomplete {
        /// The step that the message names.
        step: u64,
        /// The node that the message names.
        node: Node,
        /// Number of missing chunks.
        missing: usize,
    },
    /// The sender has begun more nodes than can be assigned to it.
    TooManyNodes {
        /// The open step.
        step: u64,
        /// Number of nodes that it has begun and not ended.
        open: usize,
    },
    /// A value is not finite, although the same sum computed here is.
    NotFinite {
        /// The step that the message names.
        step: u64,
        /// The node that the message names.
        node: Node,
    },
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::NotOpen { step, node, version } => {
                write!(f, "node {node} of step {step}, which is not open: the weights have version {version}")
            }
            Rejected::NotKept { node, offset, kept: Range { start, end } } => {
                write!(f, "chunk at element {offset} of node {node}; this process holds {start}..{end}")
            }
            Rejected::ChunkBeforeMetrics { step, node } => {
                write!(f, "a chunk of node {node} of step {step} arrived before the node's metric sums")
            }
            Rejected::DoneBeforeMetrics { step, node } => {
                write!(f, "node {node} of step {step} ended without its metric sums")
            }
            Rejected::Incomplete { step, node, missing } => {
                write!(f, "node {node} of step {step} ended, but {missing} chunks are missing")
            }
            Rejected::TooManyNodes { step, open } => {
                write!(f, "{open} nodes of step {step} were started but not ended")
            }
            Rejected::NotFinite { step, node } => write!(
                f,
                "node {node} of step {step} contains values that are not finite, but recomputing it gives \
                 finite values"
            ),
        }
    }
}

impl std::error::Error for Rejected {}
