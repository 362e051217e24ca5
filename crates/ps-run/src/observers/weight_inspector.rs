//! A thread that looks at whole weights after an epoch: what is drawn of them takes a while, and training goes on meanwhile.

use super::tensorboard::EventFile;
use crate::board::{Board, Confusion};
use crate::folder::FolderError;
use crate::job::Job;
use ps_core::{Gradients, Kernel, Model, Samples};
use ps_data::Split;
use ps_plan::BatchPlan;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Samples of the validation part that the confusion is counted on, at most.
const CONFUSED: usize = 10_000;

/// The thread, until this is dropped.
pub(crate) struct WeightInspector {
    weights: Option<SyncSender<(u64, Vec<f32>)>>,
    thread: Option<JoinHandle<()>>,
}

struct Looking {
    model: Model,
    plan: BatchPlan,
    kernel: Kernel,
    train: Split,
    validation: Option<Split>,
    events: Option<Arc<Mutex<EventFile>>>,
    board: Arc<Board>,
}

impl WeightInspector {
    /// Looks at the weights of `job`: for `board`, and for `events` where there is such a file.
    pub(crate) fn start(
        job: &Job,
        events: Option<Arc<Mutex<EventFile>>>,
        board: Arc<Board>,
    ) -> Result<Self, FolderError> {
        let looking = Looking {
            model: job.model.clone(),
            plan: job.plan,
            kernel: job.kernel,
            train: job.data.train.clone(),
            validation: job.data.validation.as_ref().or(job.data.test.as_ref()).map(|it| it.head(CONFUSED)),
            events,
            board,
        };
        // One may wait: who comes with a third waits for the first to be looked at.
        let (weights, arriving) = sync_channel::<(u64, Vec<f32>)>(1);
        let look = move || arriving.into_iter().for_each(|(steps, weights)| looking.look(steps, &weights));
        let thread = std::thread::Builder::new().name("inspector".into()).spawn(look);
        let thread = thread.map_err(|error| FolderError::File {
            path: PathBuf::from("the thread that inspects weights"),
            error,
        })?;
        Ok(WeightInspector { weights: Some(weights), thread: Some(thread) })
    }

    /// Has it look at the weights after so many steps.
    pub(crate) fn show(&self, steps: u64, weights: Vec<f32>) {
        // One that has ended said why.
        let _ = self.weights.iter().try_for_each(|sender| sender.send((steps, weights.clone())));
    }
}

impl Drop for WeightInspector {
    fn drop(&mut self) {
        self.weights = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Looking {
    fn look(&self, steps: u64, weights: &[f32]) {
        let mut gradients = Gradients::new(self.model.clone(), self.plan, self.kernel);
        let rounded = self.model.precision().round(weights);
        let classes = self.model.classes();
        if let Some(validation) = self.validation.as_ref().filter(|_| classes > 0) {
            let said = gradients.predict(&rounded, validation);
            let targets = (0..validation.len()).map(|index| validation.target(index));
            let confusion = Confusion::new(steps, classes, self.model.outputs(), targets, &said);
            self.board.tell(|seen| seen.confusion = Some(confusion));
        }
        let Some(events) = &self.events else { return };
        // Of the step that follows, or of the last one's batch.
        let step = steps.min(self.plan.steps - 1);
        let leaves = self.plan.step(step).tree().section(ps_plan::Section::Training);
        let sums = gradients.compute(&rounded, &self.train, step, leaves);
        let samples: u64 = sums.iter().map(|sum| sum.tally.samples).sum();
        let mut gradient = vec![0.0; weights.len()];
        for sum in &sums {
            for (mean, element) in gradient.iter_mut().zip(&sum.gradient) {
                *mean += element / samples as f32;
            }
        }
        let tensors = self.model.layout().tensors().iter().flat_map(|tensor| {
            let at = tensor.offset..tensor.offset + tensor.len();
            [
                (format!("weights/{}", tensor.name), &weights[at.clone()]),
                (format!("gradients/{}", tensor.name), &gradient[at]),
            ]
        });
        events.lock().unwrap_or_else(PoisonError::into_inner).histograms(steps, tensors);
    }
}
