//! A run's result in numbers.

use crate::bans::Ban;
use crate::diagnosis::Diagnosis;
use crate::folder::SUMMARY_FILE;
use crate::job::Job;
use crate::measures::{Measures, counted, grouped, seconds};
use ps_checkpoint::Fingerprint;
use ps_core::weights_hash;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What `summary.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How the run ended.
    pub outcome: Ending,
    /// Steps made.
    pub steps: u64,
    /// Steps of the whole run.
    pub steps_planned: u64,
    /// Parameters of the model.
    pub parameters: usize,
    /// What the run was.
    pub fingerprint: Fingerprint,
    /// Seconds of training, evaluation at epoch ends included.
    pub seconds: f64,
    /// Training samples seen per second.
    pub samples_per_second: f64,
    /// Over the last epoch's steps, each before its update; or, if the final weights are not those after the last step, of
    /// the final weights on the whole training part.
    pub train: Option<Measures>,
    /// Of the final weights on the validation part.
    pub validation: Option<Measures>,
    /// Of the final weights on the test source.
    pub test: Option<Measures>,
    /// The worker that steps waited for, if one cost much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest: Option<Slowest>,
    /// What the steps that were looked at closely say of the learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_taken: Option<Diagnosis>,
    /// Workers that were banned because their sums were wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bans: Vec<Ban>,
    /// Whether wrong sums of a banned worker may be part of the weights.
    #[serde(default, rename = "tainted", skip_serializing_if = "std::ops::Not::not")]
    pub is_tainted: bool,
    /// SHA-256 of the final weights.
    pub weights_sha256: String,
}

/// A worker that all others waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slowest {
    /// Its name and address.
    pub worker: String,
    /// For how long, in seconds.
    pub waited_seconds: f64,
}

/// How a run that has results ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All steps were made.
    Done,
    /// The user stopped it.
    Stopped,
    /// An administrator ended it, for good.
    Ended,
}

/// Bans that get a line each.
const BANS_SHOWN: usize = 4;

/// Columns before the values in [`Summary::lines`].
pub const SUMMARY_INDENT: usize = 13;

impl Summary {
    /// Whether the run has made all its steps.
    pub fn is_done(&self) -> bool {
        self.outcome == Ending::Done
    }

    /// Measures the weights on what the run has to measure on and they were not yet; the recorder fills in the
    /// rest.
    pub(crate) fn new(
        job: &Job,
        weights: &[f32],
        version: u64,
        outcome: Ending,
        validated: Option<Measures>,
    ) -> Self {
        let measure = |tally: Option<_>| tally.map(|tally| Measures::new(&tally, &job.data.class_names));
        Summary {
            outcome,
            steps: version,
            steps_planned: job.plan.steps,
            parameters: job.model.parameters(),
            fingerprint: job.fingerprint.clone(),
            seconds: 0.0,
            samples_per_second: 0.0,
            train: None,
            validation: validated.or_else(|| measure(job.validate(weights))),
            test: measure(job.test(weights)),
            slowest: None,
            steps_taken: None,
            bans: Vec::new(),
            is_tainted: false,
            weights_sha256: weights_hash(weights),
        }
    }

    /// The text of `summary.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain numbers and texts become JSON") + "\n"
    }

    /// The lines for people, the hash last.
    pub fn lines(&self, folder: Option<&Path>) -> Vec<String> {
        let of = match self.outcome {
            Ending::Done if self.steps < self.steps_planned => {
                format!(" of {}, which were enough", grouped(self.steps_planned as f64))
            }
            Ending::Done => String::new(),
            Ending::Stopped => format!(" of {}, stopped before its end", grouped(self.steps_planned as f64)),
            Ending::Ended => format!(" of {}, ended on request", grouped(self.steps_planned as f64)),
        };
        let mut lines = vec![format!(
            "trained      {}{of} in {}, {} samples/s",
            counted(self.steps as usize, "step"),
            seconds(self.seconds),
            grouped(self.samples_per_second)
        )];
        let parts = [("training", &self.train), ("validation", &self.validation), ("test", &self.test)];
        for (name, measures) in parts {
            if let Some(measures) = measures {
                lines.push(format!("{name:<12} {}", measures.line()));
            }
        }
        if let Some(Slowest { worker, waited_seconds }) = &self.slowest {
            lines.push(format!(
                "slowest      {worker}: steps waited {} for it alone",
                seconds(*waited_seconds)
            ));
        }
        for ban in self.bans.iter().take(BANS_SHOWN) {
            lines.push(format!("{:<12} {}", "banned", ban.line()));
        }
        if let Some(more @ 1..) = self.bans.len().checked_sub(BANS_SHOWN) {
            lines.push(format!("{:<12} {more} more, see {SUMMARY_FILE}", ""));
        }
        if self.is_tainted {
            lines.push(format!("{:<12} the weights may hold wrong sums of a banned worker", "tainted"));
        }
        if let Some(steps) = &self.steps_taken {
            lines.push(format!("{:<12} {}", "step size", steps.verdict));
        }
        if let Some(folder) = folder {
            lines.push(format!("{:<12} {}", "results in", folder.display()));
        }
        lines.push(format!("weights sha256 {}", self.weights_sha256));
        lines
    }
}
