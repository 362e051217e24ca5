//! When a run is saved, and what it goes on from.

use crate::folder::{CHECKPOINTS, FolderError, RunFolder, WEIGHTS_FILE};
use crate::job::Job;
use crate::resume::judge;
use ps_checkpoint::{Disk, Error, Found, Kept, Snapshot, Store, Writer};
use ps_config::CheckpointArgs;
use ps_core::Model;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The checkpoints of a run that is under way.
pub(crate) struct Checkpoints {
    writer: Writer,
    every: Option<u64>,
    interval: Option<Duration>,
    allow_fresh: bool,
    /// When the last one was begun, or the run.
    last: Instant,
    /// Somebody has asked for one.
    is_asked_for: bool,
    /// The steps of the newest one that is durable, and since when it is.
    durable: Option<(u64, Instant)>,
    /// The last step before which a checkpoint is worth an extra one, because the last step of a descent moves no weight: a
    /// longer run resumes before it.
    extra_after: Option<u64>,
    /// Whether the state after the last step is saved, so that the run can be made longer.
    keeps_end: bool,
    /// That state, until the results are written.
    end: Option<Snapshot>,
    /// Workers whose unchecked sums may be part of the weights, and since which step.
    contributors: BTreeMap<String, u64>,
}

/// The checkpoints of a run when it begins.
pub(crate) struct Opened {
    pub checkpoints: Checkpoints,
    /// What it resumes from.
    pub start: Option<Snapshot>,
    /// For the user, about damaged checkpoints.
    pub warnings: Vec<String>,
    /// The step that it went back to, if later ones could not be trusted.
    pub went_back_to: Option<u64>,
}

impl Checkpoints {
    /// Takes the run's folder of checkpoints and finds the newest good one. The run was about to go back to one
    /// of at most `pending` steps when the process ended.
    pub(crate) fn open(
        job: &Job,
        folder: &RunFolder,
        wanted: &CheckpointArgs,
        pending: Option<u64>,
    ) -> Result<Opened, FolderError> {
        let path = folder.path().join(CHECKPOINTS);
        let store = Store::open(&path, kept(job, wanted, Some(folder.path())))?;
        let start = |store| Writer::start(store).map_err(|error| FolderError::File { path, error });
        let mut opened =
            Checkpoints::on(store, start, job, wanted, pending).map_err(|error| match error {
                FolderError::Checkpoint(Error::OtherRun { why, .. }) => {
                    FolderError::OtherRun { path: folder.path().into(), why }
                }
                error => error,
            })?;
        folder.check_results(opened.start.is_some())?;
        let checkpoints = &mut opened.checkpoints;
        checkpoints.keeps_end = checkpoints.are_wanted() && job.control.descent.is_none();
        Ok(opened)
    }

    /// The same on the root of another disk.
    pub(crate) fn open_on(
        disk: Box<dyn Disk>,
        job: &Job,
        wanted: &CheckpointArgs,
    ) -> Result<Opened, FolderError> {
        let store = Store::on(disk, Path::new("/"), kept(job, wanted, None))?;
        Checkpoints::on(store, |store| Ok(Writer::here(store)), job, wanted, None)
    }

    fn on(
        store: Store,
        start: impl FnOnce(Store) -> Result<Writer, FolderError>,
        job: &Job,
        wanted: &CheckpointArgs,
        pending: Option<u64>,
    ) -> Result<Opened, FolderError> {
        let trusted = pending.map(|step| store.go_back(step)).transpose()?.flatten();
        let went_back_to = trusted.map(|found| found.snapshot.map_or(0, |found| found.progress.step));
        let found = store.newest(wanted.allow_fresh)?;
        let warnings = found.problems.iter().map(damaged).collect();
        let writer = start(store)?;
        let checkpoints = Checkpoints {
            writer,
            every: wanted.checkpoint_every,
            interval: (wanted.checkpoint_seconds > 0).then(|| Duration::from_secs(wanted.checkpoint_seconds)),
            allow_fresh: wanted.allow_fresh,
            last: Instant::now(),
            is_asked_for: false,
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

    /// Whether a checkpoint is to be made after `step` steps, and can be: while one is being saved none is.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        let is_due = self.every.is_some_and(|every| step.is_multiple_of(every))
            || self.is_asked_for
            || self.interval.is_some_and(|interval| self.last.elapsed() >= interval)
            || self.extra_after == Some(step) && self.are_wanted();
        is_due && self.writer.is_free()
    }

    /// Whether checkpoints are wanted without being asked for.
    fn are_wanted(&self) -> bool {
        self.every.is_some() || self.interval.is_some()
    }

    /// Whether [`Checkpoints::keep_end`] is to be given the state after the last step.
    pub(crate) fn keeps_end(&self) -> bool {
        self.keeps_end
    }

    /// Keeps the state after the last step until [`Checkpoints::save_end`].
    pub(crate) fn keep_end(&mut self, end: Snapshot) {
        self.end = Some(end);
    }

    /// Sets whose unchecked sums may be part of the weights that are saved next, and since which step.
    pub(crate) fn note_contributors(&mut self, contributors: BTreeMap<String, u64>) {
        self.contributors = contributors;
    }

    /// Whose unchecked sums may be part of the weights.
    pub(crate) fn contributors(&self) -> &BTreeMap<String, u64> {
        &self.contributors
    }

    /// Has one made as soon as possible.
    pub(crate) fn ask_for_one(&mut self) {
        self.is_asked_for = true;
    }

    /// The steps of the newest one that is durable, and how long it has been so.
    pub(crate) fn durable(&self) -> Option<(u64, Duration)> {
        self.durable.map(|(steps, since)| (steps, since.elapsed()))
    }

    /// Begins to save a snapshot, after the previous one is saved. Returns a warning if that one was not.
    pub(crate) fn save(&mut self, snapshot: Snapshot) -> Result<Option<String>, Error> {
        let warning = self.wait()?;
        self.is_asked_for = false;
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

    /// Waits for the snapshot that is being saved and returns the newest good checkpoint, with warnings for the user.
    pub(crate) fn newest(&mut self) -> Result<(Option<Snapshot>, Vec<String>), Error> {
        let mut warnings: Vec<String> = self.wait()?.into_iter().collect();
        let found = self.writer.newest(self.allow_fresh)?;
        warnings.extend(found.problems.iter().map(damaged));
        Ok((found.snapshot, warnings))
    }

    /// Waits for the snapshot that is being saved, and goes back to a checkpoint of at most `step` steps; see
    /// [`ps_checkpoint::Store::go_back`]. The problems are warnings for the user.
    pub(crate) fn go_back(&mut self, step: u64) -> Result<Option<Found>, Error> {
        let mut problems: Vec<String> = self.wait()?.into_iter().collect();
        let Some(found) = self.writer.go_back(step)? else { return Ok(None) };
        problems.extend(found.problems.iter().map(damaged));
        self.durable = found.snapshot.as_ref().map(|found| (found.progress.step, Instant::now()));
        Ok(Some(Found { problems, ..found }))
    }

    /// A warning for the user if the last snapshot could not be saved.
    ///
    /// # Errors
    /// The run cannot go on.
    pub(crate) fn look(&mut self) -> Result<Option<String>, Error> {
        let saved = self.writer.saved();
        self.hear(saved)
    }

    /// The same, once it is known.
    pub(crate) fn wait(&mut self) -> Result<Option<String>, Error> {
        let saved = self.writer.wait();
        self.hear(saved)
    }

    /// Waits for the snapshot that is being saved, if there is one.
    ///
    /// # Errors
    /// It could not be saved.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        match self.writer.wait() {
            Some((_, Err(error))) => Err(error),
            saved => self.hear(saved).map(drop),
        }
    }

    fn hear(&mut self, saved: Option<ps_checkpoint::Saved>) -> Result<Option<String>, Error> {
        match saved {
            None => Ok(None),
            Some((steps, Ok(_))) => {
                self.durable = Some((steps, Instant::now()));
                Ok(None)
            }
            Some((_, Err(error))) if error.is_final() => Err(error),
            Some((steps, Err(error))) => {
                Ok(Some(format!("no checkpoint was saved after {steps} steps: {error}; the run goes on")))
            }
        }
    }
}

/// What a store keeps for a job whose results go to `folder`.
fn kept(job: &Job, wanted: &CheckpointArgs, folder: Option<&Path>) -> Kept {
    Kept {
        fingerprint: job.fingerprint.clone(),
        run_file: Some(job.run.to_toml()),
        judge: Some(judge(job, folder)),
        layout: job.model.layout().clone(),
        state: job.control().vectors(),
        last: wanted.checkpoint_keep as usize,
    }
}

fn damaged(problem: &String) -> String {
    format!("damaged checkpoint: {problem}")
}

/// The weights of each checkpoint in the run's folder that can be read, after how many steps, in order. The run may be going
/// on; nothing is locked, and nothing is verified but that they are weights of `model`.
///
/// # Errors
/// The folder of checkpoints is there and cannot be read.
pub fn kept_weights(folder: &Path, model: &Model) -> Result<Vec<(u64, Vec<f32>)>, FolderError> {
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
