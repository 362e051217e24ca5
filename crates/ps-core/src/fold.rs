//! Sums of nodes, and gathering them until the root is known.

use crate::kernel::Kernel;
use crate::metrics::Tally;
use ps_plan::{Coverage, Gathered, Node, Section, Tree};
use std::collections::BTreeMap;

/// The sum over a node's samples.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSum {
    /// Which node.
    pub node: Node,
    /// Sum of the gradients, `[parameters]`.
    pub gradient: Vec<f32>,
    /// Loss and metrics.
    pub tally: Tally,
}

impl NodeSum {
    /// Adds the right sibling; this becomes their parent.
    fn merge(&mut self, right: &NodeSum, parent: Node) {
        Kernel::detect().vectorize(
            #[inline(always)]
            || self.gradient.iter_mut().zip(&right.gradient).for_each(|(left, right)| *left += right),
        );
        self.tally.add(&right.tally);
        self.node = parent;
    }
}

/// The nodes of one step as they come in, merged as far as they go.
#[derive(Clone, Debug)]
pub struct Fold {
    coverage: Coverage,
    sums: BTreeMap<Node, NodeSum>,
}

impl Fold {
    /// Nothing gathered yet.
    pub fn new(tree: Tree) -> Self {
        Fold { coverage: Coverage::new(tree), sums: BTreeMap::new() }
    }

    /// Takes a node's sum. Returns whether it was new; a node that is covered already is ignored.
    /// The node must exist in the tree.
    pub fn insert(&mut self, sum: NodeSum) -> bool {
        self.insert_and_return(sum, &mut drop)
    }

    /// The same; sums that are of no use any more, for others hold what they held, go to `done`.
    pub(crate) fn insert_and_return(&mut self, mut sum: NodeSum, done: &mut impl FnMut(NodeSum)) -> bool {
        let tree = self.coverage.tree();
        let Gathered::New { dropped, merged } = self.coverage.gather(sum.node) else {
            done(sum);
            return false;
        };
        for node in dropped {
            self.sums.remove(&node).map(&mut *done);
        }
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

    /// What is covered.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The sum of all training leaves, once all leaves are covered.
    pub fn take_root(&mut self) -> Option<NodeSum> {
        self.take_sum(Section::Training)
    }

    /// Loss and metrics of all leaves of a section, once all leaves of all are covered; nothing if it has none.
    pub fn take_tally(&mut self, section: Section) -> Option<Tally> {
        self.take_sum(section).map(|sum| sum.tally)
    }

    fn take_sum(&mut self, section: Section) -> Option<NodeSum> {
        let tree = self.coverage.tree();
        let root = tree.root_of(section);
        if !self.is_complete() || tree.section(section).is_empty() {
            return None;
        }
        self.sums.remove(&root).map(|sum| NodeSum { node: root, ..sum })
    }

    /// The sums gathered so far, ascending by their leaves: for one range of leaves its exact cover.
    pub(crate) fn into_sums(self) -> Vec<NodeSum> {
        let tree = self.coverage.tree();
        let mut sums: Vec<NodeSum> = self.sums.into_values().collect();
        sums.sort_by_key(|sum| tree.leaves_of(sum.node).start);
        sums
    }
}
