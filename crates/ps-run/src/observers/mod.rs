//! Everything that follows a run: the metrics file, the page, TensorBoard, the terminal, and observers of the caller.

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
use crate::board::Board;
use crate::lines::Line;
use crate::observer::{Observer, Requests};
use crate::phase::Phase;
use std::sync::Arc;

/// The observers of a run, in the order in which they are called. Those that the recorder asks something in return have a
/// field.
pub(crate) struct Observers {
    /// Nothing where the run has no folder, and at its end.
    pub(crate) metrics: Option<MetricsFile>,
    pub(crate) board: Arc<Board>,
    pub(crate) tensorboard: Option<TensorBoard>,
    pub(crate) terminal: TerminalObserver,
    pub(crate) inspector: Option<WeightInspector>,
    others: Vec<Box<dyn Observer>>,
    /// What was said before the run began, for observers that are added later.
    early: Vec<Message>,
    requests: Requests,
    /// The last phase that was reported, with its activity.
    phase: (Phase, &'static str),
}

/// For the user.
enum Message {
    Note(String),
    Warning(String),
}

impl Observers {
    pub(crate) fn new(metrics: Option<MetricsFile>, board: Arc<Board>, terminal: TerminalObserver) -> Self {
        Observers {
            metrics,
            board,
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
        let Observers { metrics, board, tensorboard, terminal, inspector, others, requests, .. } = self;
        if let Some(metrics) = metrics {
            call(metrics, requests);
        }
        call(board, requests);
        if let Some(tensorboard) = tensorboard {
            call(tensorboard, requests);
        }
        call(terminal, requests);
        if let Some(inspector) = inspector {
            call(inspector, requests);
        }
        others.iter_mut().for_each(|observer| call(observer.as_mut(), requests));
    }

    /// Reports what follows from a step or from what comes after it.
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

    /// Reports a phase, if it is not the one that was reported last.
    pub(crate) fn phase(&mut self, phase: Phase, activity: &'static str) {
        if std::mem::replace(&mut self.phase, (phase, activity)) != (phase, activity) {
            self.each(|observer, _| observer.on_phase(phase, activity));
        }
    }

    /// Adds an observer of the caller.
    pub(crate) fn add(&mut self, mut observer: Box<dyn Observer>) {
        self.early.iter().for_each(|message| message.report(observer.as_mut()));
        self.others.push(observer);
    }

    pub(crate) fn note(&mut self, text: &str) {
        self.say(Message::Note(text.into()));
    }

    pub(crate) fn warn(&mut self, text: &str) {
        self.say(Message::Warning(text.into()));
    }

    fn say(&mut self, message: Message) {
        self.each(|observer, _| message.report(observer));
        if self.phase.0 == Phase::Starting {
            self.early.push(message);
        }
    }

    /// Whether an observer wants the weights after `step` steps.
    pub(crate) fn want_weights(&self, step: u64) -> bool {
        self.inspector.as_ref().is_some_and(|inspector| inspector.wants_weights(step))
            || self.others.iter().any(|observer| observer.wants_weights(step))
    }

    /// Whether one has asked for the end of the run.
    pub(crate) fn is_stop_requested(&self) -> bool {
        self.requests.stop
    }

    /// Whether one has asked for a checkpoint since this was last asked.
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
