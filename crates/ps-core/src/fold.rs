//! Sums over the nodes of a step's tree, and their merging up to the root.

use crate::kernel::Kernel;
use crate::metrics::MetricSums;
use ps_plan::{Coverage, Gathered, Node, Section, Tree};
use std::collections::BTreeMap;

/// The sum over a node's samples: what a worker computes for a subtree of leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSum {
    /// The node of the step's tree.
    pub node: Node,
    /// Sum of the gradients, `[parameters]`.
    pub gradient: Vec<f32>,
    /// Loss and metrics of the samples.
    pub metric_sums: MetricSums,
}

impl NodeSum {
    /// Adds the right sibling, which turns this sum into that of `parent`.
    fn merge(&mut self, right: &NodeSum, parent: Node) {
        Kernel::detect().vectorize(
            #[inline(always)]
            || self.gradient.iter_mut().zip(&right.gradient).for_each(|(left, right)| *left += right),
        );
        self.metric_sums.add(&right.metric_sums);
        self.node = parent;
    }
}

/// The node sums of one step, merged as they arrive.
///
/// Two siblings are added as soon as both are there, left plus right, so the result has the same bits for any
/// order of arrival. Once [`Fold::is_complete`], [`Fold::take_root`] returns the sum over the batch.
#[derive(Clone, Debug)]
pub struct Fold {
    coverage: Coverage,
    sums: BTreeMap<Node, NodeSum>,
}

impl Fold {
    /// Creates a fold that covers no leaves yet.
    pub fn new(tree: Tree) -> Self {
        Fold { coverage: Coverage::new(tree), sums: BTreeMap::new() }
    }

    /// Adds a node's sum. Returns `false`, and ignores the sum, if the node is already covered. The node must
    /// exist in the tree.
    pub fn insert(&mut self, sum: NodeSum) -> bool {
        self.insert_and_return(sum, &mut drop)
    }

    /// Like [`Fold::insert`], but passes each sum that is no longer needed to `done`, for reuse
    /// of its memory.
    pub(crate) fn insert_and_return(&mut self, mut sum: NodeSum, done: &mut impl FnMut(NodeSum)) -> bool {
        let tree = self.coverage.tree();
        let Gathered::New { dropped, merged } = self.coverage.gather(sum.node) else {
            done(sum);
            return false;
        };
        for node in dropped {
            self.sums.remove(&node).map(&mut *done);
        }
        // `Coverage` uses canonical names, and the keys of `sums` must be the same.
        sum.node = tree.canonical(sum.node);
        for parent in merged {
            let [left, right] = [0, 1]
                .map(|side| tree.canonical(Node { level: parent.level - 1, index: 2 * parent.index + side }));
            let is_left = sum.node == left;
            let sibling = if is_left { right } else { left };
            let mut sibling = self.sums.remove(&sibling).expect("coverage keeps the same nodes as the sums");
            if is_left {
                sum.merge(&sibling, parent);
                done(sibling);
            } else {
                sibling.merge(&sum, parent);
                done(std::mem::replace(&mut sum, sibling));
            }
        }
        self.sums.insert(sum.node, sum);
        true
    }

    /// Whether all leaves are covered.
    pub fn is_complete(&self) -> bool {
        self.coverage.is_complete()
    }

    /// Which leaves are covered.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Removes and returns the sum of all training leaves, once all leaves are covered.
    pub fn take_root(&mut self) -> Option<NodeSum> {
        self.take_sum(Section::Training)
    }

    /// Removes and returns loss and metrics of a section, once the leaves of all sections are covered; `None`
    /// if the section has no leaves.
    pub fn take_metric_sums(&mut self, section: Section) -> Option<MetricSums> {
        self.take_sum(section).map(|sum| sum.metric_sums)
    }

    fn take_sum(&mut self, section: Section) -> Option<NodeSum> {
        let tree = self.coverage.tree();
        let root = tree.root_of(section);
        if !self.is_complete() || tree.section(section).is_empty() {
            return None;
        }
        self.sums.remove(&root).map(|sum| NodeSum { node: root, ..sum })
    }

    /// The sums that are left, in ascending order of their leaves. After inserting one range of leaves, these
    /// are its exact cover.
    pub(crate) fn into_sums(self) -> Vec<NodeSum> {
        let tree = self.coverage.tree();
        let mut sums: Vec<NodeSum> = self.sums.into_values().collect();
        sums.sort_by_key(|sum| tree.leaves_of(sum.node).start);
        sums
    }
}
