//! The binary tree over a batch's leaves: the only shape in which anything is summed over samples.
//!
//! Level 0 holds the leaves. Node `(l, i)` is `(l-1, 2i) + (l-1, 2i+1)`; an odd last node passes up
//! unchanged. Any two nodes are nested or disjoint, so any set of nodes that covers the leaves folds to the
//! same bits, regardless of which worker computed them and in which order they arrive.

use std::collections::BTreeSet;
use std::ops::Range;

/// A node of the tree: the sum of leaves `index << level` up to, but not including, `(index + 1) << level`,
/// or up to the last leaf if that comes first.
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
    const fn sibling(self) -> Self {
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

/// The set of samples that a leaf belongs to. Each section has a separate tree, and no node sums leaves
/// of two sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The samples whose gradient is summed.
    Training,
    /// The previous step's batch, evaluated to see how that step changed its loss.
    LastBatch,
    /// The validation part.
    Validation,
}

impl Section {
    /// All sections, in the order of their leaves.
    pub(crate) const ALL: [Section; 3] = [Section::Training, Section::LastBatch, Section::Validation];

    /// The section of a leaf.
    pub fn of(leaf: u32) -> Self {
        // A number from a message may lie beyond all sections; the range checks of the last one reject it.
        Section::ALL[((leaf >> SECTION_BITS) as usize).min(2)]
    }

    /// The number of the section's first leaf.
    pub(crate) const fn first(self) -> u32 {
        (self as u32) << SECTION_BITS
    }

    /// Describes a range of leaves of one section in words, for logs.
    pub fn words(leaves: &Range<u32>) -> String {
        let section = Section::of(leaves.start);
        let (start, end) = (leaves.start - section.first(), leaves.end - section.first());
        let what = match section {
            Section::Training => "leaves",
            Section::LastBatch => "last batch's leaves",
            Section::Validation => "validation leaves",
        };
        format!("{what} {start}..{end}")
    }
}

/// The number of a section's first leaf is the section's number, shifted left by this many bits.
const SECTION_BITS: u32 = 30;

/// The tree over the leaves of a step: a forest if the step has leaves of several sections.
///
/// A worker sends the sums of the nodes that [`Tree::cover`] returns for its leaves; a [`Coverage`]
/// determines how they are added up to the sum at [`Tree::root`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Number of leaves of each section.
    leaves: [u32; 3],
}

impl Tree {
    /// The tree over training leaves `0..leaves`.
    ///
    /// # Panics
    /// If there are no leaves, or more than 2^30.
    pub fn new(leaves: u32) -> Self {
        assert!((1..=1 << SECTION_BITS).contains(&leaves), "a tree needs 1 to 2^30 leaves, not {leaves}");
        Tree { leaves: [leaves, 0, 0] }
    }

    /// Adds a tree over `leaves` leaves of another section.
    pub(crate) fn with(mut self, section: Section, leaves: u32) -> Self {
        assert!(leaves < 1 << SECTION_BITS, "a section has at most 2^30 leaves, not {leaves}");
        self.leaves[section as usize] = leaves;
        self
    }

    /// The tree over the training leaves alone.
    pub fn training(self) -> Self {
        Tree::new(self.leaves())
    }

    /// The number of training leaves.
    pub const fn leaves(self) -> u32 {
        self.leaves[0]
    }

    /// The number of leaves in all sections.
    pub const fn all_leaves(self) -> u32 {
        self.leaves[0] + self.leaves[1] + self.leaves[2]
    }

    /// The leaves of a section.
    pub fn section(self, section: Section) -> Range<u32> {
        section.first()..section.first() + self.leaves[section as usize]
    }

    /// Whether `leaves` is a non-empty range of existing leaves of one section.
    pub fn has_leaves(self, leaves: &Range<u32>) -> bool {
        let section = self.section(Section::of(leaves.start));
        section.start <= leaves.start && leaves.start < leaves.end && leaves.end <= section.end
    }

    /// The node that is the sum of all training leaves.
    pub fn root(self) -> Node {
        self.root_of(Section::Training)
    }

    /// The node that is the sum of all leaves of a section, which must not be empty.
    pub fn root_of(self, section: Section) -> Node {
        let level = self.leaves[section as usize].next_power_of_two().trailing_zeros();
        Node { level, index: section.first() >> level }
    }

    /// Whether `node` exists in this tree: not above a root and not beyond a section's last leaf.
    pub fn has(self, node: Node) -> bool {
        // Nodes come from messages, and a higher level would shift bits out of the number.
        if node.level > SECTION_BITS {
            return false;
        }
        let start = u64::from(node.index) << node.level;
        let Ok(start) = u32::try_from(start) else { return false };
        let section = self.section(Section::of(start));
        section.contains(&start) && node.level <= self.root_of(Section::of(start)).level
    }

    /// The leaves that `node` sums. The node must exist.
    pub fn leaves_of(self, node: Node) -> Range<u32> {
        let start = u64::from(node.index) << node.level;
        let end = u64::from(self.section(Section::of(start as u32)).end);
        start as u32..(start + (1 << node.level)).min(end) as u32
    }

    /// The smallest set of nodes that covers exactly `range`, which must be of one section, in ascending
    /// order of their leaves. A node that the last leaf cuts short counts as a whole node.
    pub fn cover(self, range: Range<u32>) -> Vec<Node> {
        let mut nodes = Vec::new();
        self.cover_each(range, |node| nodes.push(node));
        nodes
    }

    /// Calls `each` with the nodes of [`Tree::cover`], without allocating.
    pub fn cover_each(self, range: Range<u32>, mut each: impl FnMut(Node)) {
        let section = Section::of(range.start);
        assert!(range.end <= self.section(section).end, "leaves {range:?} of {:?}", self.leaves);
        let mut start = range.start;
        while start < range.end {
            let mut node = Node::leaf(start);
            // A parent that is cut short by the last leaf ends there, so it may still fit.
            while node.level < self.root_of(section).level {
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

    /// The lowest node that is the same sum as `node`. An odd last node passes up unchanged, so a node whose
    /// right child has no leaves *is* its left child. Two nodes are the same sum exactly if their canonical
    /// forms are equal.
    pub fn canonical(self, mut node: Node) -> Node {
        let end = u64::from(self.section(self.section_of(node)).end);
        while node.level > 0 {
            let right = (u64::from(node.index) * 2 + 1) << (node.level - 1);
            if right < end {
                break;
            }
            node = Node { level: node.level - 1, index: node.index * 2 };
        }
        node
    }

    /// The section of a node.
    pub fn section_of(self, node: Node) -> Section {
        Section::of((u64::from(node.index) << node.level) as u32)
    }
}

/// Tracks which leaves are covered by the nodes gathered so far. This rule makes contributions idempotent.
///
/// Invariant: the nodes kept are pairwise disjoint and no two of them are siblings.
#[derive(Clone, Debug)]
pub struct Coverage {
    tree: Tree,
    nodes: BTreeSet<Node>,
    covered: u32,
}

/// How gathering one node changes the sums kept so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// Its leaves were covered already; the copy is ignored.
    Known,
    /// The node counts. First remove the sums of `dropped`, which lie inside it. Then, for each node in
    /// `merged`, replace the sums of its two children by left plus right.
    New {
        /// Smaller nodes that this one replaces.
        dropped: Vec<Node>,
        /// Parents formed in turn, each from its two children.
        merged: Vec<Node>,
    },
}

impl Coverage {
    /// Creates a coverage without any node.
    pub fn new(tree: Tree) -> Self {
        Coverage { tree, nodes: BTreeSet::new(), covered: 0 }
    }

    /// The tree whose leaves are counted.
    pub fn tree(&self) -> Tree {
        self.tree
    }

    /// Whether every leaf of every section is covered.
    pub fn is_complete(&self) -> bool {
        self.covered == self.tree.all_leaves()
    }

    /// Number of leaves covered.
    pub fn covered(&self) -> u32 {
        self.covered
    }

    /// Whether all leaves of `node` are covered by one kept node.
    pub fn covers(&self, node: Node) -> bool {
        let mut ancestor = self.tree.canonical(node);
        let root = self.tree.root_of(self.tree.section_of(node));
        loop {
            if self.nodes.contains(&ancestor) {
                return true;
            }
            if ancestor.level >= root.level {
                return false;
            }
            ancestor = ancestor.parent();
        }
    }

    /// Adds `node` and returns how the sums change.
    ///
    /// # Panics
    /// If the node does not exist in the tree.
    pub fn gather(&mut self, node: Node) -> Gathered {
        assert!(self.tree.has(node), "node {node} is not in a tree of {:?} leaves", self.tree.leaves);
        let mut node = self.tree.canonical(node);
        if self.covers(node) {
            return Gathered::Known;
        }
        // A larger node replaces the smaller ones, because their leaves cannot be taken out of its sum.
        let dropped: Vec<Node> = self.nodes.iter().copied().filter(|&kept| node.contains(kept)).collect();
        for small in &dropped {
            self.nodes.remove(small);
            self.covered -= self.tree.leaves_of(*small).len() as u32;
        }
        self.covered += self.tree.leaves_of(node).len() as u32;
        let mut merged = Vec::new();
        let root = self.tree.root_of(self.tree.section_of(node));
        while node != root {
            let sibling = node.sibling();
            // The sibling may be stored under its canonical name, or have no leaves at all.
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

    /// Maximal runs of uncovered leaves, each of one section, ascending.
    pub fn missing(&self) -> Vec<Range<u32>> {
        let mut covered: Vec<Range<u32>> = self.nodes.iter().map(|&n| self.tree.leaves_of(n)).collect();
        covered.sort_by_key(|range| range.start);
        let mut missing = Vec::new();
        for section in Section::ALL {
            let Range { start: mut next, end } = self.tree.section(section);
            for range in covered.iter().filter(|range| Section::of(range.start) == section) {
                if range.start > next {
                    missing.push(next..range.start);
                }
                next = range.end;
            }
            if next < end {
                missing.push(next..end);
            }
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
            // All existing nodes, shuffled by a small generator.
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

    #[test]
    fn each_section_has_its_own_tree() {
        let tree = Tree::new(5).with(Section::LastBatch, 4).with(Section::Validation, 7);
        let validation = tree.section(Section::Validation);
        assert_eq!((tree.leaves(), tree.all_leaves(), validation.len()), (5, 16, 7));
        assert_eq!(Section::words(&(validation.start + 3..validation.start + 5)), "validation leaves 3..5");
        let mut coverage = Coverage::new(tree);
        assert_eq!(coverage.missing(), Section::ALL.map(|section| tree.section(section)));
        for section in [Section::Validation, Section::Training, Section::LastBatch] {
            let leaves = tree.section(section);
            let root = tree.root_of(section);
            assert!(tree.has(root) && !tree.has(root.parent()) && tree.leaves_of(root) == leaves);
            assert_eq!(tree.cover(leaves.clone()), [root]);
            assert!(!tree.has_leaves(&(leaves.start..leaves.end + 1)) && tree.has_leaves(&leaves));
            // Leaf by leaf, from the last.
            for leaf in leaves.rev() {
                assert!(!coverage.covers(Node::leaf(leaf)) && !coverage.is_complete());
                coverage.gather(Node::leaf(leaf));
            }
            assert!(coverage.covers(root));
        }
        assert!(coverage.is_complete() && coverage.missing().is_empty());
    }
}
