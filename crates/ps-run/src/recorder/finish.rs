//! The end of a run: results and summary.

use super::{EVALUATING, Recorder};
use crate::accumulator::Findings;
use crate::bans::Ban;
use crate::diagnosis::Diagnosis;
use crate::folder::{FolderError, MODEL_FILE};
use crate::job::Job;
use crate::measures::Measures;
use crate::phase::Phase;
use crate::summary::{Ending, Summary};
use std::path::{Path, PathBuf};
use std::time::Instant;

impl Recorder {
    /// Ends the run: writes the results, evaluates the weights and returns the summary. Relative data paths
    /// of the run start at `root`. The model is written before anything that can fail.
    pub fn finish(
        mut self,
        job: &Job,
        root: &Path,
        weights: &[f32],
        version: u64,
    ) -> Result<Summary, FolderError> {
        let finished = self.write_results(job, root, weights, version);
        self.end(|observer| match &finished {
            Ok(summary) => observer.on_finish(summary),
            Err(error) => observer.on_failure(error),
        });
        finished
    }

    fn write_results(
        &mut self,
        job: &Job,
        root: &Path,
        weights: &[f32],
        version: u64,
    ) -> Result<Summary, FolderError> {
        let seconds = self.accumulator.seconds(Instant::now());
        self.observers.phase(Phase::Finishing, EVALUATING);
        let ending = match self.is_concluded() || version >= job.plan.steps {
            true => Ending::Done,
            false if self.is_ended => Ending::Ended,
            false => Ending::Stopped,
        };
        // A checkpoint that does not fit on the disk takes space from the weights until it has failed. Its
        // error comes after the weights, so that it does not lose them.
        let settled = self.finish_checkpoints(ending);
        let Some(folder) = self.folder.clone() else {
            settled?;
            return self.conclude(job, None, weights, version, ending, seconds);
        };
        // If the current folder has been deleted, a relative path is better than no results.
        let data_root = Some(std::path::absolute(root).unwrap_or_else(|_| root.into()));
        folder.remove_outdated_summary(job)?;
        folder.write_model(job, weights, version)?;
        let concluded =
            settled.and_then(|()| self.conclude(job, data_root, weights, version, ending, seconds));
        concluded.inspect_err(|_| {
            self.note(&format!("the model is in {}", folder.path().join(MODEL_FILE).display()));
        })
    }

    /// Evaluates the weights and writes the remaining results.
    fn conclude(
        &mut self,
        job: &Job,
        data_root: Option<PathBuf>,
        weights: &[f32],
        version: u64,
        ending: Ending,
        seconds: f64,
    ) -> Result<Summary, FolderError> {
        self.observers.terminal.close();
        if let Some(metrics) = self.observers.metrics.take() {
            metrics.close()?;
        }
        let findings = self.accumulator.take_findings();
        // The inspector has seen these weights if the last step ended an epoch, unless earlier weights were
        // restored.
        let is_inspected = version > 0 && self.plan.ends_epoch(version - 1) && !findings.is_restored;
        let summary =
            Summary { data_root, ..self.summarize(job, weights, version, ending, seconds, findings) };
        self.observers.phase(Phase::Finishing, "writing the results");
        if let Some(inspector) = self.observers.inspector.take().filter(|_| !is_inspected) {
            inspector.inspect(version, weights);
        }
        if let Some(folder) = &self.folder {
            folder.write_summary(&summary)?;
        }
        self.save_end();
        Ok(summary)
    }

    /// Waits for the checkpoint that is being saved.
    fn finish_checkpoints(&mut self, ending: Ending) -> Result<(), FolderError> {
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(()) };
        let warning = match ending {
            Ending::Done => checkpoints.wait()?,
            // A run that will be resumed needs its last checkpoint.
            Ending::Stopped | Ending::Ended => {
                checkpoints.wait_until_saved()?;
                None
            }
        };
        self.observers.run_state.checkpoint(checkpoints.durable());
        self.warn(warning);
        Ok(())
    }

    fn summarize(
        &mut self,
        job: &Job,
        weights: &[f32],
        version: u64,
        ending: Ending,
        seconds: f64,
        findings: Findings,
    ) -> Summary {
        let validated = findings.validated.filter(|(step, _)| *step == version).map(|(_, measures)| measures);
        // With Armijo, the last step may go back to earlier weights.
        let is_of_earlier_weights =
            findings.is_concluded || findings.is_restored || job.control.descent.is_some();
        let train = match is_of_earlier_weights {
            true => Some(Measures::new(&job.measure(weights), &job.data.class_names)),
            false => findings.train,
        };
        Summary {
            is_tainted: self.bans.iter().any(Ban::is_tainting),
            bans: std::mem::take(&mut self.bans),
            steps_taken: Diagnosis::of(&findings.probes),
            seconds,
            samples_per_second: self.accumulator.samples() as f64 / seconds.max(1e-9),
            train,
            slowest: self.slowest.take(),
            ..Summary::new(job, weights, version, ending, validated)
        }
    }

    /// Saves the state after the last step. The results are already written, so a failure only means that the
    /// run cannot be made longer.
    fn save_end(&mut self) {
        let Some(Err(error)) = self.checkpoints.as_mut().map(|checkpoints| checkpoints.save_end()) else {
            return;
        };
        self.warn([format!(
            "the state after the last step was not saved: {error}; a longer run would resume from an \
             earlier step"
        )]);
    }
}
