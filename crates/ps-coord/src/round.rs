//! One synchronous round: which leaves are in, who holds the others, and when they are overdue.

use crate::audit::Audits;
use crate::event::{Digest, Millis, WorkerId};
use crate::status::MissingLeaves;
use ps_plan::Gathered;
use ps_plan::{Coverage, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// After the same leaves were given out this often the time until the next time no longer doubles.
pub(crate) const MAX_DOUBLINGS: u32 = 4;

/// The gathering of one step's gradient.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub step: u64,
    pub opened: Millis,
    /// When the last leaf came in.
    pub gathered: Option<Millis>,
    /// When shards were last asked what they lack, and how often.
    pub asked: Option<(Millis, u32)>,
    /// Nodes that another worker computes, too, because of what they answered since.
    pub copied: BTreeSet<Node>,
    coverage: Coverage,
    /// What came in from whom.
    contributions: Vec<(WorkerId, Node)>,
    /// Other shards that have applied the step.
    applied: BTreeSet<u32>,
    /// What was given to workers that are still live, in the order of giving.
    given: Vec<Given>,
    /// When leaves next have to be given out (again). May be too early, never too late.
    pub check_at: Millis,
    /// Whether some are late, and go to whoever is idle first.
    pub has_late: bool,
    /// Whose leaves came in last, and when those of anybody else did.
    last: Option<(WorkerId, Millis)>,
    others: Millis,
    /// Leaves that came in from another than their first holder.
    pub rescued: u32,
    pub audits: Audits,
}

#[derive(Clone, Debug)]
struct Given {
    worker: WorkerId,
    leaves: Range<u32>,
    since: Millis,
    /// When it was first given these leaves, among all that was given.
    first: usize,
    /// How often it was given these leaves.
    times: u32,
}

/// Missing leaves that all have the same holders.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub leaves: Range<u32>,
    /// In the order in which they were last given it.
    pub holders: Vec<WorkerId>,
    /// How often they were given out.
    pub times: u32,
    /// When they were last given to anybody.
    pub since: Option<Millis>,
    /// How many leaves whoever was last given these was given with them.
    pub held: u32,
}

impl Run {
    /// When these leaves are to be given out (again): at once if nobody holds them, else a `timeout` after the
    /// last time, doubled each time so that a batch that is slow for everybody is not computed by all.
    ///
    /// What is late before that is due for idle workers, see [`Run::late`].
    pub(crate) fn due(&self, timeout: Millis) -> Millis {
        self.since.map_or(0, |since| since.saturating_add(timeout.saturating_mul(self.doubled())))
    }

    /// When these leaves are also to be given to a worker that is idle, if there is a `patience` with their last holder.
    pub(crate) fn late(&self, patience: impl Fn(WorkerId, u32) -> Option<Millis>) -> Millis {
        let patience = self.holders.last().and_then(|&holder| patience(holder, self.held));
        let (Some(patience), Some(since)) = (patience, self.since) else { return Millis::MAX };
        since.saturating_add(patience.saturating_mul(self.doubled()))
    }

    fn doubled(&self) -> Millis {
        1 << self.times.saturating_sub(1).min(MAX_DOUBLINGS)
    }

    /// Who was given these leaves last, and how long ago.
    pub(crate) fn lateness(&self, now: Millis) -> Option<(WorkerId, Millis)> {
        Some((*self.holders.last()?, now.saturating_sub(self.since?)))
    }
}

impl Round {
    /// A round in which no leaf is held by anybody yet.
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
            given: Vec::new(),
            check_at: now,
            has_late: false,
            last: None,
            others: now,
            rescued: 0,
            audits: Audits::default(),
        }
    }

    /// Counts a node and returns how many leaves it covers that were missing. Whose it is does not matter: a
    /// node's sum has the same bits from anybody who does not lie, and the data plane has folded it by the same rule.
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
                self.rescued += if first == worker { 0 } else { leaves };
                if let Some((_, at)) = self.last.filter(|&(last, _)| last != first) {
                    self.others = at;
                }
                self.last = Some((first, now));
                leaves
            }
        }
    }

    /// Who was first given the leaves of a node.
    fn first_holder(&self, node: Node) -> Option<WorkerId> {
        let leaves = self.coverage.tree().leaves_of(node);
        let holds = |given: &&Given| given.leaves.start <= leaves.start && leaves.end <= given.leaves.end;
        self.given.iter().filter(holds).min_by_key(|given| given.first).map(|given| given.worker)
    }

    /// Of a round whose leaves are all in: for whom all others waited, and for how long.
    pub(crate) fn held_up_by(&self) -> Option<(WorkerId, Millis)> {
        let (worker, at) = self.last?;
        let alone = self.given.iter().all(|given| given.worker == worker);
        (!alone).then(|| (worker, at.saturating_sub(self.others)))
    }

    /// Who was given leaves and has sent nothing that counts, of `live` workers; and who was given none.
    pub(crate) fn silent_and_idle(&self, live: &[WorkerId]) -> [Vec<WorkerId>; 2] {
        let was_given = |worker| self.given.iter().any(|given| given.worker == worker);
        let silent = live.iter().copied().filter(|&worker| was_given(worker) && !self.counts_on(worker));
        let idle = live.iter().copied().filter(|&worker| !was_given(worker));
        [silent.collect(), idle.collect()]
    }

    /// Leaves of the step, those that are only evaluated included.
    pub(crate) fn all_leaves(&self) -> u32 {
        self.coverage.tree().all_leaves()
    }

    /// Leaves of the step's batch.
    pub(crate) fn leaves(&self) -> u32 {
        self.coverage.tree().leaves()
    }

    /// What counts, and from whom.
    pub(crate) fn contributions(&self) -> &[(WorkerId, Node)] {
        &self.contributions
    }

    /// Whether the step has this node.
    pub(crate) fn has(&self, node: Node) -> bool {
        self.coverage.tree().has(node)
    }

    /// The leaves that a node of it sums.
    pub(crate) fn leaves_of(&self, node: Node) -> Range<u32> {
        self.coverage.tree().leaves_of(node)
    }

    /// Whether anything counts that came from `worker`.
    pub(crate) fn counts_on(&self, worker: WorkerId) -> bool {
        self.contributions.iter().any(|&(sender, _)| sender == worker)
    }

    /// All workers of whom anything counts.
    pub(crate) fn contributors(&self) -> impl Iterator<Item = WorkerId> {
        self.contributions.iter().map(|&(worker, _)| worker)
    }

    /// Another shard has applied the step.
    pub(crate) fn apply(&mut self, shard: u32) {
        self.applied.insert(shard);
    }

    /// Those of `shards` other shards that have not applied the step.
    pub(crate) fn unapplied(&self, shards: u32) -> Vec<u32> {
        (0..shards).filter(|shard| !self.applied.contains(shard)).collect()
    }

    /// What `worker` contributed may not have reached every shard: others are to compute it, too. Parts that have
    /// arrived anywhere are just known there.
    pub(crate) fn distrust(&mut self, worker: WorkerId) {
        self.contributions.retain(|&(sender, _)| sender != worker);
        self.coverage = Coverage::new(self.coverage.tree());
        for &(_, node) in &self.contributions {
            self.coverage.gather(node);
        }
        if !self.coverage.is_complete() {
            self.gathered = None;
        }
    }

    /// What has come in is of no use, or has not come everywhere: everything is given out once more.
    pub(crate) fn begin_again(&mut self, now: Millis) {
        let tree = self.coverage.tree();
        *self = Round { applied: std::mem::take(&mut self.applied), ..Round::open(self.step, tree, now) };
    }

    /// Whether every leaf is in.
    pub(crate) fn is_complete(&self) -> bool {
        self.coverage.is_complete()
    }

    /// Whether nothing was given out and nothing has come in yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.given.is_empty() && self.coverage.covered() == 0
    }

    /// Notes that `worker` was given `leaves`.
    pub(crate) fn give(&mut self, worker: WorkerId, leaves: Range<u32>, now: Millis) {
        let is_same = |given: &Given| given.worker == worker && given.leaves == leaves;
        let before = self.given.iter().find(|given| is_same(given));
        let next = self.given.iter().map(|given| given.first + 1).max().unwrap_or(0);
        let (first, times) = before.map_or((next, 1), |given| (given.first, given.times + 1));
        self.given.retain(|given| !is_same(given));
        self.given.push(Given { worker, leaves, since: now, first, times });
    }

    /// `worker` is lost: what it holds counts as not given, and is to be given out at once.
    pub(crate) fn forget(&mut self, worker: WorkerId, now: Millis) {
        self.given.retain(|given| given.worker != worker);
        self.audits.forget(worker);
        self.check_at = now;
    }

    /// What `worker` holds counts as if it were in: only a planted defect wants that.
    pub(crate) fn skip(&mut self, worker: WorkerId, now: Millis) {
        let tree = self.coverage.tree();
        for run in self.runs().into_iter().filter(|run| run.holders.contains(&worker)) {
            for node in tree.cover(run.leaves) {
                self.contribute(worker, node, None, now);
            }
        }
    }

    /// The missing leaves, ascending, cut where the holders change.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for missing in self.coverage.missing() {
            let mut cuts: Vec<u32> = self.given.iter().flat_map(|g| [g.leaves.start, g.leaves.end]).collect();
            cuts.retain(|&cut| missing.start < cut && cut < missing.end);
            cuts.extend([missing.start, missing.end]);
            cuts.sort_unstable();
            cuts.dedup();
            for pair in cuts.windows(2) {
                let (start, end) = (pair[0], pair[1]);
                let held = |given: &&Given| given.leaves.start <= start && end <= given.leaves.end;
                let holding: Vec<&Given> = self.given.iter().filter(held).collect();
                runs.push(Run {
                    leaves: start..end,
                    holders: holding.iter().map(|given| given.worker).collect(),
                    times: holding.iter().map(|given| given.times).sum(),
                    since: holding.iter().map(|given| given.since).max(),
                    held: holding.last().map_or(0, |given| given.leaves.len() as u32),
                });
            }
        }
        runs
    }

    /// Missing leaves by holder.
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

    /// The missing leaves as the status shows them.
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
