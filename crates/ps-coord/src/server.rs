//! The server's half of the round logic.

use crate::assignment::{assign, assign_missing};
use crate::event::{
    Contributor, Departure, Digest, Dismissal, Millis, Outcome, ServerAction, ServerEvent, WorkerId,
};
use crate::history::History;
use crate::membership::Members;
use crate::notice::{LossCause, Notice, RewindCause};
use crate::round::{MAX_DOUBLINGS, Round};
use crate::round_times::RoundTimes;
use crate::status::{MissingLeaves, Status, WaitsFor, WorkerStatus};
use ps_plan::mutation::{ActiveMutation, Mutation};
use ps_plan::seed::{Purpose, random};
use ps_plan::{BatchPlan, Node, Section};
use std::collections::BTreeSet;
use std::ops::Range;

/// Settings of the round logic.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Divides the run into steps and leaves.
    pub plan: BatchPlan,
    /// Version of the weights that the server starts with: 0, or a checkpoint's, from which a restarted
    /// server continues as if it had never stopped.
    pub start_version: u64,
    /// Number of workers required to open the first round. Afterwards one is enough.
    pub min_workers: u32,
    /// The run ends after this time with too few workers.
    pub join_timeout_ms: Millis,
    /// A worker that has sent nothing for this long is lost. Several heartbeat intervals, so that a single
    /// late heartbeat does no harm.
    pub contact_timeout_ms: Millis,
    /// Leaves that a worker has not delivered after this time are also assigned to another worker.
    pub work_timeout_ms: Millis,
    /// Interval at which an ongoing wait is logged.
    pub notice_every_ms: Millis,
    /// Number of other shards, each of which keeps a part of the weights: a step is made once all of them
    /// have applied it. None is present at first.
    pub shards: u32,
    /// Number by which log lines and messages refer to the first of them; the others follow.
    pub first_shard: u32,
    /// Fraction of nodes, from 0 to 1, that a second worker recomputes for comparison. Requires that there
    /// are no other shards, because with shards no process sees a whole node.
    pub audit: f64,
    /// Selects the audited nodes. Must be unpredictable for workers.
    pub audit_seed: u64,
}

/// Opens rounds, assigns leaves, replaces lost workers and ends the run.
///
/// A driver passes everything that happens to [`ServerCore::step`], carries out the returned actions in
/// order, and passes [`ServerEvent::Timeout`] at [`ServerCore::deadline`]. [`ServerAction::Finish`] is the
/// last action.
///
/// An event updates the state (`step`). The consequences are then drawn in one place (`settle`), from the
/// state and the time alone, regardless of which event led there.
#[derive(Clone, Debug)]
pub struct ServerCore {
    config: ServerConfig,
    now: Millis,
    version: u64,
    members: Members,
    /// Contributors with unaudited sums in the weights.
    history: History,
    round_times: RoundTimes,
    /// Other shards that do not hold the weights of the current version.
    absent: BTreeSet<u32>,
    /// Whether a round was ever opened.
    begun: bool,
    /// Leaves that were delivered by a worker other than their first holder, which was late or lost.
    reassigned: u64,
    /// Number of nodes considered for audit, which is also the counter of the random draws; `audited` of
    /// them were chosen.
    audit_draws: u64,
    audited: u64,
    phase: Phase,
    /// Whether the run ends for good when it stops.
    ends: bool,
    /// When the phase began.
    since: Millis,
    /// When workers or shards began to be too few, if they are.
    short_since: Option<Millis>,
    notice_at: Millis,
    mutation: ActiveMutation,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Waiting for shards, and for the first `min_workers`.
    Waiting,
    /// Gathering the leaves of the step that `version` names.
    Open(Box<Round>),
    /// All leaves are in; the data plane is at work.
    Updating { stopping: bool },
    /// Wrong sums may be part of the weights, and those of an earlier version are being restored.
    RollingBack { stopping: bool },
    /// The run is over.
    Finished,
}

impl ServerCore {
    /// Creates a server that waits for workers.
    pub fn new(now: Millis, config: ServerConfig) -> Self {
        ServerCore {
            now,
            version: config.start_version,
            members: Members::default(),
            history: History::default(),
            round_times: RoundTimes::default(),
            absent: (0..config.shards).collect(),
            begun: false,
            reassigned: 0,
            audit_draws: 0,
            audited: 0,
            phase: Phase::Waiting,
            ends: false,
            since: now,
            short_since: Some(now),
            notice_at: now.saturating_add(config.notice_every_ms),
            mutation: ActiveMutation::default(),
            config,
        }
    }

    /// Adds deliberate faults, for tests of the tests.
    pub fn with_mutation(self, mutation: ActiveMutation) -> Self {
        ServerCore { mutation, ..self }
    }

    /// Continues with weights that contributors influenced before this process started. Each contributor
    /// comes with the step of its first unaudited sum.
    pub fn with_contributors(mut self, contributors: impl IntoIterator<Item = (Contributor, u64)>) -> Self {
        contributors.into_iter().for_each(|(contributor, step)| self.history.restore(contributor, step));
        self
    }

    /// Returns the contributors with unaudited sums in the weights, and the step of the first such sum. Empty
    /// if all nodes are audited, or none.
    pub fn contributors(&self) -> impl Iterator<Item = (Contributor, u64)> {
        self.history.iter()
    }

    /// Handles an event and appends the actions that follow from it.
    pub fn step(&mut self, now: Millis, event: ServerEvent, actions: &mut Vec<ServerAction>) {
        if matches!(self.phase, Phase::Finished) {
            return;
        }
        // Differences such as `self.now - heard` rely on a time that never decreases.
        self.now = self.now.max(now);
        match event {
            ServerEvent::Joined { worker } => self.join(worker, actions),
            ServerEvent::Identified { worker, contributor } => self.history.identify(worker, contributor),
            ServerEvent::Left { worker, reason } => self.on_worker_left(worker, reason, actions),
            ServerEvent::Refused { worker, why, counted } => self.refuse(worker, why, counted, actions),
            ServerEvent::MessageReceived { worker } => self.members.on_message(worker, self.now),
            ServerEvent::Contributed { worker, step, node, digest } => {
                self.contribute(worker, step, node, digest, actions);
            }
            ServerEvent::Dropped { worker } => {
                self.members.on_message(worker, self.now);
                self.members.record_dropped_work(worker);
            }
            ServerEvent::Recomputed { step, node, digest } => self.on_recomputed(step, node, digest, actions),
            ServerEvent::RolledBack { version } => self.on_rolled_back(Some(version), actions),
            ServerEvent::CannotRollBack => self.on_rolled_back(None, actions),
            ServerEvent::Applied { shard, step } => {
                if let Phase::Open(round) = &mut self.phase
                    && round.step == step
                {
                    round.mark_applied(shard);
                }
            }
            ServerEvent::Missing { shard, step, leaves } => {
                self.recompute_missing_leaves(shard, step, &leaves, actions);
            }
            ServerEvent::ShardLost { shard } => self.on_shard_lost(shard, actions),
            // Every shard counts as absent until it has restored the saved weights, so no round opens before
            // that.
            ServerEvent::Rewind(cause) => {
                if self.config.shards > 0 {
                    self.absent.extend(0..self.config.shards);
                    self.rewind(cause, actions);
                }
            }
            ServerEvent::Restored { version } => self.on_restored(version, actions),
            ServerEvent::WeightsWanted { worker } => self.resend_weights(worker, actions),
            ServerEvent::Updated { step } => self.on_updated(step, false, actions),
            ServerEvent::Concluded { step } => self.on_updated(step, true, actions),
            ServerEvent::Diverged { step } => self.on_diverged(step, actions),
            ServerEvent::Stop => self.stop(actions),
            ServerEvent::End => {
                self.ends = true;
                self.stop(actions);
            }
            ServerEvent::Timeout => {}
        }
        self.settle(actions);
    }

    /// Returns the time at which the driver must pass `Timeout` unless another event comes first.
    pub fn deadline(&self) -> Option<Millis> {
        if matches!(self.phase, Phase::Finished) {
            return None;
        }
        // `settle` ends such a run, but no event may ever come from outside.
        if self.is_over() {
            return Some(self.now);
        }
        let silent = self.members.longest_silent().map(|(heard, _)| self.silent_at(heard));
        let too_few = match self.phase {
            // Must agree with `fail_if_waited_too_long`, which does nothing in these phases: a deadline that
            // stayed in the past would make the driver spin.
            Phase::Updating { .. } | Phase::RollingBack { .. } => None,
            _ => self.short_since.map(|since| since.saturating_add(self.config.join_timeout_ms)),
        };
        let overdue = match &self.phase {
            Phase::Open(round) if round.is_complete() && !round.unapplied(self.config.shards).is_empty() => {
                Some(self.unapplied_at(round))
            }
            // Without a live worker there is nobody to assign leaves to, and `settle` waits for one to join.
            Phase::Open(round) if silent.is_some() && !round.is_complete() => Some(round.check_at),
            _ => None,
        };
        let audit = match &self.phase {
            Phase::Open(round) => round.audits.late_at(self.overdue(round)),
            _ => None,
        };
        // A round that closes can move this time into the past.
        let stuck = self.members.longest_stuck().and_then(|(since, _)| self.stuck_at(since));
        let stuck = stuck.map(|at| at.max(self.now + 1));
        [Some(self.notice_at), silent, too_few, overdue, audit, stuck].into_iter().flatten().min()
    }

    /// Returns the number of steps applied so far.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns a snapshot of the run at the time of the last event.
    pub fn status(&self) -> Status {
        let (waits_for, since) = self.waits_for();
        let loads = match &self.phase {
            Phase::Open(round) => round.loads(),
            _ => Default::default(),
        };
        let workers = self.members.iter().map(|(worker, member)| WorkerStatus {
            worker,
            state: member.state(),
            leaves: loads.get(&worker).copied().unwrap_or(0),
            last_heard: member.last_heard(),
            contributions: member.record().contributions,
            speed: member.record().speed(),
            held_up_ms: member.record().held_up_ms,
        });
        Status {
            now: self.now,
            version: self.version,
            steps: self.config.plan.steps,
            waits_for,
            since,
            reassigned: self.reassigned,
            audited: self.audited,
            workers: workers.collect(),
        }
    }

    fn waits_for(&self) -> (WaitsFor, Millis) {
        let step = self.version;
        let short = |since| {
            let (present, needed) = (self.members.live_count(), self.needed());
            (WaitsFor::Workers { step, present, needed }, since)
        };
        match (&self.phase, self.short_since) {
            (Phase::Finished, _) => (WaitsFor::Nothing, self.since),
            (Phase::Updating { .. }, _) => (WaitsFor::Update { step }, self.since),
            (Phase::RollingBack { .. }, _) => (WaitsFor::EarlierWeights { step }, self.since),
            (_, since) if !self.absent.is_empty() => {
                let shards = self.absent.iter().map(|&shard| self.number(shard)).collect();
                (WaitsFor::AbsentShards { step, shards }, since.unwrap_or(self.since))
            }
            (_, Some(since)) => short(since),
            (Phase::Waiting, None) => short(self.since),
            (Phase::Open(round), None) if round.is_complete() && !round.audits.are_settled() => {
                let audit = |(node, by): (Node, Option<WorkerId>)| MissingLeaves {
                    leaves: round.leaves_of(node),
                    holders: by.into_iter().collect(),
                };
                let audits = round.audits.open().into_iter().map(audit).collect();
                (WaitsFor::Audits { step, audits }, round.gathered.unwrap_or(round.opened))
            }
            (Phase::Open(round), None) if round.is_complete() => {
                let shards = round.unapplied(self.config.shards);
                let shards = shards.into_iter().map(|shard| self.number(shard)).collect();
                (WaitsFor::Shards { step, shards }, round.gathered.unwrap_or(round.opened))
            }
            (Phase::Open(round), None) => (WaitsFor::Leaves { step, missing: round.missing() }, round.opened),
        }
    }

    fn join(&mut self, worker: WorkerId, actions: &mut Vec<ServerAction>) {
        if !self.members.admit(worker, self.now) {
            return;
        }
        if self.has_weights() {
            self.send_weights(worker, actions);
        }
        let (step, present) = (self.version, self.members.live_count());
        let needed = (!self.begun).then_some(self.config.min_workers);
        actions.push(ServerAction::Notice(Notice::Joined { worker, step, present, needed }));
    }

    fn on_worker_left(&mut self, worker: WorkerId, reason: Departure, actions: &mut Vec<ServerAction>) {
        if self.members.remove_worker(worker, reason.clone()) {
            self.on_worker_lost(worker, LossCause::Departed(reason), actions);
        }
    }

    /// Removes a worker that sent an invalid message. The open step must not contain anything it sent.
    fn refuse(&mut self, worker: WorkerId, why: String, counted: bool, actions: &mut Vec<ServerAction>) {
        // Its connection is already closed, so it must be gone before `start_over` dismisses all live
        // workers.
        self.on_worker_left(worker, Departure::Misbehaved(why), actions);
        if let Phase::Open(round) = &self.phase
            && counted
            && !self.mutation.is(Mutation::SumsOfRefusedWorkerKept)
        {
            let step = round.step;
            self.start_over(step, actions);
        }
    }

    /// Gathers the open step again from the beginning.
    fn start_over(&mut self, step: u64, actions: &mut Vec<ServerAction>) {
        if let Phase::Open(round) = &mut self.phase {
            round.restart(self.now);
            actions.push(ServerAction::StartOver { step });
            // Messages that are on their way now may have begun to arrive before the restart, and the weights
            // of the discarded step may have been sent. Since nothing distinguishes valid from stale data,
            // all workers must reconnect.
            self.dismiss_all(Dismissal::Rewound(format!("step {step} is gathered again")), actions);
        }
    }

    /// Handles the loss of a live worker: its leaves go to others.
    fn on_worker_lost(&mut self, worker: WorkerId, cause: LossCause, actions: &mut Vec<ServerAction>) {
        let (step, present) = (self.version, self.members.live_count());
        let mut owed = None;
        if let Phase::Open(round) = &mut self.phase {
            owed = round.loads().get(&worker).copied();
            if self.mutation.is(Mutation::LostLeavesSkipped) {
                round.skip(worker, self.now);
            }
            if !self.mutation.is(Mutation::LostLeavesNotReassigned) {
                round.unassign(worker, self.now);
            }
            if self.config.shards > 0 {
                // A single server holds whatever it has counted. With shards, chunks of a counted node may
                // still be missing on one of them.
                round.discount(worker);
            }
        }
        actions.push(ServerAction::Notice(Notice::Lost { worker, step, cause, owed, present }));
    }

    fn contribute(
        &mut self,
        worker: WorkerId,
        step: u64,
        node: Node,
        digest: Option<Digest>,
        actions: &mut Vec<ServerAction>,
    ) {
        self.members.on_message(worker, self.now);
        // Precedes the checks below: even a late or superfluous sum shows that the worker is not stuck.
        if self.members.record_delivery(worker, self.now) {
            actions.push(ServerAction::Notice(Notice::Trusted { worker }));
        }
        let Phase::Open(round) = &mut self.phase else { return };
        let is_stale = round.step != step && !self.mutation.is(Mutation::StaleSumCounts);
        if is_stale || !round.has(node) {
            return;
        }
        let leaves = round.contribute(worker, node, digest, self.now);
        // The pace counts all leaves of the node, because the worker has computed even those that were
        // covered.
        self.members.record_node(worker, round.leaves_of(node).len() as u32, leaves > 0, self.now);
        if round.has_late || self.round_times.expected(0).is_none() {
            // A worker may be idle now, and this may be the first measurement of how long leaves take.
            round.check_at = self.now;
        }
        // A copy does not enter the sums, so only nodes that cover something are drawn.
        if leaves > 0 && digest.is_some() {
            self.audit(worker, node, actions);
        }
    }

    /// Draws whether to audit a node, and if so assigns it to a second worker, preferably an idle one.
    fn audit(&mut self, worker: WorkerId, node: Node, actions: &mut Vec<ServerAction>) {
        let Phase::Open(round) = &mut self.phase else { return };
        let [chance, choice, ..] = random(self.config.audit_seed, Purpose::Simulation, 0, self.audit_draws);
        self.audit_draws += 1;
        // With `audit` at 1, the bound is 2^32, which exceeds every draw, so no node escapes.
        if f64::from(chance) >= self.config.audit * 2_f64.powi(32) {
            return;
        }
        self.audited += 1;
        let loads = round.loads();
        // The step waits for the second copy, so it must not depend on an untrusted worker.
        let others: Vec<WorkerId> =
            self.members.trusted().into_iter().filter(|&other| other != worker).collect();
        let idle: Vec<WorkerId> =
            others.iter().copied().filter(|other| loads.get(other).is_none_or(|&load| load == 0)).collect();
        let from = if idle.is_empty() { others } else { idle };
        let second = (!from.is_empty()).then(|| from[choice as usize % from.len()]);
        round.audits.begin(node, second, self.now);
        if let Some(worker) = second {
            let (step, leaves) = (round.step, round.leaves_of(node));
            self.members.on_copy_requested(worker, self.now);
            actions.push(ServerAction::Assign { worker, step, leaves });
        }
    }

    /// The server has recomputed a node whose copies differ, or of which only one copy exists.
    fn on_recomputed(&mut self, step: u64, node: Node, digest: Digest, actions: &mut Vec<ServerAction>) {
        let Phase::Open(round) = &mut self.phase else { return };
        if round.step != step {
            return;
        }
        let leaves = round.leaves_of(node);
        let liars = round.audits.settle(node, digest);
        // A wrong copy that came second is not in the sums: its sender is banned, but the step goes on.
        let is_wrong = liars.iter().any(|&liar| round.counts_on(liar));
        let mut first = None;
        for worker in liars {
            let what = format!("its sum of {} of step {step} is wrong", Section::words(&leaves));
            let why = format!("{what}: it is banned");
            let since = self.history.take(worker);
            // Several liars are undone together, so the run returns to before the earliest of them.
            first = since.into_iter().chain(first).min();
            actions.push(ServerAction::Ban { worker, what, since });
            let reason = Dismissal::Banned(why.clone());
            // The ban also applies to a worker that has left, because it may come back.
            if self.members.is_live(worker) {
                self.members.drain(worker, reason.clone());
                actions.push(ServerAction::Dismiss { worker, reason: reason.clone() });
                self.on_worker_lost(worker, LossCause::Dismissed(reason), actions);
            } else {
                actions.push(ServerAction::Notice(Notice::LiarAlreadyGone { worker, why }));
            }
        }
        match first.filter(|_| !self.mutation.is(Mutation::PastSumsOfBannedWorkerKept)) {
            // Going back discards the open step, too.
            Some(since) => self.roll_back(since, actions),
            None if is_wrong && !self.mutation.is(Mutation::WrongSumNotDiscarded) => {
                self.start_over(step, actions)
            }
            None => {}
        }
    }

    /// Restores weights from before `since`, the first step that may contain wrong sums.
    fn roll_back(&mut self, since: u64, actions: &mut Vec<ServerAction>) {
        actions.push(ServerAction::RollBack { since });
        let why = format!("the weights since step {since} may contain wrong sums; the run goes back");
        self.dismiss_all(Dismissal::Rewound(why), actions);
        self.enter(Phase::RollingBack { stopping: false });
    }

    /// The weights of `version` are restored; with `None`, no earlier weights exist and the
    /// current ones stay.
    fn on_rolled_back(&mut self, version: Option<u64>, actions: &mut Vec<ServerAction>) {
        let Phase::RollingBack { stopping } = self.phase else { return };
        match version {
            Some(version) => {
                let (from, to) = (self.version, version);
                actions.push(ServerAction::Notice(Notice::Rewound { from, to }));
                self.version = version;
                self.history.roll_back(version);
            }
            // The weights stay, but the open step may also contain sums of the liar.
            None => actions.push(ServerAction::StartOver { step: self.version }),
        }
        if stopping {
            self.finish_stopped(actions);
            return;
        }
        self.enter(Phase::Waiting);
        // Workers that joined in the meantime got no weights, because none were valid.
        for worker in self.members.live() {
            self.send_weights(worker, actions);
        }
    }

    fn dismiss_all(&mut self, reason: Dismissal, actions: &mut Vec<ServerAction>) {
        for worker in self.members.live() {
            self.members.drain(worker, reason.clone());
            actions.push(ServerAction::Dismiss { worker, reason: reason.clone() });
        }
    }

    fn resend_weights(&mut self, worker: WorkerId, actions: &mut Vec<ServerAction>) {
        self.members.on_message(worker, self.now);
        let answers = self.has_weights() && !self.mutation.is(Mutation::LostWeightsNotResent);
        if self.members.is_live(worker) && answers {
            self.send_weights(worker, actions);
        }
    }

    /// Whether there is a current version to send. There is none while an update is under way, the
    /// run returns to earlier weights, or shards are absent; the version that follows is sent to
    /// every worker anyway.
    fn has_weights(&self) -> bool {
        self.absent.is_empty() && !matches!(self.phase, Phase::Updating { .. } | Phase::RollingBack { .. })
    }

    /// Workers may hold leaves of a step that will not be completed, so all of them must reconnect.
    fn on_shard_lost(&mut self, shard: u32, actions: &mut Vec<ServerAction>) {
        if !(0..self.config.shards).contains(&shard) {
            return;
        }
        let is_first = self.absent.is_empty();
        self.absent.insert(shard);
        // The loss of the first shard has sent all workers away. A further one only prolongs the wait.
        if !is_first {
            return;
        }
        let cause = RewindCause::ShardLost { shard: self.number(shard), step: self.version };
        self.rewind(cause, actions);
    }

    /// Sends all workers away and waits until every shard holds the saved weights.
    fn rewind(&mut self, cause: RewindCause, actions: &mut Vec<ServerAction>) {
        let why = cause.to_string();
        actions.push(ServerAction::Notice(Notice::Rewinding(cause)));
        self.dismiss_all(Dismissal::Rewound(why), actions);
        match self.phase {
            // The stop waits for an update that will not end any more.
            Phase::Updating { stopping: true } => self.finish_stopped(actions),
            _ => self.enter(Phase::Waiting),
        }
    }

    fn on_restored(&mut self, version: u64, actions: &mut Vec<ServerAction>) {
        if self.absent.is_empty() {
            return;
        }
        self.absent.clear();
        if version < self.version {
            let (from, to) = (self.version, version);
            actions.push(ServerAction::Notice(Notice::Rewound { from, to }));
        }
        self.version = version + u64::from(self.mutation.is(Mutation::ResumesAtNextStep));
        for worker in self.members.live() {
            self.send_weights(worker, actions);
        }
    }

    fn send_weights(&mut self, worker: WorkerId, actions: &mut Vec<ServerAction>) {
        actions.push(ServerAction::SendWeights { worker, version: self.version });
        self.members.start_training(worker);
    }

    fn on_updated(&mut self, step: u64, is_last: bool, actions: &mut Vec<ServerAction>) {
        let Phase::Updating { stopping } = self.phase else { return };
        if step != self.version {
            return;
        }
        self.version += 1;
        if is_last || self.version >= self.config.plan.steps {
            self.finish(Dismissal::Done, Outcome::Done, actions);
        } else if stopping {
            self.finish_stopped(actions);
        } else {
            for worker in self.members.live() {
                self.send_weights(worker, actions);
            }
            self.open_round();
        }
    }

    fn on_diverged(&mut self, step: u64, actions: &mut Vec<ServerAction>) {
        if matches!(self.phase, Phase::Updating { .. }) && step == self.version {
            let reason = format!("the loss or a weight is not finite at step {step}");
            self.finish(Dismissal::Failed(reason), Outcome::Diverged { step }, actions);
        }
    }

    fn stop(&mut self, actions: &mut Vec<ServerAction>) {
        match &mut self.phase {
            // The driver is replacing the weights and answers soon. The run ends on its answer, when the
            // weights are of one version again.
            Phase::Updating { stopping } | Phase::RollingBack { stopping } => *stopping = true,
            Phase::Waiting | Phase::Open(_) => self.finish_stopped(actions),
            Phase::Finished => {}
        }
    }

    fn finish_stopped(&mut self, actions: &mut Vec<ServerAction>) {
        let version = self.version;
        let (reason, outcome) = match self.ends {
            true => {
                let reason = format!("the run was ended on request after {version} steps");
                (Dismissal::Ended(reason), Outcome::Ended { version })
            }
            false => {
                let reason = format!("the server was stopped after {version} steps");
                (Dismissal::Stopped(reason), Outcome::Stopped { version })
            }
        };
        self.finish(reason, outcome, actions);
    }

    fn finish(&mut self, reason: Dismissal, outcome: Outcome, actions: &mut Vec<ServerAction>) {
        self.dismiss_all(reason, actions);
        actions.push(ServerAction::Finish(outcome));
        self.enter(Phase::Finished);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = self.now;
        self.notice_at = self.now.saturating_add(self.config.notice_every_ms);
    }

    fn open_round(&mut self) {
        let tree = self.config.plan.step(self.version).tree();
        self.enter(Phase::Open(Box::new(Round::open(self.version, tree, self.now))));
    }

    /// Draws all consequences of the current state and time.
    fn settle(&mut self, actions: &mut Vec<ServerAction>) {
        // Workers that are lost go first, so that they do not count towards a new round.
        self.dismiss_silent_workers(actions);
        self.dismiss_stuck_workers(actions);
        self.count_workers();
        if self.is_over() {
            self.finish(Dismissal::Done, Outcome::Done, actions);
        } else if matches!(self.phase, Phase::Waiting) && self.short_since.is_none() {
            self.begun = true;
            self.open_round();
            self.count_workers();
        }
        self.request_missing_leaves(actions);
        let shards = self.config.shards;
        let overdue = match &self.phase {
            Phase::Open(round) => self.overdue(round),
            _ => 0,
        };
        if let Phase::Open(round) = &mut self.phase {
            // Precedes `take_requests`, which then includes the nodes whose second copy is late.
            round.audits.expire(self.now, overdue);
            let step = round.step;
            actions.extend(
                round.audits.take_requests().into_iter().map(|node| ServerAction::Recompute { step, node }),
            );
            if round.is_complete() {
                let is_applied =
                    round.unapplied(shards).is_empty() || self.mutation.is(Mutation::ShardsNotAwaited);
                let is_audited = round.audits.are_settled() || self.mutation.is(Mutation::AuditsNotAwaited);
                if is_applied && is_audited {
                    actions.push(ServerAction::Update { step: round.step });
                    // If all nodes are audited, no wrong sum enters the weights; if none are, nobody is ever
                    // caught.
                    if self.config.audit > 0.0 && self.config.audit < 1.0 {
                        self.history.commit(round.contributors(), round.step);
                    }
                    let [silent, idle] = round.silent_and_idle(&self.members.live());
                    // Time without a result lowers a worker's pace. Otherwise one that has become slow would
                    // keep the pace of its last delivery, and its share of the leaves.
                    silent.into_iter().for_each(|worker| self.members.record_empty_round(worker, self.now));
                    idle.into_iter().for_each(|worker| self.members.decay(worker));
                    if let Some((worker, waited)) = round.held_up_by() {
                        self.members.attribute_wait(worker, waited);
                    }
                    self.reassigned += u64::from(round.reassigned);
                    self.round_times.record(self.now - round.opened, round.all_leaves());
                    self.enter(Phase::Updating { stopping: false });
                }
            } else if round.check_at <= self.now && self.members.live_count() > 0 {
                let never = self.mutation.is(Mutation::OverdueLeavesNotReassigned);
                let timeout = if never { Millis::MAX } else { self.config.work_timeout_ms };
                assign_missing(round, &mut self.members, &self.round_times, self.now, timeout, actions);
            }
        }
        self.fail_if_waited_too_long(actions);
        if !matches!(self.phase, Phase::Finished) && self.notice_at <= self.now {
            let (waits_for, since) = self.waits_for();
            let waited_ms = self.now.saturating_sub(since);
            actions.push(ServerAction::Notice(Notice::Waiting { waits_for, waited_ms }));
            self.notice_at = self.now.saturating_add(self.config.notice_every_ms);
        }
    }

    fn dismiss_silent_workers(&mut self, actions: &mut Vec<ServerAction>) {
        while let Some((heard, worker)) = self.members.longest_silent()
            && self.silent_at(heard) <= self.now
            && !matches!(self.phase, Phase::Finished)
        {
            let reason = Dismissal::Silent { silent_ms: self.now - heard };
            self.members.drain(worker, reason.clone());
            actions.push(ServerAction::Dismiss { worker, reason: reason.clone() });
            self.on_worker_lost(worker, LossCause::Dismissed(reason), actions);
        }
    }

    fn silent_at(&self, heard: Millis) -> Millis {
        heard.saturating_add(self.config.contact_timeout_ms)
    }

    /// Sends away workers that answer heartbeats but never deliver.
    fn dismiss_stuck_workers(&mut self, actions: &mut Vec<ServerAction>) {
        while let Some((since, worker)) = self.members.longest_stuck()
            && self.stuck_at(since).is_some_and(|at| at <= self.now)
        {
            let reason = Dismissal::Stuck { held_ms: self.now - since };
            self.members.drain(worker, reason.clone());
            actions.push(ServerAction::Dismiss { worker, reason: reason.clone() });
            self.on_worker_lost(worker, LossCause::Dismissed(reason), actions);
        }
    }

    /// The time at which a worker is sent away that has held work since `since` while others delivered.
    /// `None` in the first round, because nothing is known yet about how long the work takes.
    fn stuck_at(&self, since: Millis) -> Option<Millis> {
        let leaves = match &self.phase {
            Phase::Open(round) => round.all_leaves(),
            _ => 0,
        };
        Some(since.saturating_add(self.round_times.stuck(leaves, self.config.work_timeout_ms)?))
    }

    /// The coordinator has all leaves, but a shard has not applied the step: a worker may have stopped after
    /// sending to one server and before sending to the next, or the shard may just be slow.
    fn request_missing_leaves(&mut self, actions: &mut Vec<ServerAction>) {
        let Phase::Open(round) = &self.phase else { return };
        let (step, missing) = (round.step, round.unapplied(self.config.shards));
        if !round.is_complete() || missing.is_empty() || self.unapplied_at(round) > self.now {
            return;
        }
        let waited_ms = self.now - round.gathered.unwrap_or(round.opened);
        let shards = missing.into_iter().map(|shard| self.number(shard)).collect();
        actions.push(ServerAction::Notice(Notice::Unapplied { step, shards, waited_ms }));
        actions.push(ServerAction::RequestMissing { step });
        if let Phase::Open(round) = &mut self.phase {
            round.asked = Some((self.now, round.asked.map_or(1, |(_, times)| times + 1)));
            // Nodes that are still missing at the next answer are assigned again: their copies did not arrive
            // either.
            round.copied.clear();
        }
    }

    /// A shard lacks leaves that the coordinator has. Other workers recompute each affected node; the shard
    /// ignores those chunks of the copy that it already has.
    fn recompute_missing_leaves(
        &mut self,
        shard: u32,
        step: u64,
        leaves: &[Range<u32>],
        actions: &mut Vec<ServerAction>,
    ) {
        let shard = self.number(shard);
        let Phase::Open(round) = &mut self.phase else { return };
        // While leaves are missing here as well, `assign_missing` deals with them.
        if round.step != step || !round.is_complete() {
            return;
        }
        let is_missing = |node: Node| {
            let its = round.leaves_of(node);
            leaves.iter().any(|missing| missing.start < its.end && its.start < missing.end)
        };
        // Several shards may lack the same node, and one copy reaches all of them.
        let affected: Vec<(WorkerId, Node)> = round
            .contributions()
            .iter()
            .copied()
            .filter(|&(_, node)| is_missing(node) && !round.copied.contains(&node))
            .collect();
        let trusted = self.members.trusted();
        for (sender, node) in affected {
            let mut takers: Vec<WorkerId> =
                trusted.iter().copied().filter(|&worker| worker != sender).collect();
            if takers.is_empty() {
                takers = trusted.clone();
            }
            round.copied.insert(node);
            let leaves = round.leaves_of(node);
            let shares = assign(leaves.clone(), &vec![1.0; takers.len()]);
            let shares = takers.iter().copied().zip(shares).filter(|(_, leaves)| !leaves.is_empty());
            let (taken, shares): (Vec<WorkerId>, Vec<Range<u32>>) = shares.unzip();
            for (&worker, leaves) in taken.iter().zip(shares) {
                self.members.on_copy_requested(worker, self.now);
                actions.push(ServerAction::Assign { worker, step, leaves });
            }
            let notice = Notice::NotReached { step, leaves, sender, shard, takers: taken };
            actions.push(ServerAction::Notice(notice));
            // As in `assign_missing`: if nobody else is trusted, there is no evidence that another would do
            // better.
            if !takers.contains(&sender) && self.members.record_miss(sender) {
                actions.push(ServerAction::Notice(Notice::OnProbation { worker: sender }));
            }
        }
    }

    /// The time at which shards are asked (again) for the leaves they lack, although all leaves are in here.
    /// The pause doubles each time.
    fn unapplied_at(&self, round: &Round) -> Millis {
        if self.mutation.is(Mutation::UnappliedLeavesNotReassigned) {
            return Millis::MAX;
        }
        let gathered = round.gathered.unwrap_or(round.opened);
        let (asked, times) = round.asked.unwrap_or((gathered, 0));
        let pause = self.overdue(round).saturating_mul(1 << times.min(MAX_DOUBLINGS));
        gathered.max(asked).saturating_add(pause)
    }

    /// How long a round whose leaves are all in may wait for audits or other shards.
    fn overdue(&self, round: &Round) -> Millis {
        let gathered = round.gathered.unwrap_or(self.now) - round.opened;
        self.round_times.overdue(round.all_leaves(), gathered, self.config.work_timeout_ms)
    }

    /// Whether the run was already complete when it was saved, and all shards hold its weights.
    fn is_over(&self) -> bool {
        let waits = matches!(self.phase, Phase::Waiting) && self.absent.is_empty();
        waits && self.version >= self.config.plan.steps
    }

    /// The shard's number as users know it.
    fn number(&self, shard: u32) -> u32 {
        shard + self.config.first_shard
    }

    fn needed(&self) -> u32 {
        if self.begun { 1 } else { self.config.min_workers.max(1) }
    }

    fn count_workers(&mut self) {
        self.short_since = match self.members.live_count() < self.needed() || !self.absent.is_empty() {
            true => self.short_since.or(Some(self.now)),
            false => None,
        };
    }

    fn fail_if_waited_too_long(&mut self, actions: &mut Vec<ServerAction>) {
        let Some(since) = self.short_since else { return };
        if !matches!(self.phase, Phase::Waiting | Phase::Open(_))
            || since.saturating_add(self.config.join_timeout_ms) > self.now
        {
            return;
        }
        let (present, needed, waited_ms) = (self.members.live_count(), self.needed(), self.now - since);
        // Reported before missing workers, which are a consequence: the loss of a shard sends all workers
        // away.
        if !self.absent.is_empty() {
            let shards: Vec<u32> = self.absent.iter().map(|&shard| self.number(shard)).collect();
            let reason = format!("shards {shards:?} were missing for {waited_ms} ms");
            self.finish(Dismissal::Failed(reason), Outcome::ShardsMissing { shards, waited_ms }, actions);
            return;
        }
        let reason = format!("too few workers for {waited_ms} ms: {needed} needed, {present} present");
        self.finish(
            Dismissal::Failed(reason),
            Outcome::TooFewWorkers { present, needed, waited_ms },
            actions,
        );
    }
}
