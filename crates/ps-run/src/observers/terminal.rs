//! The progress of a run on the terminal.

use super::epoch_throttle::EpochThrottle;
use crate::lines::Line;
use crate::observer::{Observer, Requests, Resumed, StepMade};
use crate::phase::Phase;
use crate::progress::{Style, Terminal};
use crate::window::Window;
use ps_core::MetricSums;
use std::time::Instant;

/// Shows steps at intervals, epochs, events and messages.
pub(crate) struct TerminalObserver {
    terminal: Terminal,
    /// Steps that are not yet shown.
    unseen: Window,
    throttle: EpochThrottle,
}

impl TerminalObserver {
    /// Creates the observer of a run whose model has `classes` classes.
    pub(crate) fn new(style: Style, classes: usize, now: Instant) -> Self {
        TerminalObserver {
            terminal: Terminal::new(style),
            unseen: Window::new(MetricSums::new(classes), now),
            throttle: EpochThrottle::default(),
        }
    }

    /// Removes the bar from the terminal.
    pub(crate) fn close(&self) {
        self.terminal.close();
    }
}

impl Observer for TerminalObserver {
    fn on_resume(&mut self, _: &Resumed<'_>) {
        self.unseen.restart(Instant::now());
    }

    fn on_phase(&mut self, phase: Phase, _: &str) {
        if phase == Phase::Training {
            self.unseen.begin(Instant::now());
        }
    }

    fn on_step(&mut self, step: &StepMade<'_>, _: &mut Requests) {
        self.unseen.add(step.batch);
        if self.unseen.age(step.at) >= self.terminal.interval() {
            self.terminal.show(&Line::Step(self.unseen.close(step)));
        }
    }

    fn on_line(&mut self, line: &Line) {
        let is_shown = match line {
            Line::Epoch(epoch) => self.throttle.admits(epoch, Instant::now()) || self.terminal.is_json(),
            Line::Event(_) => true,
            // Steps are shown at a fixed interval instead, see `on_step`.
            Line::Step(_) | Line::Probe(_) | Line::Hash(_) => false,
        };
        if is_shown {
            self.terminal.show(line);
        }
    }

    fn on_note(&mut self, text: &str) {
        self.terminal.note(text);
    }

    fn on_warning(&mut self, text: &str) {
        self.terminal.warn(text);
    }
}
