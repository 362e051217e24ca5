//! Where a run's results go.

use crate::job::Job;
use crate::summary::{Ending, Summary};
use crate::weights;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The run file as resolved.
pub const RUN_FILE: &str = "run.toml";
/// Metrics of steps and epochs, one JSON object per line.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The first of several runs that belong together, in their folder.
const FIRST_RESTART: &str = "restart-1";
/// The final weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";
/// The result in numbers, ending in the hash of the weights.
pub const SUMMARY_FILE: &str = "summary.json";

/// A folder that belongs to one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

/// Why results cannot be written or read.
#[derive(Debug)]
pub enum FolderError {
    /// The folder holds something already.
    Taken {
        /// Which folder.
        path: PathBuf,
        /// Whether it is the result of a finished run.
        finished: bool,
    },
    /// The system refused.
    File {
        /// Which file or folder.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// The run cannot be saved, or not gone on with.
    Checkpoint(ps_checkpoint::Error),
    /// A result file is not what it should be.
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl RunFolder {
    /// Makes `out`, which must be empty or not there yet, or be that of a run that has checkpoints and is not finished;
    /// without it, the first free one of `runs/<name>-1`, `runs/<name>-2`, …
    pub fn create(out: Option<&Path>, name: &str) -> Result<Self, FolderError> {
        match out {
            Some(path) => RunFolder::given(path),
            None => RunFolder::numbered(Path::new("runs"), name),
        }
    }

    /// The same for the folder of several runs: one that is there already goes on if it holds such runs and no result.
    pub fn of_restarts(out: Option<&Path>, name: &str) -> Result<Self, FolderError> {
        match out {
            Some(path) => RunFolder::taken_up(path, FIRST_RESTART),
            None => RunFolder::numbered(Path::new("runs"), name),
        }
    }

    fn given(path: &Path) -> Result<Self, FolderError> {
        RunFolder::taken_up(path, CHECKPOINTS)
    }

    /// A folder that is empty, or holds the folder `begun` and no result.
    fn taken_up(path: &Path, begun: &str) -> Result<Self, FolderError> {
        fs::create_dir_all(path).map_err(|error| failed(path, error))?;
        let mut entries = fs::read_dir(path).map_err(|error| failed(path, error))?;
        if entries.next().is_some() {
            let finished = is_finished(path);
            if finished || !path.join(begun).is_dir() {
                return Err(FolderError::Taken { path: path.into(), finished });
            }
        }
        Ok(RunFolder { path: path.into() })
    }

    fn numbered(parent: &Path, name: &str) -> Result<Self, FolderError> {
        fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        for number in 1_u64.. {
            let path = parent.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder { path }),
                // Another run may be making its own at this moment, so making is the only test.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&path, error)),
            }
        }
        unreachable!("some number is free")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the run file as resolved.
    pub fn write_run(&self, job: &Job) -> Result<(), FolderError> {
        write_aside(&self.path.join(RUN_FILE), job.run.to_toml().as_bytes())
    }

    /// Opens the file that metrics go to, with the first `lines` lines that are there.
    pub fn metrics(&self, lines: u64) -> Result<File, FolderError> {
        let path = self.path.join(METRICS_FILE);
        let kept = usize::try_from(lines).unwrap_or(usize::MAX);
        // What a process that died wrote of later steps is written again, and its last line may be half a one.
        let is_whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        let lines: String = match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                text.lines().take(kept).filter(is_whole).flat_map(|line| [line, "\n"]).collect()
            }
            Err(_) => String::new(),
        };
        write_aside(&path, lines.as_bytes())?;
        File::options().append(true).open(&path).map_err(|error| failed(&path, error))
    }

    /// Writes the final weights; relative data paths of the run started at `root`.
    pub fn write_weights(
        &self,
        job: &Job,
        root: &Path,
        weights: &[f32],
        version: u64,
    ) -> Result<(), FolderError> {
        let path = self.path.join(WEIGHTS_FILE);
        let bytes = weights::to_bytes(job, root, weights, version)
            .map_err(|problem| FolderError::Content { path: path.clone(), problem })?;
        write_aside(&path, &bytes)
    }

    /// Writes the summary, after all else; with it the run is finished, and so it is after a power failure.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), FolderError> {
        write_aside(&self.path.join(SUMMARY_FILE), summary.to_json().as_bytes())?;
        // Only Unix lets a folder be opened; elsewhere its names need no sync.
        if cfg!(not(unix)) {
            return Ok(());
        }
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(&self.path, error))
    }
}

/// Puts the results of the finished run in `from` into `folder`, too; with the summary, the last of them, it is finished.
///
/// # Errors
/// One cannot be read or written.
pub fn adopt(folder: &Path, from: &Path) -> Result<(), FolderError> {
    [RUN_FILE, METRICS_FILE, WEIGHTS_FILE, SUMMARY_FILE].iter().try_for_each(|name| {
        let bytes = fs::read(from.join(name)).map_err(|error| failed(&from.join(name), error))?;
        write_aside(&folder.join(name), &bytes)
    })
}

/// The summary of a run like `job` that has made all its steps, if `path` holds its results.
pub fn finished(path: &Path, job: &Job) -> Option<Summary> {
    let summary = read_summary(path)?.ok()?;
    (summary.outcome == Ending::Done && summary.fingerprint == job.fingerprint).then_some(summary)
}

/// Whether a folder holds the results of a run that has made all its steps.
fn is_finished(path: &Path) -> bool {
    read_summary(path).is_some_and(|read| read.map_or(true, |summary| summary.outcome == Ending::Done))
}

/// The summary in a folder, if there is one.
fn read_summary(path: &Path) -> Option<serde_json::Result<Summary>> {
    fs::read(path.join(SUMMARY_FILE)).ok().map(|bytes| serde_json::from_slice(&bytes))
}

/// Writes a file that is either whole or not there.
fn write_aside(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: io::Error) -> FolderError {
    FolderError::File { path: path.into(), error }
}

impl FolderError {
    /// Whether the command line must change.
    pub fn is_usage(&self) -> bool {
        match self {
            FolderError::Taken { .. } => true,
            FolderError::Checkpoint(error) => error.is_usage(),
            _ => false,
        }
    }
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::Taken { path, finished } => {
                let path = path.display();
                let what = if *finished { "holds the results of a finished run" } else { "is not empty" };
                write!(f, "{path}: the folder {what} and nothing is written over; choose another --out")
            }
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
        let folder = RunFolder::create(Some(&out), "x").unwrap();
        write_aside(&folder.path().join(SUMMARY_FILE), b"{}").unwrap();
        let error = RunFolder::create(Some(&out), "x").unwrap_err();
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
