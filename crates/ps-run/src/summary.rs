//! The summary of a run.

use crate::bans::Ban;
use crate::diagnosis::Diagnosis;
use crate::folder::SUMMARY_FILE;
use crate::job::Job;
use crate::measures::{Measures, counted, grouped, seconds};
use crate::paths;
use ps_checkpoint::Fingerprint;
use ps_core::weights_hash;
use ps_data::Split;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The content of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How the run ended.
    pub outcome: Ending,
    /// Number of steps made.
    pub steps: u64,
    /// Number of steps of the whole run.
    pub steps_planned: u64,
    /// Number of parameters of the model.
    pub parameters: usize,
    /// Hashes of the run file, the data and the numerics, which identify the run.
    pub fingerprint: Fingerprint,
    /// Seconds of training, including evaluation at the end of epochs.
    pub seconds: f64,
    /// Training samples per second.
    pub samples_per_second: f64,
    /// Means over the last epoch's steps, each before its update. If the final weights are not those after
    /// the last step, metrics of the final weights on the whole training part.
    pub train: Option<Measures>,
    /// Metrics of the final weights on the validation part.
    pub validation: Option<Measures>,
    /// Metrics of the final weights on the test source.
    pub test: Option<Measures>,
    /// The worker that steps waited for, if that cost much time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest: Option<Slowest>,
    /// A judgement of the learning rate, if steps were probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_taken: Option<Diagnosis>,
    /// Workers that were banned for wrong sums.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bans: Vec<Ban>,
    /// Whether the weights may depend on wrong sums of a banned worker.
    #[serde(default, rename = "tainted", skip_serializing_if = "std::ops::Not::not")]
    pub is_tainted: bool,
    /// SHA-256 of the final weights.
    pub weights_sha256: String,
    /// The folder at which relative data paths of the run file start, if results are written.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::as_text")]
    pub data_root: Option<PathBuf>,
}

/// A worker that all others had to wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slowest {
    /// Name and address of the worker.
    pub worker: String,
    /// Total time that steps waited for it, in seconds.
    pub waited_seconds: f64,
}

/// How a run with results ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All steps were made, or a policy ended the run.
    Done,
    /// The user stopped the run.
    Stopped,
    /// An administrator ended the run for good.
    Ended,
}

/// Maximum number of bans that are listed.
const BANS_SHOWN: usize = 4;

/// Width of the labels before the values in [`Summary::lines`], in columns.
pub const SUMMARY_INDENT: usize = 13;

impl Summary {
    /// Returns whether the run is done, rather than stopped or ended.
    pub fn is_done(&self) -> bool {
        self.outcome == Ending::Done
    }

    /// Evaluates the weights on all parts on which they have not been evaluated yet. The recorder fills in
    /// the other fields.
    pub(crate) fn new(
        job: &Job,
        weights: &[f32],
        version: u64,
        outcome: Ending,
        validated: Option<Measures>,
    ) -> Self {
        let measure = |metric_sums: Option<_>| {
            metric_sums.map(|metric_sums| Measures::new(&metric_sums, &job.data.class_names))
        };
        let scored = |measures: Option<Measures>, weights: &[f32], split: &Option<Split>| {
            let (measures, split) = (measures?, split.as_ref()?);
            let scores = job.score(weights, split, measures.loss);
            Some(measures.with_scores(scores))
        };
        // Policies decide by the validation, so it uses weights as they travel. No decision depends on the
        // test, which measures the weights as they are saved.
        let (data, rounded) = (&job.data, job.model.precision().round(weights));
        Summary {
            outcome,
            steps: version,
            steps_planned: job.plan.steps,
            parameters: job.model.parameters(),
            fingerprint: job.fingerprint.clone(),
            seconds: 0.0,
            samples_per_second: 0.0,
            train: None,
            validation: scored(
                validated.or_else(|| measure(job.validate(weights))),
                &rounded,
                &data.validation,
            ),
            test: scored(measure(job.test(weights)), weights, &data.test),
            slowest: None,
            steps_taken: None,
            bans: Vec::new(),
            is_tainted: false,
            weights_sha256: weights_hash(weights),
            data_root: None,
        }
    }

    /// Formats the summary as JSON, the content of `summary.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain numbers and texts become JSON") + "\n"
    }

    /// Formats the summary for people; the last line is the hash.
    pub fn lines(&self, folder: Option<&Path>) -> Vec<String> {
        let of = match self.outcome {
            Ending::Done if self.steps < self.steps_planned => {
                format!(" of {}, ended early", grouped(self.steps_planned as f64))
            }
            Ending::Done => String::new(),
            Ending::Stopped => format!(" of {}, stopped before the end", grouped(self.steps_planned as f64)),
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
                "slowest      {worker}: steps waited {} for this worker alone",
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
            lines.push(format!("{:<12} the weights may contain wrong sums of a banned worker", "tainted"));
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
