//! The thread that loads the data and computes gradients, so that the connection stays alive meanwhile.

use crate::{WorkerError, WorkerOptions};
use ps_config::RunConfig;
use ps_core::NodeSum;
use ps_proto::{Shape, v1};
use ps_run::{DataProgress, Job};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tracing::{debug_span, info};

/// Leaves to compute.
pub(crate) struct Work {
    pub step: u64,
    pub leaves: Range<u32>,
    /// Of version `step`, `[parameters]`.
    pub weights: Arc<Vec<f32>>,
}

/// Leaves computed.
pub(crate) struct Computed {
    pub step: u64,
    pub leaves: Range<u32>,
    pub sums: Vec<NodeSum>,
}

/// The computing thread, once its data is loaded. It ends when this is dropped.
pub(crate) struct Compute {
    pub shape: Shape,
    pub fingerprints: v1::Fingerprints,
    pub work: mpsc::Sender<Work>,
    /// One for each `Work`; the round logic has one under way at a time, so there is no need for a bound.
    pub computed: UnboundedReceiver<Computed>,
}

/// What the thread says when it is ready.
type Ready = Result<(Shape, v1::Fingerprints), WorkerError>;

impl Compute {
    /// Starts the thread; returns when it has loaded the data.
    pub async fn start(run_toml: String, options: WorkerOptions) -> Result<Self, WorkerError> {
        let (work, orders) = mpsc::channel();
        let (results, computed) = unbounded_channel();
        let (ready, loaded) = oneshot::channel();
        let died = |what: &str| WorkerError::Internal(format!("computing thread: {what}"));
        std::thread::Builder::new()
            .name("compute".into())
            .spawn(move || compute(&run_toml, &options, ready, orders, results))
            .map_err(|error| died(&error.to_string()))?;
        let (shape, fingerprints) = loaded.await.map_err(|_| died("it ended"))??;
        Ok(Compute { shape, fingerprints, work, computed })
    }
}

fn compute(
    run_toml: &str,
    options: &WorkerOptions,
    ready: oneshot::Sender<Ready>,
    orders: mpsc::Receiver<Work>,
    results: UnboundedSender<Computed>,
) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads.unwrap_or(0))
        .thread_name(|index| format!("compute-{index}"))
        .build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => {
            let _ = ready.send(Err(WorkerError::Internal(format!("starting threads: {error}"))));
            return;
        }
    };
    // All inside the pool, so that no step pays for the way into it.
    pool.install(move || {
        let job = match load(run_toml, options) {
            Ok(job) => job,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let shape =
            Shape { plan: job.plan, parameters: job.model.parameters(), classes: job.model.classes() };
        let fingerprints = v1::Fingerprints {
            run: job.fingerprint.run.clone(),
            data: job.fingerprint.data.clone(),
            numerics: job.fingerprint.numerics,
            probe: job.probe(),
        };
        if ready.send(Ok((shape, fingerprints))).is_err() {
            return;
        }
        let mut gradients = job.gradients();
        while let Ok(Work { step, leaves, weights }) = orders.recv() {
            let sums = debug_span!("compute", step, ?leaves)
                .in_scope(|| gradients.compute(&weights, &job.data.train, step, leaves.clone()));
            // Given back before the answer, so that the buffer can be used for the next weights.
            drop(weights);
            if results.send(Computed { step, leaves, sums }).is_err() {
                return;
            }
        }
    });
}

/// Loads what the server's run file names. Whatever is wrong here stays wrong.
fn load(run_toml: &str, options: &WorkerOptions) -> Result<Job, WorkerError> {
    let run = RunConfig::parse(run_toml, "the server's run file", &[])
        .map_err(|error| WorkerError::Mismatch(format!("{error}; use the same release on both sides")))?;
    let progress = DataProgress::new(options.style);
    let job = Job::load(run, Path::new("."), options.data_root.as_deref(), &progress).map_err(|error| {
        let hint = match options.data_root {
            Some(_) => "check --data-root",
            None => "say where this machine's copy of the data lies with --data-root",
        };
        WorkerError::Mismatch(format!("{error} ({hint})"))
    })?;
    info!(samples = job.plan.samples, data = job.fingerprint.data, "data loaded");
    Ok(job)
}
