//! Estimates the memory that a model needs, before any is allocated.

use ps_host::{Memory, bytes};
use std::fmt;

/// Rough estimate of the memory that a process needs for a model, without its data. It is checked beforehand
/// because a failed allocation aborts the process, and if the system grants memory that it does not have, it
/// kills the process; neither error names the key of the run file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    parameters: u128,
    /// Purpose of each part, and its size in bytes.
    parts: Vec<(&'static str, u128)>,
}

/// Bytes per parameter.
const SIZE: u128 = 4;

impl Footprint {
    /// Estimate for a process that computes gradients, which every process of a run does when it starts.
    pub(crate) fn of_worker(parameters: u128) -> Self {
        // The weights as received, and rearranged for the products; the sum of one node.
        Footprint::new(parameters, &[("weights", 2), ("gradients", 1)])
    }

    /// Estimate for a process that also holds and saves the weights. `vectors` is the number of vectors of
    /// optimizer state and of weights that are kept aside.
    pub(crate) fn of_holder(parameters: u128, vectors: usize) -> Self {
        let vectors = vectors as u128;
        // While training continues, a checkpoint holds a copy of weights and state, the encoded files, and
        // one of these as it is read back.
        let saving = 2 * (1 + vectors) + 1;
        Footprint::new(
            parameters,
            &[("weights", 2), ("gradients", 1), ("optimizer state", vectors), ("a checkpoint", saving)],
        )
    }

    fn new(parameters: u128, copies: &[(&'static str, u128)]) -> Self {
        let size = parameters.saturating_mul(SIZE);
        let parts = copies.iter().filter(|(_, copies)| *copies > 0);
        Footprint {
            parameters,
            parts: parts.map(|&(what, copies)| (what, size.saturating_mul(copies))).collect(),
        }
    }

    /// The sum of all parts, in bytes.
    pub(crate) fn total(&self) -> u128 {
        self.parts.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Checks the estimate against `memory`, if known. The error states the needed and available memory.
    pub(crate) fn check(&self, memory: Option<Memory>) -> Result<(), String> {
        match memory {
            Some(memory) if self.total() > memory.bytes.into() => {
                Err(format!("{self}, more than {memory}; make the layers in model.hidden smaller"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, total) = (self.parameters, bytes(self.total()));
        write!(f, "a model of {count} parameters needs about {total} of memory (")?;
        for (index, (what, size)) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{what} {}", bytes(*size))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_host::Bound;

    #[test]
    fn a_run_that_does_not_fit_into_memory_is_refused_with_both_sizes() {
        let memory = |bytes| Some(Memory { bytes, bound: Bound::Available });
        let holder = Footprint::of_holder(1 << 28, 1);
        assert_eq!(holder.total(), 9 << 30);
        assert_eq!(holder.check(memory(9 << 30)), Ok(()));
        assert_eq!(holder.check(None), Ok(()));
        assert_eq!(
            holder.check(memory((9 << 30) - 1)).unwrap_err(),
            "a model of 268435456 parameters needs about 9.0 GiB of memory (weights 2.0 GiB, gradients 1.0 GiB, \
             optimizer state 1.0 GiB, a checkpoint 5.0 GiB), more than the available memory of 9.0 GiB; make the layers \
             in model.hidden smaller"
        );
        // A worker keeps no state and saves nothing, and plain descent has no state.
        assert_eq!(Footprint::of_worker(1 << 28).total(), 3 << 30);
        assert!(!Footprint::of_holder(1, 0).to_string().contains("optimizer"));
        assert!(Footprint::of_worker(u128::MAX).check(memory(u64::MAX)).is_err());
    }
}
