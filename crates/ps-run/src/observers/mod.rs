//! All observers of a run: the metrics file, the run state, TensorBoard, the terminal, the inspector of weights,
//! and those of the caller.

mod epoch_throttle;
mod metrics_file;
mod tensorboard;
mod terminal;
mod weight_inspector;

pub(crate) use metrics_file::MetricsFile;
pub(crate) use tensorboard::TensorBoard;
pub(crate) use terminal::TerminalObserver;
pub(crate) use weight_inspector::WeightInspector;

use crate::accumulator::Record;
use crate::lines::Line;
use crate::observer::{Observer, Requests};
use crate::phase::Phase;
use crate::run_state::RunState;
use std::sync::Arc;

/// The observers of a run, in the order in which they are called. Those whose methods the recorder calls
/// directly have a field of their own type.
pub(crate) struct Observers {
    /// `None` if the run has no folder, and after its end.
    pub(crate) metrics: Option<MetricsFile>,
    pub(crate) run_state: Arc<RunState>,
    pub(crate) tensorboard: Option<TensorBoard>,
    pub(crate) terminal: TerminalObserver,
    pub(crate) inspector: Option<WeightInspector>,
    others: Vec<Box<dyn Observer>>,
    /// Messages from before the run began, for observers that are added later.
    early: Vec<Message>,
    requests: Requests,
    /// The last reported phase and activity.
    phase: (Phase, &'static str),
}

/// A message for the user.
enum Message {
    Note(String),
    Warning(String),
}

impl Observers {
    pub(crate) fn new(
        metrics: Option<MetricsFile>,
        run_state: Arc<RunState>,
        terminal: TerminalObserver,
    ) -> Self {
        Observers {
            metrics,
            run_state,
            tensorboard: None,
            terminal,
            inspector: None,
            others: Vec::new(),
            early: Vec::new(),
            requests: Requests::default(),
            phase: (Phase::Starting, ""),
        }
    }

    /// Calls every observer.
    pub(crate) fn each(&mut self, mut call: impl FnMut(&mut dyn Observer, &mut Requests)) {
        let Observers { metrics, run_state, tensorboard, terminal, inspector, others, requests, .. } = self;
        if let Some(metrics) = metrics {
            call(metrics, requests);
        }
        call(run_state, requests);
        if let Some(tensorboard) = tensorboard {
            call(tensorboard, requests);
        }
        call(terminal, requests);
        if let Some(inspector) = inspector {
            call(inspector, requests);
        }
        others.iter_mut().for_each(|observer| call(observer.as_mut(), requests));
    }

    /// Reports a step, an event or a line of metrics.
    pub(crate) fn report(&mut self, record: Record<'_>) {
        self.each(|observer, requests| match record {
            Record::Step(step) => observer.on_step(step, requests),
            Record::Event(step, event) => observer.on_event(step, event, requests),
            Record::Line(line) => {
                if let Line::Epoch(epoch) = line {
                    observer.on_epoch(epoch, requests);
                }
                observer.on_line(line);
            }
        });
    }

    /// Reports a phase, unless the last report was the same.
    pub(crate) fn phase(&mut self, phase: Phase, activity: &'static str) {
        if std::mem::replace(&mut self.phase, (phase, activity)) != (phase, activity) {
            self.each(|observer, _| observer.on_phase(phase, activity));
        }
    }

    /// Adds an observer of the caller, and passes it the earlier messages.
    pub(crate) fn add(&mut self, mut observer: Box<dyn Observer>) {
        self.early.iter().for_each(|message| message.report(observer.as_mut()));
        self.others.push(observer);
    }

    pub(crate) fn note(&mut self, text: &str) {
        self.deliver(Message::Note(text.into()));
    }

    pub(crate) fn warn(&mut self, text: &str) {
        self.deliver(Message::Warning(text.into()));
    }

    fn deliver(&mut self, message: Message) {
        self.each(|observer, _| message.report(observer));
        if self.phase.0 == Phase::Starting {
            self.early.push(message);
        }
    }

    /// Returns whether an observer needs the weights after `step` steps.
    pub(crate) fn want_weights(&self, step: u64) -> bool {
        self.inspector.as_ref().is_some_and(|inspector| inspector.wants_weights(step))
            || self.others.iter().any(|observer| observer.wants_weights(step))
    }

    /// Returns whether an observer has requested the end of the run.
    pub(crate) fn is_stop_requested(&self) -> bool {
        self.requests.stop
    }

    /// Returns whether an observer has requested a checkpoint since the last call.
    pub(crate) fn take_checkpoint_request(&mut self) -> bool {
        std::mem::take(&mut self.requests.checkpoint)
    }
}

impl Message {
    fn report(&self, observer: &mut dyn Observer) {
        match self {
            Message::Note(text) => observer.on_note(text),
            Message::Warning(text) => observer.on_warning(text),
        }
    }
}
