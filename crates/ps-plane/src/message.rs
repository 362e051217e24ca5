//! What goes into a plane and what comes out of it.

use bytes::Bytes;
use ps_core::{NodeSum, Tally};
use ps_plan::Node;
use std::fmt;
use std::ops::Range;

/// A chunk of a node's sum. The step, the node and the chunk exist in the run.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientChunk {
    /// The step it was computed for.
    pub step: u64,
    /// The node.
    pub node: Node,
    /// Index of the first element.
    pub offset: usize,
    /// Little-endian binary32.
    pub bytes: Bytes,
}

/// Metric sums that fit the run and the samples of their node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMetrics {
    /// The step they were computed for.
    pub step: u64,
    /// The node.
    pub node: Node,
    /// Loss and metrics of its samples.
    pub tally: Tally,
}

/// The end of a node that fits the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeDone {
    /// The step it was computed for.
    pub step: u64,
    /// The node.
    pub node: Node,
}

/// A chunk of weights as it travels to workers.
#[derive(Clone, Debug)]
pub struct WeightsPart {
    /// Steps applied to it.
    pub version: u64,
    /// Index of the first element.
    pub offset: usize,
    /// Its elements, in the precision of the run.
    pub bytes: Bytes,
}

/// A chunk of a vector of the run's state, see [`ps_core::Control::vectors`].
#[derive(Clone, Debug)]
pub struct StatePart {
    /// Index of the vector.
    pub vector: usize,
    /// Index of the first element in it.
    pub offset: usize,
    /// Little-endian binary32.
    pub bytes: Bytes,
}

/// Computes gradients where the weights are kept: how a plane tells a run that diverges from a worker that is broken or
/// lies.
pub trait Recompute {
    /// The sum of `node` of `step` at `weights`, `[parameters]`, which are rounded as workers get them.
    fn node_sum(&mut self, weights: &[f32], step: u64, node: Node) -> NodeSum;
}

/// Why a message cannot be right in the state that the plane is in. Its sender is broken or lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is of a step for which there are no weights yet.
    NotOpen {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
        /// Steps applied to the weights.
        version: u64,
    },
    /// The chunk is not kept here.
    NotKept {
        /// The node.
        node: Node,
        /// The first element of the chunk.
        offset: usize,
        /// The elements that are kept here.
        kept: Range<usize>,
    },
    /// A chunk came before the metric sums of its node.
    ChunkBeforeMetrics {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
    },
    /// A node ends of which no metric sums have come.
    DoneBeforeMetrics {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
    },
    /// A node ends of which some chunks have not come.
    Incomplete {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
        /// How many.
        missing: usize,
    },
    /// The sender has begun more nodes than it can be asked for.
    TooManyNodes {
        /// The step.
        step: u64,
        /// How many nodes it has begun and not ended.
        open: usize,
    },
    /// A value is not finite, and all values computed here are.
    NotFinite {
        /// The step.
        step: u64,
        /// The node.
        node: Node,
    },
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::NotOpen { step, node, version } => {
                write!(
                    f,
                    "node {node} of step {step}, which is not open: the weights are of version {version}"
                )
            }
            Rejected::NotKept { node, offset, kept: Range { start, end } } => {
                write!(f, "chunk at element {offset} of node {node}; kept here are {start}..{end}")
            }
            Rejected::ChunkBeforeMetrics { step, node } => {
                write!(f, "a chunk of node {node} of step {step}, whose metric sums have not come")
            }
            Rejected::DoneBeforeMetrics { step, node } => {
                write!(f, "node {node} of step {step} ends, and its metric sums have not come")
            }
            Rejected::Incomplete { step, node, missing } => {
                write!(f, "node {node} of step {step} ends, and {missing} chunks are missing")
            }
            Rejected::TooManyNodes { step, open } => {
                write!(f, "{open} nodes of step {step} are begun and not ended")
            }
            Rejected::NotFinite { step, node } => write!(
                f,
                "node {node} of step {step} holds values that are not finite; computed here, all are"
            ),
        }
    }
}

impl std::error::Error for Rejected {}
