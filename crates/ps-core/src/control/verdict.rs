//! What [`Control`](super::Control) decides about a step, and what it reports.

use super::{Convergence, Explosion, Monitor, Probe};
use crate::optim::StepParams;

/// What a step does to the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The optimizer makes its step.
    Step,
    /// The weights and the optimizer's state are replaced by the guard's copies.
    Recover,
    /// The weights stay the same.
    Stay,
    /// The best weights are restored.
    Best,
    /// A descent accepts the point and steps along its gradient.
    Accept,
    /// A descent takes a shorter step from the last accepted point.
    Retry,
    /// A descent returns to the last accepted point.
    Base,
}

/// What a step does to every part of the weights and of the state. All shards apply the same verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Parameters of the optimizer's step.
    pub step_params: StepParams,
    /// What happens to the weights.
    pub action: Action,
    /// Whether early stopping copies the weights before the action, as the best so far.
    pub keep_best: bool,
    /// Whether the guard copies the weights and the optimizer's state before the action.
    pub keep_good: bool,
    /// Whether to measure how far the step moves the weights.
    pub measures: bool,
    /// Number of steps that the optimizer's state has seen after the action.
    pub count: u64,
}

impl Verdict {
    /// Whether the verdict is an optimizer's step and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.action == Action::Step && !self.keep_best && !self.keep_good
    }
}

/// What is reported about a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyReport {
    /// Whether the run ends after it.
    pub is_last: bool,
    /// Unusual events, in the order of the policies.
    pub events: Vec<Event>,
    /// The outcome of the previous step, if that was probed.
    pub probe: Option<Probe>,
}

impl PolicyReport {
    /// Ends the run.
    pub(super) fn stop(&mut self, why: Stop) {
        self.is_last = true;
        self.events.push(Event::Stopped(why));
    }
}

/// Something unusual that happened in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A plateau lowered the rate because validation did not improve.
    Lowered {
        /// The metric of the validation part that the schedule follows.
        monitor: Monitor,
        /// Its latest value.
        value: f64,
        /// Its best value, which the latest one did not improve on.
        best: f64,
        /// Validations without improvement that the schedule tolerates.
        patience: u64,
        /// The learning rates before and after, the guard's factor included.
        rates: [f32; 2],
    },
    /// The loss exploded, and the guard restored the weights that it had kept.
    Recovered {
        /// The criterion that was met.
        explosion: Explosion,
        /// The step before which these were the weights.
        step: u64,
        /// The learning rate from now on.
        rate: f64,
        /// Number of the recovery, from 1.
        recovery: u32,
        /// Recoveries allowed in the run.
        retries: u32,
    },
    /// The loss exploded, and the run continues without recovery.
    Warned {
        /// The criterion that was met.
        explosion: Explosion,
        /// Recoveries that were allowed and are used up; `None` if the guard only warns.
        retries: Option<u32>,
    },
    /// The run ends before its last step.
    Stopped(Stop),
    /// The run made its last step, but earlier weights were better and are restored.
    Restored {
        /// The metric of the validation part that early stopping follows.
        monitor: Monitor,
        /// Its value for the final weights.
        value: f64,
        /// Its best value.
        best: f64,
        /// Number of steps made before the best weights were validated.
        step: u64,
    },
}

impl Event {
    /// The event's type in one word, as the metrics file writes it.
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
    /// The monitored metric did not improve for too long. The best weights are restored.
    NoImprovement {
        /// The metric of the validation part.
        monitor: Monitor,
        /// Its best value.
        best: f64,
        /// Number of validations since then.
        validations: u64,
        /// Number of steps made before the best weights were validated.
        step: u64,
    },
    /// A descent has converged.
    Converged(Convergence),
}

/// The loss or the gradient is not finite, and no policy can handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;
