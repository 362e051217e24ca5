//! Reads runs, finished or still training, from their results folders.

use crate::folder::{FolderError, METRICS_FILE, RUN_FILE, SUMMARY_FILE};
use crate::job::Job;
use crate::lines::{HashLine, Line};
use crate::run_state::{About, RunState};
use crate::summary::{Ending, Summary};
use ps_host::Ceiling;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A run as its results folder describes it.
#[derive(Clone, Debug)]
pub struct PastRun {
    /// The results folder.
    pub folder: PathBuf,
    /// The resolved run file.
    pub run: String,
    /// The lines of metrics so far.
    pub lines: Vec<Line>,
    /// The summary; `None` if the run has not ended.
    pub summary: Option<Summary>,
    /// When the metrics or the summary was last written.
    pub written: SystemTime,
}

impl PastRun {
    /// Reads a results folder; `None` if it holds no run.
    ///
    /// # Errors
    /// A file cannot be read or has invalid content.
    pub fn read(folder: &Path) -> Result<Option<Self>, FolderError> {
        let [path, metrics] = [RUN_FILE, METRICS_FILE].map(|name| folder.join(name));
        // A run file without metrics is one that the user has written, not a run.
        if !path.is_file() || !metrics.is_file() {
            return Ok(None);
        }
        let run = ps_host::read_text(&path, Ceiling::TEXT);
        let run = run.map_err(|error| FolderError::File { path, error })?;
        let lines = Line::read_all(&metrics)?;
        let path = folder.join(SUMMARY_FILE);
        let summary: Option<Summary> = match ps_host::read(&path, Ceiling::TEXT) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| FolderError::Content {
                path: path.clone(),
                problem: format!("not a valid summary of a run: {error}"),
            })?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(FolderError::File { path, error }),
        };
        // While a finished run is being made longer, its old summary stays in the folder. It does not
        // describe this run.
        let planned = counted_steps(&lines).map(|(_, steps)| steps);
        let summary = summary.filter(|summary| planned.is_none_or(|steps| steps == summary.steps_planned));
        let times = [&path, &metrics].into_iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok());
        let written = times.max().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some(PastRun { folder: folder.into(), run, lines, summary, written }))
    }

    /// The name of the run, which is that of its folder.
    pub fn name(&self) -> String {
        let full = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        full.file_name()
            .map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The state of the run in one word: `done`, `stopped`, `ended` or `unfinished`.
    pub fn state(&self) -> &'static str {
        match self.summary.as_ref().map(|summary| summary.outcome) {
            Some(Ending::Done) => "done",
            Some(Ending::Stopped) => "stopped",
            Some(Ending::Ended) => "ended",
            None => "unfinished",
        }
    }

    /// Returns the state of this run after its end. `job` must be that of the run.
    pub fn run_state(&self, job: &Job) -> RunState {
        let run_state = RunState::new(About::of(job, Some(&self.folder)), &self.lines);
        if let Some(summary) = &self.summary {
            run_state.update(|snapshot| {
                snapshot.steps = summary.steps;
                snapshot.validation.clone_from(&summary.validation);
                if let Some(train) = &summary.train {
                    (snapshot.loss, snapshot.accuracy) = (train.loss, train.accuracy);
                }
            });
            run_state.end(summary);
        }
        run_state
    }

    /// Returns the number of steps made, as far as is known, and the number of steps of the whole run.
    pub fn steps(&self) -> Option<(u64, u64)> {
        let made = self.summary.as_ref().map(|summary| (summary.steps, summary.steps_planned));
        made.or_else(|| counted_steps(&self.lines))
    }

    /// The hash lines, in order.
    pub fn hashes(&self) -> impl Iterator<Item = &HashLine> {
        self.lines.iter().filter_map(|line| match line {
            Line::Hash(line) => Some(line),
            _ => None,
        })
    }
}

/// Returns the steps made according to the last line that counts them, and the steps of the whole run.
fn counted_steps(lines: &[Line]) -> Option<(u64, u64)> {
    lines.iter().rev().find_map(|line| match line {
        Line::Step(line) => Some((line.step, line.steps)),
        Line::Epoch(line) => Some((line.step, line.steps)),
        _ => None,
    })
}
