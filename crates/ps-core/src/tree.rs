//! The binary tree over a batch's leaves: the only shape in which anything is summed over samples.
//!
//! Level 0 holds the leaves. Node `(l, i)` is `(l-1, 2i) + (l-1, 2i+1)`; an odd last node passes up
//! unchanged. Any two nodes are nested or disjoint, so any set of nodes that covers the leaves folds to the
//! same bits, whoever computed them and in whatever order they arrive.

use std::collections::BTreeSet;
use std::ops::Range;

/// A node of the tree: the sum of leaves `[index << level, (index + 1) << level)`, cut at the last leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Height above the leaves.
    pub level: u32,
    /// Position among the nodes of its level.
    pub index: u32,
}

impl Node {
    /// The node of one leaf.
    pub const fn leaf(index: u32) -> Self {
        Node { level: 0, index }
    }

    /// The node one level up that contains this one.
    pub const fn parent(self) -> Self {
        Node { level: self.level + 1, index: self.index / 2 }
    }

    /// The other child of this node's parent.
    pub const fn sibling(self) -> Self {
        Node { level: self.level, index: self.index ^ 1 }
    }

    /// Whether `other` is this node or lies below it.
    pub const fn contains(self, other: Node) -> bool {
        other.level <= self.level && other.index >> (self.level - other.level) == self.index
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}, {})", self.level, self.index)
    }
}

/// The tree over `leaves` leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    leaves: u32,
}

impl Tree {
    /// The tree over leaves `0..leaves`. At least one leaf and at most 2^31.
    pub fn new(leaves: u32) -> Self {
        assert!((1..=1 << 31).contains(&leaves), "a tree needs 1 to 2^31 leaves, not {leaves}");
        Tree { leaves }
    }

    /// How many leaves there are.
    pub const fn leaves(self) -> u32 {
        self.leaves
    }

    /// The node that is the sum of all leaves.
    pub fn root(self) -> Node {
        Node { level: self.leaves.next_power_of_two().trailing_zeros(), index: 0 }
    }

    /// Whether `node` exists in this tree: not above the root and not beyond the last leaf.
    pub fn has(self, node: Node) -> bool {
        node.level <= self.root().level && u64::from(node.index) << node.level < u64::from(self.leaves)
    }

    /// The leaves that `node` sums. The node must exist.
    pub fn leaves_of(self, node: Node) -> Range<u32> {
        let start = u64::from(node.index) << node.level;
        let end = (start + (1 << node.level)).min(u64::from(self.leaves));
        start as u32..end as u32
    }

    /// The fewest nodes that exactly cover `range`, in ascending order of their leaves. A node cut short by
    /// the last leaf counts as covering to its nominal end.
    pub fn cover(self, range: Range<u32>) -> Vec<Node> {
        let mut nodes = Vec::new();
        self.cover_each(range, |node| nodes.push(node));
        nodes
    }

    /// The same nodes, one after the other.
    pub fn cover_each(self, range: Range<u32>, mut each: impl FnMut(Node)) {
        assert!(range.end <= self.leaves, "leaves {range:?} of {}", self.leaves);
        let mut start = range.start;
        while start < range.end {
            let mut node = Node::leaf(start);
            while node.level < self.root().level {
                let parent = self.leaves_of(node.parent());
                if parent.start < start || parent.end > range.end {
                    break;
                }
                node = node.parent();
            }
            start = self.leaves_of(node).end;
            each(node);
        }
    }

    /// The form of `node` in which its right half is not empty: an odd last node passes up unchanged, so a
    /// node whose right child has no leaves *is* its left child. Two nodes with one canonical form are the
    /// same sum.
    pub fn canonical(self, mut node: Node) -> Node {
        while node.level > 0 {
            let right = (u64::from(node.index) * 2 + 1) << (node.level - 1);
            if right < u64::from(self.leaves) {
                break;
            }
            node = Node { level: node.level - 1, index: node.index * 2 };
        }
        node
    }
}

/// Which leaves are covered by the nodes gathered so far: the rule by which contributions are idempotent.
///
/// Invariant: the nodes kept are pairwise disjoint and no two of them are siblings.
#[derive(Clone, Debug)]
pub struct Coverage {
    tree: Tree,
    nodes: BTreeSet<Node>,
    covered: u32,
}

/// What gathering one node means for the sums kept so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// Its leaves were covered already; the copy is ignored.
    Known,
    /// It counts. First `dropped` nodes (inside it) go, then each of `merged` says: the node it names and its
    /// sibling, left plus right, become their parent.
    New {
        /// Smaller nodes that this one stands in for.
        dropped: Vec<Node>,
        /// Parents formed in turn, each from its two children.
        merged: Vec<Node>,
    },
}

impl Coverage {
    /// Nothing is covered yet.
    pub fn new(tree: Tree) -> Self {
        Coverage { tree, nodes: BTreeSet::new(), covered: 0 }
    }

    /// The tree whose leaves are counted.
    pub fn tree(&self) -> Tree {
        self.tree
    }

    /// Whether every leaf is covered.
    pub fn is_complete(&self) -> bool {
        self.covered == self.tree.leaves()
    }

    /// Number of leaves covered.
    pub fn covered(&self) -> u32 {
        self.covered
    }

    /// Whether all leaves of `node` are covered.
    pub fn covers(&self, node: Node) -> bool {
        let mut ancestor = self.tree.canonical(node);
        loop {
            if self.nodes.contains(&ancestor) {
                return true;
            }
            if ancestor.level >= self.tree.root().level {
                return self.is_complete();
            }
            ancestor = ancestor.parent();
        }
    }

    /// Takes `node` (which must exist in the tree) and says what it changes.
    pub fn gather(&mut self, node: Node) -> Gathered {
        assert!(self.tree.has(node), "node {node} is not in a tree of {} leaves", self.tree.leaves());
        let mut node = self.tree.canonical(node);
        if self.covers(node) {
            return Gathered::Known;
        }
        let dropped: Vec<Node> = self.nodes.iter().copied().filter(|&kept| node.contains(kept)).collect();
        for small in &dropped {
            self.nodes.remove(small);
            self.covered -= self.tree.leaves_of(*small).len() as u32;
        }
        self.covered += self.tree.leaves_of(node).len() as u32;
        let mut merged = Vec::new();
        while node != self.tree.root() {
            let sibling = node.sibling();
            // The sibling may stand under its canonical name, or have no leaves at all.
            if !self.tree.has(sibling) {
                node = node.parent();
                continue;
            }
            if !self.nodes.remove(&self.tree.canonical(sibling)) {
                break;
            }
            node = node.parent();
            merged.push(node);
        }
        self.nodes.insert(self.tree.canonical(node));
        Gathered::New { dropped, merged }
    }

    /// Maximal runs of leaves not covered yet, ascending.
    pub fn missing(&self) -> Vec<Range<u32>> {
        let mut covered: Vec<Range<u32>> = self.nodes.iter().map(|&n| self.tree.leaves_of(n)).collect();
        covered.sort_by_key(|range| range.start);
        let mut missing = Vec::new();
        let mut next = 0;
        for range in covered {
            if range.start > next {
                missing.push(next..range.start);
            }
            next = range.end;
        }
        if next < self.tree.leaves() {
            missing.push(next..self.tree.leaves());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cover_is_exact_and_minimal() {
        for leaves in 1..40 {
            let tree = Tree::new(leaves);
            for start in 0..leaves {
                for end in start + 1..=leaves {
                    let cover = tree.cover(start..end);
                    let mut next = start;
                    for &node in &cover {
                        assert_eq!(tree.leaves_of(node).start, next);
                        next = tree.leaves_of(node).end;
                    }
                    assert_eq!(next, end);
                    assert!(cover.windows(2).all(|pair| pair[0].parent() != pair[1].parent()));
                }
            }
            assert_eq!(tree.cover(0..leaves), vec![tree.root()]);
        }
    }

    #[test]
    fn any_order_of_any_nodes_completes_the_coverage() {
        for leaves in 1..20 {
            let tree = Tree::new(leaves);
            // All existing nodes, in an order that a small generator shuffles.
            for seed in 0..50_u64 {
                let mut nodes = Vec::new();
                for level in 0..=tree.root().level {
                    nodes.extend((0..leaves).map(|index| Node { level, index }).filter(|&n| tree.has(n)));
                }
                let mut state = seed;
                for i in (1..nodes.len()).rev() {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    nodes.swap(i, (state >> 33) as usize % (i + 1));
                }
                let mut coverage = Coverage::new(tree);
                for node in nodes {
                    let before = coverage.covered();
                    let known = coverage.covers(node);
                    let gathered = coverage.gather(node);
                    assert_eq!(known, gathered == Gathered::Known);
                    assert!(coverage.covered() >= before);
                    let missing: u32 = coverage.missing().iter().map(|r| r.len() as u32).sum();
                    assert_eq!(missing + coverage.covered(), leaves);
                }
                assert!(coverage.is_complete() && coverage.covers(tree.root()));
            }
        }
    }
}
