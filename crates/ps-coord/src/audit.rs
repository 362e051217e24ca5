//! Computing a share of the nodes a second time: the sums are exact, so two copies that differ prove that somebody lies.
//!
//! Which nodes is decided when they have come, so nobody can know it while computing. A second worker computes them; if
//! the copies differ, or there is no second worker, whoever runs the round computes them itself, which decides.

use crate::event::{Digest, Millis, WorkerId};
use ps_plan::Node;
use std::collections::{BTreeMap, BTreeSet};

/// The audits of one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audits {
    /// What came of each node, from whom.
    copies: BTreeMap<Node, Vec<(WorkerId, Digest)>>,
    /// Nodes that a second worker computes, and since when.
    pending: BTreeMap<Node, (WorkerId, Millis)>,
    /// Nodes that are to be computed here.
    disputed: BTreeSet<Node>,
    /// Of these, the ones that were asked for.
    asked: BTreeSet<Node>,
}

impl Audits {
    /// A copy of a node has come.
    pub(crate) fn take(&mut self, worker: WorkerId, node: Node, digest: Digest) {
        let copies = self.copies.entry(node).or_default();
        let differs = copies.iter().any(|&(_, other)| other != digest);
        let is_second = copies.iter().any(|&(other, _)| other != worker);
        if !copies.contains(&(worker, digest)) {
            copies.push((worker, digest));
        }
        if differs {
            self.pending.remove(&node);
            self.disputed.insert(node);
        } else if is_second {
            self.pending.remove(&node);
        }
    }

    /// `worker` computes a node for the second time; without one it is to be computed here.
    pub(crate) fn begin(&mut self, node: Node, worker: Option<WorkerId>, now: Millis) {
        match worker {
            Some(worker) => drop(self.pending.insert(node, (worker, now))),
            None => drop(self.disputed.insert(node)),
        }
    }

    /// A worker is lost: what it was to compute is computed here.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.give_up(|second, _| second == worker);
    }

    /// Copies that have not come within `patience` are computed here.
    pub(crate) fn give_up_late(&mut self, now: Millis, patience: Millis) {
        self.give_up(|_, since| since.saturating_add(patience) <= now);
    }

    /// When that is next to be looked at.
    pub(crate) fn late_at(&self, patience: Millis) -> Option<Millis> {
        self.pending.values().map(|(_, since)| since.saturating_add(patience)).min()
    }

    fn give_up(&mut self, is_over: impl Fn(WorkerId, Millis) -> bool) {
        let over =
            |(&node, &(second, since)): (&Node, &(WorkerId, Millis))| is_over(second, since).then_some(node);
        let nodes: Vec<Node> = self.pending.iter().filter_map(over).collect();
        for node in nodes {
            self.pending.remove(&node);
            self.disputed.insert(node);
        }
    }

    /// Nodes to compute here that were not asked for yet.
    pub(crate) fn ask(&mut self) -> Vec<Node> {
        let asked: Vec<Node> = self.disputed.difference(&self.asked).copied().collect();
        self.asked.extend(&asked);
        asked
    }

    /// What a node is. Gives those whose copies are not.
    pub(crate) fn judge(&mut self, node: Node, digest: Digest) -> BTreeSet<WorkerId> {
        self.disputed.remove(&node);
        self.asked.remove(&node);
        let copies = self.copies.get(&node).into_iter().flatten();
        copies.filter(|&&(_, copy)| copy != digest).map(|&(worker, _)| worker).collect()
    }

    /// What is not settled: nodes, and who computes them if it is not us.
    pub(crate) fn open(&self) -> Vec<(Node, Option<WorkerId>)> {
        let pending = self.pending.iter().map(|(&node, &(worker, _))| (node, Some(worker)));
        pending.chain(self.disputed.iter().map(|&node| (node, None))).collect()
    }

    /// Whether nothing is.
    pub(crate) fn are_settled(&self) -> bool {
        self.pending.is_empty() && self.disputed.is_empty()
    }
}
