//! The results folder of a run.

use crate::bans::{self, BANS_FILE, Ban};
use crate::job::Job;
use crate::lines::{Length, Line};
use crate::model_file::AboutModel;
use crate::summary::{Ending, Summary};
use ps_config::RunConfig;
use ps_host::Ceiling;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The resolved run file.
pub const RUN_FILE: &str = "run.toml";
/// The metrics of steps and epochs, one JSON object per line.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The subfolder of checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// The subfolder of the first of several restarts.
const FIRST_RESTART: &str = "restart-1";
/// The trained model.
pub const MODEL_FILE: &str = "model.safetensors";
/// The trained model in folders of earlier versions.
const OLD_MODEL_FILE: &str = "weights.safetensors";
/// The summary: metrics, outcome, and the hash of the weights.
pub const SUMMARY_FILE: &str = "summary.json";

/// A results folder that belongs to one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The commit that the program was built from, if known.
    commit: Option<&'static str>,
}

/// Why results cannot be written or read.
#[derive(Debug)]
pub enum FolderError {
    /// The folder is not empty and cannot be used.
    Taken {
        /// The folder in question.
        path: PathBuf,
        /// What the folder contains.
        held: FolderContent,
    },
    /// The run must not resume from the checkpoints in the folder.
    OtherRun {
        /// The folder in question.
        path: PathBuf,
        /// The reason, and how to fix it.
        why: String,
    },
    /// The operating system reported an error.
    File {
        /// The file or folder in question.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A checkpoint cannot be saved, or the run cannot resume from one.
    Checkpoint(ps_checkpoint::Error),
    /// A result file has invalid content.
    Content {
        /// The file in question.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Content that keeps a run from using a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderContent {
    /// Something other than the results of a finished run.
    Something,
    /// The results of a finished run, which this run cannot continue.
    Results,
    /// The results of this very run, which is finished.
    SameRun,
    /// The results of a finished run, and no checkpoint to resume from.
    NoCheckpoint,
}

impl RunFolder {
    /// Creates `out`; without it, the first of `runs/<name>-1`, `runs/<name>-2`, … that does not exist.
    ///
    /// An existing folder must be empty, or hold checkpoints that `resumed` may resume from: those of an
    /// unfinished run, or of a finished one with another run file. Whether it may is decided once the data is
    /// known, by [`crate::Recorder::with_checkpoints`]. Without `resumed`, the run has no checkpoints and the
    /// folder must be empty.
    pub fn create(out: Option<&Path>, name: &str, resumed: Option<&RunConfig>) -> Result<Self, FolderError> {
        match out {
            Some(path) => RunFolder::given(path, resumed),
            None => RunFolder::numbered(Path::new("runs"), name),
        }
    }

    /// Like [`RunFolder::create`], for the folder of several restarts. An existing folder is resumed if it
    /// holds restarts and no result.
    pub fn of_restarts(out: Option<&Path>, name: &str) -> Result<Self, FolderError> {
        match out {
            Some(path) => match is_empty(path)? {
                true => Ok(RunFolder::at(path.into())),
                false if is_finished(path) => Err(taken(path, FolderContent::Results)),
                false => RunFolder::begun(path, FIRST_RESTART),
            },
            None => RunFolder::numbered(Path::new("runs"), name),
        }
    }

    fn given(path: &Path, resumed: Option<&RunConfig>) -> Result<Self, FolderError> {
        if is_empty(path)? {
            return Ok(RunFolder::at(path.into()));
        }
        let results = read_summary(path).filter(|read| read.as_ref().map_or(true, Summary::is_done));
        match (results, resumed) {
            (None, Some(_)) => RunFolder::begun(path, CHECKPOINTS),
            (None, None) => Err(taken(path, FolderContent::Something)),
            (Some(Ok(summary)), Some(run)) if summary.fingerprint.run != run.fingerprint() => {
                match path.join(CHECKPOINTS).is_dir() {
                    true => Ok(RunFolder::at(path.into())),
                    false => Err(taken(path, FolderContent::NoCheckpoint)),
                }
            }
            (Some(Ok(_)), Some(_)) => Err(taken(path, FolderContent::SameRun)),
            (Some(_), _) => Err(taken(path, FolderContent::Results)),
        }
    }

    /// Takes `path`, in which an unfinished run has already created the subfolder `begun`.
    fn begun(path: &Path, begun: &str) -> Result<Self, FolderError> {
        match path.join(begun).is_dir() {
            true => Ok(RunFolder::at(path.into())),
            false => Err(taken(path, FolderContent::Something)),
        }
    }

    /// Checks that a finished run can be made longer: there must be a checkpoint to resume from, and the run
    /// must have ended because all its steps were made, not because a policy ended it.
    pub(crate) fn check_results(&self, has_checkpoint: bool) -> Result<(), FolderError> {
        let Some(Ok(summary)) = read_summary(&self.path) else { return Ok(()) };
        if !summary.is_done() {
            return Ok(());
        }
        if !has_checkpoint {
            return Err(taken(&self.path, FolderContent::NoCheckpoint));
        }
        if summary.steps >= summary.steps_planned {
            return Ok(());
        }
        let stopped = |line: &Line| match line {
            Line::Event(event) if event.event == "stopped" => Some(format!(" ({})", event.text)),
            _ => None,
        };
        let lines = Line::read_all(&self.path.join(METRICS_FILE)).unwrap_or_default();
        Err(FolderError::OtherRun {
            path: self.path.clone(),
            why: format!(
                "the run in this folder ended by itself after {} of {} steps{}, and a longer run would end \
                 there as well; choose another folder with --out",
                summary.steps,
                summary.steps_planned,
                lines.iter().rev().find_map(stopped).unwrap_or_default()
            ),
        })
    }

    fn numbered(parent: &Path, name: &str) -> Result<Self, FolderError> {
        fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        for number in 1_u64.. {
            let path = parent.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder::at(path)),
                // Another process may create its folder at the same time, so only the attempt itself is a
                // reliable test.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&path, error)),
            }
        }
        unreachable!("some number is free")
    }

    fn at(path: PathBuf) -> Self {
        RunFolder { path, commit: None }
    }

    /// Names the commit that the program was built from, for the model file.
    pub fn with_commit(self, commit: Option<&'static str>) -> Self {
        RunFolder { commit, ..self }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the resolved run file.
    pub fn write_run(&self, job: &Job) -> Result<(), FolderError> {
        write_atomically(&self.path.join(RUN_FILE), job.run.to_toml().as_bytes())
    }

    /// Reads the bans of the run.
    pub(crate) fn bans(&self) -> Result<Vec<Ban>, FolderError> {
        let path = self.path.join(BANS_FILE);
        match ps_host::read(&path, Ceiling::TEXT) {
            Ok(content) => bans::parse(&content, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Replaces the bans of the run.
    pub(crate) fn write_bans(&self, bans: &[Ban]) -> Result<(), FolderError> {
        let text = serde_json::to_string_pretty(bans).expect("plain numbers and texts become JSON") + "\n";
        write_atomically(&self.path.join(BANS_FILE), text.as_bytes())
    }

    /// Opens the metrics file and keeps its first `lines` lines, rewritten for a run of this length.
    pub(crate) fn metrics(&self, lines: u64, length: Length) -> Result<File, FolderError> {
        let path = self.path.join(METRICS_FILE);
        let kept = usize::try_from(lines).unwrap_or(usize::MAX);
        // A process that died may have written later steps, which will be written again, and half a last
        // line.
        let is_whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        let of_length = |line: &str| match serde_json::from_str::<Line>(line) {
            Ok(read) => read.of_length(length).to_json() + "\n",
            Err(_) => format!("{line}\n"),
        };
        let lines: String = match ps_host::read(&path, Ceiling::memory(3)) {
            Ok(bytes) => {
                // The half line at the end may be cut within a character.
                let text = String::from_utf8_lossy(&bytes);
                text.lines().take(kept).filter(is_whole).map(of_length).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(&path, error)),
        };
        write_atomically(&path, lines.as_bytes())?;
        File::options().append(true).open(&path).map_err(|error| failed(&path, error))
    }

    /// Removes the summary of a run with another run file, so that it is never paired with newer results.
    pub(crate) fn remove_outdated_summary(&self, job: &Job) -> Result<(), FolderError> {
        let is_other = |summary: Summary| summary.fingerprint != job.fingerprint;
        if !read_summary(&self.path).is_some_and(|read| read.map_or(true, is_other)) {
            return Ok(());
        }
        let path = self.path.join(SUMMARY_FILE);
        fs::remove_file(&path).map_err(|error| failed(&path, error))
    }

    /// Writes the model with its final weights, after `version` steps.
    pub(crate) fn write_model(&self, job: &Job, weights: &[f32], version: u64) -> Result<(), FolderError> {
        let about = AboutModel::new(job, self.commit, weights, version);
        about.write(&self.path.join(MODEL_FILE), &job.model, weights)?;
        // The folder may hold the results of an earlier version, which this run has made longer.
        match fs::remove_file(self.path.join(OLD_MODEL_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&self.path.join(OLD_MODEL_FILE), error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the summary, last of all files: it marks the run as finished. It is durable when this returns.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), FolderError> {
        write_atomically(&self.path.join(SUMMARY_FILE), summary.to_json().as_bytes())?;
        // Only Unix lets a folder be opened to sync it; elsewhere this is not necessary.
        if cfg!(not(unix)) {
            return Ok(());
        }
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(&self.path, error))
    }
}

/// Copies the results of the finished run in `from` to `folder`, which the summary, last, completes.
///
/// # Errors
/// A file cannot be read or written.
pub fn adopt(folder: &Path, from: &Path) -> Result<(), FolderError> {
    [RUN_FILE, METRICS_FILE, MODEL_FILE, SUMMARY_FILE].iter().try_for_each(|name| {
        let bytes = ps_host::read(&from.join(name), Ceiling::memory(1))
            .map_err(|error| failed(&from.join(name), error))?;
        write_atomically(&folder.join(name), &bytes)
    })
}

/// Returns the folder at which relative data paths of the run in `path` start, if its summary says so.
pub fn data_root(path: &Path) -> Option<PathBuf> {
    read_summary(path)?.ok()?.data_root
}

/// Returns the path of the model file, given that path or the results folder.
pub fn model_path(path: &Path) -> PathBuf {
    match path.is_dir() {
        false => path.into(),
        true if path.join(OLD_MODEL_FILE).is_file() && !path.join(MODEL_FILE).exists() => {
            path.join(OLD_MODEL_FILE)
        }
        true => path.join(MODEL_FILE),
    }
}

/// Returns the summary in `path` if it is of a finished run like `job`.
pub fn finished(path: &Path, job: &Job) -> Option<Summary> {
    let summary = read_summary(path)?.ok()?;
    (summary.is_done() && summary.fingerprint == job.fingerprint).then_some(summary)
}

/// Returns the summary in `path` if an administrator ended that run for good.
pub fn ended(path: &Path) -> Option<Summary> {
    read_summary(path)?.ok().filter(|summary| summary.outcome == Ending::Ended)
}

/// Turns a run that was ended for good into one that was stopped, which servers resume.
///
/// # Errors
/// The summary cannot be written.
pub fn reopen(path: &Path) -> Result<(), FolderError> {
    let Some(summary) = ended(path) else { return Ok(()) };
    let stopped = Summary { outcome: Ending::Stopped, ..summary };
    write_atomically(&path.join(SUMMARY_FILE), stopped.to_json().as_bytes())
}

/// Returns whether a folder holds the results of a run that has made all its steps.
fn is_finished(path: &Path) -> bool {
    read_summary(path).is_some_and(|read| read.as_ref().map_or(true, Summary::is_done))
}

/// Returns whether a folder is empty; creates it if it does not exist.
fn is_empty(path: &Path) -> Result<bool, FolderError> {
    fs::create_dir_all(path).map_err(|error| failed(path, error))?;
    Ok(fs::read_dir(path).map_err(|error| failed(path, error))?.next().is_none())
}

fn taken(path: &Path, held: FolderContent) -> FolderError {
    FolderError::Taken { path: path.into(), held }
}

/// Reads the summary in a folder, if there is one.
fn read_summary(path: &Path) -> Option<serde_json::Result<Summary>> {
    ps_host::read(&path.join(SUMMARY_FILE), Ceiling::TEXT).ok().map(|bytes| serde_json::from_slice(&bytes))
}

/// Writes a file atomically: after a crash it is either complete or as before.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        // Without this, the rename could become durable before the content, and a crash would leave an empty
        // file.
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| {
        // An incomplete file is useless and may be what fills the disk.
        let _ = fs::remove_file(&aside);
        failed(path, error)
    })
}

fn failed(path: &Path, error: io::Error) -> FolderError {
    FolderError::File { path: path.into(), error }
}

impl FolderError {
    /// Returns whether the command line must change.
    pub fn is_usage(&self) -> bool {
        match self {
            FolderError::Taken { .. } | FolderError::OtherRun { .. } => true,
            FolderError::Checkpoint(error) => error.is_usage(),
            _ => false,
        }
    }
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::Taken { path, held } => {
                let why = match held {
                    FolderContent::Something => {
                        "is not empty, and nothing in it is overwritten; choose another --out"
                    }
                    FolderContent::Results => {
                        "contains the results of a finished run, which are not overwritten; choose another \
                         --out"
                    }
                    FolderContent::SameRun => {
                        "contains the results of a finished run; to continue training, raise train.epochs; \
                         to start over, choose another --out"
                    }
                    FolderContent::NoCheckpoint => {
                        "contains the results of a finished run, but no checkpoint to resume from; choose \
                         another --out"
                    }
                };
                write!(f, "{}: the folder {why}", path.display())
            }
            FolderError::OtherRun { path, why } => write!(f, "{}: {why}", path.display()),
            FolderError::File { path, error } => write!(f, "{}: {error}", path.display()),
            FolderError::Checkpoint(error) => error.fmt(f),
            FolderError::Content { path, problem } => write!(f, "{}: {problem}", path.display()),
        }
    }
}

impl From<ps_checkpoint::Error> for FolderError {
    fn from(error: ps_checkpoint::Error) -> Self {
        FolderError::Checkpoint(error)
    }
}

impl std::error::Error for FolderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FolderError::File { error, .. } => Some(error),
            FolderError::Checkpoint(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_anything_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("deep/run");
        let folder = RunFolder::create(Some(&out), "x", None).unwrap();
        write_atomically(&folder.path().join(SUMMARY_FILE), b"{}").unwrap();
        let error = RunFolder::create(Some(&out), "x", None).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("finished run"), "{error}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn numbered_folders_take_the_first_free_number() {
        let parent = tempfile::tempdir().unwrap();
        for number in 1..=3 {
            let folder = RunFolder::numbered(parent.path(), "digits").unwrap();
            assert_eq!(folder.path(), parent.path().join(format!("digits-{number}")));
        }
    }
}
