//! Inspects the complete weights after each epoch, on a separate thread so that training continues.

use super::tensorboard::TensorBoard;
use crate::folder::FolderError;
use crate::job::Job;
use crate::observer::{Observer, StepWeights};
use crate::run_state::{Confusion, RunState};
use ps_core::{Gradients, Kernel, Model, Samples};
use ps_data::Split;
use ps_plan::BatchPlan;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Maximum number of validation samples that the confusion matrix is computed from.
const MAX_CONFUSION_SAMPLES: usize = 10_000;

/// Computes the confusion matrix for the dashboard, and histograms of weights and gradients for TensorBoard.
/// When this is dropped, the thread first finishes the weights that it was given.
pub(crate) struct WeightInspector {
    plan: BatchPlan,
    weights: Option<SyncSender<(u64, Vec<f32>)>>,
    thread: Option<JoinHandle<()>>,
}

/// The state of the inspecting thread.
struct Inspection {
    model: Model,
    plan: BatchPlan,
    kernel: Kernel,
    train: Split,
    validation: Option<Split>,
    tensorboard: Option<TensorBoard>,
    run_state: Arc<RunState>,
}

impl WeightInspector {
    /// Starts the thread that inspects the weights of `job`. Results go to `run_state`, and to `tensorboard`
    /// if there is an event file.
    pub(crate) fn start(
        job: &Job,
        tensorboard: Option<TensorBoard>,
        run_state: Arc<RunState>,
    ) -> Result<Self, FolderError> {
        let validation = job.data.validation.as_ref().or(job.data.test.as_ref());
        let inspection = Inspection {
            model: job.model.clone(),
            plan: job.plan,
            kernel: job.kernel,
            train: job.data.train.clone(),
            validation: validation.map(|part| part.head(MAX_CONFUSION_SAMPLES)),
            tensorboard,
            run_state,
        };
        // One copy of the weights may wait, which bounds the memory: a caller with another one waits for the
        // thread.
        let (weights, arriving) = sync_channel::<(u64, Vec<f32>)>(1);
        let inspect =
            move || arriving.into_iter().for_each(|(step, weights)| inspection.inspect(step, &weights));
        let thread =
            std::thread::Builder::new().name("inspector".into()).spawn(inspect).map_err(|error| {
                FolderError::File { path: PathBuf::from("the thread that inspects weights"), error }
            })?;
        Ok(WeightInspector { plan: job.plan, weights: Some(weights), thread: Some(thread) })
    }

    /// Passes a copy of the weights after `step` steps to the thread.
    pub(crate) fn inspect(&self, step: u64, weights: &[f32]) {
        // Sending fails only if the thread has panicked, which has already been reported.
        let _ = self.weights.iter().try_for_each(|sender| sender.send((step, weights.to_vec())));
    }
}

impl Observer for WeightInspector {
    fn wants_weights(&self, step: u64) -> bool {
        step > 0 && self.plan.ends_epoch(step - 1)
    }

    fn on_weights(&mut self, weights: &StepWeights<'_>) {
        self.inspect(weights.step, weights.values);
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

impl Inspection {
    fn inspect(&self, step: u64, weights: &[f32]) {
        let mut gradients = Gradients::new(self.model.clone(), self.plan, self.kernel);
        let rounded = self.model.precision().round(weights);
        let classes = self.model.classes();
        if let Some(validation) = self.validation.as_ref().filter(|_| classes > 0) {
            let said = gradients.predict(&rounded, validation);
            let targets = (0..validation.len()).map(|index| validation.target(index));
            let confusion = Confusion::new(step, classes, self.model.outputs(), targets, &said);
            self.run_state.update(|snapshot| snapshot.confusion = Some(confusion));
        }
        let Some(tensorboard) = &self.tensorboard else { return };
        // The gradient of the next step is shown; after the last step, that of its own batch with the new
        // weights.
        let next = step.min(self.plan.steps - 1);
        let leaves = self.plan.step(next).tree().section(ps_plan::Section::Training);
        let sums = gradients.compute(&rounded, &self.train, next, leaves);
        let samples: u64 = sums.iter().map(|sum| sum.metric_sums.samples).sum();
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
        tensorboard.histograms(step, tensors);
    }
}
