//! Wrong sums that workers sent on purpose and that entered a step, and what became of them.

use std::collections::BTreeSet;

/// All lies of a run that entered a step.
#[derive(Default)]
pub(crate) struct Lies {
    /// Slots of the workers that lied in the open step.
    open: BTreeSet<usize>,
    /// Lies that are part of the weights.
    pub committed: Vec<Lie>,
    /// Whether a lie of a banned worker stays in the weights because no checkpoint from before it is left.
    pub is_tainted: bool,
}

/// A lie that is part of the weights.
#[derive(Debug)]
pub(crate) struct Lie {
    step: u64,
    slot: usize,
    /// Whether the worker has been banned since.
    is_found: bool,
}

impl Lies {
    /// Records that a lie of the worker in `slot` entered the open step.
    pub(crate) fn count(&mut self, slot: usize) {
        self.open.insert(slot);
    }

    /// The open step starts over, without its lies.
    pub(crate) fn start_over(&mut self) {
        self.open.clear();
    }

    /// The open step becomes part of the weights. By then, it may not contain a lie of a banned worker.
    pub(crate) fn commit(&mut self, step: u64) -> Result<(), String> {
        let lies = std::mem::take(&mut self.open).into_iter();
        self.committed.extend(lies.map(|slot| Lie { step, slot, is_found: false }));
        match self.committed.iter().find(|lie| lie.is_found) {
            Some(lie) => {
                Err(format!("step {step} is made of weights that a banned worker has spoilt: {lie:?}"))
            }
            None => Ok(()),
        }
    }

    /// The worker in `slot` has been banned.
    pub(crate) fn detect(&mut self, slot: usize) {
        self.committed.iter_mut().filter(|lie| lie.slot == slot).for_each(|lie| lie.is_found = true);
    }

    /// The weights of `version` have been restored.
    pub(crate) fn roll_back(&mut self, version: u64) {
        self.open.clear();
        self.committed.retain(|lie| lie.step < version);
    }

    /// What was found cannot be undone.
    pub(crate) fn accept(&mut self) {
        self.is_tainted |= self.committed.iter().any(|lie| lie.is_found);
        self.committed.retain(|lie| !lie.is_found);
    }
}
