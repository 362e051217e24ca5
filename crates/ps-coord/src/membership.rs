//! The workers of the run: admission, contact, departure, speed and reliability.

use crate::event::{Departure, Dismissal, Millis, WorkerId};
use crate::status::WorkerState;
use std::collections::BTreeMap;

/// Number of departed workers to remember, for the status only.
const MAX_GONE_WORKERS: usize = 32;
/// Decay of a worker's measured pace per contribution: about the last ten count.
const PACE_DECAY: f64 = 0.9;
/// Milliseconds of measured work below which a pace is too imprecise to use, because the clock has a
/// resolution of one millisecond.
const MIN_PACE_MS: f64 = 20.0;
/// Decay of the measured time in a round without work, so that a slow worker is eventually tried again.
const IDLE_DECAY: f64 = 0.95;
/// Number of nodes delivered by a trusted worker that cancel one miss.
const NODES_PER_MISS: u32 = 16;
/// Each further miss doubles the number of copies that a worker owes; misses beyond this number do not count.
const MAX_MISSES: u32 = 6;

/// The state of one worker.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    /// Admitted, but without weights. During an update, it gets its first weights together with all others.
    Joining { last_heard: Millis },
    /// It has been sent the current weights and can be assigned leaves.
    Training { last_heard: Millis, record: Record },
    /// It was sent away; its stream has not closed yet.
    Draining { reason: Dismissal, last_heard: Millis, record: Record },
    /// It can no longer be reached.
    Gone { reason: Departure, last_heard: Millis, record: Record },
}

/// What is known about a worker's performance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Number of delivered nodes that covered missing leaves.
    pub contributions: u64,
    /// Milliseconds for which rounds waited for this worker alone.
    pub held_up_ms: Millis,
    /// Leaves computed and milliseconds taken, both with exponential decay.
    leaves: f64,
    millis: f64,
    /// When it began the work that its next contribution completes.
    busy_since: Millis,
    /// When it last delivered a node.
    delivered: Option<Millis>,
    /// Since when it has held work without delivering anything.
    waiting_since: Option<Millis>,
    /// Number of copies that it must deliver before it gets leaves that nobody else computes.
    owed_copies: u32,
    /// Number of recent misses: the worker held leaves for too long. Deliveries reduce it.
    misses: u32,
    /// Nodes delivered since `misses` last changed.
    nodes_since_miss: u32,
}

impl Record {
    /// Records that `leaves` leaves took the time since `busy_since`.
    fn record_work(&mut self, leaves: u32, now: Millis) {
        self.leaves = PACE_DECAY * self.leaves + f64::from(leaves);
        self.millis = PACE_DECAY * self.millis + now.saturating_sub(self.busy_since) as f64;
        // The next node of the same work is timed from here.
        self.busy_since = now;
    }

    /// Recent leaves per second; `None` before the first contribution.
    pub(crate) fn speed(&self) -> Option<f64> {
        (self.millis > 0.0).then(|| 1000.0 * self.leaves / self.millis)
    }
}

/// All workers of the run, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members(BTreeMap<WorkerId, Member>);

impl Members {
    /// Admits a worker; `false` if the id is already known.
    pub(crate) fn admit(&mut self, worker: WorkerId, now: Millis) -> bool {
        if self.0.contains_key(&worker) {
            return false;
        }
        self.0.insert(worker, Member::Joining { last_heard: now });
        true
    }

    /// A joining worker has been sent weights and takes part from now on. If other workers have proved
    /// reliable, it must prove itself, too: its first work is a copy of leaves that another worker computes.
    pub(crate) fn start_training(&mut self, worker: WorkerId) {
        let owed_copies = u32::from(
            self.records().any(|(_, record)| record.owed_copies == 0 && record.delivered.is_some()),
        );
        // Called for every live worker at every version: the record of a worker in training must survive.
        if let Some(member @ Member::Joining { .. }) = self.0.get_mut(&worker) {
            *member = Member::Training {
                last_heard: member.last_heard(),
                record: Record { owed_copies, ..Record::default() },
            };
        }
    }

    /// The workers in training, with their records.
    fn records(&self) -> impl Iterator<Item = (WorkerId, &Record)> {
        self.0.iter().filter_map(|(&worker, member)| match member {
            Member::Training { record, .. } => Some((worker, record)),
            _ => None,
        })
    }

    /// Notes that something arrived from `worker`.
    pub(crate) fn on_message(&mut self, worker: WorkerId, now: Millis) {
        if let Some(Member::Joining { last_heard } | Member::Training { last_heard, .. }) =
            self.0.get_mut(&worker)
        {
            *last_heard = now;
        }
    }

    /// Notes that `worker` was assigned leaves, which it begins now.
    pub(crate) fn on_assigned(&mut self, worker: WorkerId, now: Millis) {
        self.on_copy_requested(worker, now);
        if let Some(record) = self.training_record(worker) {
            record.busy_since = now;
        }
    }

    /// Notes that `worker` was asked for a copy, perhaps while it is busy with other work.
    pub(crate) fn on_copy_requested(&mut self, worker: WorkerId, now: Millis) {
        // The oldest undelivered work counts. Otherwise a stuck worker that is assigned more in each round
        // would never look stuck.
        if let Some(record) = self.training_record(worker)
            && record.waiting_since.is_none()
        {
            record.waiting_since = Some(now);
            record.busy_since = now;
        }
    }

    /// Notes that a node of `worker` has arrived, in time or not, so the worker is not stuck. Returns whether
    /// this makes it trusted again.
    pub(crate) fn record_delivery(&mut self, worker: WorkerId, now: Millis) -> bool {
        let Some(record) = self.training_record(worker) else { return false };
        record.delivered = Some(now);
        record.waiting_since = None;
        if record.owed_copies > 0 {
            record.owed_copies -= 1;
            // A newcomer owes a copy without having missed anything, and nothing is reported about it.
            return record.owed_copies == 0 && record.misses > 0;
        }
        record.nodes_since_miss += 1;
        if record.nodes_since_miss >= NODES_PER_MISS {
            record.nodes_since_miss = 0;
            record.misses = record.misses.saturating_sub(1);
        }
        false
    }

    /// `worker` abandoned work because newer weights arrived: it is slow, but not stuck.
    pub(crate) fn record_dropped_work(&mut self, worker: WorkerId) {
        if let Some(record) = self.training_record(worker) {
            record.waiting_since = None;
        }
    }

    /// Records that `worker` held leaves for so long that they were also assigned to another. From now on it
    /// gets only copies: it must deliver one, and twice as many after each further miss. Returns whether it
    /// was trusted until now.
    pub(crate) fn record_miss(&mut self, worker: WorkerId) -> bool {
        // No step waits for a worker that already gets only copies, so further delays do not count as misses.
        let Some(record) = self.training_record(worker).filter(|record| record.owed_copies == 0) else {
            return false;
        };
        record.misses = (record.misses + 1).min(MAX_MISSES);
        record.nodes_since_miss = 0;
        record.owed_copies = 1 << (record.misses - 1);
        true
    }

    /// The live workers that may get leaves which nobody else computes: those that owe no copies, or all if
    /// every worker owes some.
    pub(crate) fn trusted(&self) -> Vec<WorkerId> {
        let mut trusted = self.live();
        trusted.retain(|worker| self.0[worker].record().owed_copies == 0);
        if trusted.is_empty() { self.live() } else { trusted }
    }

    /// Among the workers that have delivered nothing of the work they hold while others delivered: the one
    /// that has held work longest, and since when.
    pub(crate) fn longest_stuck(&self) -> Option<(Millis, WorkerId)> {
        // A worker never waits since before its own last delivery, so the latest of all deliveries is another
        // worker's.
        let last = self.records().filter_map(|(_, record)| record.delivered).max()?;
        let waiting = self.records().filter_map(|(worker, record)| Some((record.waiting_since?, worker)));
        waiting.filter(|&(since, _)| since < last).min()
    }

    /// `worker` delivered a node of `leaves` leaves; `counts` is false if the leaves were already covered.
    pub(crate) fn record_node(&mut self, worker: WorkerId, leaves: u32, counts: bool, now: Millis) {
        if let Some(record) = self.training_record(worker) {
            record.contributions += u64::from(counts);
            record.record_work(leaves, now);
        }
    }

    /// A round has closed in which `worker` was assigned leaves and delivered nothing.
    pub(crate) fn record_empty_round(&mut self, worker: WorkerId, now: Millis) {
        self.record_node(worker, 0, false, now);
    }

    /// A round has closed in which `worker` was assigned nothing.
    pub(crate) fn decay(&mut self, worker: WorkerId) {
        if let Some(record) = self.training_record(worker) {
            // Only the time shrinks, so the pace grows until the worker gets leaves again.
            record.millis *= IDLE_DECAY;
        }
    }

    /// Adds time for which a round waited for `worker` alone.
    pub(crate) fn attribute_wait(&mut self, worker: WorkerId, waited: Millis) {
        // The worker may have been lost before the round that waited for it closed.
        if let Some(
            Member::Training { record, .. } | Member::Draining { record, .. } | Member::Gone { record, .. },
        ) = self.0.get_mut(&worker)
        {
            record.held_up_ms += waited;
        }
    }

    /// Leaves per second of `worker`, once measured precisely enough.
    pub(crate) fn pace(&self, worker: WorkerId) -> Option<f64> {
        let record = self.0.get(&worker)?.record();
        record.speed().filter(|_| record.millis >= MIN_PACE_MS)
    }

    /// The sum of all known speeds, even imprecise ones, and their number.
    pub(crate) fn speeds(&self) -> (f64, u32) {
        let speeds = self.records().filter_map(|(_, record)| known_speed(record));
        speeds.fold((0.0, 0), |(sum, count), speed| (sum + speed, count + 1))
    }

    /// Mean leaves per second of all workers except `worker`, where `speeds` comes from [`Members::speeds`].
    pub(crate) fn pace_of_others(&self, worker: WorkerId, (sum, count): (f64, u32)) -> Option<f64> {
        let own = match self.0.get(&worker) {
            Some(Member::Training { record, .. }) => known_speed(record),
            _ => None,
        };
        let others = count - u32::from(own.is_some());
        (others > 0).then(|| (sum - own.unwrap_or_default()) / f64::from(others))
    }

    fn training_record(&mut self, worker: WorkerId) -> Option<&mut Record> {
        match self.0.get_mut(&worker) {
            Some(Member::Training { record, .. }) => Some(record),
            _ => None,
        }
    }

    /// `worker` is sent away; its stream still has to close.
    pub(crate) fn drain(&mut self, worker: WorkerId, reason: Dismissal) {
        if let Some(member) = self.0.get_mut(&worker) {
            *member = Member::Draining { reason, last_heard: member.last_heard(), record: member.record() };
        }
    }

    /// `worker` can no longer be reached. Returns whether it was live until now.
    pub(crate) fn remove_worker(&mut self, worker: WorkerId, reason: Departure) -> bool {
        let Some(member) = self.0.get_mut(&worker) else { return false };
        let was_live = member.is_live();
        if !matches!(member, Member::Gone { .. }) {
            *member = Member::Gone { reason, last_heard: member.last_heard(), record: member.record() };
        }
        // A worker that reconnects gets a new id, so the map would grow without bound. Ids ascend in order of
        // admission, and the oldest entries go first.
        let gone: Vec<WorkerId> =
            self.0.iter().filter(|(_, m)| matches!(m, Member::Gone { .. })).map(|(&id, _)| id).collect();
        for id in gone.iter().take(gone.len().saturating_sub(MAX_GONE_WORKERS)) {
            self.0.remove(id);
        }
        was_live
    }

    /// Workers that take part, ascending by id.
    pub(crate) fn live(&self) -> Vec<WorkerId> {
        self.0.iter().filter(|(_, member)| member.is_live()).map(|(&id, _)| id).collect()
    }

    /// The number of live workers.
    pub(crate) fn live_count(&self) -> u32 {
        self.0.values().filter(|member| member.is_live()).count() as u32
    }

    /// Whether `worker` takes part.
    pub(crate) fn is_live(&self, worker: WorkerId) -> bool {
        self.0.get(&worker).is_some_and(Member::is_live)
    }

    /// The live worker that has been silent longest, and when it was last heard.
    pub(crate) fn longest_silent(&self) -> Option<(Millis, WorkerId)> {
        self.0
            .iter()
            .filter(|(_, member)| member.is_live())
            .map(|(&id, member)| (member.last_heard(), id))
            .min()
    }

    /// All workers that are remembered, ascending by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        self.0.iter().map(|(&id, member)| (id, member))
    }
}

fn known_speed(record: &Record) -> Option<f64> {
    record.speed().filter(|&speed| speed > 0.0)
}

impl Member {
    /// Whether it takes part: it is neither sent away nor gone.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Member::Joining { .. } | Member::Training { .. })
    }

    /// When something last arrived from it.
    pub(crate) fn last_heard(&self) -> Millis {
        match self {
            Member::Joining { last_heard }
            | Member::Training { last_heard, .. }
            | Member::Draining { last_heard, .. }
            | Member::Gone { last_heard, .. } => *last_heard,
        }
    }

    /// A copy of its performance record; empty while it joins.
    pub(crate) fn record(&self) -> Record {
        match self {
            Member::Joining { .. } => Record::default(),
            Member::Training { record, .. }
            | Member::Draining { record, .. }
            | Member::Gone { record, .. } => record.clone(),
        }
    }

    /// The state in the form of the status.
    pub(crate) fn state(&self) -> WorkerState {
        match self {
            Member::Joining { .. } => WorkerState::Joining,
            Member::Training { .. } => WorkerState::Training,
            Member::Draining { reason, .. } => WorkerState::Draining(reason.clone()),
            Member::Gone { reason, .. } => WorkerState::Gone(reason.clone()),
        }
    }
}
