//! Observers: what a run reports while it trains, and what an observer may request.

use crate::lines::{EpochLine, Line};
use crate::phase::Phase;
use crate::summary::Summary;
use ps_core::MetricSums;
use ps_core::control::Event;
use std::fmt::Display;
use std::time::Instant;

/// Receives reports about a run while it trains.
///
/// Every method does nothing by default. The training thread calls them between two steps, so training waits
/// for a slow observer. Observers cannot change the weights; through [`Requests`] they can stop the run or
/// request a checkpoint.
pub trait Observer: Send {
    /// The run continues after `from.step` steps, either because it resumes or because it went back to an
    /// earlier step. All reports about later steps are void.
    fn on_resume(&mut self, from: &Resumed<'_>) {
        let _ = from;
    }

    /// The run has entered another phase, or another activity within the same phase. `activity` describes
    /// what the run does, and is empty where the phase says enough. The end of a run is reported by
    /// [`Observer::on_finish`] and [`Observer::on_failure`] instead.
    fn on_phase(&mut self, phase: Phase, activity: &str) {
        let _ = (phase, activity);
    }

    /// A step was made. Events of the same step are reported before this call.
    fn on_step(&mut self, step: &StepMade<'_>, requests: &mut Requests) {
        let _ = (step, requests);
    }

    /// An epoch is complete. If the run validates, this is called during the next step, which evaluates the
    /// validation part, or after the last step.
    fn on_epoch(&mut self, epoch: &EpochLine, requests: &mut Requests) {
        let _ = (epoch, requests);
    }

    /// A policy intervened after `step` steps: for example, the learning rate was lowered, the guard
    /// recovered the run, or early stopping ended it.
    fn on_event(&mut self, step: u64, event: &Event, requests: &mut Requests) {
        let _ = (step, event, requests);
    }

    /// The run has a new line of metrics. If it is about an epoch or an event, [`Observer::on_epoch`] or
    /// [`Observer::on_event`] was called before.
    fn on_line(&mut self, line: &Line) {
        let _ = line;
    }

    /// A message for the user that is not about a step.
    fn on_note(&mut self, text: &str) {
        let _ = text;
    }

    /// A warning for the user, for example that a checkpoint could not be saved.
    fn on_warning(&mut self, text: &str) {
        let _ = text;
    }

    /// Returns whether [`Observer::on_weights`] is to be called after `step` steps. With sharded weights,
    /// this fetches them from all servers while the next step waits, so it should be rare: once per epoch,
    /// say.
    fn wants_weights(&self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// The weights after a step for which [`Observer::wants_weights`] returns true.
    fn on_weights(&mut self, weights: &StepWeights<'_>) {
        let _ = weights;
    }

    /// The run has finished or was stopped, and its results are written.
    fn on_finish(&mut self, summary: &Summary) {
        let _ = summary;
    }

    /// The run has failed and has no results.
    fn on_failure(&mut self, reason: &dyn Display) {
        let _ = reason;
    }
}

/// The point at which a run continues.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Resumed<'a> {
    /// Number of steps made before it; 0 if the run went back to its beginning.
    pub step: u64,
    /// Number of training samples seen in these steps.
    pub samples: u64,
    /// The lines of metrics up to that point, for the dashboard.
    pub(crate) lines: &'a [Line],
}

/// A step of the run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepMade<'a> {
    /// Number of steps made, including this one.
    pub step: u64,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// The epoch of the step, counted from 1.
    pub epoch: u32,
    /// Number of epochs of the whole run.
    pub epochs: u32,
    /// The learning rate of the step.
    pub learning_rate: f32,
    /// Sums of loss and metrics over the step's batch, before the update.
    pub batch: &'a MetricSums,
    /// Number of training samples seen, including those of this step.
    pub samples: u64,
    /// Number of workers that take part.
    pub workers: usize,
    /// Seconds of training, including those of earlier processes.
    pub seconds: f64,
    /// When the step was recorded.
    pub at: Instant,
}

impl StepMade<'_> {
    /// Mean loss of the step's batch, before the update.
    pub fn loss(&self) -> f64 {
        self.batch.mean_loss()
    }

    /// Share of the batch that was classified correctly; `None` unless it is a classification.
    pub fn accuracy(&self) -> Option<f64> {
        self.batch.accuracy()
    }
}

/// The complete weights after a step, also with sharded weights.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepWeights<'a> {
    /// Number of steps made.
    pub step: u64,
    /// The weights, `[parameters]`, in the order of the model's tensors.
    pub values: &'a [f32],
}

/// Requests of observers to the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub(crate) stop: bool,
    pub(crate) checkpoint: bool,
}

impl Requests {
    /// Ends the run after the current step, as if the user had stopped it. The run can be resumed.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    /// Saves a checkpoint after the current step or soon thereafter, if the run keeps checkpoints.
    pub fn checkpoint(&mut self) {
        self.checkpoint = true;
    }
}
