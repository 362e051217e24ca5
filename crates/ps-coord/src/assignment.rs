//! Which leaves go to whom. No bit of any result depends on what is decided here.

use crate::event::{Millis, ServerAction, WorkerId};
use crate::membership::Members;
use crate::round::{Round, Run};
use std::collections::BTreeMap;
use std::ops::Range;

/// A boundary may move so far that a worker has this share more or less than its due, where that gives ranges
/// of fewer nodes: each node travels as a whole gradient, so a ragged boundary costs more than it balances.
const TOLERANCE: f64 = 1.0 / 16.0;

/// Cuts `leaves` into one contiguous range per share (some may be empty), sized in proportion to `shares`,
/// with boundaries at the coarsest multiples of powers of two that the tolerance allows.
///
/// Shares are at least 0 and finite; if none is positive they count as equal.
pub fn assign(leaves: Range<u32>, shares: &[f64]) -> Vec<Range<u32>> {
    let total: f64 = shares.iter().sum();
    let count = f64::from(leaves.end.saturating_sub(leaves.start));
    let bounds: Vec<(u64, u64)> = shares
        .iter()
        .map(|share| {
            let due = if total > 0.0 { count * share / total } else { count / shares.len() as f64 };
            let most = due.ceil().max((due * (1.0 + TOLERANCE)).floor());
            ((due * (1.0 - TOLERANCE)).floor() as u64, most as u64)
        })
        .collect();
    let mut least_after: u64 = bounds.iter().map(|bound| bound.0).sum();
    let mut most_after: u64 = bounds.iter().map(|bound| bound.1).sum();
    let end = u64::from(leaves.end);
    let mut start = u64::from(leaves.start);
    bounds
        .into_iter()
        .map(|(least, most)| {
            least_after -= least;
            most_after -= most;
            // What is left must suffice for the workers that follow and not be too much for them.
            let low = (start + least).max(end.saturating_sub(most_after));
            let high = (start + most).min(end - least_after);
            let range = start as u32..coarsest(low, high) as u32;
            start = u64::from(range.end);
            range
        })
        .collect()
}

/// The number in `low..=high` that is a multiple of the highest power of two; there is only one such.
fn coarsest(low: u64, high: u64) -> u64 {
    (0..=32)
        .rev()
        .map(|level| low.div_ceil(1 << level) << level)
        .find(|&multiple| multiple <= high)
        .unwrap_or(low)
}

/// The shares of `leaves` more leaves that leave workers, who hold `loads` already, as equally loaded as can
/// be. With no loads, equal shares.
///
/// Measured speeds come in here: a load and a share are then times instead of counts.
pub fn level_out(leaves: u32, loads: &[u32]) -> Vec<f64> {
    let mut ascending = loads.to_vec();
    ascending.sort_unstable();
    let mut level = 0.0;
    let mut held = 0;
    for (index, &load) in ascending.iter().enumerate() {
        held += u64::from(load);
        let with_this_one = (u64::from(leaves) + held) as f64 / (index + 1) as f64;
        if with_this_one <= f64::from(load) {
            break;
        }
        level = with_this_one;
    }
    loads.iter().map(|&load| (level - f64::from(load)).max(0.0)).collect()
}

/// Gives out the leaves of `round` that nobody holds (at its opening, all), and once more those that are
/// overdue; afterwards the round knows when to look again. There must be a live worker.
pub(crate) fn give_out(
    round: &mut Round,
    members: &mut Members,
    now: Millis,
    timeout: Millis,
    actions: &mut Vec<ServerAction>,
) {
    let live = members.live();
    let is_first = round.is_untouched();
    let mut loads = round.loads();
    for run in round.runs() {
        if run.due(timeout) > now {
            continue;
        }
        let takers = takers(&live, &loads, &run);
        let held: Vec<u32> = takers.iter().map(|taker| load(&loads, *taker)).collect();
        let shares = level_out(run.leaves.len() as u32, &held);
        let mut names = Vec::new();
        for (&worker, leaves) in takers.iter().zip(assign(run.leaves.clone(), &shares)) {
            if leaves.is_empty() {
                continue;
            }
            *loads.entry(worker).or_default() += leaves.len() as u32;
            names.push(worker.to_string());
            round.give(worker, leaves.clone(), now);
            members.note_given(worker, now);
            actions.push(ServerAction::Assign { worker, step: round.step, leaves });
        }
        if !is_first {
            let (step, leaves) = (round.step, &run.leaves);
            let late = run.lateness(now);
            let names = names.join(", ");
            let line = format!("step {step}: leaves {}..{}{late} given to {names}", leaves.start, leaves.end);
            actions.push(ServerAction::Notice(line));
        }
    }
    round.check_at = round.runs().iter().map(|run| run.due(timeout)).min().unwrap_or(Millis::MAX);
}

/// Who may take a run: if nobody holds it, anybody. If it is overdue, whoever is idle; if nobody is, the
/// holder who was given it longest ago is asked again, in case the message was lost (to one that is at it,
/// that changes nothing). A copy for a busy worker would only make the next step late.
fn takers(live: &[WorkerId], loads: &BTreeMap<WorkerId, u32>, run: &Run) -> Vec<WorkerId> {
    let Some(&longest_ago) = run.holders.first() else { return live.to_vec() };
    let idle: Vec<WorkerId> = live.iter().copied().filter(|&worker| load(loads, worker) == 0).collect();
    if idle.is_empty() { vec![longest_ago] } else { idle }
}

fn load(loads: &BTreeMap<WorkerId, u32>, worker: WorkerId) -> u32 {
    loads.get(&worker).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_core::Tree;

    #[test]
    fn ranges_are_contiguous_and_nearly_equal() {
        for leaves in 1..200_u32 {
            for workers in 1..20 {
                let ranges = assign(0..leaves, &vec![1.0; workers]);
                assert_eq!(ranges.len(), workers);
                let mut next = 0;
                for range in &ranges {
                    assert_eq!(range.start, next);
                    next = range.end;
                }
                assert_eq!(next, leaves);
                let most = ranges.iter().map(|range| range.len()).max().unwrap();
                let fair = f64::from(leaves) / workers as f64;
                assert!(
                    most as f64 <= fair.ceil().max(fair * 1.0625),
                    "{leaves} among {workers}: {ranges:?}"
                );
            }
        }
    }

    #[test]
    fn boundaries_are_coarse_where_balance_allows() {
        let cases: [(Range<u32>, &[f64], &[u32]); 6] = [
            (0..8, &[1.0, 1.0], &[4, 8]),
            (0..8, &[1.0, 1.0, 1.0], &[2, 5, 8]),
            (0..100, &[1.0, 1.0], &[48, 100]),
            (0..64, &[3.0, 1.0], &[48, 64]),
            (4..7, &[1.0, 0.0, 2.0], &[5, 5, 7]),
            (0..2, &[1.0, 1.0, 1.0, 1.0], &[0, 0, 1, 2]),
        ];
        for (leaves, shares, ends) in cases {
            let got: Vec<u32> = assign(leaves.clone(), shares).iter().map(|range| range.end).collect();
            assert_eq!(got, ends, "{leaves:?} by {shares:?}");
        }
    }

    #[test]
    fn many_leaves_need_few_nodes() {
        let tree = Tree::new(4096);
        for workers in [2, 3, 5, 7, 8] {
            for range in assign(0..4096, &vec![1.0; workers]) {
                let nodes = tree.cover(range.clone()).len();
                assert!(nodes <= 5, "{workers} workers: {range:?} takes {nodes} nodes");
            }
        }
    }

    #[test]
    fn more_leaves_go_to_the_least_loaded() {
        assert_eq!(level_out(6, &[0, 0, 0]), [2.0, 2.0, 2.0]);
        assert_eq!(level_out(4, &[0, 10, 2]), [3.0, 0.0, 1.0]);
        assert_eq!(level_out(1, &[5]), [1.0]);
        assert!(level_out(3, &[]).is_empty());
    }
}
