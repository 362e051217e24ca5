//! The live state of a run, for metrics, the dashboard and the trace.
//!
//! Drivers and the recorder, which treats the [`RunState`] as an observer, write to it. No writer waits for a
//! reader, and no decision depends on the run state.

mod confusion;
mod meter;
mod rounds;
mod workers;

pub use confusion::Confusion;
pub use meter::{Activity, Meter};
pub(crate) use rounds::{Round, Rounds, Span};
pub use workers::{WorkerRow, WorkerStanding};

use crate::bans::Ban;
use crate::job::Job;
use crate::lines::{EpochLine, Line};
use crate::measures::Measures;
use crate::observer::{Observer, Requests, Resumed, StepMade};
use crate::phase::Phase;
use crate::summary::{Ending, Summary};
use crate::trace::Trace;
use serde::Serialize;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of lines of metrics to keep. Beyond that, every second line of steps is dropped.
const MAX_LINES: usize = 4000;
/// Upper bounds of the histogram of step durations, in seconds.
pub const STEP_BOUNDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The live state of a run, shared by the threads that train and those that show it.
#[derive(Debug)]
pub struct RunState {
    /// The time that this process spends on each activity, and the bytes that it sends and receives.
    pub meter: Arc<Meter>,
    is_watched: AtomicBool,
    changes: AtomicU64,
    began: Instant,
    snapshot: Mutex<RunSnapshot>,
}

/// The facts about a run that do not change while it trains.
#[derive(Clone, Debug, Default, Serialize)]
pub struct About {
    /// Name of the results folder; `run` without one.
    pub name: String,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// Number of epochs of the whole run.
    pub epochs: u32,
    /// Number of parameters of the model.
    pub parameters: usize,
    /// A short description of the model.
    pub model: String,
    /// Number of training samples.
    pub samples: usize,
    /// Names of the classes; empty for regression and counts.
    pub classes: Vec<String>,
    /// The folder of the results, as an absolute path.
    pub folder: Option<String>,
    /// Whether a policy may end the run before all steps are made.
    pub may_end_early: bool,
    /// Whether this process is the only worker.
    pub trains_alone: bool,
}

impl About {
    /// Describes `job`, whose results go to `folder`, if anywhere.
    pub fn of(job: &Job, folder: Option<&Path>) -> Self {
        let folder = folder.map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.into()));
        let name = folder.as_deref().and_then(Path::file_name);
        let layers = job.model.dense_layers().map(|layer| layer.outputs);
        let widths = [job.model.features()].into_iter().chain(layers).map(|width| width.to_string());
        About {
            name: name.map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned()),
            steps: job.plan.steps,
            epochs: job.plan.step(job.plan.steps.saturating_sub(1)).epoch + 1,
            parameters: job.model.parameters(),
            model: widths.collect::<Vec<_>>().join("-"),
            samples: job.plan.samples,
            classes: job.data.class_names.clone(),
            may_end_early: job.control.early_stopping.is_some() || job.control.descent.is_some(),
            trains_alone: false,
            folder: folder.map(|folder| folder.display().to_string()),
        }
    }
}

/// The data of a [`RunState`]: what observers and drivers have reported of the run so far.
#[derive(Debug)]
pub struct RunSnapshot {
    /// The facts that do not change.
    pub about: About,
    /// Number of steps made.
    pub steps: u64,
    /// The epoch of the last step, counted from 1.
    pub epoch: u32,
    /// Number of training samples seen.
    pub samples: u64,
    /// Learning rate of the last step.
    pub learning_rate: f32,
    /// Mean loss of the last step's batch.
    pub loss: f64,
    /// Share of the last batch that was classified correctly; `None` unless it is a classification.
    pub accuracy: Option<f64>,
    /// Metrics of the last validation.
    pub validation: Option<Measures>,
    /// Histogram of step durations. Element `i` counts steps that took at most `STEP_BOUNDS[i]` seconds and
    /// more than the bound before; the last element counts all longer ones.
    pub durations: [u64; STEP_BOUNDS.len() + 1],
    /// Sum of all step durations, in seconds.
    pub duration: f64,
    /// Lines of the metrics file, thinned out.
    pub lines: Vec<Line>,
    /// The current phase.
    pub phase: Phase,
    /// What the process does or waits for in this phase; empty where the phase says enough.
    pub activity: String,
    /// How long the current step has been waiting.
    pub waited: Duration,
    /// The step at which this process resumed the run; 0 if it began it.
    pub resumed_at: u64,
    /// The workers of the run, as the coordinator sees them.
    pub workers: Vec<WorkerRow>,
    /// Number of leaves of late or lost workers that were reassigned.
    pub reassigned: u64,
    /// Number of sums that were computed twice and compared.
    pub audited: u64,
    /// The workers that were banned.
    pub bans: Vec<Ban>,
    /// The step of the newest durable checkpoint, and when it became durable.
    pub checkpoint: Option<(u64, Instant)>,
    /// The last rounds, for the timeline.
    pub rounds: Rounds,
    /// The confusion matrix of the last inspected validation.
    pub confusion: Option<Confusion>,
    /// The results, once the run is done or stopped.
    pub summary: Option<Summary>,
    /// Why the run failed, if it did.
    pub failure: Option<String>,
    last_step: Option<Instant>,
}

impl RunState {
    /// Creates the state of a run that is about to begin, or to resume after `lines`.
    pub fn new(about: About, lines: &[Line]) -> Self {
        let mut snapshot = RunSnapshot {
            about,
            steps: 0,
            epoch: 0,
            samples: 0,
            learning_rate: f32::NAN,
            loss: f64::NAN,
            accuracy: None,
            validation: None,
            durations: [0; STEP_BOUNDS.len() + 1],
            duration: 0.0,
            lines: Vec::new(),
            phase: Phase::Starting,
            activity: String::new(),
            waited: Duration::ZERO,
            resumed_at: 0,
            workers: Vec::new(),
            reassigned: 0,
            audited: 0,
            bans: Vec::new(),
            checkpoint: None,
            rounds: Rounds::default(),
            confusion: None,
            summary: None,
            failure: None,
            last_step: None,
        };
        snapshot.recall(lines);
        RunState {
            meter: Arc::default(),
            is_watched: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            began: Instant::now(),
            snapshot: Mutex::new(snapshot),
        }
    }

    /// Records rounds and workers from now on. Without an observer that shows them, that is skipped.
    pub fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    /// Writes rounds to a file as well.
    pub fn trace(&self, trace: Trace) {
        self.lock().rounds.trace(trace);
        self.watch();
    }

    /// Returns whether rounds and workers are recorded.
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Counts the changes of the state, so that readers can tell whether there are new ones.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Calls `inspect` with the current state.
    pub fn read<T>(&self, inspect: impl FnOnce(&RunSnapshot) -> T) -> T {
        inspect(&self.lock())
    }

    /// Changes the state with `change`.
    pub fn update(&self, change: impl FnOnce(&mut RunSnapshot)) {
        change(&mut self.lock());
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, RunSnapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the worker on `lane` was assigned leaves of `step`.
    pub fn assigned(&self, lane: impl FnOnce() -> String, step: u64, detail: impl FnOnce() -> String) {
        if self.is_watched() {
            let now = self.seconds(Instant::now());
            self.update(|snapshot| snapshot.rounds.assign(lane(), step, detail(), now));
        }
    }

    /// Records that a sum of the worker on `lane` arrived.
    pub fn contributed(&self, lane: impl FnOnce() -> String) {
        if self.is_watched() {
            let now = self.seconds(Instant::now());
            self.update(|snapshot| snapshot.rounds.contribute(&lane(), now));
        }
    }

    /// Closes the open round, whose update by `holder` began at `updating`.
    pub fn made(&self, holder: &str, updating: Instant) {
        if self.is_watched() {
            let [from, now] = [updating, Instant::now()].map(|at| self.seconds(at));
            self.update(|snapshot| snapshot.rounds.close(holder, from, now));
        }
    }

    /// Records an activity outside of the rounds, from `from` until now.
    pub fn span(&self, lane: &str, what: &'static str, from: Instant) {
        let [from, until] = [from, Instant::now()].map(|at| self.seconds(at));
        self.lock().rounds.add_span(lane, what, from, until);
    }

    /// Seconds from the creation of the run state to `at`.
    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    /// Records the newest durable checkpoint: its step, and how long it has been durable.
    pub fn checkpoint(&self, durable: Option<(u64, Duration)>) {
        let Some((steps, age)) = durable else { return };
        let mut snapshot = self.lock();
        if snapshot.checkpoint.is_none_or(|(known, _)| known != steps) {
            snapshot.checkpoint = Instant::now().checked_sub(age).map(|since| (steps, since));
        }
    }

    /// Records that the first step begins.
    pub fn begin(&self) {
        self.update(|snapshot| snapshot.phase.advance(Phase::Training));
    }

    /// Records the end of the run and its results.
    pub(crate) fn end(&self, summary: &Summary) {
        self.update(|snapshot| {
            snapshot.end(match summary.outcome {
                Ending::Done => Phase::Done,
                Ending::Stopped | Ending::Ended => Phase::Stopped,
            });
            snapshot.bans = summary.bans.clone();
            snapshot.summary = Some(summary.clone());
        });
    }

    /// Records that the run failed. Does nothing if the run has already ended.
    pub fn fail(&self, reason: &dyn Display) {
        self.update(|snapshot| {
            if !snapshot.phase.is_over() {
                snapshot.end(Phase::Failed);
                snapshot.failure = Some(reason.to_string());
            }
        });
    }
}

impl Observer for Arc<RunState> {
    fn on_resume(&mut self, from: &Resumed<'_>) {
        self.update(|snapshot| {
            snapshot.recall(from.lines);
            (snapshot.steps, snapshot.samples) = (from.step, from.samples);
        });
    }

    fn on_phase(&mut self, phase: Phase, activity: &str) {
        self.update(|snapshot| {
            snapshot.phase.advance(phase);
            if phase == Phase::Finishing {
                snapshot.activity = activity.into();
                snapshot.waited = Duration::ZERO;
                snapshot.release_workers();
            }
        });
    }

    fn on_step(&mut self, step: &StepMade<'_>, _: &mut Requests) {
        self.update(|snapshot| {
            if let Some(last) = snapshot.last_step.replace(step.at) {
                let seconds = (step.at - last).as_secs_f64();
                let interval = STEP_BOUNDS.partition_point(|&bound| bound < seconds);
                snapshot.durations[interval] += 1;
                snapshot.duration += seconds;
            }
            snapshot.phase.advance(Phase::Training);
            (snapshot.steps, snapshot.epoch, snapshot.samples) = (step.step, step.epoch, step.samples);
            (snapshot.loss, snapshot.accuracy, snapshot.learning_rate) =
                (step.loss(), step.accuracy(), step.learning_rate);
        });
    }

    fn on_line(&mut self, line: &Line) {
        if matches!(line, Line::Hash(_)) {
            return;
        }
        self.update(|snapshot| {
            if let Line::Epoch(EpochLine { validation: Some(validation), .. }) = line {
                snapshot.validation = Some(validation.clone());
            }
            snapshot.lines.push(line.clone());
            if snapshot.lines.len() > MAX_LINES {
                let mut number = 0;
                snapshot.lines.retain(|line| {
                    number += 1;
                    number % 2 == 0 || !matches!(line, Line::Step(_) | Line::Epoch(_))
                });
            }
        });
    }

    fn on_finish(&mut self, summary: &Summary) {
        self.end(summary);
    }

    fn on_failure(&mut self, reason: &dyn Display) {
        self.fail(reason);
    }
}

impl RunSnapshot {
    /// Restores the state after the last of `lines`.
    pub(crate) fn recall(&mut self, lines: &[Line]) {
        self.lines = shown(lines);
        (self.epoch, self.learning_rate) = (0, f32::NAN);
        (self.loss, self.accuracy, self.validation) = (f64::NAN, None, None);
        for line in lines {
            match line {
                Line::Step(line) => {
                    (self.epoch, self.learning_rate) = (line.epoch, line.learning_rate);
                    (self.loss, self.accuracy) = (line.loss, line.accuracy);
                }
                Line::Epoch(line) => self.validation.clone_from(&line.validation),
                Line::Probe(_) | Line::Event(_) | Line::Hash(_) => {}
            }
        }
    }

    fn end(&mut self, phase: Phase) {
        self.phase.advance(phase);
        self.activity.clear();
        self.waited = Duration::ZERO;
        self.release_workers();
        self.rounds.flush();
    }

    /// Marks all workers as dismissed, since they have nothing left to do.
    fn release_workers(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| !worker.standing.is_gone()) {
            (worker.standing, worker.leaves, worker.silent_ms) = (WorkerStanding::Dismissed, 0, 0);
        }
    }
}

/// Returns the lines that are shown. Hashes are left out: they only serve to compare runs.
fn shown(lines: &[Line]) -> Vec<Line> {
    lines.iter().filter(|line| !matches!(line, Line::Hash(_))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_coord::{Departure, WorkerState};
    use serde_json::json;

    fn lines() -> Vec<Line> {
        let step = json!({ "kind": "step", "step": 40, "steps": 90, "epoch": 2, "epochs": 3, "loss": 0.5, "accuracy": 0.75,
            "learning_rate": 0.5, "samples_per_second": 8.0, "workers": 1, "seconds": 6.0 });
        let measures = json!({ "samples": 4, "loss": 0.25, "accuracy": 1.0 });
        let epoch = json!({ "kind": "epoch", "epoch": 1, "epochs": 3, "step": 30, "steps": 90, "train": measures,
            "validation": measures, "learning_rate": 0.5, "samples_per_second": 8.0, "workers": 1, "seconds": 5.0 });
        [epoch, step].into_iter().map(|line| serde_json::from_value(line).unwrap()).collect()
    }

    #[test]
    fn a_resumed_run_shows_its_last_known_state() {
        RunState::new(About::default(), &lines()).read(|snapshot| {
            assert_eq!(
                (snapshot.epoch, snapshot.loss, snapshot.accuracy, snapshot.learning_rate),
                (2, 0.5, Some(0.75), 0.5)
            );
            assert_eq!(snapshot.validation.as_ref().map(|it| it.loss), Some(0.25));
            assert_eq!((snapshot.phase, snapshot.lines.len()), (Phase::Starting, 2));
        });
        // One that went back to its beginning does not.
        let run_state = RunState::new(About::default(), &lines());
        run_state.update(|snapshot| snapshot.recall(&[]));
        run_state.read(|snapshot| {
            assert!(snapshot.loss.is_nan() && snapshot.epoch == 0 && snapshot.validation.is_none())
        });
    }

    #[test]
    fn workers_are_released_when_no_step_follows() {
        let mut run_state = Arc::new(RunState::new(About::default(), &[]));
        run_state.on_phase(Phase::Training, "");
        let row =
            |state| WorkerRow { standing: WorkerStanding::Known(state), leaves: 2, ..WorkerRow::default() };
        let gone = WorkerState::Gone(Departure::Leaving);
        run_state.update(|snapshot| snapshot.workers = vec![row(WorkerState::Training), row(gone)]);
        run_state.on_phase(Phase::Finishing, "evaluating the final weights");
        run_state.read(|snapshot| {
            let rows: Vec<_> =
                snapshot.workers.iter().map(|row| serde_json::to_value(row).unwrap()).collect();
            assert_eq!([&rows[0]["standing"], &rows[1]["standing"]], ["dismissed", "gone"]);
            assert_eq!([&rows[0]["state"], &rows[1]["state"]], ["dismissed", "gone (it left)"]);
            assert_eq!(
                (snapshot.phase, &snapshot.activity[..]),
                (Phase::Finishing, "evaluating the final weights")
            );
        });
        run_state.fail(&"the disk is full");
        run_state.read(|snapshot| {
            assert_eq!(
                (snapshot.phase, snapshot.failure.as_deref()),
                (Phase::Failed, Some("the disk is full"))
            );
            assert!(snapshot.activity.is_empty());
        });
    }
}
