//! The thread that loads the data and computes gradients. A separate thread keeps the connection alive
//! meanwhile.

use crate::flow::StepFlow;
use crate::weights::HeldWeights;
use crate::{WorkerError, WorkerOptions};
use bytes::Bytes;
use ps_config::RunConfig;
use ps_core::gradient::Flow;
use ps_core::{Gradients, MetricSums};
use ps_plan::{Node, Section};
use ps_proto::convert::WeightsChunk;
use ps_proto::tensor::SharedBuffer;
use ps_proto::{Shape, v1};
use ps_run::{Activity, DataProgress, Job, JobError, Meter, Processors};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tracing::{debug_span, info};

/// If no chunk of awaited weights arrives within this time, the connection is opened again.
pub(crate) const WEIGHTS_TIMEOUT: Duration = Duration::from_secs(30);

/// Turns weights into sums of nodes. A worker uses its own implementation; a bench substitutes another.
pub trait Computer: Send {
    /// Computes the sums of the nodes that cover `leaves` of step `step`; see [`Gradients::compute_flowing`].
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool;
}

impl Computer for Gradients {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        match Section::of(leaves.start) {
            Section::Training => self.compute_flowing(flow, &job.data.train, step, leaves),
            _ => self.evaluate_flowing(flow, job.parts(), step, leaves),
        }
    }
}

/// Input to the thread.
pub(crate) enum ComputeCommand {
    /// A chunk of weights has arrived.
    Weights(WeightsChunk),
    /// Compute leaves of a step with the weights of that version, which are here or arriving.
    Compute { step: u64, leaves: Range<u32> },
    /// The connection is lost: no more chunks of the current weights will arrive.
    DropWeights,
}

/// Results of the thread.
pub(crate) enum Computed {
    /// The metric sums of a node, sent before its first part.
    Metrics { step: u64, node: Node, metric_sums: MetricSums },
    /// Some chunks of a node's sum, sent while the computation continues.
    Gradient(GradientSlice),
    /// All parts of the nodes that cover these leaves were passed on.
    Leaves { step: u64, leaves: Range<u32>, nodes: Vec<Node> },
    /// The computation of these leaves was abandoned because the weights of the step did not arrive.
    /// `is_superseded`: newer weights arrived, so the server no longer needs anything for that step.
    Missed { step: u64, leaves: Range<u32>, is_superseded: bool },
}

/// Whole chunks of a node's sum.
pub(crate) struct GradientSlice {
    pub step: u64,
    pub node: Node,
    /// Index of the first element.
    pub offset: usize,
    /// In the wire format. The memory returns to the thread once these bytes are dropped.
    pub bytes: Bytes,
}

/// Handle to the computing thread, once its data is loaded. Dropping it ends the thread.
pub(crate) struct Compute {
    pub shape: Shape,
    pub fingerprints: v1::Fingerprints,
    pub job: Arc<Job>,
    commands: mpsc::Sender<ComputeCommand>,
    /// In a simulation, the state that computes without a thread.
    here: Option<(Computing, mpsc::Receiver<ComputeCommand>)>,
    /// For each `Compute` its `Leaves`, preceded by their parts. The queue needs no bound, because the round
    /// logic has only one `Compute` under way at a time.
    pub computed: UnboundedReceiver<Computed>,
}

/// The thread's message when its data is loaded.
type Ready = Result<Arc<Job>, WorkerError>;

impl Compute {
    /// Starts the thread; returns when it has loaded the data.
    pub(crate) async fn start(
        run_toml: String,
        options: WorkerOptions,
        computer: Option<Box<dyn Computer>>,
    ) -> Result<Self, WorkerError> {
        let (sender, commands) = mpsc::channel();
        let (results, computed) = unbounded_channel();
        let (ready, loaded) = oneshot::channel();
        let died = |what: &str| WorkerError::Internal(format!("computing thread: {what}"));
        let (job, here) = if options.simulation.is_some() {
            let job = Arc::new(load(&run_toml, &options)?);
            (job.clone(), Some((Computing::new(job, computer, results, options.meter), commands)))
        } else {
            std::thread::Builder::new()
                .name("compute".into())
                .spawn(move || compute(&run_toml, &options, computer, ready, commands, results))
                .map_err(|error| died(&error.to_string()))?;
            (loaded.await.map_err(|_| died("it ended"))??, None)
        };
        let shape = Shape {
            plan: job.plan,
            parameters: job.model.parameters(),
            classes: job.model.classes(),
            weights: job.run.wire.weights,
        };
        let fingerprints = v1::Fingerprints {
            run: job.fingerprint.run.clone(),
            data: job.fingerprint.data.clone(),
            numerics: job.fingerprint.numerics,
            probe: job.probe(),
        };
        Ok(Compute { shape, fingerprints, job, commands: sender, here, computed })
    }

    /// Sends a command to the thread; `false` if the thread has ended.
    pub(crate) fn send(&mut self, command: ComputeCommand) -> bool {
        let is_sent = self.commands.send(command).is_ok();
        match &mut self.here {
            Some((computing, commands)) => is_sent && computing.catch_up(commands),
            None => is_sent,
        }
    }
}

/// The state of the thread.
struct Computing {
    job: Arc<Job>,
    computer: Box<dyn Computer>,
    weights: HeldWeights,
    /// Buffers of earlier gradients.
    spare: Vec<SharedBuffer>,
    results: UnboundedSender<Computed>,
    /// In a simulation, which cannot block, the work that waits for its weights.
    waiting: Option<(u64, Range<u32>)>,
    meter: Arc<Meter>,
}

impl Computing {
    fn new(
        job: Arc<Job>,
        computer: Option<Box<dyn Computer>>,
        results: UnboundedSender<Computed>,
        meter: Arc<Meter>,
    ) -> Self {
        Computing {
            computer: computer.unwrap_or_else(|| Box::new(job.gradients())),
            weights: HeldWeights::new(job.model.parameters(), job.run.wire.weights),
            spare: Vec::new(),
            job,
            results,
            waiting: None,
            meter,
        }
    }

    /// Applies a command that changes the weights; returns work.
    fn take(&mut self, command: ComputeCommand) -> Option<(u64, Range<u32>)> {
        match command {
            ComputeCommand::Weights(part) => self.weights.take(part),
            ComputeCommand::DropWeights => self.weights.forget(),
            ComputeCommand::Compute { step, leaves } => return Some((step, leaves)),
        }
        None
    }

    /// Computes leaves, whose weights may still arrive through `commands`; `false` if the receiver of the
    /// results is gone.
    fn compute(
        &mut self,
        (step, leaves): (u64, Range<u32>),
        commands: &mpsc::Receiver<ComputeCommand>,
    ) -> bool {
        let job = &self.job;
        let mut flow = StepFlow {
            step,
            parameters: job.model.parameters(),
            classes: job.model.classes(),
            held: &mut self.weights,
            commands,
            results: &self.results,
            meter: &self.meter,
            pulled: Duration::ZERO,
            spare: &mut self.spare,
            sums: Vec::new(),
            evaluated: Vec::new(),
        };
        let begun = Instant::now();
        let is_computed = debug_span!("compute", step, ?leaves)
            .in_scope(|| self.computer.compute(job, &mut flow, step, leaves.clone()));
        // The flow has already counted its waits for weights as `Pull`.
        self.meter.spend(Activity::Compute, begun.elapsed().saturating_sub(flow.pulled));
        let sums = is_computed.then(|| flow.into_sums());
        let loss_and_samples =
            |(_, metric_sums): &(Node, MetricSums)| (metric_sums.loss, metric_sums.samples);
        let (loss, samples) = sums
            .iter()
            .flatten()
            .map(loss_and_samples)
            .fold((0.0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        let loss =
            (samples > 0 && Section::of(leaves.start) == Section::Training).then(|| loss / samples as f64);
        self.meter.compute(step, job.plan.steps, leaves.len(), loss);
        let computed = match sums {
            Some(sums) => {
                let nodes = sums.into_iter().map(|(node, _)| node).collect();
                Computed::Leaves { step, leaves, nodes }
            }
            None => self.missed(step, leaves),
        };
        self.results.send(computed).is_ok()
    }

    /// Reports leaves of a step whose weights did not arrive.
    fn missed(&self, step: u64, leaves: Range<u32>) -> Computed {
        Computed::Missed { step, leaves, is_superseded: !self.weights.may_become(step) }
    }

    /// Handles everything that is possible without blocking.
    fn catch_up(&mut self, commands: &mpsc::Receiver<ComputeCommand>) -> bool {
        while let Ok(command) = commands.try_recv() {
            let is_lost = matches!(command, ComputeCommand::DropWeights);
            // Any command may bring what the waiting work lacks, or make it useless, so that work is examined
            // after each.
            let Some((step, leaves)) = self.take(command).or_else(|| self.waiting.take()) else { continue };
            let is_whole = self.weights.of(step).is_some_and(|(here, _)| here == self.job.model.parameters());
            let goes_on = if is_lost || !self.weights.may_become(step) {
                let missed = self.missed(step, leaves);
                self.results.send(missed).is_ok()
            } else if is_whole {
                self.compute((step, leaves), commands)
            } else {
                self.waiting = Some((step, leaves));
                true
            };
            if !goes_on {
                return false;
            }
        }
        true
    }
}

fn compute(
    run_toml: &str,
    options: &WorkerOptions,
    computer: Option<Box<dyn Computer>>,
    ready: oneshot::Sender<Ready>,
    commands: mpsc::Receiver<ComputeCommand>,
    results: UnboundedSender<Computed>,
) {
    let cpus = options.cpus.clone();
    // By default one thread per processor.
    let threads = options.threads.unwrap_or(cpus.as_ref().map_or(0, Processors::count));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("compute-{index}"))
        .start_handler(move |index| cpus.iter().for_each(|cpus| cpus.bind(index)))
        .build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => {
            let _ = ready.send(Err(WorkerError::Internal(format!("cannot start threads: {error}"))));
            return;
        }
    };
    // The whole loop runs inside the pool, so that no step pays for entering it.
    pool.install(move || {
        let job = match load(run_toml, options) {
            Ok(job) => Arc::new(job),
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        if ready.send(Ok(job.clone())).is_err() {
            return;
        }
        let meter = &options.meter;
        let mut computing = Computing::new(job, computer, results, Arc::clone(meter));
        loop {
            let begun = Instant::now();
            let Ok(command) = commands.recv() else { return };
            meter.spend(Activity::Wait, begun.elapsed());
            if let Some(work) = computing.take(command)
                && !computing.compute(work, &commands)
            {
                return;
            }
        }
    });
}

/// Loads the data that the server's run file names. All errors here are permanent.
fn load(run_toml: &str, options: &WorkerOptions) -> Result<Job, WorkerError> {
    let run = RunConfig::parse(run_toml, "the server's run file", &[])
        .map_err(|error| WorkerError::Mismatch(format!("{error}; use the same release on both sides")))?;
    let root = options.data_root.as_deref().unwrap_or(Path::new("."));
    if !options.allow_any_path {
        // The server chooses the path and receives the hash of the data, so the path must be confined.
        ps_data::confine(&run.data, root).map_err(|outside| {
            WorkerError::Mismatch(format!(
                "{outside}; set --data-root to the folder that contains the data, or use --allow-any-path \
                 if you trust the server"
            ))
        })?;
    }
    if !options.allow_any_path {
        ps_fetch::allowed(&run.data, &options.allowed_urls)
            .map_err(|outside| WorkerError::Mismatch(format!("{outside}; allow it with --allow-url")))?;
    }
    let progress = DataProgress::new(options.style);
    let local = ps_fetch::localized_config(&run.data, &progress).map_err(JobError::from);
    let job = local.and_then(|local| Job::load_local(run, &local, root, &progress)).map_err(|error| {
        let hint = match options.data_root {
            Some(_) => "check --data-root",
            None => "set --data-root to the folder with this machine's copy of the data",
        };
        WorkerError::Mismatch(format!("{error} ({hint})"))
    })?;
    info!(samples = job.plan.samples, data = job.fingerprint.data, "data loaded");
    Ok(job)
}
