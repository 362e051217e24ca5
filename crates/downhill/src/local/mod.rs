//! Local training: the round logic of server and workers, with channels between threads instead of a network.
//!
//! The caller's thread owns the weights and also runs the first worker, so a run with one worker sends
//! nothing between threads; each further worker has its own thread. Gradients are moved and weights are
//! shared, so neither is copied. All computation uses the current rayon pool. With a single worker and a
//! large model, the weights are updated in place: the plane that holds them also computes the gradients
//! ([`Plane::fused`]).

mod worker;

use crate::error::Error;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender, TrySendError};
use ps_coord::{Millis, Outcome, ServerAction, ServerConfig, ServerCore, ServerEvent, WorkerId};
use ps_core::NodeSum;
use ps_core::trainer::Diverged;
use ps_plan::{Node, Section};
use ps_plane::Plane;
use ps_run::{Activity, FolderError, Job, Recorder, Summary, WorkerRow, WorkerStanding};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use worker::{Task, TaskResult, Worker};

/// Value of the timeouts that do not apply here: threads of one process are neither lost nor silent.
const NEVER: Millis = Millis::MAX / 4;
/// A step that takes longer than this is reported.
const SLOW_STEP: Millis = 30_000;
/// Capacity of a worker's task queue: its own leaves, those of late workers, and copies.
const MAX_TASKS: usize = 16;
/// Longest time until a request to stop is noticed.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Shortest time between two updates of the workers' states in the run state.
const STATE_INTERVAL: Duration = Duration::from_millis(250);

/// The coordinator's ends of the channel to a worker's thread.
struct WorkerHandle {
    tasks: Sender<Task>,
    /// A second receiver, with which the coordinator takes back outdated tasks.
    waiting: Receiver<Task>,
}

/// Why local training failed.
#[derive(Debug)]
pub enum LocalError {
    /// The loss or a weight is not finite.
    Diverged(Diverged),
    /// A thread ended unexpectedly: a bug in this program.
    Lost(String),
    /// A checkpoint or the results cannot be written.
    Unsaved(FolderError),
}

/// The final weights, and their version.
pub(crate) type Trained = (Vec<f32>, u64);

/// What remains of a run that ended without an error.
pub struct Finished {
    /// The final weights.
    pub weights: Vec<f32>,
    /// Steps applied to the weights.
    pub version: u64,
    /// The summary that was written to the results folder.
    pub summary: Summary,
}

/// Trains `job` with `workers` workers until all steps are made or `stop` is set, and writes the results.
/// Relative data paths of the run start at `root`.
pub fn run(
    job: &Job,
    root: &Path,
    workers: usize,
    stop: &AtomicBool,
    mut recorder: Recorder,
) -> Result<Finished, Error> {
    match train(job, workers, stop, &mut recorder) {
        Ok((weights, version)) => {
            let summary = recorder.finish(job, root, &weights, version)?;
            Ok(Finished { weights, version, summary })
        }
        Err(error) => {
            recorder.abandon(&error);
            Err(error.into())
        }
    }
}

/// Trains `job` with `workers` workers until all steps are made or `stop` is set.
fn train(
    job: &Job,
    workers: usize,
    stop: &AtomicBool,
    recorder: &mut Recorder,
) -> Result<Trained, LocalError> {
    recorder.begin();
    if let Some(trained) = recorder.take_complete(job) {
        return Ok(trained);
    }
    // One place for each worker: the coordinator computes leaves itself, and meanwhile no thread has to wait
    // until it takes a result.
    let (results, inbox) = channel::bounded(workers);
    std::thread::scope(|scope| {
        let mut handles = Vec::new();
        for id in 1..workers as u32 {
            let (tasks, assigned) = channel::bounded(MAX_TASKS);
            let (results, waiting) = (results.clone(), assigned.clone());
            let run = move || Worker::new(job, WorkerId(id)).serve(assigned, results);
            let thread = std::thread::Builder::new().name(format!("worker {id}"));
            let spawned = thread.spawn_scoped(scope, run);
            spawned.map_err(|error| LocalError::Lost(format!("worker {id} cannot be started: {error}")))?;
            handles.push(WorkerHandle { tasks, waiting });
        }
        let coordinator = LocalCoordinator::new(job, workers, stop, recorder, handles, inbox);
        // Only the threads hold senders from here on, so receiving fails once the last of them is gone.
        drop(results);
        coordinator.run()
    })
}

/// Returns the name under which the run state shows a worker.
fn worker_name(worker: WorkerId) -> String {
    format!("worker {}", worker.0)
}

fn server_config(job: &Job, workers: usize, start_version: u64) -> ServerConfig {
    ServerConfig {
        plan: job.plan,
        start_version,
        min_workers: workers as u32,
        join_timeout_ms: NEVER,
        contact_timeout_ms: NEVER,
        work_timeout_ms: NEVER,
        notice_every_ms: SLOW_STEP,
        shards: 0,
        first_shard: 0,
        audit: 0.0,
        audit_seed: 0,
    }
}

/// Returns how long to wait for the next result, before the core has a deadline or `stop` must be read again.
fn patience(core: &ServerCore, now: Millis) -> Duration {
    let deadline = core.deadline().unwrap_or(Millis::MAX);
    Duration::from_millis(deadline.saturating_sub(now)).min(STOP_POLL_INTERVAL)
}

/// Owns the weights and the server's round logic.
struct LocalCoordinator<'a> {
    job: &'a Job,
    stop: &'a AtomicBool,
    recorder: &'a mut Recorder,
    clock: Instant,
    core: ServerCore,
    plane: Plane,
    /// Whether the last update ended the run, which may be before its last step.
    is_concluded: bool,
    workers: usize,
    /// The channels to workers 1, 2, …
    handles: Vec<WorkerHandle>,
    inbox: Receiver<TaskResult>,
    /// Worker 0, which runs on this thread, and its queue.
    own: Worker<'a>,
    own_tasks: VecDeque<Task>,
    /// Leaves, with their step, whose gradients the plane computes itself because it updates in place.
    in_place: VecDeque<(u64, Range<u32>)>,
    diverged: Option<Diverged>,
    finished: Option<Outcome>,
    /// When the workers' states in the run state were last updated.
    shown: Option<Instant>,
}

impl<'a> LocalCoordinator<'a> {
    fn new(
        job: &'a Job,
        workers: usize,
        stop: &'a AtomicBool,
        recorder: &'a mut Recorder,
        handles: Vec<WorkerHandle>,
        inbox: Receiver<TaskResult>,
    ) -> Self {
        let (model, control) = (job.model.clone(), job.control());
        let mut plane = match workers == 1 && job.updates_in_place() {
            true => Plane::fused(model, control, job.kernel),
            false => Plane::shared(model, control),
        };
        if let Some(start) = recorder.take_start() {
            let progress = start.progress;
            plane.restore_whole(progress.step, &start.weights, &start.state, progress.control);
        }
        let version = plane.version();
        LocalCoordinator {
            job,
            stop,
            recorder,
            clock: Instant::now(),
            core: ServerCore::new(0, server_config(job, workers, version)),
            plane,
            is_concluded: false,
            workers,
            handles,
            inbox,
            own: Worker::new(job, WorkerId(0)),
            own_tasks: VecDeque::new(),
            in_place: VecDeque::new(),
            diverged: None,
            finished: None,
            shown: None,
        }
    }

    fn run(mut self) -> Result<Trained, LocalError> {
        for id in 0..self.workers as u32 {
            self.step(ServerEvent::Joined { worker: WorkerId(id) })?;
        }
        self.show();
        let mut stopping = false;
        while self.finished.is_none() {
            if !stopping && (self.stop.load(Ordering::Relaxed) || self.recorder.is_stop_requested()) {
                stopping = true;
                self.step(ServerEvent::Stop)?;
            } else if let Some(task) = self.own_tasks.pop_front() {
                let begun = Instant::now();
                let sums = self.own.work_on(task);
                self.recorder.run_state().meter.spend(Activity::Compute, begun.elapsed());
                self.receive(TaskResult { worker: WorkerId(0), sums })?;
            } else if let Some((step, leaves)) = self.in_place.pop_front() {
                self.compute(step, leaves)?;
            } else {
                let begun = Instant::now();
                let received = self.inbox.recv_timeout(patience(&self.core, self.now()));
                self.recorder.run_state().meter.spend(Activity::Wait, begun.elapsed());
                match received {
                    Ok(result) => self.receive(result)?,
                    Err(RecvTimeoutError::Timeout) => self.step(ServerEvent::Timeout)?,
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(LocalError::Lost("no worker is left to wait for".into()));
                    }
                }
            }
        }
        self.shown = None;
        self.show();
        match (self.finished.take(), self.diverged.take()) {
            (_, Some(diverged)) => Err(LocalError::Diverged(diverged)),
            (Some(Outcome::TooFewWorkers { .. }), None) => {
                Err(LocalError::Lost("its workers are gone".into()))
            }
            _ => {
                if self.is_concluded || self.plane.version() >= self.job.plan.steps {
                    return Ok(self.close());
                }
                self.save().map_err(LocalError::Unsaved)?;
                Ok((self.plane.weights().to_vec(), self.plane.version()))
            }
        }
    }

    fn receive(&mut self, result: TaskResult) -> Result<(), LocalError> {
        let TaskResult { worker, sums } = result;
        let Some((step, sums)) = sums else {
            return Err(LocalError::Lost(format!("the thread of {worker} ended in the middle of the run")));
        };
        self.recorder.run_state().contributed(|| worker_name(worker));
        for sum in sums {
            let node = sum.node;
            // A slow thread may still deliver sums of an earlier step, which others have computed in the
            // meantime.
            if step == self.plane.version() {
                let begun = Instant::now();
                self.plane.take_sum(sum);
                self.recorder.run_state().meter.spend(Activity::Fold, begun.elapsed());
            }
            self.step(ServerEvent::Contributed { worker, step, node, digest: None })?;
        }
        Ok(())
    }

    /// Steps the core with `event`, then performs the actions and handles the events that these cause.
    fn step(&mut self, event: ServerEvent) -> Result<(), LocalError> {
        let mut actions = Vec::new();
        self.core.step(self.now(), event, &mut actions);
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.perform(action)? {
                let mut more = Vec::new();
                self.core.step(self.now(), event, &mut more);
                actions.extend(more);
            }
        }
        Ok(())
    }

    fn perform(&mut self, action: ServerAction) -> Result<Option<ServerEvent>, LocalError> {
        match action {
            // Every task includes the weights, since sharing them costs nothing.
            ServerAction::SendWeights { .. } => {}
            ServerAction::Assign { worker, step, leaves } => {
                self.recorder.run_state().assigned(|| worker_name(worker), step, || Section::words(&leaves));
                match self.plane.shared_weights() {
                    Some(weights) => self.send(worker, Task { work: (step, leaves), weights })?,
                    None => self.in_place.push_back((step, leaves)),
                }
            }
            ServerAction::Update { step } => return self.update(step).map(Some),
            // Workers end when their channels are closed.
            ServerAction::Dismiss { .. } => {}
            // All workers are threads of this process and therefore trusted, so nothing is audited.
            ServerAction::Recompute { .. }
            | ServerAction::RequestMissing { .. }
            | ServerAction::Ban { .. }
            | ServerAction::RollBack { .. }
            | ServerAction::StartOver { .. } => {}
            ServerAction::Notice(notice) => tracing::debug!("{notice}"),
            ServerAction::Finish(outcome) => self.finished = Some(outcome),
        }
        Ok(None)
    }

    fn update(&mut self, step: u64) -> Result<ServerEvent, LocalError> {
        let begun = Instant::now();
        let report = match self.plane.finish() {
            Ok(report) => report,
            Err(diverged) => {
                self.diverged = Some(diverged);
                return Ok(ServerEvent::Diverged { step });
            }
        };
        self.recorder.step(&report, self.workers);
        self.recorder.run_state().meter.spend(Activity::Update, begun.elapsed());
        self.recorder.run_state().made("update", begun);
        self.show();
        self.is_concluded = report.is_last;
        // The buffer of the summed gradient serves the next step, so that a step allocates no memory.
        self.own.recycle(NodeSum {
            node: Node::leaf(0),
            gradient: self.plane.take_gradient(),
            metric_sums: report.metric_sums,
        });
        let version = self.plane.version();
        let needs = self.recorder.needs(version).map_err(LocalError::Unsaved)?;
        if needs.inspect {
            self.recorder.inspect(version, self.plane.weights());
        }
        if needs.save {
            self.save().map_err(LocalError::Unsaved)?;
        }
        Ok(if self.is_concluded { ServerEvent::Concluded { step } } else { ServerEvent::Updated { step } })
    }

    /// Computes the gradient or the validation of `leaves` in place, where the weights are.
    fn compute(&mut self, step: u64, leaves: Range<u32>) -> Result<(), LocalError> {
        let (worker, section) = (WorkerId(0), Section::of(leaves.start));
        let node = self.job.plan.step(step).tree().root_of(section);
        let begun = Instant::now();
        match section {
            Section::Training => self.plane.compute(&self.job.data.train),
            // There is one worker, so the whole validation part is evaluated at once rather than by leaves.
            _ => {
                if let Some(metric_sums) = self.job.validate(self.plane.weights()) {
                    self.plane.take_sum(NodeSum { node, gradient: Vec::new(), metric_sums });
                }
            }
        }
        self.recorder.run_state().meter.spend(Activity::Compute, begun.elapsed());
        self.recorder.run_state().contributed(|| worker_name(worker));
        self.step(ServerEvent::Contributed { worker, step, node, digest: None })
    }

    /// Returns the final weights after the last step, validated if an epoch still waits for that.
    fn close(&mut self) -> Trained {
        let version = self.plane.version();
        let mut weights = self.plane.weights().to_vec();
        // Kept before the validation below: a longer run gets the validation of this epoch from its next
        // step.
        if self.recorder.keeps_end() {
            let (control, state) = (self.plane.control().state().clone(), self.plane.state().to_vec());
            self.recorder.keep_end(version, control, weights.clone(), state);
        }
        let validation = self.recorder.validate(self.job, &weights);
        if self.job.control.early_stopping.is_some() && !self.is_concluded {
            let state = self.plane.state().to_vec();
            if let Some(event) = self.plane.control().close(&mut weights, &state, validation.as_ref()) {
                self.recorder.event(version, &event);
            }
        }
        (weights, version)
    }

    /// Updates the workers' states in the run state, at most once per [`STATE_INTERVAL`].
    fn show(&mut self) {
        let run_state = self.recorder.run_state();
        if !run_state.is_watched() || self.shown.is_some_and(|shown| shown.elapsed() < STATE_INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        let status = self.core.status();
        let row = |worker: &ps_coord::WorkerStatus| WorkerRow {
            id: worker.worker.0,
            name: worker_name(worker.worker),
            address: "a thread of this process".into(),
            standing: WorkerStanding::Known(worker.state.clone()),
            leaves: worker.leaves,
            sums: worker.contributions,
            speed: worker.speed.unwrap_or(0.0),
            silent_ms: 0,
            held_up_ms: worker.held_up_ms,
        };
        let workers = status.workers.iter().map(row).collect();
        run_state.update(|snapshot| snapshot.workers = workers);
    }

    fn save(&mut self) -> Result<(), FolderError> {
        let (weights, state) = (self.plane.weights().to_vec(), self.plane.state().to_vec());
        let progress = self.recorder.progress(self.plane.version(), self.plane.control().state().clone());
        self.recorder.checkpoint(progress, weights, state)
    }

    fn send(&mut self, worker: WorkerId, task: Task) -> Result<(), LocalError> {
        let Some(handle) = (worker.0 as usize).checked_sub(1) else {
            self.own_tasks.push_back(task);
            return Ok(());
        };
        let WorkerHandle { tasks, waiting } = &self.handles[handle];
        // A thread that is slow or not scheduled may not have taken tasks of earlier steps. Other workers
        // have computed these by now, so they only take up room in the queue.
        let current: Vec<Task> = waiting.try_iter().filter(|old| old.work.0 >= task.work.0).collect();
        for task in current.into_iter().chain([task]) {
            tasks.try_send(task).map_err(|error| {
                LocalError::Lost(match error {
                    TrySendError::Full(_) => format!("the thread of {worker} does not take its work"),
                    TrySendError::Disconnected(_) => format!("the thread of {worker} is gone"),
                })
            })?;
        }
        Ok(())
    }

    fn now(&self) -> Millis {
        self.clock.elapsed().as_millis() as Millis
    }
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalError::Diverged(diverged) => diverged.fmt(f),
            LocalError::Unsaved(error) => error.fmt(f),
            LocalError::Lost(what) => write!(f, "{what}; this is a fault of the program"),
        }
    }
}

impl std::error::Error for LocalError {}
