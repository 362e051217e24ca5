//! Tracks since which step each contributor has influenced the weights.
//!
//! If only some nodes are audited, a worker caught with a wrong sum may have sent others before that nobody
//! checked. Only the weights from before its first contribution can then be trusted.

use crate::event::{Contributor, WorkerId};
use std::collections::BTreeMap;

/// The first step to which each contributor contributed, among the steps behind the current weights.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The identity of each worker.
    contributors: BTreeMap<WorkerId, Contributor>,
    since: BTreeMap<Contributor, u64>,
}

impl History {
    /// Links `worker` to its identity.
    pub(crate) fn identify(&mut self, worker: WorkerId, contributor: Contributor) {
        self.contributors.insert(worker, contributor);
    }

    /// Restores an entry from before this process started.
    pub(crate) fn restore(&mut self, contributor: Contributor, step: u64) {
        self.since.insert(contributor, step);
    }

    /// Records the contributors of a step that is made.
    pub(crate) fn commit(&mut self, workers: impl Iterator<Item = WorkerId>, step: u64) {
        for worker in workers {
            // The first step is kept: of a worker that lies once, everything since then is suspect.
            self.since.entry(self.contributor(worker)).or_insert(step);
        }
    }

    /// Removes and returns the first step to which `worker` contributed, on this connection or an earlier
    /// one. The entry goes because these contributions are about to be either undone or accepted.
    pub(crate) fn take(&mut self, worker: WorkerId) -> Option<u64> {
        self.since.remove(&self.contributor(worker))
    }

    /// Forgets contributions to steps after those of `version`, which are undone.
    pub(crate) fn roll_back(&mut self, version: u64) {
        self.since.retain(|_, step| *step < version);
    }

    /// All contributors to the weights, each with its first step.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Contributor, u64)> {
        self.since.iter().map(|(&contributor, &step)| (contributor, step))
    }

    fn contributor(&self, worker: WorkerId) -> Contributor {
        self.contributors.get(&worker).copied().unwrap_or(Contributor(worker.0))
    }
}
