//! Since when each contributor has had a part in the weights.
//!
//! Where only some nodes are audited, a worker whose wrong sum is found may have sent others before that were not looked at.
//! The weights can be trusted again only as they were before its first contribution.

use crate::event::{Contributor, WorkerId};
use std::collections::BTreeMap;

/// The first step that each contributor had a part in, of the steps that the weights are made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Who each worker is.
    contributors: BTreeMap<WorkerId, Contributor>,
    since: BTreeMap<Contributor, u64>,
}

impl History {
    /// `worker` is this contributor.
    pub(crate) fn identify(&mut self, worker: WorkerId, contributor: Contributor) {
        self.contributors.insert(worker, contributor);
    }

    /// A contributor has had a part in the weights since `step`, before this process began.
    pub(crate) fn recall(&mut self, contributor: Contributor, step: u64) {
        self.since.insert(contributor, step);
    }

    /// A step is made with what these workers have sent.
    pub(crate) fn commit(&mut self, workers: impl Iterator<Item = WorkerId>, step: u64) {
        for worker in workers {
            self.since.entry(self.contributor(worker)).or_insert(step);
        }
    }

    /// Since which step `worker`, on this connection or an earlier one, has had a part in the weights. What it contributed
    /// is forgotten, for it is about to be undone or accepted.
    pub(crate) fn take(&mut self, worker: WorkerId) -> Option<u64> {
        self.since.remove(&self.contributor(worker))
    }

    /// The weights are those of `version` again.
    pub(crate) fn go_back(&mut self, version: u64) {
        self.since.retain(|_, step| *step < version);
    }

    /// All that have had a part in the weights, and since which step.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Contributor, u64)> {
        self.since.iter().map(|(&contributor, &step)| (contributor, step))
    }

    fn contributor(&self, worker: WorkerId) -> Contributor {
        self.contributors.get(&worker).copied().unwrap_or(Contributor(worker.0))
    }
}
