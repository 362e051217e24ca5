//! One synchronous round: which leaves are in, which worker holds the others, and when they are overdue.

use crate::audit::Audits;
use crate::event::{Digest, Millis, WorkerId};
use crate::status::MissingLeaves;
use ps_plan::Gathered;
use ps_plan::{Coverage, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The time until leaves are assigned once more doubles at most this many times.
pub(crate) const MAX_DOUBLINGS: u32 = 4;

/// The gathering of one step's gradient.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub step: u64,
    pub opened: Millis,
    /// When the last leaf came in.
    pub gathered: Option<Millis>,
    /// When shards were last asked which leaves they lack, and how many times.
    pub asked: Option<(Millis, u32)>,
    /// Nodes that were assigned to another worker since then because a shard lacks them.
    pub copied: BTreeSet<Node>,
    coverage: Coverage,
    /// The nodes that count, with their senders, in order of arrival.
    contributions: Vec<(WorkerId, Node)>,
    /// Other shards that have applied the step.
    applied: BTreeSet<u32>,
    /// Assignments to workers that are still live, oldest first.
    assignments: Vec<Assignment>,
    /// When leaves must next be assigned (again). May be too early, never too late.
    pub check_at: Millis,
    /// Whether some leaves are late and wait for the first idle worker.
    pub has_late: bool,
    /// First holder of the leaves that came in last, and when those of any other holder last came in.
    last: Option<(WorkerId, Millis)>,
    others: Millis,
    /// Leaves that were delivered by a worker other than their first holder.
    pub reassigned: u32,
    pub audits: Audits,
}

#[derive(Clone, Debug)]
struct Assignment {
    worker: WorkerId,
    leaves: Range<u32>,
    since: Millis,
    /// Position of the worker's first assignment of these leaves among all assignments of the round.
    first: usize,
    /// How many times the worker was assigned these leaves.
    times: u32,
}

/// Contiguous missing leaves that have the same holders.
#[derive(Clone, Debug)]
pub(crate) struct LeafRun {
    pub leaves: Range<u32>,
    /// In the order of their last assignment.
    pub holders: Vec<WorkerId>,
    /// How many times they were assigned, over all holders.
    pub times: u32,
    /// Time of the last assignment.
    pub since: Option<Millis>,
    /// Number of leaves in the last assignment that includes these.
    pub held: u32,
}

impl LeafRun {
    /// The time at which these leaves must be assigned (again). Without a holder, that is at once. Otherwise
    /// it is `timeout` after the last assignment, doubled each time; a batch that is slow for every worker is
    /// thus not computed by all of them.
    ///
    /// Idle workers take late leaves earlier, see [`LeafRun::late`].
    pub(crate) fn due(&self, timeout: Millis) -> Millis {
        self.since.map_or(0, |since| since.saturating_add(timeout.saturating_mul(self.doubled())))
    }

    /// The time from which an idle worker may also take these leaves, given the `patience` with their last
    /// holder; `Millis::MAX` if that is unknown.
    pub(crate) fn late(&self, patience: impl Fn(WorkerId, u32) -> Option<Millis>) -> Millis {
        let patience = self.holders.last().and_then(|&holder| patience(holder, self.held));
        let (Some(patience), Some(since)) = (patience, self.since) else { return Millis::MAX };
        since.saturating_add(patience.saturating_mul(self.doubled()))
    }

    fn doubled(&self) -> Millis {
        1 << self.times.saturating_sub(1).min(MAX_DOUBLINGS)
    }

    /// The last holder of these leaves, and how long ago they were assigned to it.
    pub(crate) fn lateness(&self, now: Millis) -> Option<(WorkerId, Millis)> {
        Some((*self.holders.last()?, now.saturating_sub(self.since?)))
    }
}

impl Round {
    /// Opens a round in which no leaf is assigned yet.
    pub(crate) fn open(step: u64, tree: Tree, now: Millis) -> Self {
        Round {
            step,
            opened: now,
            gathered: None,
            asked: None,
            copied: BTreeSet::new(),
            coverage: Coverage::new(tree),
            contributions: Vec::new(),
            applied: BTreeSet::new(),
            assignments: Vec::new(),
            check_at: now,
            has_late: false,
            last: None,
            others: now,
            reassigned: 0,
            audits: Audits::default(),
        }
    }

    /// Counts a node and returns the number of missing leaves that it covers. The sender does not matter: a
    /// correct sum of a node has the same bits from every worker, and the data plane folds the first copy by
    /// the same rule.
    pub(crate) fn contribute(
        &mut self,
        worker: WorkerId,
        node: Node,
        digest: Option<Digest>,
        now: Millis,
    ) -> u32 {
        if !self.coverage.tree().has(node) {
            return 0;
        }
        // Precedes the check of coverage, because the second copy of an audit covers nothing new.
        if let Some(digest) = digest {
            self.audits.take(worker, node, digest);
        }
        let before = self.coverage.covered();
        match self.coverage.gather(node) {
            Gathered::Known => 0,
            Gathered::New { .. } => {
                self.contributions.push((worker, node));
                if self.coverage.is_complete() {
                    self.gathered.get_or_insert(now);
                }
                let leaves = self.coverage.covered() - before;
                let first = self.first_holder(node).unwrap_or(worker);
                self.reassigned += if first == worker { 0 } else { leaves };
                if let Some((_, at)) = self.last.filter(|&(last, _)| last != first) {
                    self.others = at;
                }
                self.last = Some((first, now));
                leaves
            }
        }
    }

    /// The worker to which the leaves of a node were first assigned.
    fn first_holder(&self, node: Node) -> Option<WorkerId> {
        let leaves = self.coverage.tree().leaves_of(node);
        let holds = |assignment: &&Assignment| {
            assignment.leaves.start <= leaves.start && leaves.end <= assignment.leaves.end
        };
        self.assignments
            .iter()
            .filter(holds)
            .min_by_key(|assignment| assignment.first)
            .map(|assignment| assignment.worker)
    }

    /// For a round whose leaves are all in: the worker for which all others waited, and for how long.
    pub(crate) fn held_up_by(&self) -> Option<(WorkerId, Millis)> {
        let (worker, at) = self.last?;
        let alone = self.assignments.iter().all(|assignment| assignment.worker == worker);
        (!alone).then(|| (worker, at.saturating_sub(self.others)))
    }

    /// Of the workers in `live`, those that were assigned leaves but contributed nothing, and those that
    /// were assigned none.
    pub(crate) fn silent_and_idle(&self, live: &[WorkerId]) -> [Vec<WorkerId>; 2] {
        let was_assigned = |worker| self.assignments.iter().any(|assignment| assignment.worker == worker);
        let silent = live.iter().copied().filter(|&worker| was_assigned(worker) && !self.counts_on(worker));
        let idle = live.iter().copied().filter(|&worker| !was_assigned(worker));
        [silent.collect(), idle.collect()]
    }

    /// Number of leaves of the step, including those that are only evaluated.
    pub(crate) fn all_leaves(&self) -> u32 {
        self.coverage.tree().all_leaves()
    }

    /// Number of leaves of the step's batch.
    pub(crate) fn leaves(&self) -> u32 {
        self.coverage.tree().leaves()
    }

    /// The nodes that count, with their senders.
    pub(crate) fn contributions(&self) -> &[(WorkerId, Node)] {
        &self.contributions
    }

    /// Whether the step's tree has this node.
    pub(crate) fn has(&self, node: Node) -> bool {
        self.coverage.tree().has(node)
    }

    /// The leaves that a node of the step sums.
    pub(crate) fn leaves_of(&self, node: Node) -> Range<u32> {
        self.coverage.tree().leaves_of(node)
    }

    /// Whether the sums contain a contribution of `worker`.
    pub(crate) fn counts_on(&self, worker: WorkerId) -> bool {
        self.contributions.iter().any(|&(sender, _)| sender == worker)
    }

    /// The sender of each node that counts; a worker may appear more than once.
    pub(crate) fn contributors(&self) -> impl Iterator<Item = WorkerId> {
        self.contributions.iter().map(|&(worker, _)| worker)
    }

    /// Notes that another shard has applied the step.
    pub(crate) fn mark_applied(&mut self, shard: u32) {
        self.applied.insert(shard);
    }

    /// Of the shards `0..shards`, those that have not applied the step.
    pub(crate) fn unapplied(&self, shards: u32) -> Vec<u32> {
        (0..shards).filter(|shard| !self.applied.contains(shard)).collect()
    }

    /// Treats the nodes of `worker` as missing, because they may not have reached every shard: other workers
    /// recompute them. Servers that already have some of the chunks ignore the copies.
    pub(crate) fn discount(&mut self, worker: WorkerId) {
        self.contributions.retain(|&(sender, _)| sender != worker);
        // Rebuilt from all nodes that ever counted, because a node of this worker may have replaced smaller
        // ones of others, which count again.
        self.coverage = Coverage::new(self.coverage.tree());
        for &(_, node) in &self.contributions {
            self.coverage.gather(node);
        }
        if !self.coverage.is_complete() {
            self.gathered = None;
        }
    }

    /// Discards everything that has come in; all leaves are assigned again.
    pub(crate) fn restart(&mut self, now: Millis) {
        let tree = self.coverage.tree();
        *self = Round { applied: std::mem::take(&mut self.applied), ..Round::open(self.step, tree, now) };
    }

    /// Whether all leaves are in.
    pub(crate) fn is_complete(&self) -> bool {
        self.coverage.is_complete()
    }

    /// Whether no leaf has been assigned and none has come in.
    pub(crate) fn is_untouched(&self) -> bool {
        self.assignments.is_empty() && self.coverage.covered() == 0
    }

    /// Notes that `worker` was assigned `leaves`.
    pub(crate) fn assign(&mut self, worker: WorkerId, leaves: Range<u32>, now: Millis) {
        let is_same = |assignment: &Assignment| assignment.worker == worker && assignment.leaves == leaves;
        let before = self.assignments.iter().find(|assignment| is_same(assignment));
        let next = self.assignments.iter().map(|assignment| assignment.first + 1).max().unwrap_or(0);
        let (first, times) = before.map_or((next, 1), |assignment| (assignment.first, assignment.times + 1));
        // A repeated assignment moves to the end, where `runs` looks for the last holder, but keeps its first
        // position, which decides who the first holder was.
        self.assignments.retain(|assignment| !is_same(assignment));
        self.assignments.push(Assignment { worker, leaves, since: now, first, times });
    }

    /// `worker` is lost: its leaves count as unassigned, and are due at once.
    pub(crate) fn unassign(&mut self, worker: WorkerId, now: Millis) {
        self.assignments.retain(|assignment| assignment.worker != worker);
        self.audits.unassign(worker);
        self.check_at = now;
    }

    /// Treats the leaves that `worker` holds as delivered. Only a mutation uses this.
    pub(crate) fn skip(&mut self, worker: WorkerId, now: Millis) {
        let tree = self.coverage.tree();
        for run in self.runs().into_iter().filter(|run| run.holders.contains(&worker)) {
            for node in tree.cover(run.leaves) {
                self.contribute(worker, node, None, now);
            }
        }
    }

    /// The missing leaves, ascending, split where the holders change.
    pub(crate) fn runs(&self) -> Vec<LeafRun> {
        let mut runs = Vec::new();
        for missing in self.coverage.missing() {
            // Assignments may overlap with different boundaries, so a missing range is cut wherever one
            // begins or ends.
            let mut cuts: Vec<u32> =
                self.assignments.iter().flat_map(|g| [g.leaves.start, g.leaves.end]).collect();
            cuts.retain(|&cut| missing.start < cut && cut < missing.end);
            cuts.extend([missing.start, missing.end]);
            cuts.sort_unstable();
            cuts.dedup();
            for pair in cuts.windows(2) {
                let (start, end) = (pair[0], pair[1]);
                let held = |assignment: &&Assignment| {
                    assignment.leaves.start <= start && end <= assignment.leaves.end
                };
                let holding: Vec<&Assignment> = self.assignments.iter().filter(held).collect();
                runs.push(LeafRun {
                    leaves: start..end,
                    holders: holding.iter().map(|assignment| assignment.worker).collect(),
                    times: holding.iter().map(|assignment| assignment.times).sum(),
                    since: holding.iter().map(|assignment| assignment.since).max(),
                    held: holding.last().map_or(0, |assignment| assignment.leaves.len() as u32),
                });
            }
        }
        runs
    }

    /// Number of missing leaves by holder.
    pub(crate) fn loads(&self) -> BTreeMap<WorkerId, u32> {
        let mut loads = BTreeMap::new();
        for mut run in self.runs() {
            run.holders.sort_unstable();
            run.holders.dedup();
            for holder in run.holders {
                *loads.entry(holder).or_default() += run.leaves.len() as u32;
            }
        }
        loads
    }

    /// The missing leaves in the form of the status.
    pub(crate) fn missing(&self) -> Vec<MissingLeaves> {
        let mut missing: Vec<MissingLeaves> = Vec::new();
        for mut run in self.runs() {
            run.holders.sort_unstable();
            run.holders.dedup();
            match missing.last_mut() {
                Some(last) if last.leaves.end == run.leaves.start && last.holders == run.holders => {
                    last.leaves.end = run.leaves.end;
                }
                _ => missing.push(MissingLeaves { leaves: run.leaves, holders: run.holders }),
            }
        }
        missing
    }
}
