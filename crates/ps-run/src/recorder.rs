//! Tells user and metrics file how a run goes.

use crate::bans::{self, Ban};
use crate::board::{About, Board};
use crate::checkpoints::{Checkpoints, Opened};
use crate::diagnosis::Diagnosis;
use crate::events;
use crate::folder::{FolderError, RunFolder, WEIGHTS_FILE};
use crate::job::Job;
use crate::lines::{EpochLine, EventLine, HashLine, Length, Line, ProbeLine, StepLine};
use crate::measures::Measures;
use crate::observer::{Observer, Requests, Resumed, StepMade, StepWeights};
use crate::observers::tensorboard::EventFile;
use crate::observers::weight_inspector::WeightInspector;
use crate::phase::Phase;
use crate::progress::{Progress, Style};
use crate::summary::{Ending, Slowest, Summary};
use ps_checkpoint::{Disk, Snapshot};
use ps_config::CheckpointArgs;
use ps_core::control::{Event, Probe, State};
use ps_core::{StepReport, Tally};
use ps_plan::{BatchPlan, Step};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where there are more epochs than this, not every one of the quick ones gets a line on the screen.
const MANY_EPOCHS: u32 = 50;
const QUICK_EPOCH: Duration = Duration::from_millis(200);
/// Shown after the last step.
const EVALUATING: &str = "evaluating the final weights";

/// Told of every step and epoch. A step costs it a clock reading and a few additions.
pub struct Recorder {
    plan: BatchPlan,
    class_names: Vec<String>,
    folder: Option<RunFolder>,
    metrics: Option<BufWriter<File>>,
    /// Lines that went there.
    lines: u64,
    progress: Progress,
    checkpoints: Option<Checkpoints>,
    bans: Vec<Ban>,
    /// Who has had a part in the weights without all of it having been checked, and since which step.
    contributors: BTreeMap<String, u64>,
    /// What the run goes on from.
    start: Option<Snapshot>,
    /// Seconds of training before that.
    before: f64,
    started: Instant,
    /// Since something was last shown.
    unseen: Window,
    /// Since the last line of steps in the metrics file.
    recent: Window,
    /// Since the epoch began.
    epoch: Window,
    /// When an epoch was last told of.
    told: Option<Instant>,
    /// The epochs that ended and wait for their validation.
    ended: Vec<EpochLine>,
    samples: u64,
    train: Option<Measures>,
    /// The worker that was waited for longest.
    slowest: Option<(String, Duration)>,
    /// What validation said last, after how many steps.
    validated: Option<(u64, Measures)>,
    /// Whether the run is over, though not all steps are made.
    is_concluded: bool,
    /// Whether an administrator has ended the run.
    is_ended: bool,
    /// Whether the final weights are those of an earlier step, the best one.
    is_restored: bool,
    /// Steps that were looked at closely.
    probes: Vec<ProbeLine>,
    /// Whether each step is checked, see [`ps_core::control::Descent`].
    descends: bool,
    /// Where a longer run would stand after the last step, if that is not the last of its epoch.
    cut: Option<Cut>,
    /// The state after the last step, to be saved after the results, so that the run can be made longer.
    end: Option<Snapshot>,
    /// The chain of hashes so far.
    chain: Option<String>,
    /// What others see.
    board: Arc<Board>,
    events: Option<Arc<Mutex<EventFile>>>,
    inspector: Option<WeightInspector>,
    observers: Vec<Box<dyn Observer>>,
    requests: Requests,
}

/// What whoever holds the weights shall hand over after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Weights and state, to [`Recorder::checkpoint`].
    pub save: bool,
    /// The weights, to [`Recorder::look`], before that.
    pub look: bool,
}

/// The last step that was made.
struct Made {
    /// Steps made, this one included.
    steps: u64,
    /// Its epoch, from 0.
    epoch: u32,
    rate: f32,
    workers: usize,
}

/// What is recorded of an epoch that the end of the run cuts short, before the epoch is taken to be over.
struct Cut {
    lines: u64,
    epoch: Tally,
    recent: Tally,
}

/// Steps added up.
struct Window {
    since: Instant,
    /// Samples of the tally that were seen before that, by a process that has ended.
    before: u64,
    tally: Tally,
}

impl Recorder {
    /// For a run whose results go to `folder` (nowhere, without one). The clock starts now.
    pub fn new(job: &Job, folder: Option<RunFolder>, style: Style) -> Result<Self, FolderError> {
        Recorder::opened(job, folder, style, None)
    }

    /// The same for a run that is saved from time to time, and goes on from what was saved in `folder`, if anything was.
    pub fn with_checkpoints(
        job: &Job,
        folder: RunFolder,
        style: Style,
        wanted: &CheckpointArgs,
    ) -> Result<Self, FolderError> {
        let mut bans = folder.bans()?;
        let pending = bans::pending_since(&bans);
        let opened = Checkpoints::open(job, &folder, wanted, pending)?;
        if pending.is_some() {
            match opened.went_back_to {
                Some(step) => bans::undo(&mut bans, step),
                None => bans::accept(&mut bans),
            }
            folder.write_bans(&bans)?;
        }
        let mut recorder = Recorder::saved(job, Some(folder), style, opened)?;
        recorder.board.tell(|seen| seen.bans = bans.clone());
        recorder.bans = bans;
        Ok(recorder)
    }

    /// The same for a run that is saved on the root of another disk, on the caller's thread, and has no other results.
    pub fn on_disk(job: &Job, disk: Box<dyn Disk>, wanted: &CheckpointArgs) -> Result<Self, FolderError> {
        let opened = Checkpoints::open_on(disk, job, wanted)?;
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
        warnings.iter().for_each(|warning| recorder.progress.warn(warning));
        Ok(recorder)
    }

    fn opened(
        job: &Job,
        folder: Option<RunFolder>,
        style: Style,
        start: Option<Snapshot>,
    ) -> Result<Self, FolderError> {
        let from = start.as_ref().map(|start| start.progress.clone()).unwrap_or_default();
        let length = length(&job.plan);
        let ended = pending(&from, length);
        let metrics = folder.as_ref().map(|folder| folder.metrics(from.lines, length)).transpose()?;
        if let Some(folder) = &folder {
            folder.write_run(job)?;
        }
        let lines = written(folder.as_ref())?;
        let board = Arc::new(Board::new(About::of(job, folder.as_ref().map(RunFolder::path)), &lines));
        board.tell(|seen| (seen.steps, seen.samples, seen.resumed_at) = (from.step, from.samples, from.step));
        let now = Instant::now();
        let classes = job.model.classes();
        let window = || Window { since: now, before: 0, tally: Tally::new(classes) };
        let (epoch, recent) = (Window::of_epoch(&from, classes, now), Window::of_recent(&from, classes, now));
        let progress = Progress::new(style);
        if let Some(start) = &start {
            let (step, steps) = (start.progress.step, job.plan.steps);
            progress.note(&format!("going on after {step} of {steps} steps, from the checkpoint"));
        }
        let mut recorder = Recorder {
            plan: job.plan,
            class_names: job.data.class_names.clone(),
            folder,
            metrics: metrics.map(BufWriter::new),
            lines: from.lines,
            progress,
            checkpoints: None,
            bans: Vec::new(),
            contributors: start.as_ref().map(|start| start.progress.contributors.clone()).unwrap_or_default(),
            start,
            before: from.seconds,
            started: now,
            unseen: window(),
            recent,
            epoch,
            told: None,
            train: last_epoch(&lines, &ended),
            ended,
            samples: from.samples,
            slowest: None,
            validated: None,
            is_concluded: false,
            is_ended: false,
            is_restored: false,
            probes: probes(&lines),
            descends: job.control.descent.is_some(),
            cut: None,
            end: None,
            chain: chain(&lines),
            board,
            events: None,
            inspector: None,
            observers: Vec::new(),
            requests: Requests::default(),
        };
        if let Some(start) = recorder.start.take() {
            recorder.hash_start(&start, &lines);
            recorder.start = Some(start);
        }
        Ok(recorder)
    }

    /// Writes the hash of the weights that the run resumes from, unless it is there: it is not where they were the last
    /// of a run that has become longer.
    fn hash_start(&mut self, start: &Snapshot, lines: &[Line]) {
        let step = start.progress.step;
        let is_there = |line: &Line| matches!(line, Line::Hash(line) if line.step == step);
        if !lines.iter().any(is_there) {
            self.hash(step, &start.weights);
        }
    }

    /// Training begins only now: what came before does not count as its time.
    pub fn begin(&mut self) {
        self.started = Instant::now();
        for window in [&mut self.epoch, &mut self.recent, &mut self.unseen] {
            window.since = self.started;
        }
        self.board.begin();
        self.phase(Phase::Training, "");
    }

    /// Reports the run to `observer`, too.
    pub fn observe(&mut self, mut observer: Box<dyn Observer>) {
        if let Some(start) = &self.start {
            let (step, samples) = (start.progress.step, start.progress.samples);
            self.board.read(|seen| observer.on_resume(&Resumed { step, samples, lines: &seen.lines }));
        }
        self.observers.push(observer);
    }

    /// Whether an observer has asked for the end of the run.
    pub fn is_stop_requested(&self) -> bool {
        self.requests.stop
    }

    fn phase(&mut self, phase: Phase, activity: &str) {
        self.observers.iter_mut().for_each(|observer| observer.on_phase(phase, activity));
    }

    /// What the run goes on from, for whoever holds the weights; nothing if it begins.
    pub fn take_start(&mut self) -> Option<Snapshot> {
        self.start.take()
    }

    /// Goes back to what was saved last, or to the beginning: what was told of later steps is forgotten. Gives what was
    /// saved.
    ///
    /// # Errors
    /// The checkpoints or the metrics file cannot be read or written: the run must not go on.
    pub fn rewind(&mut self) -> Result<Option<Snapshot>, FolderError> {
        let found = match &mut self.checkpoints {
            Some(checkpoints) => {
                let (found, warnings) = checkpoints.newest()?;
                warnings.iter().for_each(|warning| self.progress.warn(warning));
                found
            }
            None => None,
        };
        self.resume_at(found.as_ref())?;
        Ok(found)
    }

    /// Goes back to a checkpoint of at most `step` steps, or to the beginning if that counts as one: later weights may hold
    /// wrong sums, and what was saved of them is removed. Gives what was saved; nothing at all if neither is to be had, and
    /// then the weights stay as they are.
    ///
    /// # Errors
    /// As for [`Recorder::rewind`].
    pub fn go_back(&mut self, step: u64) -> Result<Option<Option<Snapshot>>, FolderError> {
        let found = match &mut self.checkpoints {
            Some(checkpoints) => {
                let Some(found) = checkpoints.go_back(step)? else {
                    bans::accept(&mut self.bans);
                    self.write_bans()?;
                    return Ok(None);
                };
                found.problems.iter().for_each(|warning| self.progress.warn(warning));
                found.snapshot
            }
            None => None,
        };
        self.resume_at(found.as_ref())?;
        bans::undo(&mut self.bans, found.as_ref().map_or(0, |found| found.progress.step));
        self.write_bans()?;
        Ok(Some(found))
    }

    /// Forgets what was told of steps later than those of `found`, or of all.
    fn resume_at(&mut self, found: Option<&Snapshot>) -> Result<(), FolderError> {
        let from = found.map(|found| found.progress.clone()).unwrap_or_default();
        self.close_metrics()?;
        let length = length(&self.plan);
        let metrics = self.folder.as_ref().map(|folder| folder.metrics(from.lines, length)).transpose()?;
        self.metrics = metrics.map(BufWriter::new);
        self.lines = from.lines;
        let (now, classes) = (Instant::now(), self.epoch.tally.classes.len());
        self.epoch = Window::of_epoch(&from, classes, now);
        self.recent = Window::of_recent(&from, classes, now);
        self.unseen.restart(now);
        self.samples = from.samples;
        self.ended = pending(&from, length);
        self.cut = None;
        self.validated = None;
        let lines = written(self.folder.as_ref())?;
        (self.probes, self.chain) = (probes(&lines), chain(&lines));
        self.board.tell(|seen| {
            seen.recall(&lines);
            (seen.steps, seen.samples) = (from.step, from.samples);
        });
        let from = Resumed { step: from.step, samples: from.samples, lines: &lines };
        self.observers.iter_mut().for_each(|observer| observer.on_resume(&from));
        if let Some(found) = found {
            self.hash_start(found, &lines);
        }
        Ok(())
    }

    /// The workers that were banned so far.
    pub fn bans(&self) -> &[Ban] {
        &self.bans
    }

    /// A worker was banned.
    ///
    /// # Errors
    /// The folder cannot be written: after a restart nobody would know.
    pub fn ban(&mut self, ban: Ban) -> Result<(), FolderError> {
        self.bans.push(ban);
        self.write_bans()
    }

    fn write_bans(&self) -> Result<(), FolderError> {
        self.board.tell(|seen| seen.bans = self.bans.clone());
        self.folder.as_ref().map_or(Ok(()), |folder| folder.write_bans(&self.bans))
    }

    /// Who has had a part in the weights that are saved next, and since which step.
    pub fn note_contributors(&mut self, contributors: BTreeMap<String, u64>) {
        self.contributors = contributors;
    }

    /// What whoever holds the weights shall hand over after `steps` steps that were all told of.
    ///
    /// # Errors
    /// The checkpoints cannot be trusted any more: the run must not go on.
    pub fn wants(&mut self, steps: u64) -> Result<Wanted, FolderError> {
        let goes_on = steps < self.plan.steps && !self.is_concluded;
        let is_observed = self.observers.iter().any(|observer| observer.wants_weights(steps));
        let look = self.is_hashed(steps) || self.is_shown(steps) || is_observed;
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(Wanted { save: false, look }) };
        let warning = checkpoints.look()?;
        // A descent moves no weight in its last step, so a longer run resumes before it.
        let precedes_end = self.descends && steps + 1 == self.plan.steps;
        let save = goes_on && (checkpoints.is_due(steps) || precedes_end && checkpoints.takes_extra());
        let durable = checkpoints.durable();
        warning.iter().for_each(|warning| self.progress.warn(warning));
        self.board.checkpoint(durable);
        Ok(Wanted { save, look })
    }

    fn is_hashed(&self, steps: u64) -> bool {
        self.metrics.is_some() && steps < self.plan.steps && HashLine::is_due(steps)
    }

    fn hash(&mut self, steps: u64, weights: &[f32]) {
        if !self.is_hashed(steps) {
            return;
        }
        let line = HashLine::new(steps, weights, self.chain.as_deref());
        self.chain = Some(line.chain.clone());
        self.write(&Line::Hash(line));
    }

    fn is_shown(&self, steps: u64) -> bool {
        self.inspector.is_some() && steps > 0 && self.plan.ends_epoch(steps - 1)
    }

    /// Looks at the weights after so many steps, as [`Recorder::wants`] said.
    pub fn look(&mut self, steps: u64, weights: &[f32]) {
        self.hash(steps, weights);
        if let Some(inspector) = self.inspector.as_ref().filter(|_| self.is_shown(steps)) {
            inspector.show(steps, weights.to_vec());
        }
        let weights = StepWeights { step: steps, values: weights };
        let wanting = self.observers.iter_mut().filter(|observer| observer.wants_weights(steps));
        wanting.for_each(|observer| observer.on_weights(&weights));
    }

    /// What others may see of the run.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Has weights looked at after each epoch, for whoever watches, and writes event files for TensorBoard where
    /// `tensorboard` asks for them and there is a folder.
    ///
    /// # Errors
    /// The files cannot be made, or the thread that looks.
    pub fn be_watched(&mut self, job: &Job, tensorboard: bool) -> Result<(), FolderError> {
        self.board.watch();
        if let Some(folder) = self.folder.as_ref().filter(|_| tensorboard) {
            let file = EventFile::create(folder.path(), self.board.read(|seen| seen.steps))?;
            self.events = Some(Arc::new(Mutex::new(file)));
        }
        self.inspector = Some(WeightInspector::start(job, self.events.clone(), Arc::clone(&self.board))?);
        Ok(())
    }

    /// How far the run is after `steps` steps, which must be those told of so far.
    pub fn progress(&self, steps: u64, control: State) -> ps_checkpoint::Progress {
        let pending = || self.ended.iter().map(|line| Line::Epoch(line.clone()).to_json()).collect();
        let (lines, pending, tally, recent) = match &self.cut {
            Some(Cut { lines, epoch, recent }) => (*lines, Vec::new(), epoch, recent),
            None => (self.lines, pending(), &self.epoch.tally, &self.recent.tally),
        };
        ps_checkpoint::Progress {
            control,
            lines,
            pending,
            step: steps,
            epoch: self.plan.step(steps).epoch,
            seconds: self.seconds(),
            samples: self.samples,
            tally: tally.clone(),
            recent: (recent.samples > 0).then(|| recent.clone()),
            contributors: self.contributors.clone(),
        }
    }

    /// Whether [`Recorder::keep_end`] is to be given the state after the last step, which is made.
    pub fn keeps_end(&self) -> bool {
        let are_wanted = self.checkpoints.as_ref().is_some_and(Checkpoints::are_wanted);
        are_wanted && self.folder.is_some() && !self.is_concluded && !self.descends
    }

    /// Keeps the run as it is after the last step, `steps`, and before its weights are validated, until the results are
    /// written. Then it is saved, so that the run can be made longer.
    pub fn keep_end(&mut self, steps: u64, control: State, weights: Vec<f32>, state: Vec<f32>) {
        self.end = Some(Snapshot { progress: self.progress(steps, control), weights, state });
    }

    /// The weights that the run gives and the number of its steps, if what it resumes from has made all of them.
    pub fn take_complete(&mut self, job: &Job) -> Option<(Vec<f32>, u64)> {
        let Snapshot { progress, mut weights, state } =
            self.start.take_if(|start| start.progress.step >= self.plan.steps)?;
        let (steps, mut control) = (progress.step, job.control());
        control.resume(progress.control);
        if self.epoch.tally.samples > 0 {
            let Step { epoch, .. } = self.plan.step(steps - 1);
            self.end_epoch(&Made { steps, epoch, rate: control.rate(steps - 1), workers: 1 }, Instant::now());
        }
        let validation = self.validate(job, &weights);
        if let Some(event) = control.close(&mut weights, &state, validation.as_ref()) {
            self.event(steps, &event);
        }
        Some((weights, steps))
    }

    /// Saves the run as it was at `progress`, while it goes on.
    ///
    /// # Errors
    /// As for [`Recorder::wants`].
    pub fn checkpoint(
        &mut self,
        progress: ps_checkpoint::Progress,
        weights: Vec<f32>,
        state: Vec<f32>,
    ) -> Result<(), FolderError> {
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(()) };
        if let Some(metrics) = &mut self.metrics {
            // What is saved is not written again.
            let _ = metrics.flush();
        }
        let warning = checkpoints.save(Snapshot { progress, weights, state })?;
        warning.iter().for_each(|warning| self.progress.warn(warning));
        Ok(())
    }

    /// Has the run saved after the step in hand.
    pub fn ask_for_checkpoint(&mut self) {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.ask_for_one();
        }
    }

    /// The steps of the newest checkpoint that is durable, and how long it has been so.
    pub fn durable(&self) -> Option<(u64, Duration)> {
        self.checkpoints.as_ref().and_then(Checkpoints::durable)
    }

    /// Steps waited for this worker so long, which was worth telling.
    pub fn blame(&mut self, worker: String, waited: Duration) {
        self.slowest = Some((worker, waited));
    }

    /// Whether the run is saved from time to time.
    pub fn has_checkpoints(&self) -> bool {
        self.checkpoints.is_some()
    }

    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// A step was made, by `workers` workers.
    pub fn step(&mut self, report: &StepReport, workers: usize) {
        if !self.ended.is_empty() {
            self.epoch(report.validation.as_ref());
        }
        let now = Instant::now();
        self.unseen.tally.add(&report.tally);
        self.recent.tally.add(&report.tally);
        self.epoch.tally.add(&report.tally);
        self.samples += report.tally.samples;
        self.board.step(report, self.samples, now);
        self.is_concluded |= report.is_last;
        report.events.iter().for_each(|event| self.event(report.step, event));
        if let Some(probe) = &report.probe {
            self.probe(probe);
        }
        let made = Made { steps: report.step + 1, epoch: report.epoch, rate: report.rate, workers };
        self.observe_step(&made, &report.tally, now);
        let due = self.progress.due();
        if now - self.unseen.since >= due {
            let line = self.step_line(&self.unseen, &made, now);
            self.unseen.restart(now);
            self.progress.show(&line);
        }
        if StepLine::is_due(made.steps) {
            self.write_step(&made, now);
        }
        if self.plan.ends_epoch(report.step) {
            self.end_epoch(&made, now);
        }
    }

    fn observe_step(&mut self, made: &Made, batch: &Tally, now: Instant) {
        let Length { steps, epochs } = length(&self.plan);
        let step = StepMade {
            step: made.steps,
            steps,
            epoch: made.epoch + 1,
            epochs,
            learning_rate: made.rate,
            batch,
            samples: self.samples,
            workers: made.workers,
            seconds: self.before + (now - self.started).as_secs_f64(),
            at: now,
        };
        self.observers.iter_mut().for_each(|observer| observer.on_step(&step, &mut self.requests));
        self.grant_checkpoint();
    }

    /// Has the run saved if an observer has asked for it.
    fn grant_checkpoint(&mut self) {
        if std::mem::take(&mut self.requests.checkpoint) {
            self.ask_for_checkpoint();
        }
    }

    /// The step was the last of its epoch, or of the run.
    fn end_epoch(&mut self, made: &Made, now: Instant) {
        if !made.steps.is_multiple_of(self.plan.steps_per_epoch()) {
            self.cut = Some(Cut {
                lines: self.lines,
                epoch: self.epoch.tally.clone(),
                recent: self.recent.tally.clone(),
            });
        }
        if self.recent.tally.samples > 0 {
            self.write_step(made, now);
        }
        let train = Measures::new(&self.epoch.tally, &self.class_names);
        self.train = Some(train.clone());
        let Length { steps, epochs } = length(&self.plan);
        self.ended.push(EpochLine {
            epoch: made.epoch + 1,
            epochs,
            step: made.steps,
            steps,
            samples_per_second: self.epoch.speed(now),
            train,
            validation: None,
            learning_rate: made.rate,
            workers: made.workers,
            seconds: self.before + (now - self.started).as_secs_f64(),
        });
        self.epoch.restart(now);
        if self.plan.validation == 0 {
            self.epoch(None);
        }
    }

    fn write_step(&mut self, made: &Made, now: Instant) {
        let line = self.step_line(&self.recent, made, now);
        self.recent.restart(now);
        self.write(&line);
    }

    /// No step follows, and these are the weights after the last one: what validation says of them, if an epoch waits for
    /// it.
    pub fn validate(&mut self, job: &Job, weights: &[f32]) -> Option<Tally> {
        self.board.finishing(EVALUATING);
        self.phase(Phase::Finishing, EVALUATING);
        let validation = (!self.ended.is_empty()).then(|| job.validate(weights)).flatten()?;
        self.epoch(Some(&validation));
        Some(validation)
    }

    /// The epoch that ended last, and what validation says of the weights after it.
    fn epoch(&mut self, validation: Option<&Tally>) {
        if self.ended.is_empty() {
            return;
        }
        let mut line = self.ended.remove(0);
        line.validation = validation.map(|tally| Measures::new(tally, &self.class_names));
        self.validated = line.validation.clone().map(|measures| (line.step, measures));
        let (epoch, epochs) = (line.epoch, line.epochs);
        if let Some(validation) = &line.validation {
            self.board.tell(|seen| seen.validation = Some(validation.clone()));
        }
        self.observers.iter_mut().for_each(|observer| observer.on_epoch(&line, &mut self.requests));
        let line = Line::Epoch(line);
        self.write(&line);
        self.grant_checkpoint();
        let now = Instant::now();
        let quick = self.told.is_some_and(|told| now - told < QUICK_EPOCH);
        if !quick || epochs <= MANY_EPOCHS || epoch == epochs || self.progress.is_json() {
            self.told = Some(now);
            self.progress.show(&line);
            if let Some(metrics) = &mut self.metrics {
                // For whoever follows the file.
                let _ = metrics.flush();
            }
        }
    }

    /// Something out of the ordinary, after so many steps.
    pub fn event(&mut self, step: u64, event: &Event) {
        if let Event::Restored { .. } = event {
            // What was measured is of other weights.
            self.validated = None;
            self.is_restored = true;
        }
        self.observers.iter_mut().for_each(|observer| observer.on_event(step, event, &mut self.requests));
        self.grant_checkpoint();
        let line = Line::Event(EventLine { step, event: event.name().into(), text: events::text(event) });
        self.write(&line);
        self.progress.show(&line);
    }

    fn probe(&mut self, probe: &Probe) {
        let line = ProbeLine {
            step: probe.step + 1,
            learning_rate: probe.rate,
            loss: probe.loss,
            gradient_norm: probe.gradient_norm,
            predicted_decrease: probe.predicted,
            actual_decrease: probe.actual,
            update_ratios: probe.ratios.clone(),
        };
        self.write(&Line::Probe(line.clone()));
        self.probes.push(line);
    }

    /// Whether the run is over, though not all steps are made.
    pub fn is_concluded(&self) -> bool {
        self.is_concluded
    }

    /// An administrator has ended the run: a server that is started again in its folder does not resume it unasked.
    pub fn end_for_good(&mut self) {
        self.is_ended = true;
    }

    /// A line for the user that does not disturb the bar.
    pub fn note(&self, text: &str) {
        self.progress.note(text);
    }

    /// The run is over: writes the results (relative data paths started at `root`), measures the weights and returns the
    /// summary. The weights are written before anything else, so that no later failure loses them.
    pub fn finish(
        mut self,
        job: &Job,
        root: &Path,
        weights: &[f32],
        version: u64,
    ) -> Result<Summary, FolderError> {
        let (board, mut observers) = (Arc::clone(&self.board), std::mem::take(&mut self.observers));
        let finished = self.write_results(job, root, weights, version);
        let finished = finished.inspect(|summary| board.end(summary)).inspect_err(|error| board.fail(error));
        observers.iter_mut().for_each(|observer| match &finished {
            Ok(summary) => observer.on_finish(summary),
            Err(error) => observer.on_failure(error),
        });
        finished
    }

    fn write_results(
        mut self,
        job: &Job,
        root: &Path,
        weights: &[f32],
        version: u64,
    ) -> Result<Summary, FolderError> {
        let seconds = self.seconds();
        self.board.finishing(EVALUATING);
        if let Some(folder) = &self.folder {
            folder.retire_summary(job)?;
            folder.write_weights(job, root, weights, version)?;
        }
        let concluded = self.conclude(job, weights, version, seconds);
        if let (Err(_), Some(folder)) = (&concluded, self.folder()) {
            self.progress.note(&format!("the weights are in {}", folder.join(WEIGHTS_FILE).display()));
        }
        concluded
    }

    /// Writes and measures everything else.
    fn conclude(
        &mut self,
        job: &Job,
        weights: &[f32],
        version: u64,
        seconds: f64,
    ) -> Result<Summary, FolderError> {
        let outcome = match self.is_concluded || version >= job.plan.steps {
            true => Ending::Done,
            false if self.is_ended => Ending::Ended,
            false => Ending::Stopped,
        };
        if let Some(checkpoints) = &mut self.checkpoints {
            if outcome == Ending::Done {
                let warning = checkpoints.wait()?;
                warning.iter().for_each(|warning| self.progress.warn(warning));
            } else {
                // A run that is to be resumed needs its last checkpoint.
                checkpoints.settle()?;
            }
            self.board.checkpoint(checkpoints.durable());
        }
        self.progress.close();
        self.close_metrics()?;
        let validated = self.validated.take().filter(|(steps, _)| *steps == version);
        let mut summary =
            Summary::new(job, weights, version, outcome, validated.map(|(_, measures)| measures));
        summary.is_tainted = self.bans.iter().any(Ban::is_tainting);
        summary.bans = std::mem::take(&mut self.bans);
        summary.steps_taken = Diagnosis::of(&self.probes);
        summary.seconds = seconds;
        summary.samples_per_second = self.samples as f64 / seconds.max(1e-9);
        summary.train = self.measure_training(job, weights);
        summary.slowest = self
            .slowest
            .take()
            .map(|(worker, waited)| Slowest { worker, waited_seconds: waited.as_secs_f64() });
        self.board.finishing("writing the results");
        if let Some(inspector) = self.inspector.take()
            && (self.is_restored || version == 0 || !self.plan.ends_epoch(version - 1))
        {
            inspector.show(version, weights.to_vec());
        }
        if let Some(folder) = &self.folder {
            folder.write_summary(&summary)?;
        }
        self.save_end();
        Ok(summary)
    }

    /// Saves the state after the last step. The results are there, so that a failure only keeps the run from being made
    /// longer.
    fn save_end(&mut self) {
        let (Some(checkpoints), Some(end)) = (&mut self.checkpoints, self.end.take()) else { return };
        if let Err(error) = checkpoints.save_end(end) {
            self.progress.warn(&format!(
                "the state after the last step was not saved: {error}; a longer run resumes from an earlier step"
            ));
        }
    }

    /// The measures of training: over the steps of the last epoch or, if `weights` are not those after the last step, of
    /// `weights` on the whole training part.
    fn measure_training(&mut self, job: &Job, weights: &[f32]) -> Option<Measures> {
        // A descent that checks itself may return to an earlier point in its last step.
        let is_of_earlier_weights = self.is_concluded || self.is_restored || job.control.descent.is_some();
        if is_of_earlier_weights {
            return Some(Measures::new(&job.measure(weights), &self.class_names));
        }
        if self.epoch.tally.samples > 0 {
            return Some(Measures::new(&self.epoch.tally, &self.class_names));
        }
        self.train.take()
    }

    /// The run failed for this reason: the bar goes, the metrics so far stay, no results are written.
    pub fn abandon(mut self, reason: &dyn Display) {
        self.progress.close();
        let _ = self.close_metrics();
        let (board, observers) = (Arc::clone(&self.board), std::mem::take(&mut self.observers));
        // What others see is complete before the end is: the thread that looks at weights ends with the recorder.
        drop(self);
        board.fail(reason);
        observers.into_iter().for_each(|mut observer| observer.on_failure(reason));
    }

    /// Where results go.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(RunFolder::path)
    }

    fn close_metrics(&mut self) -> Result<(), FolderError> {
        let Some(mut metrics) = self.metrics.take() else { return Ok(()) };
        let path = self.folder().map_or_else(PathBuf::new, |folder| folder.join(crate::folder::METRICS_FILE));
        metrics.flush().map_err(|error| FolderError::File { path, error })
    }

    fn step_line(&self, window: &Window, made: &Made, now: Instant) -> Line {
        let (tally, Length { steps, epochs }) = (&window.tally, length(&self.plan));
        Line::Step(StepLine {
            step: made.steps,
            steps,
            epoch: made.epoch + 1,
            epochs,
            loss: tally.mean_loss(),
            accuracy: tally.accuracy(),
            r_squared: tally.r_squared(),
            learning_rate: made.rate,
            samples_per_second: window.speed(now),
            workers: made.workers,
            seconds: self.before + (now - self.started).as_secs_f64(),
        })
    }

    /// Adds a line to the metrics file. A full disk shows when the file is closed; it is no reason to stop
    /// training.
    fn write(&mut self, line: &Line) {
        self.lines = self.lines.saturating_add(1);
        if let Some(metrics) = &mut self.metrics {
            let _ = writeln!(metrics, "{}", line.to_json());
        }
        self.board.line(line);
        self.observers.iter_mut().for_each(|observer| observer.on_line(line));
        if let Some(events) = &self.events {
            let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
            events.line(line);
            if matches!(line, Line::Epoch(_)) {
                events.flush();
            }
        }
    }
}

/// How long a run is.
fn length(plan: &BatchPlan) -> Length {
    Length { steps: plan.steps, epochs: plan.step(plan.steps - 1).epoch + 1 }
}

/// The epochs that were over when this was saved, and waited for their validation.
fn pending(from: &ps_checkpoint::Progress, length: Length) -> Vec<EpochLine> {
    let line = |json: &String| match serde_json::from_str(json).map(|line: Line| line.of_length(length)) {
        Ok(Line::Epoch(line)) => Some(line),
        _ => None,
    };
    from.pending.iter().filter_map(line).collect()
}

/// What the last epoch that is over came to.
fn last_epoch(lines: &[Line], ended: &[EpochLine]) -> Option<Measures> {
    let written =
        || lines.iter().rev().find_map(|line| if let Line::Epoch(line) = line { Some(line) } else { None });
    ended.last().or_else(written).map(|line| line.train.clone())
}

/// What a run's metrics file holds.
fn written(folder: Option<&RunFolder>) -> Result<Vec<Line>, FolderError> {
    match folder {
        Some(folder) => Line::read_all(&folder.path().join(crate::folder::METRICS_FILE)),
        None => Ok(Vec::new()),
    }
}

/// The steps that it says were looked at closely.
fn probes(lines: &[Line]) -> Vec<ProbeLine> {
    let probe = |line: &Line| match line {
        Line::Probe(probe) => Some(probe.clone()),
        _ => None,
    };
    lines.iter().filter_map(probe).collect()
}

/// How far its chain of hashes goes.
fn chain(lines: &[Line]) -> Option<String> {
    lines.iter().rev().find_map(|line| match line {
        Line::Hash(hash) => Some(hash.chain.clone()),
        _ => None,
    })
}

impl Window {
    /// The epoch that goes on from here.
    fn of_epoch(start: &ps_checkpoint::Progress, classes: usize, now: Instant) -> Self {
        let tally = if start.step == 0 { Tally::new(classes) } else { start.tally.clone() };
        Window { since: now, before: tally.samples, tally }
    }

    /// The steps since the last line of steps, which go on from here.
    fn of_recent(start: &ps_checkpoint::Progress, classes: usize, now: Instant) -> Self {
        let tally = start.recent.clone().unwrap_or_else(|| Tally::new(classes));
        Window { since: now, before: tally.samples, tally }
    }

    fn speed(&self, now: Instant) -> f64 {
        (self.tally.samples - self.before) as f64 / (now - self.since).as_secs_f64().max(1e-9)
    }

    fn restart(&mut self, now: Instant) {
        self.since = now;
        self.before = 0;
        self.tally = Tally::new(self.tally.classes.len());
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::folder::SUMMARY_FILE;
    use ps_config::RunConfig;
    use ps_data::NoProgress;

    #[allow(clippy::unwrap_used, reason = "a test may panic")]
    fn job(place: &Path) -> Job {
        let text =
            "data.train = 'digits:20'\nmodel.kind = 'softmax'\ntrain.batch = 20\nlearning_rate.initial = 1";
        let run = RunConfig::parse(text, "test", &[]).unwrap();
        Job::load(run, place, None, &NoProgress).unwrap()
    }

    #[test]
    fn a_run_that_was_about_to_go_back_does_so_when_it_is_resumed() {
        let place = tempfile::tempdir().unwrap();
        let (job, out) = (job(place.path()), place.path().join("out"));
        let wanted = CheckpointArgs {
            checkpoint_every: Some(1),
            checkpoint_seconds: 0,
            checkpoint_keep: 2,
            allow_fresh: false,
        };
        let open = || {
            let folder = RunFolder::create(Some(&out), "test", Some(&job.run)).unwrap();
            Recorder::with_checkpoints(&job, folder, Style::Quiet, &wanted).unwrap()
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
        recorder.metrics = Some(BufWriter::new(File::options().write(true).open("/dev/full").unwrap()));
        recorder.write(&Line::Event(EventLine { step: 1, event: "warned".into(), text: String::new() }));
        let weights = job.model.initial(1);
        let error = recorder.finish(&job, place.path(), &weights, job.plan.steps).unwrap_err();
        assert!(error.to_string().contains("metrics.jsonl: No space left on device"), "{error}");
        let saved = crate::SavedWeights::open(&out.join(WEIGHTS_FILE)).unwrap();
        assert_eq!(saved.weights(&job.model).unwrap().weights, weights);
        // Without a summary the run is not finished, and can be resumed.
        assert!(!out.join(SUMMARY_FILE).exists());
    }
}
