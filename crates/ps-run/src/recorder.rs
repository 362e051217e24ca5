//! Records a run: adds up its steps, reports them to observers and saves checkpoints.

mod finish;
mod going_back;

use crate::accumulator::Accumulator;
use crate::bans::{self, Ban};
use crate::checkpoints::{Checkpoints, Opened};
use crate::folder::{FolderError, RunFolder};
use crate::hash_chain::HashChain;
use crate::job::Job;
use crate::lines::{Length, Line};
use crate::observer::{Observer, Resumed, StepWeights};
use crate::observers::{MetricsFile, Observers, TensorBoard, TerminalObserver, WeightInspector};
use crate::phase::Phase;
use crate::progress::Style;
use crate::run_state::{About, RunState};
use crate::summary::Slowest;
use ps_checkpoint::{Disk, Snapshot};
use ps_config::CheckpointArgs;
use ps_core::control::{Event, State};
use ps_core::{MetricSums, StepReport};
use ps_plan::BatchPlan;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The activity after the last step.
const EVALUATING: &str = "evaluating the final weights";

/// Records a run: its metrics, checkpoints, bans and results.
///
/// After each step, a driver calls [`Recorder::step`] and then [`Recorder::needs`], which says whether it must
/// hand over the weights; at the end, it calls [`Recorder::finish`]. A step costs one clock reading and a few
/// additions, unless an observer needs more.
pub struct Recorder {
    plan: BatchPlan,
    folder: Option<RunFolder>,
    accumulator: Accumulator,
    observers: Observers,
    /// `None` if there is no metrics file.
    hashes: Option<HashChain>,
    checkpoints: Option<Checkpoints>,
    bans: Vec<Ban>,
    /// The snapshot to resume from, until the driver takes it.
    start: Option<Snapshot>,
    slowest: Option<Slowest>,
    /// Whether an administrator has ended the run for good.
    is_ended: bool,
}

/// What the driver must hand over after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Weights and optimizer state, to [`Recorder::checkpoint`].
    pub save: bool,
    /// The weights, to [`Recorder::inspect`], before any checkpoint.
    pub inspect: bool,
}

impl Recorder {
    /// Creates the recorder of a run whose results go to `folder`, or are not written. The clock starts now.
    pub fn new(job: &Job, folder: Option<RunFolder>, style: Style) -> Result<Self, FolderError> {
        Recorder::opened(job, folder, style, None)
    }

    /// Like [`Recorder::new`], with checkpoints. If `folder` already holds some, the run resumes.
    pub fn with_checkpoints(
        job: &Job,
        folder: RunFolder,
        style: Style,
        options: &CheckpointArgs,
    ) -> Result<Self, FolderError> {
        let mut bans = folder.bans()?;
        let pending = bans::pending_since(&bans);
        let opened = Checkpoints::open(job, &folder, options, pending)?;
        // The previous process recorded a ban and ended before it could go back. Later checkpoints are
        // removed by now. The bans are updated only afterwards, so that a crash in between repeats this.
        if pending.is_some() {
            match opened.went_back_to {
                Some(step) => bans::undo(&mut bans, step),
                None => bans::accept(&mut bans),
            }
            folder.write_bans(&bans)?;
        }
        let mut recorder = Recorder::saved(job, Some(folder), style, opened)?;
        recorder.run_state().update(|snapshot| snapshot.bans = bans.clone());
        recorder.bans = bans;
        Ok(recorder)
    }

    /// Like [`Recorder::with_checkpoints`], but saves checkpoints to the root of `disk`, on the caller's
    /// thread, and writes no other results.
    pub fn on_disk(job: &Job, disk: Box<dyn Disk>, options: &CheckpointArgs) -> Result<Self, FolderError> {
        let opened = Checkpoints::open_on(disk, job, options)?;
        Recorder::saved(job, None, Style::Quiet, opened)
    }

    fn saved(
        job: &Job,
        folder: Option<RunFolder>,
        style: Style,
        opened: Opened,
    ) -> Result<Self, FolderError> {
        let Opened { checkpoints, start, warnings, .. } = opened;
        let mut recorder = Recorder::opened(job, folder, style, start)?;
        recorder.checkpoints = Some(checkpoints);
        recorder.warn(warnings);
        Ok(recorder)
    }

    fn opened(
        job: &Job,
        folder: Option<RunFolder>,
        style: Style,
        start: Option<Snapshot>,
    ) -> Result<Self, FolderError> {
        let from = start.as_ref().map(|start| start.progress.clone()).unwrap_or_default();
        let open = |folder: &RunFolder| MetricsFile::open(folder.clone(), from.lines, Length::of(&job.plan));
        let metrics = folder.as_ref().map(open).transpose()?;
        if let Some(folder) = &folder {
            folder.write_run(job)?;
        }
        let lines = metrics.as_ref().map(MetricsFile::read).transpose()?.unwrap_or_default();
        let (classes, now) = (job.model.classes(), Instant::now());
        let run_state = Arc::new(RunState::new(About::of(job, folder.as_ref().map(RunFolder::path)), &[]));
        run_state.update(|snapshot| snapshot.resumed_at = from.step);
        let hashes = metrics.is_some().then(|| HashChain::new(job.plan.steps, &lines));
        let mut recorder = Recorder {
            plan: job.plan,
            folder,
            accumulator: Accumulator::new(job.plan, &job.data.class_names, classes, &from, &lines, now),
            observers: Observers::new(metrics, run_state, TerminalObserver::new(style, classes, now)),
            hashes,
            checkpoints: None,
            bans: Vec::new(),
            start: None,
            slowest: None,
            is_ended: false,
        };
        if let Some(start) = start {
            let (step, steps) = (from.step, job.plan.steps);
            recorder.note(&format!("resuming after {step} of {steps} steps, from the checkpoint"));
            recorder.report_resumed(Some(&start), &lines);
            recorder.start = Some(start);
        }
        Ok(recorder)
    }

    /// Adds an observer, and reports to it where the run resumes and all messages so far. Must be called
    /// before the run begins.
    pub fn observe(&mut self, mut observer: Box<dyn Observer>) {
        if let Some(start) = &self.start {
            let (step, samples) = (start.progress.step, start.progress.samples);
            observer.on_resume(&Resumed { step, samples, lines: &[] });
        }
        self.observers.add(observer);
    }

    /// Inspects the weights after each epoch, for the dashboard. If `tensorboard` is set and there is a
    /// folder, also writes event files for TensorBoard.
    ///
    /// # Errors
    /// The event file cannot be created, or the inspecting thread cannot be started.
    pub fn enable_inspection(&mut self, job: &Job, tensorboard: bool) -> Result<(), FolderError> {
        let run_state = Arc::clone(self.run_state());
        run_state.watch();
        if let Some(folder) = self.folder.as_ref().filter(|_| tensorboard) {
            let step = run_state.read(|snapshot| snapshot.steps);
            self.observers.tensorboard = Some(TensorBoard::create(folder.path(), step)?);
        }
        let tensorboard = self.observers.tensorboard.clone();
        self.observers.inspector = Some(WeightInspector::start(job, tensorboard, run_state)?);
        Ok(())
    }

    /// Restarts the clock: the time before training begins does not count.
    pub fn begin(&mut self) {
        self.accumulator.begin(Instant::now());
        self.observers.phase(Phase::Training, "");
    }

    /// Takes the snapshot to resume from, for the driver that holds the weights; `None` if the run begins.
    pub fn take_start(&mut self) -> Option<Snapshot> {
        self.start.take()
    }

    /// Returns final weights and their version if the snapshot to resume from includes all steps.
    pub fn take_complete(&mut self, job: &Job) -> Option<(Vec<f32>, u64)> {
        // All steps are made, but there are no results: the process ended before it wrote them, or the run is
        // shorter now and ends at this checkpoint.
        let Snapshot { progress, mut weights, state } =
            self.start.take_if(|start| start.progress.step >= self.plan.steps)?;
        let (step, mut control) = (progress.step, job.control());
        control.resume(progress.control);
        let (rate, observers) = (control.rate(step - 1), &mut self.observers);
        self.accumulator.end_cut_epoch(step, rate, Instant::now(), &mut |record| observers.report(record));
        let validation = self.validate(job, &weights);
        if let Some(event) = control.close(&mut weights, &state, validation.as_ref()) {
            self.event(step, &event);
        }
        Some((weights, step))
    }

    /// Records a step, to which `workers` workers contributed.
    pub fn step(&mut self, report: &StepReport, workers: usize) {
        let observers = &mut self.observers;
        self.accumulator.step(report, workers, Instant::now(), &mut |record| observers.report(record));
    }

    /// Records that a policy intervened after `step` steps.
    pub fn event(&mut self, step: u64, event: &Event) {
        let observers = &mut self.observers;
        self.accumulator.event(step, event, &mut |record| observers.report(record));
    }

    /// Records that no step follows. Evaluates `weights`, those after the last step, on the validation part
    /// if an epoch waits for its validation.
    pub fn validate(&mut self, job: &Job, weights: &[f32]) -> Option<MetricSums> {
        self.observers.phase(Phase::Finishing, EVALUATING);
        let validation = self.accumulator.awaits_validation().then(|| job.validate(weights)).flatten()?;
        let observers = &mut self.observers;
        self.accumulator.end_wait(Some(&validation), &mut |record| observers.report(record));
        Some(validation)
    }

    /// Returns what the driver must hand over after `step` steps, all of which must have been reported.
    ///
    /// # Errors
    /// The checkpoints can no longer be trusted, so the run must end.
    pub fn needs(&mut self, step: u64) -> Result<Needs, FolderError> {
        let continues = step < self.plan.steps && !self.is_concluded();
        let is_hashed = self.hashes.as_ref().is_some_and(|hashes| hashes.is_due(step));
        let inspect = is_hashed || self.observers.want_weights(step);
        let is_requested = self.observers.take_checkpoint_request();
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(Needs { save: false, inspect }) };
        if is_requested {
            checkpoints.request();
        }
        let warning = checkpoints.poll()?;
        // After the last step, the results are written instead. If the run may be made longer, `keep_end`
        // keeps its state.
        let save = continues && checkpoints.is_due(step);
        self.observers.run_state.checkpoint(checkpoints.durable());
        self.warn(warning);
        Ok(Needs { save, inspect })
    }

    /// Passes on the weights after `step` steps, for which [`Recorder::needs`] asked.
    pub fn inspect(&mut self, step: u64, weights: &[f32]) {
        self.hash(step, weights);
        let weights = StepWeights { step, values: weights };
        self.observers.each(|observer, _| {
            if observer.wants_weights(step) {
                observer.on_weights(&weights);
            }
        });
    }

    fn hash(&mut self, step: u64, weights: &[f32]) {
        let Some(hashes) = self.hashes.as_mut().filter(|hashes| hashes.is_due(step)) else { return };
        let (line, observers) = (Line::Hash(hashes.push(step, weights)), &mut self.observers);
        self.accumulator.line(&line, &mut |record| observers.report(record));
    }

    /// Returns the progress after `step` steps, all of which must have been reported.
    pub fn progress(&self, step: u64, control: State) -> ps_checkpoint::Progress {
        let contributors = self.checkpoints.as_ref().map(Checkpoints::contributors).cloned();
        ps_checkpoint::Progress {
            contributors: contributors.unwrap_or_default(),
            ..self.accumulator.progress(step, control, Instant::now())
        }
    }

    /// Saves the state of the run at `progress` in the background, while training continues.
    ///
    /// # Errors
    /// As for [`Recorder::needs`].
    pub fn checkpoint(
        &mut self,
        progress: ps_checkpoint::Progress,
        weights: Vec<f32>,
        state: Vec<f32>,
    ) -> Result<(), FolderError> {
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(()) };
        if let Some(metrics) = &mut self.observers.metrics {
            // A run that resumes from this checkpoint does not write these lines again.
            metrics.flush();
        }
        let warning = checkpoints.save(Snapshot { progress, weights, state })?;
        self.warn(warning);
        Ok(())
    }

    /// Returns whether the driver must pass the state after the last step to [`Recorder::keep_end`].
    pub fn keeps_end(&self) -> bool {
        self.checkpoints.as_ref().is_some_and(Checkpoints::keeps_end) && !self.is_concluded()
    }

    /// Keeps the state after the last step, `step`, before its weights are validated. It is saved once the
    /// results are written, so that the run can be made longer.
    pub fn keep_end(&mut self, step: u64, control: State, weights: Vec<f32>, state: Vec<f32>) {
        let progress = self.progress(step, control);
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.keep_end(Snapshot { progress, weights, state });
        }
    }

    /// Sets the contributors that are saved with the next checkpoint: the workers whose unchecked sums may be
    /// part of the weights, each with the first such step.
    pub fn note_contributors(&mut self, contributors: BTreeMap<String, u64>) {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.note_contributors(contributors);
        }
    }

    /// Requests a checkpoint after the current step.
    pub fn request_checkpoint(&mut self) {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.request();
        }
    }

    /// Returns the step of the newest durable checkpoint, and how long it has been durable.
    pub fn durable(&self) -> Option<(u64, Duration)> {
        self.checkpoints.as_ref().and_then(Checkpoints::durable)
    }

    /// Returns whether the run saves checkpoints.
    pub fn has_checkpoints(&self) -> bool {
        self.checkpoints.is_some()
    }

    /// Records the worker that steps waited for, and for how long in total. It is mentioned in the summary.
    pub fn attribute_wait(&mut self, worker: String, waited: Duration) {
        self.slowest = Some(Slowest { worker, waited_seconds: waited.as_secs_f64() });
    }

    /// The live state of the run.
    pub fn run_state(&self) -> &Arc<RunState> {
        &self.observers.run_state
    }

    /// Returns whether an observer has requested the end of the run.
    pub fn is_stop_requested(&self) -> bool {
        self.observers.is_stop_requested()
    }

    /// Returns whether a policy ended the run before all steps were made.
    pub fn is_concluded(&self) -> bool {
        self.accumulator.is_concluded()
    }

    /// Marks the run as ended by an administrator. A server in its folder resumes it only with `--resume`.
    pub fn end_for_good(&mut self) {
        self.is_ended = true;
    }

    /// The results folder.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    /// Reports a message for the user to all observers.
    pub fn note(&mut self, text: &str) {
        self.observers.note(text);
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        warnings.into_iter().for_each(|warning| self.observers.warn(&warning));
    }

    /// Ends a run that failed: reports the reason, keeps the metrics so far, and writes no results.
    pub fn abandon(mut self, reason: &dyn Display) {
        self.observers.terminal.close();
        if let Some(metrics) = self.observers.metrics.take() {
            // The run has already failed, and the reason for that is what the user has to see.
            let _ = metrics.close();
        }
        self.end(|observer| observer.on_failure(reason));
    }

    /// Reports the end to all observers. The inspector of weights is joined first, so that the state that
    /// others see is complete.
    fn end(mut self, mut report: impl FnMut(&mut dyn Observer)) {
        self.observers.inspector = None;
        self.observers.each(|observer, _| report(observer));
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::folder::{MODEL_FILE, SUMMARY_FILE};
    use ps_config::RunConfig;
    use ps_core::control::Monitor;
    use ps_data::NoProgress;
    use std::fs::File;

    #[allow(clippy::unwrap_used, reason = "a test may panic")]
    fn job(place: &Path) -> Job {
        let text =
            "data.train = 'digits:20'\nmodel.kind = 'softmax'\ntrain.batch = 20\nlearning_rate.initial = 1";
        let run = RunConfig::parse(text, "test", &[]).unwrap();
        Job::load(run, place, &NoProgress).unwrap()
    }

    #[test]
    fn an_interrupted_rollback_is_completed_on_resume() {
        let place = tempfile::tempdir().unwrap();
        let (job, out) = (job(place.path()), place.path().join("out"));
        let options = CheckpointArgs {
            checkpoint_every: Some(1),
            checkpoint_seconds: 0,
            checkpoint_keep: 2,
            allow_fresh: false,
        };
        let open = || {
            let folder = RunFolder::create(Some(&out), "test", Some(&job.run)).unwrap();
            Recorder::with_checkpoints(&job, folder, Style::Quiet, &options).unwrap()
        };
        for (since, expected, remains) in [(3, 2, false), (1, 4, true)] {
            let mut recorder = open();
            for step in [2, 4] {
                let progress = recorder.progress(step, job.control().state().clone());
                recorder.checkpoint(progress, job.model.initial(step), Vec::new()).unwrap();
            }
            recorder.ban(Ban { since: Some(since), ..Ban::default() }).unwrap();
            drop(recorder);
            let mut recorder = open();
            assert_eq!(recorder.take_start().unwrap().progress.step, expected);
            let ban = recorder.bans().last().unwrap();
            assert_eq!((ban.went_back_to.is_none(), ban.remains), (remains, remains));
        }
    }

    #[test]
    fn weights_are_written_even_if_metrics_cannot_be() {
        let place = tempfile::tempdir().unwrap();
        let job = job(place.path());
        let out = place.path().join("out");
        let folder = RunFolder::create(Some(&out), "test", None).unwrap();
        let mut recorder = Recorder::new(&job, Some(folder), Style::Quiet).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        recorder.observers.metrics.as_mut().unwrap().redirect(full);
        recorder.event(1, &Event::Restored { monitor: Monitor::Loss, value: 1.0, best: 0.5, step: 1 });
        let weights = job.model.initial(1);
        let error = recorder.finish(&job, place.path(), &weights, job.plan.steps).unwrap_err();
        assert!(error.to_string().contains("metrics.jsonl: No space left on device"), "{error}");
        assert_eq!(crate::SavedModel::read(&out.join(MODEL_FILE)).unwrap().weights, weights);
        // Without a summary, the run counts as unfinished and can be resumed.
        assert!(!out.join(SUMMARY_FILE).exists());
    }
}
