//! The worker's half of the round logic.

use crate::event::{Dismissal, Millis, WorkerAction, WorkerEvent, WorkerOutcome};
use crate::notice::WorkerNotice;
use ps_plan::mutation::{ActiveMutation, Mutation};
use ps_plan::seed::{Purpose, random};
use std::collections::VecDeque;
use std::ops::Range;

/// Settings of the worker's logic.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Interval between heartbeats, each of which the server answers.
    pub heartbeat_ms: Millis,
    /// The connection counts as lost if the server sends nothing for this long.
    pub server_timeout_ms: Millis,
    /// The worker asks for weights that it needs for work in hand if they have not arrived after this time.
    pub weights_timeout_ms: Millis,
    /// The first pause before reconnecting; each further one is twice as long.
    pub reconnect_min_ms: Millis,
    /// Upper bound for these pauses.
    pub reconnect_max_ms: Millis,
    /// The worker ends if the server is out of reach for this long.
    pub give_up_ms: Millis,
    /// Seed of the pauses' jitter. Must differ between workers so that they do not all reconnect at once.
    pub jitter_seed: u64,
}

/// Connects, computes assigned leaves with exactly the weights they were assigned for, and reconnects.
///
/// A driver passes everything that happens to [`WorkerCore::step`], carries out the returned actions in
/// order, and passes [`WorkerEvent::Timeout`] at [`WorkerCore::deadline`]. [`WorkerAction::Finish`] is the
/// last action.
#[derive(Clone, Debug)]
pub struct WorkerCore {
    config: WorkerConfig,
    now: Millis,
    link: Link,
    /// Whether the worker leaves as soon as its current results are sent.
    leaving: bool,
    /// The computation under way. It outlives a connection because it cannot be cancelled.
    computing: Option<Computing>,
    /// Number of pauses so far, which is the counter of their jitter.
    pauses: u64,
    mutation: ActiveMutation,
}

#[derive(Clone, Debug)]
enum Link {
    /// The next attempt starts at `until`.
    Pausing { until: Millis, search: ReconnectState },
    /// An attempt is under way; it fails at `until`.
    Connecting { until: Millis, search: ReconnectState },
    /// The server has admitted this worker.
    Serving(Serving),
    /// The worker is done.
    Finished,
}

/// The search for the server since it was last of use.
#[derive(Clone, Debug)]
struct ReconnectState {
    since: Millis,
    attempts: u32,
    last_error: String,
}

/// The state of one connection.
#[derive(Clone, Debug)]
struct Serving {
    last_heard: Millis,
    heartbeat_at: Millis,
    /// The version of the weights that the driver holds from this connection.
    held: Option<u64>,
    /// The newest step for which work or weights have arrived; everything older is obsolete.
    newest: u64,
    /// Work of the newest step that has not begun.
    queue: VecDeque<Range<u32>>,
    /// Set while work waits for its weights.
    missing: Option<MissingWeights>,
    /// The search that led to this connection, kept until the connection proves useful: an admission alone
    /// must not reset the time after which the worker gives up.
    search: Option<ReconnectState>,
}

#[derive(Clone, Copy, Debug)]
struct MissingWeights {
    since: Millis,
    ask_at: Millis,
}

#[derive(Clone, Debug)]
struct Computing {
    step: u64,
    leaves: Range<u32>,
    /// Whether it was begun on the current connection.
    wanted: bool,
}

impl WorkerCore {
    /// Creates a worker whose first deadline is `now`, at which it connects.
    pub fn new(now: Millis, config: WorkerConfig) -> Self {
        let search = ReconnectState { since: now, attempts: 0, last_error: "no attempt was made".into() };
        WorkerCore {
            config,
            now,
            link: Link::Pausing { until: now, search },
            leaving: false,
            computing: None,
            pauses: 0,
            mutation: ActiveMutation::default(),
        }
    }

    /// Adds deliberate faults, for tests of the tests.
    pub fn with_mutation(self, mutation: ActiveMutation) -> Self {
        WorkerCore { mutation, ..self }
    }

    /// Handles an event and appends the actions that follow from it.
    pub fn step(&mut self, now: Millis, event: WorkerEvent, actions: &mut Vec<WorkerAction>) {
        if matches!(self.link, Link::Finished) {
            return;
        }
        self.now = self.now.max(now);
        if let Link::Serving(serving) = &mut self.link
            && matches!(
                event,
                WorkerEvent::Assigned { .. } | WorkerEvent::Weights { .. } | WorkerEvent::MessageReceived
            )
        {
            serving.last_heard = self.now;
        }
        match event {
            WorkerEvent::Connected => self.connected(),
            WorkerEvent::Disconnected(why) => self.disconnected(why, actions),
            WorkerEvent::Assigned { step, leaves } => self.assigned(step, leaves, actions),
            WorkerEvent::Weights { version } => self.weights(version, actions),
            WorkerEvent::Computed { step, leaves } => self.computed(step, leaves, actions),
            WorkerEvent::Superseded { step, leaves } => {
                // Makes the work obsolete, so that `computed` reports it as dropped instead of pushing it.
                if let Link::Serving(serving) = &mut self.link {
                    serving.advance_to(step + 1, self.computing.is_none(), actions);
                }
                self.computed(step, leaves, actions);
            }
            WorkerEvent::Dismissed(reason) => self.dismissed(reason, actions),
            WorkerEvent::MessageReceived | WorkerEvent::Timeout => {}
            WorkerEvent::Stop => self.leaving = true,
        }
        self.settle(actions);
    }

    /// Returns the time at which the driver must pass `Timeout` unless another event comes first.
    pub fn deadline(&self) -> Option<Millis> {
        match &self.link {
            Link::Pausing { until, search } | Link::Connecting { until, search } => {
                Some((*until).min(self.give_up_at(search)))
            }
            Link::Serving(serving) => {
                let ask_at = serving.missing.map_or(Millis::MAX, |missing| missing.ask_at);
                Some(serving.heartbeat_at.min(self.silent_at(serving)).min(ask_at))
            }
            Link::Finished => None,
        }
    }

    fn connected(&mut self) {
        if let Link::Connecting { search, .. } = &self.link {
            self.link = Link::Serving(Serving {
                last_heard: self.now,
                heartbeat_at: self.now.saturating_add(self.config.heartbeat_ms),
                held: None,
                newest: 0,
                queue: VecDeque::new(),
                missing: None,
                search: Some(search.clone()),
            });
        }
    }

    /// The connection, or the attempt at one, has failed: try again after a pause.
    fn disconnected(&mut self, why: String, actions: &mut Vec<WorkerAction>) {
        let (mut search, was_connected) = match &self.link {
            Link::Serving(serving) => {
                let fresh = ReconnectState { since: self.now, attempts: 0, last_error: String::new() };
                (serving.search.clone().unwrap_or(fresh), true)
            }
            Link::Connecting { search, .. } => (search.clone(), false),
            Link::Pausing { .. } | Link::Finished => return,
        };
        // Some chunks may have gone over the old connection. If the others went over the new one, the server
        // would never get a complete node.
        if let Some(computing) = &mut self.computing {
            computing.wanted = self.mutation.is(Mutation::SumsPushedOverNewConnection);
        }
        let pause_ms = self.pause(search.attempts);
        let notice = WorkerNotice::Retrying { was_connected, why: why.clone(), pause_ms };
        actions.push(WorkerAction::Notice(notice));
        search.attempts = search.attempts.saturating_add(1);
        search.last_error = why;
        self.link = Link::Pausing { until: self.now.saturating_add(pause_ms), search };
    }

    /// Doubling pauses, each shortened at random by up to half.
    fn pause(&mut self, attempts: u32) -> Millis {
        let doubled = self.config.reconnect_min_ms.saturating_mul(1 << attempts.min(30));
        let longest = doubled.min(self.config.reconnect_max_ms);
        // The jitter only delays and influences no weight, so it may share the simulator's purpose.
        let word = random(self.config.jitter_seed, Purpose::Simulation, 0, self.pauses)[0];
        self.pauses += 1;
        longest - ((u128::from(longest / 2) * u128::from(word)) >> 32) as Millis
    }

    fn assigned(&mut self, step: u64, leaves: Range<u32>, actions: &mut Vec<WorkerAction>) {
        let Link::Serving(serving) = &mut self.link else { return };
        serving.search = None;
        serving.advance_to(step, self.computing.is_none(), actions);
        // Without a report, the server would count the assignment as held, and this worker as stuck.
        if step < serving.newest && self.computing.is_none() {
            actions.push(WorkerAction::ReportDropped { step });
        }
        if self.mutation.is(Mutation::WeightsOfWrongStepUsed) {
            serving.held = serving.held.map(|_| serving.newest);
        }
        let in_hand = serving.queue.contains(&leaves)
            || self.computing.as_ref().is_some_and(|c| c.wanted && c.step == step && c.leaves == leaves);
        // Work that is already done is done again, because its sums may not have arrived. Part of the work in
        // hand is done again, too, because the server may want exactly that node.
        if step == serving.newest && !in_hand && !leaves.is_empty() {
            serving.queue.push_back(leaves);
        }
    }

    fn weights(&mut self, version: u64, actions: &mut Vec<WorkerAction>) {
        let Link::Serving(serving) = &mut self.link else { return };
        serving.search = None;
        serving.advance_to(version, self.computing.is_none(), actions);
        serving.held = Some(version);
    }

    /// Whether the result of the current computation would be pushed if it ended now. Once this is false, it
    /// stays false until the computation ends.
    pub fn wants_sums(&self) -> bool {
        let newest = match &self.link {
            Link::Serving(serving) => Some(serving.newest),
            _ => None,
        };
        self.computing.as_ref().is_some_and(|computing| computing.wanted && newest == Some(computing.step))
    }

    fn computed(&mut self, step: u64, leaves: Range<u32>, actions: &mut Vec<WorkerAction>) {
        let wanted = self.wants_sums();
        let Some(computing) = self.computing.take_if(|c| c.step == step && c.leaves == leaves) else {
            return;
        };
        actions.push(match wanted {
            true => WorkerAction::Push { step, leaves },
            false => WorkerAction::Discard { step, leaves },
        });
        // The server does not wait for work that was assigned on an earlier connection.
        if !wanted && computing.wanted && matches!(self.link, Link::Serving(_)) {
            actions.push(WorkerAction::ReportDropped { step });
        }
    }

    fn dismissed(&mut self, reason: Dismissal, actions: &mut Vec<WorkerAction>) {
        match reason {
            Dismissal::Done => self.finish(WorkerOutcome::Done, actions),
            Dismissal::Ended(why) => self.finish(WorkerOutcome::Ended(why), actions),
            Dismissal::Failed(why) => self.finish(WorkerOutcome::Failed(why), actions),
            Dismissal::Silent { silent_ms } => {
                self.disconnected(
                    format!("the server received nothing from this worker for {silent_ms} ms"),
                    actions,
                );
            }
            Dismissal::Stuck { held_ms } => {
                self.disconnected(
                    format!("the server received no result from this worker for {held_ms} ms"),
                    actions,
                );
            }
            Dismissal::Stopped(why) | Dismissal::Rewound(why) => self.disconnected(why, actions),
            Dismissal::Banned(why) => self.finish(WorkerOutcome::Banned(why), actions),
        }
    }

    fn finish(&mut self, outcome: WorkerOutcome, actions: &mut Vec<WorkerAction>) {
        actions.push(WorkerAction::Finish(outcome));
        self.link = Link::Finished;
    }

    fn give_up_at(&self, search: &ReconnectState) -> Millis {
        search.since.saturating_add(self.config.give_up_ms)
    }

    fn silent_at(&self, serving: &Serving) -> Millis {
        serving.last_heard.saturating_add(self.config.server_timeout_ms)
    }

    /// Draws all consequences of the current state and time.
    fn settle(&mut self, actions: &mut Vec<WorkerAction>) {
        if self.leaving && !self.wants_sums() {
            // Leaving returns work that has not begun to the server.
            return self.finish(WorkerOutcome::Stopped, actions);
        }
        let silent = match &self.link {
            Link::Serving(serving) if self.silent_at(serving) <= self.now => self.now - serving.last_heard,
            Link::Connecting { until, .. } if *until <= self.now => self.config.server_timeout_ms,
            _ => 0,
        };
        if silent > 0 {
            self.disconnected(format!("no message from the server for {silent} ms"), actions);
        }
        match &mut self.link {
            Link::Pausing { search, .. } | Link::Connecting { search, .. }
                if search.since.saturating_add(self.config.give_up_ms) <= self.now =>
            {
                let outcome = WorkerOutcome::Unreachable {
                    last: std::mem::take(&mut search.last_error),
                    waited_ms: self.now - search.since,
                };
                self.finish(outcome, actions);
            }
            Link::Pausing { until, search } if *until <= self.now => {
                let until = self.now.saturating_add(self.config.server_timeout_ms);
                self.link = Link::Connecting { until, search: search.clone() };
                actions.push(WorkerAction::Connect);
            }
            Link::Serving(serving) => {
                if serving.heartbeat_at <= self.now {
                    serving.heartbeat_at = self.now.saturating_add(self.config.heartbeat_ms);
                    actions.push(WorkerAction::Heartbeat);
                }
                serving.work(self.now, &self.config, &mut self.computing, actions);
            }
            _ => {}
        }
    }
}

impl Serving {
    /// Drops work for steps before `step`: the server no longer needs it.
    fn advance_to(&mut self, step: u64, is_idle: bool, actions: &mut Vec<WorkerAction>) {
        if step > self.newest {
            // A worker that is computing reports this when the computation ends.
            if is_idle && !self.queue.is_empty() {
                actions.push(WorkerAction::ReportDropped { step: self.newest });
            }
            self.newest = step;
            self.queue.clear();
            self.missing = None;
        }
    }

    /// Begins the next work if nothing is being computed and its weights are here; asks for the weights if
    /// they do not come.
    fn work(
        &mut self,
        now: Millis,
        config: &WorkerConfig,
        computing: &mut Option<Computing>,
        actions: &mut Vec<WorkerAction>,
    ) {
        let step = self.newest;
        if self.queue.is_empty() {
            return;
        }
        if self.held == Some(step) {
            self.missing = None;
            if computing.is_none()
                && let Some(leaves) = self.queue.pop_front()
            {
                *computing = Some(Computing { step, leaves: leaves.clone(), wanted: true });
                actions.push(WorkerAction::Compute { step, leaves });
            }
            return;
        }
        let ask_at = now.saturating_add(config.weights_timeout_ms);
        let missing = self.missing.get_or_insert(MissingWeights { since: now, ask_at });
        if missing.ask_at <= now {
            // The pause doubles each time because large weights may simply take long.
            missing.ask_at = ask_at.max(now + (now - missing.since));
            let notice = WorkerNotice::WeightsLate { step, held: self.held, waited_ms: now - missing.since };
            actions.push(WorkerAction::Notice(notice));
            actions.push(WorkerAction::RequestWeights);
        }
    }
}
