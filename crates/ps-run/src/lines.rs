//! The lines of a metrics file, which are also what progress is shown from.

use crate::measures::{Measures, counted, grouped, percent, seconds, short};
use serde::{Deserialize, Serialize};

/// A line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Line {
    Step(StepLine),
    Epoch(EpochLine),
}

/// What the steps since the line before came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepLine {
    /// Steps made, of how many.
    pub step: u64,
    pub steps: u64,
    /// The epoch, from 1, of how many.
    pub epoch: u32,
    pub epochs: u32,
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// Of the last step.
    pub learning_rate: f32,
    pub samples_per_second: f64,
    pub workers: usize,
    /// Since training began.
    pub seconds: f64,
}

/// What an epoch came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochLine {
    /// The epoch, from 1, of how many.
    pub epoch: u32,
    pub epochs: u32,
    /// Steps made, of how many.
    pub step: u64,
    pub steps: u64,
    pub train: Measures,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Measures>,
    /// Of the last step.
    pub learning_rate: f32,
    pub samples_per_second: f64,
    pub workers: usize,
    /// Since training began.
    pub seconds: f64,
}

impl Line {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts become JSON")
    }
}

impl StepLine {
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
    /// How the epoch went; `speed` says whether the samples per second belong to it.
    pub fn text(&self, speed: bool) -> String {
        let mut text = format!("epoch {}/{}  {}", self.epoch, self.epochs, self.train.line());
        if let Some(validation) = &self.validation {
            text += &format!("  validation {}", validation.line());
        }
        if speed {
            text += &format!("  {} samples/s", grouped(self.samples_per_second));
        }
        text + &format!("  {}", seconds(self.seconds))
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
        assert_eq!(epoch.text(true), "epoch 1/2  loss 0.2500  accuracy 50.00 %  1,234 samples/s  0.50 s");
    }
}
