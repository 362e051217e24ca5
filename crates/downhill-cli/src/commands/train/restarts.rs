//! `downhill train --restarts`: trains with several seeds side by side and keeps the best run.

use super::Arguments;
use crate::failure::Failure;
use crate::interrupt::{self, STOPPED};
use crate::output;
use crate::programs::COMMIT;
use downhill::internal as local;
use ps_config::{CheckpointArgs, LogArgs};
use ps_run::{Ending, FolderError, Job, Recorder, ResumeHint, RunFolder, Style, Summary, finished};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The outcome of each run, as a file in the common folder.
const RESTARTS_FILE: &str = "restarts.json";

/// One of the runs.
struct Restart {
    job: Job,
    folder: PathBuf,
}

/// The outcome of a run, for `restarts.json`.
#[derive(Serialize)]
struct RestartLine {
    /// Folder of the run, relative to the common one.
    folder: String,
    seed: u64,
    /// Validation loss of the final weights; `None` if the run failed.
    validation_loss: Option<f64>,
    weights_sha256: Option<String>,
    /// Why the run failed; `None` if it did not.
    failure: Option<String>,
    is_best: bool,
}

/// All runs and their common settings.
struct Restarts<'a> {
    runs: Vec<Restart>,
    root: &'a Path,
    workers: usize,
    checkpoint: &'a CheckpointArgs,
    style: Style,
    stop: &'a AtomicBool,
    /// Index of the next run that no thread has taken.
    next: AtomicUsize,
    /// The outcome of each run; `None` until it has ended.
    ended: Mutex<Vec<Option<Result<Summary, Failure>>>>,
}

/// Trains with `count` seeds, the first that of `job`, and keeps the run with the best validation loss.
pub(super) fn run(
    arguments: &Arguments,
    job: Job,
    count: usize,
    folder: &Path,
    root: &Path,
) -> Result<ExitCode, Failure> {
    if !job.validates() {
        return Err(Failure::Usage(
            "--restarts keeps the run with the lowest validation loss, but the run file has no validation \
             data; try --set data.validation=0.1"
                .into(),
        ));
    }
    let runs = (0..count as u64).map(|number| Restart {
        // The mask keeps seeds within the range that run files accept.
        job: job.with_seed((job.run.seed + number) & i64::MAX as u64),
        folder: folder.join(format!("restart-{}", number + 1)),
    });
    let style = Style::choose(&arguments.log);
    let note = move || {
        if style != Style::Quiet {
            output::note("stopping after the current steps; press Ctrl-C again to exit immediately");
        }
    };
    let hint = ResumeHint::new(&arguments.out, folder, style);
    let stop = interrupt::listen(note, interrupt::end_at_once(hint.clone()))?;
    let restarts = Restarts {
        runs: runs.collect(),
        root,
        workers: arguments.workers.into(),
        checkpoint: &arguments.checkpoint,
        style,
        stop,
        next: AtomicUsize::new(0),
        ended: Mutex::new((0..count).map(|_| None).collect()),
    };
    restarts.train(rayon::current_num_threads().min(count))?;
    let ended = restarts.ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ended =
        ended.into_iter().map(|ended| ended.unwrap_or_else(|| Err(Failure::Failed("not started".into()))));
    let ended: Vec<Result<Summary, Failure>> = ended.collect();
    let has_stopped =
        |ended: &Result<Summary, Failure>| matches!(ended, Ok(summary) if summary.outcome == Ending::Stopped);
    if stop.load(Ordering::Relaxed) || ended.iter().any(has_stopped) {
        if !arguments.log.quiet {
            output::lines(&[format!(
                "stopped before the end; the results so far are in {}",
                folder.display()
            )])?;
        }
        hint.print();
        return Ok(ExitCode::from(STOPPED));
    }
    keep_best(folder, &restarts.runs, ended, &arguments.log)
}

impl Restarts<'_> {
    /// Trains all runs, `beside` of them at a time. They share a thread pool.
    fn train(&self, beside: usize) -> Result<(), Failure> {
        std::thread::scope(|scope| {
            for place in 0..beside {
                // Only one of the concurrent runs is shown: the lines of several would be confusing.
                let style = if place == 0 { self.style } else { Style::Quiet };
                let thread = std::thread::Builder::new().name(format!("restarts {place}"));
                let spawned = thread.spawn_scoped(scope, move || self.train_some(style));
                spawned.map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
            }
            Ok(())
        })
    }

    fn train_some(&self, style: Style) {
        while let Some((index, restart)) = self.take() {
            let ended = self.train_one(index, restart, style);
            // Failures are reported even with --quiet.
            if self.style != Style::Quiet || ended.is_err() {
                let seed = restart.job.run.seed;
                let said = match &ended {
                    Ok(summary) => match &summary.validation {
                        Some(measures) => format!("validation {}", measures.line()),
                        None => "no validation".into(),
                    },
                    Err(failure) => failure.to_string(),
                };
                output::note(&format!("restart {} of {}, seed {seed}: {said}", index + 1, self.runs.len()));
            }
            let mut all = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all[index] = Some(ended);
        }
    }

    fn take(&self) -> Option<(usize, &Restart)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        Some((index, self.runs.get(index)?))
    }

    fn train_one(
        &self,
        index: usize,
        Restart { job, folder }: &Restart,
        style: Style,
    ) -> Result<Summary, Failure> {
        // A command that is repeated after an interruption does not repeat the runs that are complete.
        if let Some(summary) = finished(folder, job) {
            return Ok(summary);
        }
        let run = RunFolder::create(Some(folder), "restart", Some(&job.run))?.with_commit(COMMIT);
        let mut recorder = Recorder::with_checkpoints(job, run, style, self.checkpoint)?;
        recorder.note(&format!(
            "starting restart {} of {}, seed {}",
            index + 1,
            self.runs.len(),
            job.run.seed
        ));
        Ok(local::run(job, self.root, self.workers, self.stop, recorder)?.summary)
    }
}

/// Writes the outcomes of all runs, and copies the results of the best one.
fn keep_best(
    folder: &Path,
    runs: &[Restart],
    ended: Vec<Result<Summary, Failure>>,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let loss = |ended: &Result<Summary, Failure>| ended.as_ref().ok()?.validation.as_ref().map(|it| it.loss);
    let losses = ended.iter().map(loss).enumerate().filter_map(|(index, loss)| Some((index, loss?)));
    let best = losses
        .filter(|(_, loss)| loss.is_finite())
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(index, _)| index);
    let name = |index: usize| format!("restart-{}", index + 1);
    let line = |(index, (restart, ended)): (usize, (&Restart, &Result<Summary, Failure>))| RestartLine {
        folder: name(index),
        seed: restart.job.run.seed,
        validation_loss: loss(ended),
        weights_sha256: ended.as_ref().ok().map(|summary| summary.weights_sha256.clone()),
        failure: ended.as_ref().err().map(ToString::to_string),
        is_best: best == Some(index),
    };
    let lines: Vec<RestartLine> = runs.iter().zip(&ended).enumerate().map(line).collect();
    let path = folder.join(RESTARTS_FILE);
    let json =
        serde_json::to_string_pretty(&lines).map_err(|error| Failure::Failed(error.to_string()))? + "\n";
    // Before `adopt`, which writes the summary last and so marks the folder as finished.
    std::fs::write(&path, json).map_err(|error| FolderError::File { path, error })?;
    let Some(best) = best else {
        let first = ended.into_iter().find_map(Result::err);
        let why = first.map_or_else(|| "no validation loss is finite".into(), |failure| failure.to_string());
        return Err(Failure::Failed(format!("none of the {} runs has a result: {why}", runs.len())));
    };
    ps_run::adopt(folder, &runs[best].folder)?;
    let mut shown = vec![format!("{:<12} {:>12}  validation loss", "run", "seed")];
    shown.extend(lines.iter().map(|line| {
        let loss = line.validation_loss.map_or_else(|| "failed".into(), |loss| format!("{loss:.4}"));
        let mark = if line.is_best { "  best" } else { "" };
        format!("{:<12} {:>12}  {loss}{mark}", line.folder, line.seed)
    }));
    if let Some(Ok(summary)) = ended.get(best) {
        let lines = summary.lines(Some(folder));
        let quiet = log.quiet;
        if quiet {
            shown.clear();
        }
        shown.extend_from_slice(if quiet { &lines[lines.len() - 1..] } else { &lines });
    }
    output::lines(&shown)?;
    Ok(ExitCode::SUCCESS)
}
