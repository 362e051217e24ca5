//! Which worker computes which leaves. Nothing decided here changes a bit of any result.

use crate::event::{Millis, ServerAction, WorkerId};
use crate::membership::Members;
use crate::notice::Notice;
use crate::round::{LeafRun, Round};
use crate::round_times::RoundTimes;
use std::collections::BTreeMap;
use std::ops::Range;

/// A worker may get this fraction more or less than its share if its range then consists of fewer nodes: each
/// node travels as a whole gradient, so a ragged boundary costs more traffic than exact balance saves.
const TOLERANCE: f64 = 1.0 / 16.0;

/// Splits `leaves` into one contiguous range per share (some may be empty), sized in proportion to `shares`.
/// Each boundary is a multiple of the largest power of two that the tolerance allows.
///
/// Shares must be finite and at least 0; if none is positive, they count as equal.
pub fn assign(leaves: Range<u32>, shares: &[f64]) -> Vec<Range<u32>> {
    let total: f64 = shares.iter().sum();
    let count = f64::from(leaves.end.saturating_sub(leaves.start));
    let bounds: Vec<(u64, u64)> = shares
        .iter()
        .map(|share| {
            let due = if total > 0.0 { count * share / total } else { count / shares.len() as f64 };
            let max = due.ceil().max((due * (1.0 + TOLERANCE)).floor());
            ((due * (1.0 - TOLERANCE)).floor() as u64, max as u64)
        })
        .collect();
    let mut min_after: u64 = bounds.iter().map(|bound| bound.0).sum();
    let mut max_after: u64 = bounds.iter().map(|bound| bound.1).sum();
    let end = u64::from(leaves.end);
    let mut start = u64::from(leaves.start);
    bounds
        .into_iter()
        .map(|(min, max)| {
            min_after -= min;
            max_after -= max;
            // The remaining leaves must be neither too few nor too many for the workers that follow.
            let low = (start + min).max(end.saturating_sub(max_after));
            let high = (start + max).min(end - min_after);
            let range = start as u32..coarsest(low, high) as u32;
            start = u64::from(range.end);
            range
        })
        .collect()
}

/// The number in `low..=high` that is a multiple of the highest power of two; there is exactly one.
fn coarsest(low: u64, high: u64) -> u64 {
    (0..=32)
        .rev()
        .map(|level| low.div_ceil(1 << level) << level)
        .find(|&multiple| multiple <= high)
        .unwrap_or(low)
}

/// Distributes `leaves` more leaves among workers that already hold `loads`, so that the last of them
/// finishes as early as possible at the given `speeds`, which must be positive. Without loads and with equal
/// speeds, the shares are equal.
fn level_out(leaves: u32, loads: &[u32], speeds: &[f64]) -> Vec<f64> {
    // Worker i, with load l and speed v, finishes its load at l / v. Workers that finish before time t take
    // as much as they can compute until t, where t is the time at which they have taken all leaves.
    let mut workers: Vec<(f64, f64)> =
        loads.iter().zip(speeds).map(|(&load, &speed)| (f64::from(load), speed)).collect();
    workers.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (mut time, mut held, mut speed) = (0.0, 0.0, 0.0);
    for (load, its_speed) in workers {
        held += load;
        speed += its_speed;
        let with_this_one = (f64::from(leaves) + held) / speed;
        if with_this_one <= load / its_speed {
            break;
        }
        time = with_this_one;
    }
    loads.iter().zip(speeds).map(|(&load, &speed)| (time * speed - f64::from(load)).max(0.0)).collect()
}

/// Speeds count as equal if they differ by less than this factor: ranges of few nodes then save more
/// than exact balance.
const MIN_SPEED_RATIO: f64 = 1.5;
/// No worker counts as slower than the fastest by more than this factor; otherwise it would get no leaves
/// with which to show that it has become faster.
const MAX_SLOWDOWN: f64 = 8.0;

/// The relative speeds of workers, from their measured pace. A worker without one counts as the mean
/// of the others.
fn speeds(takers: &[WorkerId], members: &Members) -> Vec<f64> {
    let known: Vec<Option<f64>> = takers.iter().map(|&worker| members.pace(worker)).collect();
    let paces: Vec<f64> = known.iter().flatten().copied().collect();
    let fastest = paces.iter().copied().fold(0.0, f64::max);
    let slowest = paces.iter().copied().fold(f64::INFINITY, f64::min);
    if fastest <= 0.0 || fastest < MIN_SPEED_RATIO * slowest {
        return vec![1.0; takers.len()];
    }
    let mean = paces.iter().sum::<f64>() / paces.len() as f64;
    known.into_iter().map(|pace| pace.unwrap_or(mean).max(fastest / MAX_SLOWDOWN)).collect()
}

/// An untrusted worker gets a copy of this fraction (1/16) of its share of a step's leaves: little enough
/// that a worker ten times slower than the others still finishes within the step.
const COPY_SHARE: u32 = 16;

/// Assigns the leaves of `round` that nobody holds (all of them at its opening), reassigns overdue leaves,
/// and assigns late leaves to idle workers. Sets `round.check_at` to the time of the next call. There must be
/// a live worker.
///
/// Only trusted workers get leaves that the step waits for. The others get copies of a few leaves when
/// the round opens.
pub(crate) fn assign_missing(
    round: &mut Round,
    members: &mut Members,
    round_times: &RoundTimes,
    now: Millis,
    timeout: Millis,
    actions: &mut Vec<ServerAction>,
) {
    let all_leaves = round.all_leaves();
    let known = members.speeds();
    let patience =
        |members: &Members, worker, held| round_times.allowed(members, known, worker, held, all_leaves);
    let is_first = round.is_untouched();
    if is_first {
        assign_copies(round, members, now, actions);
    }
    // Taken before the loop, whose misses must not change whose word counts as evidence.
    let trusted = members.trusted();
    let mut loads = round.loads();
    round.has_late = false;
    for run in round.runs() {
        let is_due = run.due(timeout) <= now;
        let is_late = run.late(|worker, held| patience(members, worker, held)) <= now;
        if !is_due && !is_late {
            continue;
        }
        let takers = takers(members, &loads, &run, is_due);
        if takers.is_empty() {
            round.has_late = true;
            continue;
        }
        let held: Vec<u32> = takers.iter().map(|taker| load(&loads, *taker)).collect();
        let shares = level_out(run.leaves.len() as u32, &held, &speeds(&takers, members));
        let mut assigned = Vec::new();
        for (&worker, leaves) in takers.iter().zip(assign(run.leaves.clone(), &shares)) {
            if leaves.is_empty() {
                continue;
            }
            *loads.entry(worker).or_default() += leaves.len() as u32;
            assigned.push(worker);
            round.assign(worker, leaves.clone(), now);
            members.on_assigned(worker, now);
            actions.push(ServerAction::Assign { worker, step: round.step, leaves });
        }
        if !is_first {
            let (step, leaves, late) = (round.step, run.leaves.clone(), run.lateness(now));
            actions.push(ServerAction::Notice(Notice::Reassigned { step, leaves, late, takers: assigned }));
        }
        // If no other worker is trusted, there is no evidence that another would be faster.
        if let Some(&holder) = run.holders.last().filter(|holder| !takers.contains(holder))
            && takers.iter().any(|taker| trusted.contains(taker))
            && members.record_miss(holder)
        {
            actions.push(ServerAction::Notice(Notice::OnProbation { worker: holder }));
        }
    }
    let next = |run: &LeafRun| {
        let late = run.late(|worker, held| patience(members, worker, held));
        // Late leaves already go to the first idle worker.
        run.due(timeout).min(if late > now { late } else { Millis::MAX })
    };
    round.check_at = round.runs().iter().map(next).min().unwrap_or(Millis::MAX);
}

/// Gives each untrusted worker a copy of a few leaves; the step does not wait for it.
fn assign_copies(round: &Round, members: &mut Members, now: Millis, actions: &mut Vec<ServerAction>) {
    let (live, trusted) = (members.live(), members.trusted());
    // A single node, which every tree with this many leaves has.
    let share = round.leaves() / (COPY_SHARE * live.len() as u32);
    let leaves = 0..1 << share.max(1).ilog2();
    for worker in live.into_iter().filter(|worker| !trusted.contains(worker)) {
        // The round does not record these copies as assignments: their leaves count as held by trusted
        // workers only.
        members.on_assigned(worker, now);
        actions.push(ServerAction::Assign { worker, step: round.step, leaves: leaves.clone() });
    }
}

/// The workers that may take a run. Without a holder: all trusted workers. A late or overdue run: the idle
/// ones among the trusted, or any idle workers if only its holders are trusted. If none is idle and the run
/// is overdue, the holder that was given it longest ago is asked again in case the message was lost; a worker
/// that is still computing ignores the duplicate. A copy for a busy worker would only delay the next step.
fn takers(members: &Members, loads: &BTreeMap<WorkerId, u32>, run: &LeafRun, is_due: bool) -> Vec<WorkerId> {
    let mut takers = members.trusted();
    let Some(&longest_ago) = run.holders.first() else { return takers };
    if takers.iter().all(|worker| run.holders.contains(worker)) {
        takers = members.live();
    }
    takers.retain(|&worker| load(loads, worker) == 0);
    if takers.is_empty() && is_due { vec![longest_ago] } else { takers }
}

fn load(loads: &BTreeMap<WorkerId, u32>, worker: WorkerId) -> u32 {
    loads.get(&worker).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_plan::Tree;

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
                let longest = ranges.iter().map(|range| range.len()).max().unwrap();
                let fair = f64::from(leaves) / workers as f64;
                assert!(
                    longest as f64 <= fair.ceil().max(fair * 1.0625),
                    "{leaves} among {workers}: {ranges:?}"
                );
            }
        }
    }

    #[test]
    fn range_boundaries_are_coarse_where_balance_allows() {
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
    fn ranges_of_many_leaves_need_few_nodes() {
        let tree = Tree::new(4096);
        for workers in [2, 3, 5, 7, 8] {
            for range in assign(0..4096, &vec![1.0; workers]) {
                let nodes = tree.cover(range.clone()).len();
                assert!(nodes <= 5, "{workers} workers: {range:?} takes {nodes} nodes");
            }
        }
    }

    #[test]
    fn the_least_loaded_worker_gets_the_most_leaves() {
        assert_eq!(level_out(6, &[0, 0, 0], &[1.0; 3]), [2.0, 2.0, 2.0]);
        assert_eq!(level_out(4, &[0, 10, 2], &[1.0; 3]), [3.0, 0.0, 1.0]);
        assert_eq!(level_out(1, &[5], &[1.0]), [1.0]);
        assert!(level_out(3, &[], &[]).is_empty());
    }

    #[test]
    fn shares_let_all_workers_finish_at_the_same_time() {
        assert_eq!(level_out(8, &[0, 0], &[3.0, 1.0]), [6.0, 2.0]);
        assert_eq!(level_out(6, &[2, 0], &[1.0, 1.0]), [2.0, 4.0]);
        // The second worker is busy until after the first has finished everything.
        assert_eq!(level_out(4, &[0, 6], &[2.0, 1.0]), [4.0, 0.0]);
        assert_eq!(level_out(9, &[0, 6], &[2.0, 1.0]), [9.0, 0.0]);
        assert_eq!(level_out(15, &[0, 6], &[2.0, 1.0]), [14.0, 1.0]);
    }
}
