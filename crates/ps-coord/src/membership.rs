//! Who takes part: admission, contact, departure, and how fast each worker is.

use crate::event::{Departure, Dismissal, Millis, WorkerId};
use crate::status::WorkerState;
use std::collections::BTreeMap;

/// How many workers that are gone are remembered, for the status only.
const REMEMBERED: usize = 32;
/// Weight of the past in a worker's pace: about the last ten contributions count.
const PACE_MEMORY: f64 = 0.9;
/// Milliseconds of work without which a pace says nothing: the clock counts whole ones.
const PACE_KNOWN_MS: f64 = 20.0;
/// What a round without work takes off the time that a pace was measured over: one that was slow is tried again.
const FORGIVENESS: f64 = 0.95;
/// A worker forgets one miss for this many nodes that it delivers while it is trusted.
const NODES_PER_MISS: u32 = 16;
/// From one miss to the next a worker owes twice as many copies, up to 2 to the power of this many.
const MAX_MISSES: u32 = 6;

/// One worker, in the state it is in.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    /// Admitted while an update is under way: it gets its first weights together with all others.
    Joining { heard: Millis },
    /// It has been sent the current weights and can be given leaves.
    Training { heard: Millis, record: Record },
    /// It was sent away; its stream has not closed yet.
    Draining { reason: Dismissal, heard: Millis, record: Record },
    /// It can no longer be talked to.
    Gone { reason: Departure, heard: Millis, record: Record },
}

/// What a worker has done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Nodes that counted.
    pub contributions: u64,
    /// Milliseconds that rounds waited for it alone.
    pub held_up_ms: Millis,
    /// Leaves and milliseconds of late, fading.
    leaves: f64,
    millis: f64,
    /// Since when it has been at the work that the next contribution ends.
    busy_since: Millis,
    /// When a node of it last arrived.
    delivered: Option<Millis>,
    /// Since when it holds work of which nothing has arrived.
    waiting_since: Option<Millis>,
    /// Copies that it must deliver before it gets leaves that nobody else computes.
    owes: u32,
    /// How often it kept such leaves for too long; fades with what it delivers.
    misses: u32,
    /// Nodes delivered since the number of misses last changed.
    nodes_since_miss: u32,
}

impl Record {
    /// So many leaves were done with the time since the last ones.
    fn work(&mut self, leaves: u32, now: Millis) {
        self.leaves = PACE_MEMORY * self.leaves + f64::from(leaves);
        self.millis = PACE_MEMORY * self.millis + now.saturating_sub(self.busy_since) as f64;
        self.busy_since = now;
    }

    /// Leaves per second; nothing before the first contribution.
    pub(crate) fn speed(&self) -> Option<f64> {
        (self.millis > 0.0).then(|| 1000.0 * self.leaves / self.millis)
    }
}

/// All workers of the run, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members(BTreeMap<WorkerId, Member>);

impl Members {
    /// Admits a worker; `false` if the id is known already.
    pub(crate) fn admit(&mut self, worker: WorkerId, now: Millis) -> bool {
        if self.0.contains_key(&worker) {
            return false;
        }
        self.0.insert(worker, Member::Joining { heard: now });
        true
    }

    /// A joining worker has been sent weights: it takes part from now on. If others have shown that they deliver, so must
    /// it: what it gets first is a copy of what one of them computes.
    pub(crate) fn start_training(&mut self, worker: WorkerId) {
        let owes =
            u32::from(self.records().any(|(_, record)| record.owes == 0 && record.delivered.is_some()));
        if let Some(member @ Member::Joining { .. }) = self.0.get_mut(&worker) {
            *member =
                Member::Training { heard: member.heard(), record: Record { owes, ..Record::default() } };
        }
    }

    /// Workers in training with what they have done.
    fn records(&self) -> impl Iterator<Item = (WorkerId, &Record)> {
        self.0.iter().filter_map(|(&worker, member)| match member {
            Member::Training { record, .. } => Some((worker, record)),
            _ => None,
        })
    }

    /// Something arrived from `worker`.
    pub(crate) fn hear(&mut self, worker: WorkerId, now: Millis) {
        if let Some(Member::Joining { heard } | Member::Training { heard, .. }) = self.0.get_mut(&worker) {
            *heard = now;
        }
    }

    /// `worker` was given leaves.
    pub(crate) fn note_given(&mut self, worker: WorkerId, now: Millis) {
        self.note_asked(worker, now);
        if let Some(record) = self.in_training(worker) {
            record.busy_since = now;
        }
    }

    /// `worker` was asked for a copy, while it may be at other work.
    pub(crate) fn note_asked(&mut self, worker: WorkerId, now: Millis) {
        if let Some(record) = self.in_training(worker)
            && record.waiting_since.is_none()
        {
            record.waiting_since = Some(now);
            record.busy_since = now;
        }
    }

    /// A node of `worker` has arrived, in time or not: it computes. Says whether this makes it trusted again after a miss.
    pub(crate) fn note_delivery(&mut self, worker: WorkerId, now: Millis) -> bool {
        let Some(record) = self.in_training(worker) else { return false };
        record.delivered = Some(now);
        record.waiting_since = None;
        if record.owes > 0 {
            record.owes -= 1;
            return record.owes == 0 && record.misses > 0;
        }
        record.nodes_since_miss += 1;
        if record.nodes_since_miss >= NODES_PER_MISS {
            record.nodes_since_miss = 0;
            record.misses = record.misses.saturating_sub(1);
        }
        false
    }

    /// `worker` has given up work because newer weights came: it computes, but too slowly.
    pub(crate) fn note_dropped(&mut self, worker: WorkerId) {
        if let Some(record) = self.in_training(worker) {
            record.waiting_since = None;
        }
    }

    /// `worker` kept leaves for so long that another got them, too. From now on it gets copies only, until it has
    /// delivered one, and twice as many after each further miss. Says whether it was trusted until now.
    pub(crate) fn note_miss(&mut self, worker: WorkerId) -> bool {
        let Some(record) = self.in_training(worker).filter(|record| record.owes == 0) else { return false };
        record.misses = (record.misses + 1).min(MAX_MISSES);
        record.nodes_since_miss = 0;
        record.owes = 1 << (record.misses - 1);
        true
    }

    /// Live workers that may get leaves which nobody else computes: those that owe no copies, or all if each does.
    pub(crate) fn trusted(&self) -> Vec<WorkerId> {
        let mut trusted = self.live();
        trusted.retain(|worker| self.0[worker].record().owes == 0);
        if trusted.is_empty() { self.live() } else { trusted }
    }

    /// Of the workers that hold work of which nothing has arrived while others delivered, the one that has held it
    /// longest, and since when.
    pub(crate) fn most_stuck(&self) -> Option<(Millis, WorkerId)> {
        // Nobody waits since before its own last delivery, so the last of all is another's.
        let last = self.records().filter_map(|(_, record)| record.delivered).max()?;
        let waiting = self.records().filter_map(|(worker, record)| Some((record.waiting_since?, worker)));
        waiting.filter(|&(since, _)| since < last).min()
    }

    /// A node of `worker` has come, of so many leaves, and `counts` or was known.
    pub(crate) fn credit(&mut self, worker: WorkerId, leaves: u32, counts: bool, now: Millis) {
        if let Some(record) = self.in_training(worker) {
            record.contributions += u64::from(counts);
            record.work(leaves, now);
        }
    }

    /// A round has closed for which `worker` was given leaves, and sent nothing.
    pub(crate) fn charge(&mut self, worker: WorkerId, now: Millis) {
        self.credit(worker, 0, false, now);
    }

    /// A round has closed for which `worker` was given nothing.
    pub(crate) fn forgive(&mut self, worker: WorkerId) {
        if let Some(record) = self.in_training(worker) {
            record.millis *= FORGIVENESS;
        }
    }

    /// Rounds waited for `worker` so long.
    pub(crate) fn blame(&mut self, worker: WorkerId, waited: Millis) {
        if let Some(
            Member::Training { record, .. } | Member::Draining { record, .. } | Member::Gone { record, .. },
        ) = self.0.get_mut(&worker)
        {
            record.held_up_ms += waited;
        }
    }

    /// Leaves per second of `worker`, once that is known well enough to go by.
    pub(crate) fn pace(&self, worker: WorkerId) -> Option<f64> {
        let record = self.0.get(&worker)?.record();
        record.speed().filter(|_| record.millis >= PACE_KNOWN_MS)
    }

    /// The sum of all speeds that are known, however little is known of them, and how many these are.
    pub(crate) fn speeds(&self) -> (f64, u32) {
        let speeds = self.records().filter_map(|(_, record)| known_speed(record));
        speeds.fold((0.0, 0), |(sum, count), speed| (sum + speed, count + 1))
    }

    /// Mean leaves per second of all workers but `worker`, where `speeds` is what [`Members::speeds`] gives.
    pub(crate) fn pace_of_others(&self, worker: WorkerId, (sum, count): (f64, u32)) -> Option<f64> {
        let own = match self.0.get(&worker) {
            Some(Member::Training { record, .. }) => known_speed(record),
            _ => None,
        };
        let others = count - u32::from(own.is_some());
        (others > 0).then(|| (sum - own.unwrap_or_default()) / f64::from(others))
    }

    fn in_training(&mut self, worker: WorkerId) -> Option<&mut Record> {
        match self.0.get_mut(&worker) {
            Some(Member::Training { record, .. }) => Some(record),
            _ => None,
        }
    }

    /// `worker` is sent away; its stream still has to close.
    pub(crate) fn drain(&mut self, worker: WorkerId, reason: Dismissal) {
        if let Some(member) = self.0.get_mut(&worker) {
            *member = Member::Draining { reason, heard: member.heard(), record: member.record() };
        }
    }

    /// `worker` can no longer be talked to; whether it was live until now.
    pub(crate) fn bury(&mut self, worker: WorkerId, reason: Departure) -> bool {
        let Some(member) = self.0.get_mut(&worker) else { return false };
        let was_live = member.is_live();
        if !matches!(member, Member::Gone { .. }) {
            *member = Member::Gone { reason, heard: member.heard(), record: member.record() };
        }
        let gone: Vec<WorkerId> =
            self.0.iter().filter(|(_, m)| matches!(m, Member::Gone { .. })).map(|(&id, _)| id).collect();
        for id in gone.iter().take(gone.len().saturating_sub(REMEMBERED)) {
            self.0.remove(id);
        }
        was_live
    }

    /// Workers that can be talked to, ascending by id.
    pub(crate) fn live(&self) -> Vec<WorkerId> {
        self.0.iter().filter(|(_, member)| member.is_live()).map(|(&id, _)| id).collect()
    }

    /// How many there are of those.
    pub(crate) fn live_count(&self) -> u32 {
        self.0.values().filter(|member| member.is_live()).count() as u32
    }

    /// Whether `worker` can be talked to.
    pub(crate) fn is_live(&self, worker: WorkerId) -> bool {
        self.0.get(&worker).is_some_and(Member::is_live)
    }

    /// When the live worker that has been silent longest was last heard, and which it is.
    pub(crate) fn most_silent(&self) -> Option<(Millis, WorkerId)> {
        self.0.iter().filter(|(_, member)| member.is_live()).map(|(&id, member)| (member.heard(), id)).min()
    }

    /// All that are remembered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        self.0.iter().map(|(&id, member)| (id, member))
    }
}

fn known_speed(record: &Record) -> Option<f64> {
    record.speed().filter(|&speed| speed > 0.0)
}

impl Member {
    /// Whether it can be talked to and counts.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Member::Joining { .. } | Member::Training { .. })
    }

    /// When something last arrived from it.
    pub(crate) fn heard(&self) -> Millis {
        match self {
            Member::Joining { heard }
            | Member::Training { heard, .. }
            | Member::Draining { heard, .. }
            | Member::Gone { heard, .. } => *heard,
        }
    }

    /// What it has done.
    pub(crate) fn record(&self) -> Record {
        match self {
            Member::Joining { .. } => Record::default(),
            Member::Training { record, .. }
            | Member::Draining { record, .. }
            | Member::Gone { record, .. } => record.clone(),
        }
    }

    /// The state as the status shows it.
    pub(crate) fn state(&self) -> WorkerState {
        match self {
            Member::Joining { .. } => WorkerState::Joining,
            Member::Training { .. } => WorkerState::Training,
            Member::Draining { reason, .. } => WorkerState::Draining(reason.clone()),
            Member::Gone { reason, .. } => WorkerState::Gone(reason.clone()),
        }
    }
}
