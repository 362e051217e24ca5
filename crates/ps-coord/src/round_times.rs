//! The usual length of a round, from which timeouts are derived: no constant fits both steps of 3 ms and
//! steps of 3 minutes.

use crate::event::{Millis, WorkerId};
use crate::membership::Members;
use std::collections::VecDeque;

/// Number of rounds to remember. Their median ignores a few slow ones.
const MAX_ROUNDS: usize = 16;
/// Leaves are also assigned to an idle worker after this multiple of the time they should take. Since the
/// copy takes about one step more, a worker that stops costs about three steps.
const LATE_TIMES: u64 = 3;
/// After this multiple of a step's usual length, counted from its last leaf, a shard that has not applied the
/// step is assumed to lack something, and an audit's second copy not to come.
const OVERDUE_TIMES: u64 = 2;
/// Nothing counts as late before this time, so that small delays cause no duplicate work.
const MIN_LATE_MS: Millis = 100;
/// A worker is sent away after this many work timeouts without a delivery.
const STUCK_TIMEOUTS: u64 = 3;

/// The lengths of the last rounds, from opening until they could be closed, with their numbers of leaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTimes(VecDeque<(Millis, u32)>);

impl RoundTimes {
    /// Records that a round of `leaves` leaves took `took`.
    pub(crate) fn record(&mut self, took: Millis, leaves: u32) {
        if self.0.len() == MAX_ROUNDS {
            self.0.pop_front();
        }
        self.0.push_back((took, leaves));
    }

    /// The time that a round of `leaves` leaves should take: the median of the last rounds, scaled up for
    /// those with fewer leaves. `None` before the first round has closed.
    pub(crate) fn expected(&self, leaves: u32) -> Option<Millis> {
        let stretched = |&(took, its_leaves): &(Millis, u32)| {
            (u128::from(took) * u128::from(leaves.max(its_leaves)) / u128::from(its_leaves.max(1))) as Millis
        };
        let mut usual: Vec<Millis> = self.0.iter().map(stretched).collect();
        usual.sort_unstable();
        usual.get(usual.len().saturating_sub(1) / 2).copied()
    }

    /// How long `worker` may take for `held` leaves of a round of `leaves`: a multiple of the time expected
    /// from its own pace, or from the other workers' while it has none, and at most that multiple of a usual
    /// round. `None` if none of this is known. The caller passes `speeds`, the result of [`Members::speeds`],
    /// because summing over all workers for each worker would take quadratic time.
    pub(crate) fn allowed(
        &self,
        members: &Members,
        speeds: (f64, u32),
        worker: WorkerId,
        held: u32,
        leaves: u32,
    ) -> Option<Millis> {
        let pace = members.pace(worker).or_else(|| members.pace_of_others(worker, speeds));
        let pace = pace.filter(|&pace| pace > 0.0);
        let own = pace.map(|pace| (1000.0 * f64::from(held) / pace).min(1e15) as Millis);
        let usual = own.into_iter().chain(self.expected(leaves)).min()?;
        Some(usual.saturating_mul(LATE_TIMES).max(MIN_LATE_MS))
    }

    /// How long a round of `leaves` leaves may wait for something else after its leaves were all in, for
    /// which it took `gathered`.
    pub(crate) fn overdue(&self, leaves: u32, gathered: Millis, timeout: Millis) -> Millis {
        let usual = self.expected(leaves).unwrap_or(gathered).saturating_mul(OVERDUE_TIMES);
        usual.min(timeout).max(MIN_LATE_MS)
    }

    /// How long a worker may hold work of a round of `leaves` leaves while only others deliver. `None` before
    /// the first round has closed.
    pub(crate) fn stuck(&self, leaves: u32, timeout: Millis) -> Option<Millis> {
        let usual = self.expected(leaves)?.saturating_mul(LATE_TIMES);
        Some(timeout.max(usual).saturating_mul(STUCK_TIMEOUTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_more_leaves_may_take_longer() {
        let mut round_times = RoundTimes::default();
        assert_eq!(round_times.expected(10), None);
        for took in [90, 100, 5000] {
            round_times.record(took, 10);
        }
        assert_eq!(
            (round_times.expected(10), round_times.expected(5), round_times.expected(30)),
            (Some(100), Some(100), Some(300))
        );
    }

    #[test]
    fn only_recent_rounds_count() {
        let mut round_times = RoundTimes::default();
        (0..MAX_ROUNDS).for_each(|_| round_times.record(1000, 4));
        (0..MAX_ROUNDS).for_each(|_| round_times.record(10, 4));
        assert_eq!(round_times.expected(4), Some(10));
    }
}
