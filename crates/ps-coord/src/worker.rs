//! The worker's half of the round logic.

use crate::event::{Dismissal, Millis, WorkerAction, WorkerEvent, WorkerOutcome};
use crate::notice::WorkerNotice;
use ps_plan::planted::{Defect, Planted};
use ps_plan::seed::{Purpose, random};
use std::collections::VecDeque;
use std::ops::Range;

/// What a worker goes by.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The server is told this often that we live; it answers each time.
    pub heartbeat_ms: Millis,
    /// Nothing heard from the server for this long: the connection counts as lost.
    pub server_timeout_ms: Millis,
    /// Work in hand but its weights missing for this long: they are asked for.
    pub weights_timeout_ms: Millis,
    /// The pause before the first attempt to reconnect; it doubles from one to the next.
    pub reconnect_min_ms: Millis,
    /// The longest pause.
    pub reconnect_max_ms: Millis,
    /// The server out of reach for this long ends the worker.
    pub give_up_ms: Millis,
    /// Seed of the pauses' jitter, different for every worker, so that they do not all come back at once.
    pub jitter_seed: u64,
}

/// Connects, computes what it is given at exactly the weights it was given it for, reconnects.
#[derive(Clone, Debug)]
pub struct WorkerCore {
    config: WorkerConfig,
    now: Millis,
    link: Link,
    /// Whether the worker leaves as soon as what it computes is sent.
    leaving: bool,
    /// The computation under way; it outlives a connection, for it cannot be called back.
    computing: Option<Computing>,
    /// Pauses so far, the counter of their jitter.
    pauses: u64,
    planted: Planted,
}

#[derive(Clone, Debug)]
enum Link {
    /// The next attempt is made at `until`.
    Pausing { until: Millis, search: Search },
    /// An attempt is under way.
    Connecting { until: Millis, search: Search },
    /// The server has admitted us.
    Serving(Serving),
    /// Nothing happens any more.
    Finished,
}

/// The search for the server since it was last of use.
#[derive(Clone, Debug)]
struct Search {
    since: Millis,
    attempts: u32,
    last: String,
}

/// One connection.
#[derive(Clone, Debug)]
struct Serving {
    heard: Millis,
    beat_at: Millis,
    /// The version of the weights that the driver holds from this connection.
    held: Option<u64>,
    /// The newest step that work or weights were seen for; whatever is older is of no use to anybody.
    newest: u64,
    /// Work of the newest step that is not begun.
    queue: VecDeque<Range<u32>>,
    /// Since when, and until when at the latest, work waits for its weights.
    lacking: Option<Lacking>,
    /// The search that led here, until the connection has proved to be of use.
    search: Option<Search>,
}

#[derive(Clone, Copy, Debug)]
struct Lacking {
    since: Millis,
    ask_at: Millis,
}

#[derive(Clone, Debug)]
struct Computing {
    step: u64,
    leaves: Range<u32>,
    /// Whether it was begun on the connection that now is.
    wanted: bool,
}

impl WorkerCore {
    /// A worker whose first deadline is `now`: it then connects.
    pub fn new(now: Millis, config: WorkerConfig) -> Self {
        let search = Search { since: now, attempts: 0, last: "no attempt was made".into() };
        WorkerCore {
            config,
            now,
            link: Link::Pausing { until: now, search },
            leaving: false,
            computing: None,
            pauses: 0,
            planted: Planted::default(),
        }
    }

    /// The same, with a defect.
    pub fn planted(self, planted: Planted) -> Self {
        WorkerCore { planted, ..self }
    }

    /// Takes in what has happened and appends what is to be done about it.
    pub fn step(&mut self, now: Millis, event: WorkerEvent, actions: &mut Vec<WorkerAction>) {
        if matches!(self.link, Link::Finished) {
            return;
        }
        self.now = self.now.max(now);
        if let Link::Serving(serving) = &mut self.link
            && matches!(
                event,
                WorkerEvent::Assigned { .. } | WorkerEvent::Weights { .. } | WorkerEvent::Heard
            )
        {
            serving.heard = self.now;
        }
        match event {
            WorkerEvent::Connected => self.connected(),
            WorkerEvent::Disconnected(why) => self.disconnected(why, actions),
            WorkerEvent::Assigned { step, leaves } => self.assigned(step, leaves, actions),
            WorkerEvent::Weights { version } => self.weights(version, actions),
            WorkerEvent::Computed { step, leaves } => self.computed(step, leaves, actions),
            WorkerEvent::Superseded { step, leaves } => {
                if let Link::Serving(serving) = &mut self.link {
                    serving.advance_to(step + 1, self.computing.is_none(), actions);
                }
                self.computed(step, leaves, actions);
            }
            WorkerEvent::Dismissed(reason) => self.dismissed(reason, actions),
            WorkerEvent::Heard | WorkerEvent::Timeout => {}
            WorkerEvent::Stop => self.leaving = true,
        }
        self.settle(actions);
    }

    /// When the driver must step with `Timeout`, unless something happens before.
    pub fn deadline(&self) -> Option<Millis> {
        match &self.link {
            Link::Pausing { until, search } | Link::Connecting { until, search } => {
                Some((*until).min(self.give_up_at(search)))
            }
            Link::Serving(serving) => {
                let ask_at = serving.lacking.map_or(Millis::MAX, |lacking| lacking.ask_at);
                Some(serving.beat_at.min(self.silent_at(serving)).min(ask_at))
            }
            Link::Finished => None,
        }
    }

    fn connected(&mut self) {
        if let Link::Connecting { search, .. } = &self.link {
            self.link = Link::Serving(Serving {
                heard: self.now,
                beat_at: self.now.saturating_add(self.config.heartbeat_ms),
                held: None,
                newest: 0,
                queue: VecDeque::new(),
                lacking: None,
                search: Some(search.clone()),
            });
        }
    }

    /// The connection, or the attempt at one, has failed: try again after a pause.
    fn disconnected(&mut self, why: String, actions: &mut Vec<WorkerAction>) {
        let (mut search, was_connected) = match &self.link {
            Link::Serving(serving) => {
                let fresh = Search { since: self.now, attempts: 0, last: String::new() };
                (serving.search.clone().unwrap_or(fresh), true)
            }
            Link::Connecting { search, .. } => (search.clone(), false),
            Link::Pausing { .. } | Link::Finished => return,
        };
        if let Some(computing) = &mut self.computing {
            computing.wanted = self.planted.has(Defect::SumsOfOldConnection);
        }
        let pause_ms = self.pause(search.attempts);
        let notice = WorkerNotice::Retrying { was_connected, why: why.clone(), pause_ms };
        actions.push(WorkerAction::Notice(notice));
        search.attempts = search.attempts.saturating_add(1);
        search.last = why;
        self.link = Link::Pausing { until: self.now.saturating_add(pause_ms), search };
    }

    /// Doubling pauses, each shortened by up to a half at random.
    fn pause(&mut self, attempts: u32) -> Millis {
        let doubled = self.config.reconnect_min_ms.saturating_mul(1 << attempts.min(30));
        let longest = doubled.min(self.config.reconnect_max_ms);
        // Jitter is delay: no weight depends on it, so it shares the simulator's purpose.
        let word = random(self.config.jitter_seed, Purpose::Simulation, 0, self.pauses)[0];
        self.pauses += 1;
        longest - ((u128::from(longest / 2) * u128::from(word)) >> 32) as Millis
    }

    fn assigned(&mut self, step: u64, leaves: Range<u32>, actions: &mut Vec<WorkerAction>) {
        let Link::Serving(serving) = &mut self.link else { return };
        serving.search = None;
        serving.advance_to(step, self.computing.is_none(), actions);
        if step < serving.newest && self.computing.is_none() {
            actions.push(WorkerAction::TellDropped { step });
        }
        if self.planted.has(Defect::WeightsOfAnotherStep) {
            serving.held = serving.held.map(|_| serving.newest);
        }
        let in_hand = serving.queue.contains(&leaves)
            || self.computing.as_ref().is_some_and(|c| c.wanted && c.step == step && c.leaves == leaves);
        // Work that is done already is done again: its sums may not have arrived. So is a part of what is in hand: the
        // server may want just that node.
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

    /// Whether what is being computed would be pushed now. Once it would not be, it never will.
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
        // Another connection's work is nothing that this server waits for.
        if !wanted && computing.wanted && matches!(self.link, Link::Serving(_)) {
            actions.push(WorkerAction::TellDropped { step });
        }
    }

    fn dismissed(&mut self, reason: Dismissal, actions: &mut Vec<WorkerAction>) {
        match reason {
            Dismissal::Done => self.finish(WorkerOutcome::Done, actions),
            Dismissal::Ended(why) => self.finish(WorkerOutcome::Ended(why), actions),
            Dismissal::Failed(why) => self.finish(WorkerOutcome::Failed(why), actions),
            Dismissal::Silent { silent_ms } => {
                self.disconnected(format!("the server heard nothing from us for {silent_ms} ms"), actions);
            }
            Dismissal::Stuck { held_ms } => {
                self.disconnected(format!("the server got no result from us for {held_ms} ms"), actions);
            }
            Dismissal::Stopped(why) | Dismissal::Rewound(why) => self.disconnected(why, actions),
            Dismissal::Banned(why) => self.finish(WorkerOutcome::Banned(why), actions),
        }
    }

    fn finish(&mut self, outcome: WorkerOutcome, actions: &mut Vec<WorkerAction>) {
        actions.push(WorkerAction::Finish(outcome));
        self.link = Link::Finished;
    }

    fn give_up_at(&self, search: &Search) -> Millis {
        search.since.saturating_add(self.config.give_up_ms)
    }

    fn silent_at(&self, serving: &Serving) -> Millis {
        serving.heard.saturating_add(self.config.server_timeout_ms)
    }

    /// Draws all conclusions from what is known at this time.
    fn settle(&mut self, actions: &mut Vec<WorkerAction>) {
        if self.leaving && !self.wants_sums() {
            // What is not begun is handed back by leaving.
            return self.finish(WorkerOutcome::Stopped, actions);
        }
        let silent = match &self.link {
            Link::Serving(serving) if self.silent_at(serving) <= self.now => self.now - serving.heard,
            Link::Connecting { until, .. } if *until <= self.now => self.config.server_timeout_ms,
            _ => 0,
        };
        if silent > 0 {
            self.disconnected(format!("nothing heard from the server for {silent} ms"), actions);
        }
        match &mut self.link {
            Link::Pausing { search, .. } | Link::Connecting { search, .. }
                if search.since.saturating_add(self.config.give_up_ms) <= self.now =>
            {
                let outcome = WorkerOutcome::Unreachable {
                    last: std::mem::take(&mut search.last),
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
                if serving.beat_at <= self.now {
                    serving.beat_at = self.now.saturating_add(self.config.heartbeat_ms);
                    actions.push(WorkerAction::Heartbeat);
                }
                serving.work(self.now, &self.config, &mut self.computing, actions);
            }
            _ => {}
        }
    }
}

impl Serving {
    /// Work for steps before `step` is of no use any more: the server has what it needs of them.
    fn advance_to(&mut self, step: u64, is_idle: bool, actions: &mut Vec<WorkerAction>) {
        if step > self.newest {
            // Whoever is computing says so when that is over.
            if is_idle && !self.queue.is_empty() {
                actions.push(WorkerAction::TellDropped { step: self.newest });
            }
            self.newest = step;
            self.queue.clear();
            self.lacking = None;
        }
    }

    /// Begins the next work if nothing is being computed and its weights are here; asks for them if they do
    /// not come.
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
            self.lacking = None;
            if computing.is_none()
                && let Some(leaves) = self.queue.pop_front()
            {
                *computing = Some(Computing { step, leaves: leaves.clone(), wanted: true });
                actions.push(WorkerAction::Compute { step, leaves });
            }
            return;
        }
        let ask_at = now.saturating_add(config.weights_timeout_ms);
        let lacking = self.lacking.get_or_insert(Lacking { since: now, ask_at });
        if lacking.ask_at <= now {
            // Twice as long each time: large weights may just take their time.
            lacking.ask_at = ask_at.max(now + (now - lacking.since));
            let notice = WorkerNotice::WeightsLate { step, held: self.held, waited_ms: now - lacking.since };
            actions.push(WorkerAction::Notice(notice));
            actions.push(WorkerAction::AskWeights);
        }
    }
}
