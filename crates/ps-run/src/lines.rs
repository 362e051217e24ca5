//! The lines of a metrics file, which are also what progress is shown from.

use crate::folder::FolderError;
use crate::measures::{Measures, counted, grouped, percent, seconds, short};
use ps_plan::BatchPlan;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// After this many steps, each of which has its hash, hashes of the weights become rarer.
const EACH_HASHED: u64 = 16;
/// After this many steps, each of which has its line, lines of steps become rarer.
const EACH_TOLD: u64 = 1024;

/// [`EventLine::event`] of a warning.
pub(crate) const WARNED: &str = "warned";

/// A line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Line {
    /// Some steps.
    Step(StepLine),
    /// An epoch.
    Epoch(EpochLine),
    /// A step that was looked at closely.
    Probe(ProbeLine),
    /// Something out of the ordinary.
    Event(EventLine),
    /// What the weights were.
    Hash(HashLine),
}

/// What the steps since the line before came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Steps made.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// The epoch, from 1.
    pub epoch: u32,
    /// Of how many.
    pub epochs: u32,
    /// Mean loss per sample.
    pub loss: f64,
    /// Share of samples whose class was predicted, in classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// In regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// Of the last step.
    pub learning_rate: f32,
    /// Samples per second.
    pub samples_per_second: f64,
    /// Workers that take part.
    pub workers: usize,
    /// Since training began.
    pub seconds: f64,
}

/// What an epoch came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLine {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Of how many.
    pub epochs: u32,
    /// Steps made.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// Of the steps of the epoch, each before its update.
    pub train: Measures,
    /// Of the weights after the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Measures>,
    /// Of the last step.
    pub learning_rate: f32,
    /// Samples per second.
    pub samples_per_second: f64,
    /// Workers that take part.
    pub workers: usize,
    /// Since training began.
    pub seconds: f64,
}

/// What a step was expected to do, and what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeLine {
    /// Steps made, this one included.
    pub step: u64,
    /// Its learning rate.
    pub learning_rate: f32,
    /// Mean loss of its batch before it.
    pub loss: f64,
    /// Euclidean norm of the mean gradient.
    pub gradient_norm: f64,
    /// By how much the loss of its batch should fall to first order: for plain descent the rate times the squared norm.
    pub predicted_decrease: f64,
    /// By how much it fell.
    pub actual_decrease: f64,
    /// Of each layer, the norm of the change of its weight by the norm of its weight.
    pub update_ratios: Vec<f64>,
}

/// Something out of the ordinary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Steps made by then.
    pub step: u64,
    /// What, in one word: `lowered`, `recovered`, `warned`, `stopped`, `restored`.
    pub event: String,
    /// The same for people.
    pub text: String,
}

/// The weights after some steps: where two runs have the same up to one of these and others from the next, they parted
/// between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HashLine {
    /// Steps made.
    pub step: u64,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// SHA-256 of this text of the line before, if any, and of the one above: equal where all lines so far are.
    pub chain: String,
}

impl HashLine {
    /// The line after `step` steps, that follows on one with the chain `before`.
    pub fn new(step: u64, weights: &[f32], before: Option<&str>) -> Self {
        let weights_sha256 = ps_core::weights_hash(weights);
        let mut chain = Sha256::new();
        chain.update(before.unwrap_or_default());
        chain.update(&weights_sha256);
        HashLine { step, weights_sha256, chain: ps_core::params::hex(&chain.finalize()) }
    }

    /// Whether there is such a line after `step` steps.
    pub fn is_due(step: u64) -> bool {
        is_due(step, EACH_HASHED)
    }
}

/// Whether a line is due after `step` steps: after each of the first `each`, and then half as often whenever their number
/// has doubled. Nothing but the step decides this, so that a longer run begins with the lines of a shorter one.
fn is_due(step: u64, each: u64) -> bool {
    step > 0 && step.is_multiple_of(step.div_ceil(each).next_power_of_two())
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Length {
    /// Its steps.
    pub steps: u64,
    /// Its epochs, of which the last may be cut short.
    pub epochs: u32,
}

impl Length {
    pub(crate) fn of(plan: &BatchPlan) -> Self {
        Length { steps: plan.steps, epochs: plan.step(plan.steps - 1).epoch + 1 }
    }
}

impl Line {
    /// The lines of a run's metrics file, in order; a last one that a killed process left half-written is not counted.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is no line of metrics.
    pub fn read_all(path: &Path) -> Result<Vec<Line>, FolderError> {
        let failed = |error| FolderError::File { path: path.into(), error };
        let text = ps_host::read_text(path, ps_host::Ceiling::memory(3)).map_err(failed)?;
        let lines = text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n'));
        let read = |(number, line): (usize, &str)| {
            let wrong = |error| format!("line {} is no line of metrics: {error}", number + 1);
            let line = serde_json::from_str(line).map_err(wrong);
            line.map_err(|why| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, why)))
        };
        lines.map(read).collect()
    }

    /// The same line of a run of another length.
    pub(crate) fn of_length(self, Length { steps, epochs }: Length) -> Self {
        match self {
            Line::Step(line) => Line::Step(StepLine { steps, epochs, ..line }),
            Line::Epoch(line) => Line::Epoch(EpochLine { steps, epochs, ..line }),
            other => other,
        }
    }

    /// One line, without its end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts become JSON")
    }
}

impl StepLine {
    /// Whether there is such a line after `step` steps, within an epoch.
    pub fn is_due(step: u64) -> bool {
        is_due(step, EACH_TOLD)
    }

    /// Where the run is.
    pub fn head(&self) -> String {
        format!("epoch {}/{}  step {}/{}", self.epoch, self.epochs, self.step, self.steps)
    }

    /// How it goes there.
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
    /// How the epoch went, in full.
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
        assert!((1..=EACH_TOLD).all(StepLine::is_due));
        let told = (1..=1_000_000).filter(|step| StepLine::is_due(*step)).count();
        assert!((5000..7000).contains(&told), "{told}");
    }
}
