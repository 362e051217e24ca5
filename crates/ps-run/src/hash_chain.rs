//! The hashes of the weights in the metrics file.

use crate::lines::{HashLine, Line};

/// Produces the hash lines of a run. Each line includes the hash of the previous one.
pub(crate) struct HashChain {
    /// Number of steps of the run. The hash after the last one is in the summary instead.
    steps: u64,
    last: Option<String>,
}

impl HashChain {
    /// Continues the chain after the existing `lines` of a run of `steps` steps.
    pub(crate) fn new(steps: u64, lines: &[Line]) -> Self {
        let chain = |line: &Line| match line {
            Line::Hash(hash) => Some(hash.chain.clone()),
            _ => None,
        };
        HashChain { steps, last: lines.iter().rev().find_map(chain) }
    }

    /// Returns whether the weights after `step` steps are hashed.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        step < self.steps && HashLine::is_due(step)
    }

    /// Returns the next line, for the weights after `step` steps.
    pub(crate) fn push(&mut self, step: u64, weights: &[f32]) -> HashLine {
        let line = HashLine::new(step, weights, self.last.as_deref());
        self.last = Some(line.chain.clone());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_chain_continues_from_existing_lines() {
        let mut whole = HashChain::new(10, &[]);
        let lines = [1, 2].map(|step| Line::Hash(whole.push(step, &[step as f32])));
        assert_eq!(HashChain::new(10, &lines).push(3, &[0.5]), whole.push(3, &[0.5]));
        assert_ne!(
            HashChain::new(10, &lines[..1]).push(3, &[0.5]),
            HashChain::new(10, &lines).push(3, &[0.5])
        );
        assert!(whole.is_due(9) && !whole.is_due(10));
    }
}
