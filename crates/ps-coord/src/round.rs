//! One synchronous round: which leaves are in, who holds the others, and when they are overdue.

use crate::event::{Millis, WorkerId};
use crate::status::MissingLeaves;
use ps_core::tree::Gathered;
use ps_core::{Coverage, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// After the same leaves were given out this often the time until the next time no longer doubles.
const MAX_DOUBLINGS: usize = 4;

/// The gathering of one step's gradient.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub step: u64,
    pub opened: Millis,
    /// When the last leaf came in.
    pub gathered: Option<Millis>,
    coverage: Coverage,
    /// What came in from whom.
    contributions: Vec<(WorkerId, Node)>,
    /// Other shards that have applied the step.
    applied: BTreeSet<u32>,
    /// What was given to workers that are still live, in the order of giving.
    given: Vec<Given>,
    /// When leaves next have to be given out (again). May be too early, never too late.
    pub check_at: Millis,
}

#[derive(Clone, Debug)]
struct Given {
    worker: WorkerId,
    leaves: Range<u32>,
    since: Millis,
    /// How often it was given these leaves.
    times: usize,
}

/// Missing leaves that all have the same holders.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub leaves: Range<u32>,
    /// In the order in which they were last given it.
    pub holders: Vec<WorkerId>,
    /// How often they were given out.
    pub times: usize,
    /// When they were last given to anybody.
    pub since: Option<Millis>,
}

impl Run {
    /// When these leaves are to be given out (again): at once if nobody holds them, else a `timeout` after the
    /// last time, doubled each time so that a batch that is slow for everybody is not computed by all.
    ///
    /// Speculation from measured speeds belongs here: a run is due as soon as an idle worker would be done
    /// with it before its holder.
    pub fn due(&self, timeout: Millis) -> Millis {
        self.since.map_or(0, |since| {
            let doublings = self.times.saturating_sub(1).min(MAX_DOUBLINGS);
            since.saturating_add(timeout.saturating_mul(1 << doublings))
        })
    }

    /// Why these leaves are given out, in words that follow their numbers.
    pub fn lateness(&self, now: Millis) -> String {
        match (self.since, self.holders.last()) {
            (Some(since), Some(holder)) => {
                format!(", not back from {holder} after {} ms,", now.saturating_sub(since))
            }
            _ => ", held by nobody,".into(),
        }
    }
}

impl Round {
    /// A round in which no leaf is held by anybody yet.
    pub fn open(step: u64, tree: Tree, now: Millis) -> Self {
        Round {
            step,
            opened: now,
            gathered: None,
            coverage: Coverage::new(tree),
            contributions: Vec::new(),
            applied: BTreeSet::new(),
            given: Vec::new(),
            check_at: now,
        }
    }

    /// Counts a node and returns how many leaves it covers that were missing. Whose it is does not matter: a
    /// node's sum has the same bits from anybody, and the data plane has folded it by the same rule. (Audit,
    /// which has a share of the nodes computed twice and compares, would make it matter.)
    pub fn contribute(&mut self, worker: WorkerId, node: Node, now: Millis) -> u32 {
        if !self.coverage.tree().has(node) {
            return 0;
        }
        let before = self.coverage.covered();
        match self.coverage.gather(node) {
            Gathered::Known => 0,
            Gathered::New { .. } => {
                self.contributions.push((worker, node));
                if self.coverage.is_complete() {
                    self.gathered.get_or_insert(now);
                }
                self.coverage.covered() - before
            }
        }
    }

    /// Another shard has applied the step.
    pub fn apply(&mut self, shard: u32) {
        self.applied.insert(shard);
    }

    /// Those of `shards` other shards that have not applied the step.
    pub fn unapplied(&self, shards: u32) -> Vec<u32> {
        (0..shards).filter(|shard| !self.applied.contains(shard)).collect()
    }

    /// What `worker` contributed may not have reached every shard: others are to compute it, too. Parts that have
    /// arrived anywhere are just known there.
    pub fn distrust(&mut self, worker: WorkerId) {
        self.contributions.retain(|&(sender, _)| sender != worker);
        self.coverage = Coverage::new(self.coverage.tree());
        for &(_, node) in &self.contributions {
            self.coverage.gather(node);
        }
        if !self.coverage.is_complete() {
            self.gathered = None;
        }
    }

    /// All leaves are in here but not everywhere: everything is given out once more.
    pub fn begin_again(&mut self, now: Millis) {
        let tree = self.coverage.tree();
        *self = Round { applied: std::mem::take(&mut self.applied), ..Round::open(self.step, tree, now) };
    }

    /// Whether every leaf is in.
    pub fn is_complete(&self) -> bool {
        self.coverage.is_complete()
    }

    /// Whether nothing was given out and nothing has come in yet.
    pub fn is_untouched(&self) -> bool {
        self.given.is_empty() && self.coverage.covered() == 0
    }

    /// Notes that `worker` was given `leaves`.
    pub fn give(&mut self, worker: WorkerId, leaves: Range<u32>, now: Millis) {
        let is_same = |given: &Given| given.worker == worker && given.leaves == leaves;
        let before = self.given.iter().find(|given| is_same(given)).map_or(0, |given| given.times);
        self.given.retain(|given| !is_same(given));
        self.given.push(Given { worker, leaves, since: now, times: before + 1 });
    }

    /// `worker` is lost: what it holds counts as not given, and is to be given out at once.
    pub fn forget(&mut self, worker: WorkerId, now: Millis) {
        self.given.retain(|given| given.worker != worker);
        self.check_at = now;
    }

    /// The missing leaves, ascending, cut where the holders change.
    pub fn runs(&self) -> Vec<Run> {
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
                });
            }
        }
        runs
    }

    /// Missing leaves by holder.
    pub fn loads(&self) -> BTreeMap<WorkerId, u32> {
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
    pub fn missing(&self) -> Vec<MissingLeaves> {
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
