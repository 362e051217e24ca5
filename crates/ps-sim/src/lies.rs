//! Lies that counted, and what has become of them.

use std::collections::BTreeSet;

/// The lies of a run.
#[derive(Default)]
pub(crate) struct Lies {
    /// Slots of the workers that lied in the open step.
    open: BTreeSet<usize>,
    /// Lies that are part of the weights.
    pub committed: Vec<Lie>,
    /// Whether a lie of a banned worker is part of the weights, because those before it are gone.
    pub is_tainted: bool,
}

/// A lie that counted.
#[derive(Debug)]
pub(crate) struct Lie {
    step: u64,
    slot: usize,
    /// Whether the worker was banned since.
    is_found: bool,
}

impl Lies {
    /// A lie of the worker in `slot` counts in the open step.
    pub(crate) fn count(&mut self, slot: usize) {
        self.open.insert(slot);
    }

    /// The open step starts over.
    pub(crate) fn start_over(&mut self) {
        self.open.clear();
    }

    /// The open step is made. No lie of a worker that was banned may be part of the weights then.
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

    /// The worker in `slot` is banned.
    pub(crate) fn find_out(&mut self, slot: usize) {
        self.committed.iter_mut().filter(|lie| lie.slot == slot).for_each(|lie| lie.is_found = true);
    }

    /// The weights are those of `version` again.
    pub(crate) fn go_back(&mut self, version: u64) {
        self.open.clear();
        self.committed.retain(|lie| lie.step < version);
    }

    /// What was found out cannot be undone.
    pub(crate) fn accept(&mut self) {
        self.is_tainted |= self.committed.iter().any(|lie| lie.is_found);
        self.committed.retain(|lie| !lie.is_found);
    }
}
