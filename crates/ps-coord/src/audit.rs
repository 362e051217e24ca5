//! Audits: a fraction of the nodes is computed twice. Sums are exact, so two copies that differ prove that
//! one of the workers sent a wrong sum.
//!
//! The nodes are drawn after they have arrived, so that no worker can know during the computation whether it
//! is audited. A second worker recomputes them. If the copies differ, or there is no second worker, the
//! server recomputes the node itself, which settles the question.

use crate::event::{Digest, Millis, WorkerId};
use ps_plan::Node;
use std::collections::{BTreeMap, BTreeSet};

/// The audits of one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audits {
    /// The distinct copies of each node, with their senders.
    copies: BTreeMap<Node, Vec<(WorkerId, Digest)>>,
    /// Nodes that a second worker is recomputing, and since when.
    pending: BTreeMap<Node, (WorkerId, Millis)>,
    /// Nodes that the server must recompute.
    disputed: BTreeSet<Node>,
    /// Of `disputed`, the nodes whose recomputation was already requested.
    requested: BTreeSet<Node>,
}

impl Audits {
    /// Records a copy of a node. If copies differ, the node becomes disputed.
    pub(crate) fn take(&mut self, worker: WorkerId, node: Node, digest: Digest) {
        let copies = self.copies.entry(node).or_default();
        let differs = copies.iter().any(|&(_, other)| other != digest);
        // A worker cannot confirm its own sum by sending it twice.
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

    /// Begins an audit: `worker` recomputes the node, or the server does if it is `None`.
    pub(crate) fn begin(&mut self, node: Node, worker: Option<WorkerId>, now: Millis) {
        match worker {
            Some(worker) => drop(self.pending.insert(node, (worker, now))),
            None => drop(self.disputed.insert(node)),
        }
    }

    /// A worker is lost: the server recomputes the nodes that were assigned to it.
    pub(crate) fn unassign(&mut self, worker: WorkerId) {
        self.recompute_pending(|second, _| second == worker);
    }

    /// The server recomputes nodes whose second copy has not come within `patience`.
    pub(crate) fn expire(&mut self, now: Millis, patience: Millis) {
        self.recompute_pending(|_, since| since.saturating_add(patience) <= now);
    }

    /// The time at which the next copy becomes late.
    pub(crate) fn late_at(&self, patience: Millis) -> Option<Millis> {
        self.pending.values().map(|(_, since)| since.saturating_add(patience)).min()
    }

    fn recompute_pending(&mut self, is_over: impl Fn(WorkerId, Millis) -> bool) {
        let over =
            |(&node, &(second, since)): (&Node, &(WorkerId, Millis))| is_over(second, since).then_some(node);
        let nodes: Vec<Node> = self.pending.iter().filter_map(over).collect();
        for node in nodes {
            self.pending.remove(&node);
            self.disputed.insert(node);
        }
    }

    /// Returns the nodes for the server to recompute that were not requested before.
    pub(crate) fn take_requests(&mut self) -> Vec<Node> {
        let requested: Vec<Node> = self.disputed.difference(&self.requested).copied().collect();
        self.requested.extend(&requested);
        requested
    }

    /// Settles a node, given its true digest, and returns the workers that sent another one.
    pub(crate) fn settle(&mut self, node: Node, digest: Digest) -> BTreeSet<WorkerId> {
        self.disputed.remove(&node);
        // A copy that arrives later may dispute the node again, which must lead to another request.
        self.requested.remove(&node);
        let copies = self.copies.get(&node).into_iter().flatten();
        copies.filter(|&&(_, copy)| copy != digest).map(|&(worker, _)| worker).collect()
    }

    /// Returns the nodes that are not settled, each with the worker that recomputes it (`None`: the server).
    pub(crate) fn open(&self) -> Vec<(Node, Option<WorkerId>)> {
        let pending = self.pending.iter().map(|(&node, &(worker, _))| (node, Some(worker)));
        pending.chain(self.disputed.iter().map(|&node| (node, None))).collect()
    }

    /// Whether all audits have ended.
    pub(crate) fn are_settled(&self) -> bool {
        self.pending.is_empty() && self.disputed.is_empty()
    }
}
