//! Binds threads to processors, on systems that support it.
//!
//! A scheduler may leave a thread that wakes up on the processor where it ran last, behind a thread that
//! computes, although another processor is idle. Two workers on one machine would then compute one after the
//! other.

use std::fmt;
use std::str::FromStr;

/// A set of processors of this machine, in ascending order. Its text form is a list of numbers and ranges,
/// such as `0-3,8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processors(Vec<usize>);

impl Processors {
    /// Returns the processors that the calling thread may run on; empty if the system does not report them.
    pub fn ours() -> Self {
        Processors(system::allowed())
    }

    /// Number of processors in the set.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns `count` processors of the set, starting with the one at index `first`.
    pub fn some(&self, first: usize, count: usize) -> Self {
        Processors(self.0.iter().copied().skip(first).take(count).collect())
    }

    /// Returns why this process cannot run on these processors, or `None` if it can.
    pub fn reason_unusable(&self) -> Option<String> {
        let ours = Processors::ours();
        match self.0.iter().find(|cpu| !ours.0.contains(cpu)) {
            None => None,
            Some(_) if ours.0.is_empty() => {
                Some("this system does not support binding threads to processors".into())
            }
            Some(cpu) => Some(format!("this process may not run on processor {cpu}, only on {ours}")),
        }
    }

    /// Binds the calling thread to one processor. `thread` is its index among the threads that share the set.
    /// If the system refuses, the thread runs unbound.
    pub fn bind(&self, thread: usize) {
        system::bind(self.0[thread % self.0.len()]);
    }
}

impl FromStr for Processors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < MAX_PROCESSOR => all.extend(first..=last),
                _ => {
                    return Err(format!(
                        "expected processor numbers and ranges, such as 0-3,8, found {part:?}"
                    ));
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(Processors(all))
    }
}

/// Upper bound of processor numbers, more than any machine has.
const MAX_PROCESSOR: usize = 1 << 16;

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match run {
                [only] => write!(f, "{comma}{only}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod system {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    /// The id that means the calling thread.
    const SELF: Pid = Pid::from_raw(0);

    pub(super) fn allowed() -> Vec<usize> {
        let Ok(set) = sched_getaffinity(SELF) else { return Vec::new() };
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
    }

    pub(super) fn bind(cpu: usize) {
        let mut set = CpuSet::new();
        let _ = set.set(cpu).and_then(|()| sched_setaffinity(SELF, &set));
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub fn allowed() -> Vec<usize> {
        Vec::new()
    }

    pub fn bind(_: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_lists_are_parsed_and_formatted_in_shortest_form() {
        for (given, told) in [("0", "0"), ("3,1,2,8", "1-3,8"), ("0-1, 4-4,5", "0-1,4-5"), ("7,7", "7")] {
            assert_eq!(given.parse::<Processors>().map(|list| list.to_string()), Ok(told.into()));
        }
        for wrong in ["", "a", "3-1", "1-", "-1", "1,,2", "0-99999999999"] {
            let refused = wrong.parse::<Processors>();
            assert!(refused.is_err_and(|why| why.contains("expected processor numbers")), "{wrong}");
        }
    }

    #[test]
    fn a_processor_that_is_not_available_is_rejected() {
        let far: Processors = "65535".parse().unwrap_or_else(|why| panic!("{why}"));
        assert!(far.reason_unusable().is_some());
        assert_eq!(Processors::ours().reason_unusable(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_is_bound_to_one_of_them() {
        let ours = Processors::ours();
        let last = ours.count() - 1;
        let bound = std::thread::scope(|scope| {
            let bind = || {
                ours.bind(last);
                Processors::ours()
            };
            scope.spawn(bind).join().ok()
        });
        assert_eq!(bound, Some(ours.some(last, 1)));
    }
}
