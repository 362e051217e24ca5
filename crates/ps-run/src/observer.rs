//! What a run reports while it goes on, and what an observer may ask of it.

use crate::lines::{EpochLine, Line};
use crate::phase::Phase;
use crate::summary::Summary;
use ps_core::Tally;
use ps_core::control::Event;
use std::fmt::Display;
use std::time::Instant;

/// Receives what a run reports while it goes on.
///
/// Every method does nothing unless it is overridden. The thread that trains calls them between two steps, so it waits for
/// a slow observer. Observers cannot change the weights; through [`Requests`] they can stop the run or have it saved.
pub trait Observer: Send {
    /// The run continues after `from.step` steps: because it resumes, or because it has to go back while it is under way.
    /// Anything reported about later steps is void.
    fn on_resume(&mut self, from: &Resumed<'_>) {
        let _ = from;
    }

    /// The run is in another phase, or does something else in the same one. `activity` says what in words, and is empty
    /// where the phase says it all. The ends of a run have methods instead: [`Observer::on_finish`] and
    /// [`Observer::on_failure`].
    fn on_phase(&mut self, phase: Phase, activity: &str) {
        let _ = (phase, activity);
    }

    /// A step was made. Events of the same step are reported before it.
    fn on_step(&mut self, step: &StepMade<'_>, requests: &mut Requests) {
        let _ = (step, requests);
    }

    /// An epoch is over. If the run validates, this is called during the next step, which evaluates the validation part,
    /// and after the last step.
    fn on_epoch(&mut self, epoch: &EpochLine, requests: &mut Requests) {
        let _ = (epoch, requests);
    }

    /// Something out of the ordinary happened, after `step` steps: the learning rate was lowered, the guard recovered the
    /// run, early stopping ended it.
    fn on_event(&mut self, step: u64, event: &Event, requests: &mut Requests) {
        let _ = (step, event, requests);
    }

    /// The run has another line of metrics. The line of an epoch or an event follows the call of [`Observer::on_epoch`] or
    /// [`Observer::on_event`].
    fn on_line(&mut self, line: &Line) {
        let _ = line;
    }

    /// A message for the user that is not about a step.
    fn on_note(&mut self, text: &str) {
        let _ = text;
    }

    /// A warning for the user, such as that a checkpoint was not saved.
    fn on_warning(&mut self, text: &str) {
        let _ = text;
    }

    /// Whether [`Observer::on_weights`] is to be called after `step` steps. Where weights are cut among servers they are
    /// fetched for it and the next step waits, so this should be rare, such as once an epoch.
    fn wants_weights(&self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// The weights after a step for which [`Observer::wants_weights`] returns true.
    fn on_weights(&mut self, weights: &StepWeights<'_>) {
        let _ = weights;
    }

    /// The run has ended, finished or stopped, and its results are written.
    fn on_finish(&mut self, summary: &Summary) {
        let _ = summary;
    }

    /// The run has failed and has no results.
    fn on_failure(&mut self, reason: &dyn Display) {
        let _ = reason;
    }
}

/// Where a run continues.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Resumed<'a> {
    /// Steps made before; 0 if the run went back to its beginning.
    pub step: u64,
    /// Training samples seen in these steps.
    pub samples: u64,
    /// The lines of metrics up to there, for the page.
    pub(crate) lines: &'a [Line],
}

/// A step that was made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepMade<'a> {
    /// Steps made, this one included.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// The epoch of the step, from 1.
    pub epoch: u32,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// The learning rate of the step.
    pub learning_rate: f32,
    /// Loss and metrics of the step's batch, before the update.
    pub batch: &'a Tally,
    /// Training samples seen, those of this step included.
    pub samples: u64,
    /// Workers that take part.
    pub workers: usize,
    /// Seconds of training, including those before the run was resumed.
    pub seconds: f64,
    /// When the step was recorded.
    pub at: Instant,
}

impl StepMade<'_> {
    /// The mean loss of the batch.
    pub fn loss(&self) -> f64 {
        self.batch.mean_loss()
    }

    /// The share of the batch whose class was predicted, in classification.
    pub fn accuracy(&self) -> Option<f64> {
        self.batch.accuracy()
    }
}

/// The whole weights after a step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepWeights<'a> {
    /// Steps made.
    pub step: u64,
    /// `[parameters]`, in the order of the model's tensors.
    pub values: &'a [f32],
}

/// What observers ask of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub(crate) stop: bool,
    pub(crate) checkpoint: bool,
}

impl Requests {
    /// Ends the run after the step in hand. It can be resumed, as if the user had stopped it.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    /// Has the run saved after the step in hand or soon thereafter, if it keeps checkpoints.
    pub fn checkpoint(&mut self) {
        self.checkpoint = true;
    }
}
