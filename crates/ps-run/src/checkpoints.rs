//! Decides when a run is saved, and finds the checkpoint to resume from.

use crate::folder::{CHECKPOINTS, FolderError, RunFolder};
use crate::job::Job;
use crate::resume::resume_check;
use ps_checkpoint::{Disk, Error, Found, Snapshot, Store, StoreOptions, Writer};
use ps_config::CheckpointArgs;
use ps_core::Model;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The checkpoints of a run while it trains.
pub(crate) struct Checkpoints {
    writer: Writer,
    every: Option<u64>,
    interval: Option<Duration>,
    allow_fresh: bool,
    /// When the last checkpoint was begun; before the first one, when the run began.
    last: Instant,
    /// Whether a checkpoint was requested since the last one was begun.
    is_requested: bool,
    /// The step of the newest durable checkpoint, and when it became durable.
    durable: Option<(u64, Instant)>,
    /// The step of an extra checkpoint that lets a longer run resume. With Armijo, the last step of a run
    /// moves no weight, so a longer run must resume before it.
    extra_after: Option<u64>,
    /// Whether the state after the last step is saved, so that the run can be made longer.
    keeps_end: bool,
    /// The state after the last step, until the results are written.
    end: Option<Snapshot>,
    /// The workers whose unchecked sums may be part of the weights, each with the first such step.
    contributors: BTreeMap<String, u64>,
}

/// The result of opening a run's checkpoints.
pub(crate) struct Opened {
    pub checkpoints: Checkpoints,
    /// The snapshot to resume from; `None` if the run begins.
    pub start: Option<Snapshot>,
    /// Messages for the user about damaged checkpoints.
    pub warnings: Vec<String>,
    /// The step that the run went back to, if later checkpoints could not be trusted.
    pub went_back_to: Option<u64>,
}

impl Checkpoints {
    /// Takes the lock of the run's checkpoint folder and finds the newest valid checkpoint. `pending` is set
    /// if the previous process ended before it could go back to a checkpoint of at most that step.
    pub(crate) fn open(
        job: &Job,
        folder: &RunFolder,
        options: &CheckpointArgs,
        pending: Option<u64>,
    ) -> Result<Opened, FolderError> {
        let path = folder.path().join(CHECKPOINTS);
        let store = Store::open(&path, store_options(job, options, Some(folder.path())))?;
        let start = |store| Writer::start(store).map_err(|error| FolderError::File { path, error });
        let mut opened =
            Checkpoints::on(store, start, job, options, pending).map_err(|error| match error {
                FolderError::Checkpoint(Error::OtherRun { why, .. }) => {
                    FolderError::OtherRun { path: folder.path().into(), why }
                }
                error => error,
            })?;
        folder.check_results(opened.start.is_some())?;
        let checkpoints = &mut opened.checkpoints;
        // After an Armijo descent, a longer run resumes at the extra checkpoint before the last step instead.
        checkpoints.keeps_end = checkpoints.are_enabled() && job.control.descent.is_none();
        Ok(opened)
    }

    /// Like [`Checkpoints::open`], but at the root of `disk`.
    pub(crate) fn open_on(
        disk: Box<dyn Disk>,
        job: &Job,
        options: &CheckpointArgs,
    ) -> Result<Opened, FolderError> {
        let store = Store::on(disk, Path::new("/"), store_options(job, options, None))?;
        Checkpoints::on(store, |store| Ok(Writer::inline(store)), job, options, None)
    }

    fn on(
        store: Store,
        start: impl FnOnce(Store) -> Result<Writer, FolderError>,
        job: &Job,
        options: &CheckpointArgs,
        pending: Option<u64>,
    ) -> Result<Opened, FolderError> {
        // Before the newest checkpoint is loaded, because this deletes those that may contain wrong sums.
        let trusted = pending.map(|step| store.go_back(step)).transpose()?.flatten();
        let went_back_to = trusted.map(|found| found.snapshot.map_or(0, |found| found.progress.step));
        let found = store.newest(options.allow_fresh)?;
        let warnings = found.problems.iter().map(damaged).collect();
        let writer = start(store)?;
        let checkpoints = Checkpoints {
            writer,
            every: options.checkpoint_every,
            interval: (options.checkpoint_seconds > 0)
                .then(|| Duration::from_secs(options.checkpoint_seconds)),
            allow_fresh: options.allow_fresh,
            last: Instant::now(),
            is_requested: false,
            durable: found.snapshot.as_ref().map(|found| (found.progress.step, Instant::now())),
            extra_after: job.control.descent.is_some().then(|| job.plan.steps - 1),
            keeps_end: false,
            end: None,
            contributors: found
                .snapshot
                .as_ref()
                .map(|found| found.progress.contributors.clone())
                .unwrap_or_default(),
        };
        Ok(Opened { checkpoints, start: found.snapshot, warnings, went_back_to })
    }

    /// Returns whether a checkpoint is due after `step` steps. While one is being written, none is due.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        let is_due = self.every.is_some_and(|every| step.is_multiple_of(every))
            || self.is_requested
            || self.interval.is_some_and(|interval| self.last.elapsed() >= interval)
            || self.extra_after == Some(step) && self.are_enabled();
        // Each save holds a copy of weights and state, and the estimate of memory (`Footprint`) includes only
        // one.
        is_due && self.writer.is_free()
    }

    /// Returns whether checkpoints are made without a request.
    fn are_enabled(&self) -> bool {
        self.every.is_some() || self.interval.is_some()
    }

    /// Returns whether the caller has to pass the state after the last step to [`Checkpoints::keep_end`].
    pub(crate) fn keeps_end(&self) -> bool {
        self.keeps_end
    }

    /// Keeps the state after the last step until [`Checkpoints::save_end`].
    pub(crate) fn keep_end(&mut self, end: Snapshot) {
        self.end = Some(end);
    }

    /// Sets the contributors that are saved with the next checkpoint: the workers whose unchecked sums may be
    /// part of the weights, each with the first such step.
    pub(crate) fn note_contributors(&mut self, contributors: BTreeMap<String, u64>) {
        self.contributors = contributors;
    }

    /// The workers whose unchecked sums may be part of the weights, each with the first such step.
    pub(crate) fn contributors(&self) -> &BTreeMap<String, u64> {
        &self.contributors
    }

    /// Requests a checkpoint as soon as possible.
    pub(crate) fn request(&mut self) {
        self.is_requested = true;
    }

    /// Returns the step of the newest durable checkpoint, and how long it has been durable.
    pub(crate) fn durable(&self) -> Option<(u64, Duration)> {
        self.durable.map(|(steps, since)| (steps, since.elapsed()))
    }

    /// Waits for the previous snapshot, then begins to save this one. Warns if the previous one failed.
    pub(crate) fn save(&mut self, snapshot: Snapshot) -> Result<Option<String>, Error> {
        let warning = self.wait()?;
        self.is_requested = false;
        self.last = Instant::now();
        self.writer.save(snapshot);
        Ok(warning)
    }

    /// Saves the state after the last step, if it was kept, and returns once it is durable.
    pub(crate) fn save_end(&mut self) -> Result<(), Error> {
        let Some(end) = self.end.take() else { return Ok(()) };
        self.wait()?;
        self.writer.save(end);
        self.writer.wait().map_or(Err(Error::WriterGone), |(_, saved)| saved.map(drop))
    }

    /// Waits for a snapshot being saved, then returns the newest valid one with warnings for the user.
    pub(crate) fn newest(&mut self) -> Result<(Option<Snapshot>, Vec<String>), Error> {
        let mut warnings: Vec<String> = self.wait()?.into_iter().collect();
        let found = self.writer.newest(self.allow_fresh)?;
        warnings.extend(found.problems.iter().map(damaged));
        Ok((found.snapshot, warnings))
    }

    /// Waits for the snapshot that is being saved, and goes back to a checkpoint of at most `step` steps; see
    /// [`ps_checkpoint::Store::go_back`]. The `problems` of the result are warnings for the user.
    pub(crate) fn go_back(&mut self, step: u64) -> Result<Option<Found>, Error> {
        let mut problems: Vec<String> = self.wait()?.into_iter().collect();
        let Some(found) = self.writer.go_back(step)? else { return Ok(None) };
        problems.extend(found.problems.iter().map(damaged));
        self.durable = found.snapshot.as_ref().map(|found| (found.progress.step, Instant::now()));
        Ok(Some(Found { problems, ..found }))
    }

    /// Returns a warning for the user if the last snapshot could not be saved. Does not wait for it.
    ///
    /// # Errors
    /// The checkpoints can no longer be trusted, so the run must end.
    pub(crate) fn poll(&mut self) -> Result<Option<String>, Error> {
        let saved = self.writer.saved();
        self.record(saved)
    }

    /// Like [`Checkpoints::poll`], but waits for the snapshot that is being saved.
    pub(crate) fn wait(&mut self) -> Result<Option<String>, Error> {
        let saved = self.writer.wait();
        self.record(saved)
    }

    /// Waits for the snapshot that is being saved, if there is one.
    ///
    /// # Errors
    /// It could not be saved.
    pub(crate) fn wait_until_saved(&mut self) -> Result<(), Error> {
        match self.writer.wait() {
            Some((_, Err(error))) => Err(error),
            saved => self.record(saved).map(drop),
        }
    }

    fn record(&mut self, saved: Option<ps_checkpoint::Saved>) -> Result<Option<String>, Error> {
        match saved {
            None => Ok(None),
            Some((steps, Ok(_))) => {
                self.durable = Some((steps, Instant::now()));
                Ok(None)
            }
            Some((_, Err(error))) if error.is_final() => Err(error),
            Some((steps, Err(error))) => Ok(Some(format!(
                "the checkpoint after {steps} steps was not saved: {error}; the run continues"
            ))),
        }
    }
}

/// Returns what a store needs to know about a job whose results go to `folder`.
fn store_options(job: &Job, options: &CheckpointArgs, folder: Option<&Path>) -> StoreOptions {
    StoreOptions {
        fingerprint: job.fingerprint.clone(),
        run_file: Some(job.run.to_toml()),
        resume_check: Some(resume_check(job, folder)),
        layout: job.model.layout().clone(),
        state: job.control().vectors(),
        last: options.checkpoint_keep as usize,
    }
}

fn damaged(problem: &String) -> String {
    format!("damaged checkpoint: {problem}")
}

/// The weights in the folder of a checkpoint.
const WEIGHTS_FILE: &str = "weights.safetensors";

/// Returns the weights of each readable checkpoint in a run's folder, with their steps, in ascending order.
/// The run may still be training: nothing is locked, and the only check is that the weights fit `model`.
///
/// # Errors
/// The checkpoint folder exists and cannot be read.
pub fn checkpoint_weights(folder: &Path, model: &Model) -> Result<Vec<(u64, Vec<f32>)>, FolderError> {
    let path = folder.join(CHECKPOINTS);
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| FolderError::File { path: path.clone(), error })?,
    };
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
        let bytes = ps_host::read(&entry.path().join(WEIGHTS_FILE), Ceiling::memory(2)).ok()?;
        Some((step, ps_checkpoint::tensors::from_bytes(model.layout(), &bytes).ok()?))
    };
    let mut kept: Vec<(u64, Vec<f32>)> = entries.filter_map(read).collect();
    kept.sort_by_key(|(step, _)| *step);
    Ok(kept)
}
