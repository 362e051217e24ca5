//! Runs that were made, or are being made, as their folders tell.

use crate::board::{About, Board};
use crate::folder::{FolderError, METRICS_FILE, RUN_FILE, SUMMARY_FILE};
use crate::job::Job;
use crate::lines::{HashLine, Line};
use crate::summary::{Ending, Summary};
use ps_host::Ceiling;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a run's folder tells of it.
#[derive(Clone, Debug)]
pub struct PastRun {
    /// The folder.
    pub folder: PathBuf,
    /// The run file as resolved.
    pub run: String,
    /// Its lines so far.
    pub lines: Vec<Line>,
    /// Its result, if it has one.
    pub summary: Option<Summary>,
    /// When something was last written.
    pub written: SystemTime,
}

impl PastRun {
    /// Reads what a folder tells; `None` if it holds no run.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn read(folder: &Path) -> Result<Option<Self>, FolderError> {
        let [path, metrics] = [RUN_FILE, METRICS_FILE].map(|name| folder.join(name));
        // A run file alone is what somebody means to run.
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
                problem: format!("it is no summary of a run: {error}"),
            })?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(FolderError::File { path, error }),
        };
        // A finished run that is made longer keeps its results until those of the longer one replace them.
        let planned = told(&lines).map(|(_, steps)| steps);
        let summary = summary.filter(|summary| planned.is_none_or(|steps| steps == summary.steps_planned));
        let times = [&path, &metrics].into_iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok());
        let written = times.max().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some(PastRun { folder: folder.into(), run, lines, summary, written }))
    }

    /// What a run is called: its folder's name.
    pub fn name(&self) -> String {
        let full = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        full.file_name()
            .map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// Where it stands, in a word.
    pub fn state(&self) -> &'static str {
        match self.summary.as_ref().map(|summary| summary.outcome) {
            Some(Ending::Done) => "done",
            Some(Ending::Stopped) => "stopped",
            Some(Ending::Ended) => "ended",
            None => "unfinished",
        }
    }

    /// What there is to see of it, that is over, where `job` is what it was made of.
    pub fn board(&self, job: &Job) -> Board {
        let board = Board::new(About::of(job, Some(&self.folder)), &self.lines);
        if let Some(summary) = &self.summary {
            board.tell(|seen| {
                seen.steps = summary.steps;
                seen.validation.clone_from(&summary.validation);
                if let Some(train) = &summary.train {
                    (seen.loss, seen.accuracy) = (train.loss, train.accuracy);
                }
            });
            board.end(summary);
        }
        board
    }

    /// Steps made, as far as is known, and of how many.
    pub fn steps(&self) -> Option<(u64, u64)> {
        let made = self.summary.as_ref().map(|summary| (summary.steps, summary.steps_planned));
        made.or_else(|| told(&self.lines))
    }

    /// The hashes of its weights.
    pub fn hashes(&self) -> impl Iterator<Item = &HashLine> {
        self.lines.iter().filter_map(|line| match line {
            Line::Hash(line) => Some(line),
            _ => None,
        })
    }
}

/// The steps made by the last line that counts them, and of how many.
fn told(lines: &[Line]) -> Option<(u64, u64)> {
    lines.iter().rev().find_map(|line| match line {
        Line::Step(line) => Some((line.step, line.steps)),
        Line::Epoch(line) => Some((line.step, line.steps)),
        _ => None,
    })
}
