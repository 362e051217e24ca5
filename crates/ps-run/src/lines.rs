//! The lines of a metrics file. Progress on the terminal is formatted from the same lines.

use crate::folder::FolderError;
use crate::measures::{Measures, counted, grouped, percent, seconds, short};
use ps_plan::BatchPlan;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// After this many steps, not every step has a hash line; see [`is_due`].
const EVERY_STEP_HASHED_UNTIL: u64 = 16;
/// After this many steps, not every step has a [`StepLine`]; see [`is_due`].
const EVERY_STEP_REPORTED_UNTIL: u64 = 1024;

/// Value of [`EventLine::event`] for warnings of the guard.
pub(crate) const WARNED: &str = "warned";

/// A line of the metrics file, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Line {
    /// The sums of some consecutive steps.
    Step(StepLine),
    /// A complete epoch.
    Epoch(EpochLine),
    /// A probed step, whose actual decrease of the loss was measured.
    Probe(ProbeLine),
    /// An intervention of a policy.
    Event(EventLine),
    /// The hash of the weights.
    Hash(HashLine),
}

/// The means over the steps since the previous step line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Number of steps made.
    pub step: u64,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// The epoch of the last step, counted from 1.
    pub epoch: u32,
    /// Number of epochs of the whole run.
    pub epochs: u32,
    /// Mean loss of a sample.
    pub loss: f64,
    /// Share of samples that were classified correctly; only in classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Coefficient of determination R²; only in regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f32,
    /// Training samples per second.
    pub samples_per_second: f64,
    /// Number of workers that took part in the last step.
    pub workers: usize,
    /// Seconds of training, including those of earlier processes.
    pub seconds: f64,
}

/// The metrics of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLine {
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// Number of epochs of the whole run.
    pub epochs: u32,
    /// Number of steps made.
    pub step: u64,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// Means over the steps of the epoch, each before its update.
    pub train: Measures,
    /// Metrics of the weights after the epoch on the validation part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Measures>,
    /// Learning rate of the epoch's last step.
    pub learning_rate: f32,
    /// Training samples per second.
    pub samples_per_second: f64,
    /// Number of workers that took part in the last step.
    pub workers: usize,
    /// Seconds of training, including those of earlier processes.
    pub seconds: f64,
}

/// The predicted and the actual effect of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeLine {
    /// Number of steps made, including this one.
    pub step: u64,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Mean loss of the step's batch, before the update.
    pub loss: f64,
    /// Euclidean norm of the mean gradient.
    pub gradient_norm: f64,
    /// Decrease of the batch's loss to first order: for plain descent, the rate times the squared norm.
    pub predicted_decrease: f64,
    /// Actual decrease of the batch's loss; negative if it rose.
    pub actual_decrease: f64,
    /// For each layer, the norm of the change of its weight divided by the norm of its weight.
    pub update_ratios: Vec<f64>,
}

/// An intervention of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Number of steps made before it.
    pub step: u64,
    /// The kind of event: `lowered`, `recovered`, `warned`, `stopped` or `restored`.
    pub event: String,
    /// The event in words.
    pub text: String,
}

/// The hash of the weights after a step. If two runs agree up to one hash line and differ in the next, they
/// diverged between these two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HashLine {
    /// Number of steps made.
    pub step: u64,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// SHA-256 of the previous line's chain, if there is one, and this line's `weights_sha256`. Two chains
    /// are equal if and only if all lines so far are.
    pub chain: String,
}

impl HashLine {
    /// Creates the line after `step` steps. `before` is the chain of the previous line.
    pub fn new(step: u64, weights: &[f32], before: Option<&str>) -> Self {
        let weights_sha256 = ps_core::weights_hash(weights);
        let mut chain = Sha256::new();
        chain.update(before.unwrap_or_default());
        chain.update(&weights_sha256);
        HashLine { step, weights_sha256, chain: ps_core::params::hex(&chain.finalize()) }
    }

    /// Returns whether there is a hash line after `step` steps.
    pub fn is_due(step: u64) -> bool {
        is_due(step, EVERY_STEP_HASHED_UNTIL)
    }
}

/// Returns whether a line is due after `step` steps: after each of the first `each`, then half as often
/// whenever the number of steps has doubled. This depends on the step alone, so that a longer run begins with
/// the same lines as a shorter one.
fn is_due(step: u64, each: u64) -> bool {
    step > 0 && step.is_multiple_of(step.div_ceil(each).next_power_of_two())
}

/// The length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Length {
    /// Number of steps.
    pub steps: u64,
    /// Number of epochs; the last one may be incomplete.
    pub epochs: u32,
}

impl Length {
    pub(crate) fn of(plan: &BatchPlan) -> Self {
        Length { steps: plan.steps, epochs: plan.step(plan.steps - 1).epoch + 1 }
    }
}

impl Line {
    /// Reads all lines of a metrics file, in order. Skips an incomplete last line of a killed process.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a line of metrics.
    pub fn read_all(path: &Path) -> Result<Vec<Line>, FolderError> {
        let failed = |error| FolderError::File { path: path.into(), error };
        let text = ps_host::read_text(path, ps_host::Ceiling::memory(3)).map_err(failed)?;
        let lines = text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n'));
        let read = |(number, line): (usize, &str)| {
            let wrong = |error| format!("line {} is not a valid line of metrics: {error}", number + 1);
            let line = serde_json::from_str(line).map_err(wrong);
            line.map_err(|why| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, why)))
        };
        lines.map(read).collect()
    }

    /// Returns the same line, with the totals of a run of another length.
    pub(crate) fn of_length(self, Length { steps, epochs }: Length) -> Self {
        match self {
            Line::Step(line) => Line::Step(StepLine { steps, epochs, ..line }),
            Line::Epoch(line) => Line::Epoch(EpochLine { steps, epochs, ..line }),
            other => other,
        }
    }

    /// Formats the line as JSON, without a line break.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts become JSON")
    }
}

impl StepLine {
    /// Returns whether there is a step line after `step` steps. The end of an epoch adds further ones.
    pub fn is_due(step: u64) -> bool {
        is_due(step, EVERY_STEP_REPORTED_UNTIL)
    }

    /// Describes the position within the run.
    pub fn head(&self) -> String {
        format!("epoch {}/{}  step {}/{}", self.epoch, self.epochs, self.step, self.steps)
    }

    /// Describes the metrics of the steps.
    pub fn text(&self) -> String {
        let mut text = format!("loss {}", short(self.loss));
        if let Some(accuracy) = self.accuracy {
            text += &format!("  accuracy {}", percent(accuracy));
        }
        if let Some(r_squared) = self.r_squared {
            text += &format!("  R² {r_squared:.4}");
        }
        let (speed, workers) = (grouped(self.samples_per_second), counted(self.workers, "worker"));
        let rate = short(self.learning_rate.into());
        text + &format!("  {speed} samples/s  learning rate {rate}  {workers}")
    }
}

impl EpochLine {
    /// Describes the metrics of the epoch.
    pub fn text(&self) -> String {
        let mut text = format!("epoch {}/{}  {}", self.epoch, self.epochs, self.train.line());
        if let Some(validation) = &self.validation {
            text += &format!("  validation {}", validation.line());
        }
        let (speed, time) = (grouped(self.samples_per_second), seconds(self.seconds));
        text + &format!("  {speed} samples/s  {time}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_itself() {
        let train = Measures {
            samples: 9,
            loss: 0.25,
            accuracy: Some(0.5),
            class_errors: [].into(),
            r_squared: None,
            scores: None,
        };
        let line = Line::Epoch(EpochLine {
            epoch: 1,
            epochs: 2,
            step: 3,
            steps: 6,
            train,
            validation: None,
            learning_rate: 0.1,
            samples_per_second: 1234.5,
            workers: 2,
            seconds: 0.5,
        });
        let json = line.to_json();
        assert!(
            json.starts_with(r#"{"kind":"epoch","epoch":1,"#) && json.contains(r#""learning_rate":0.1,"#)
        );
        assert_eq!(serde_json::from_str::<Line>(&json).unwrap(), line);
        let Line::Epoch(epoch) = line else { panic!() };
        assert_eq!(epoch.text(), "epoch 1/2  loss 0.2500  accuracy 50.00 %  1,234 samples/s  0.50 s");
    }

    #[test]
    fn lines_become_rarer_as_a_run_goes_on_and_do_not_depend_on_its_length() {
        let due: Vec<u64> = (1..200).filter(|step| HashLine::is_due(*step)).collect();
        assert_eq!(due[..16], (1..=16).collect::<Vec<_>>());
        assert_eq!(due[16..26], [18, 20, 22, 24, 26, 28, 30, 32, 36, 40]);
        assert!((1..=EVERY_STEP_REPORTED_UNTIL).all(StepLine::is_due));
        let told = (1..=1_000_000).filter(|step| StepLine::is_due(*step)).count();
        assert!((5000..7000).contains(&told), "{told}");
    }
}
