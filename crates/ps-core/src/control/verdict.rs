//! What [`Control`](super::Control) decides about a step, and what it reports.

use super::{Arrival, Explosion, Probe};
use crate::optim::Stride;

/// What happens to the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The optimizer makes its step.
    Step,
    /// The weights and the optimizer's state that the guard has kept are restored.
    Recover,
    /// The weights stay.
    Stay,
    /// The best weights are restored.
    Best,
    /// A descent accepts the point and steps along its gradient.
    Accept,
    /// A descent steps from the last accepted point again, less far.
    Retry,
    /// A descent returns to the last accepted point.
    Base,
}

/// What a step does to every part of the weights and the state.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Parameters of the optimizer's step.
    pub stride: Stride,
    /// What happens to the weights.
    pub action: Action,
    /// Whether the weights before the action are kept as the best.
    pub keep_best: bool,
    /// Whether the guard keeps them and the optimizer's state.
    pub keep_good: bool,
    /// Whether the change of the weights is measured.
    pub measures: bool,
    /// Steps that the optimizer's state has seen after the action.
    pub count: u64,
}

impl Verdict {
    /// Whether it is an optimizer's step and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.action == Action::Step && !self.keep_best && !self.keep_good
    }
}

/// What is reported of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decided {
    /// Whether the run ends after it.
    pub is_last: bool,
    /// What was out of the ordinary.
    pub events: Vec<Event>,
    /// The outcome of an earlier step that was probed.
    pub probe: Option<Probe>,
}

impl Decided {
    /// Ends the run.
    pub(super) fn stop(&mut self, why: Stop) {
        self.is_last = true;
        self.events.push(Event::Stopped(why));
    }
}

/// Something out of the ordinary.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A plateau lowered the rate, because validation did not improve.
    Lowered {
        /// The validation loss.
        loss: f64,
        /// The loss that it had to beat.
        best: f64,
        /// Validations without improvement that the schedule tolerates.
        patience: u64,
        /// The rate before and after.
        rates: [f32; 2],
    },
    /// The loss exploded, and the guard restored the weights that it had kept.
    Recovered {
        /// What showed it.
        explosion: Explosion,
        /// The step before which they were the weights.
        step: u64,
        /// The learning rate from now on.
        rate: f64,
        /// Number of this recovery, from 1.
        recovery: u32,
        /// Recoveries allowed in the run.
        retries: u32,
    },
    /// The loss exploded, and the run goes on.
    Warned {
        /// What showed it.
        explosion: Explosion,
        /// The recoveries that were allowed and are used up; `None` where the guard only warns.
        retries: Option<u32>,
    },
    /// The run ends before its last step.
    Stopped(Stop),
    /// The last step is made, but the best weights are better and are restored.
    Restored {
        /// The validation loss at the end.
        loss: f64,
        /// The best validation loss.
        best: f64,
        /// Steps made when it was seen.
        step: u64,
    },
}

impl Event {
    /// Its kind in one word, as the metrics file has it.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Lowered { .. } => "lowered",
            Event::Recovered { .. } => "recovered",
            Event::Warned { .. } => "warned",
            Event::Stopped(_) => "stopped",
            Event::Restored { .. } => "restored",
        }
    }
}

/// Why a run ends before its last step.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// The validation loss did not improve for too long; the best weights are restored.
    NoImprovement {
        /// The best loss.
        best: f64,
        /// Validations since then.
        validations: u64,
        /// Steps made when it was seen.
        step: u64,
    },
    /// A descent has arrived.
    Arrived(Arrival),
}

/// The loss or the gradient is not finite, and no policy can handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;
