//! A worker: it asks the server for the run file, loads its own copy of the data, and computes the gradients
//! of its assigned leaves.
//!
//! [`run`] parses no flags and catches no signals. `client` speaks gRPC; `driver` owns the round logic and
//! carries out its actions; `compute` is the thread that loads data and computes, so that heartbeats continue
//! meanwhile; `flow` feeds it weights as they arrive and passes on sums as they become final. The wire types
//! are not used outside this crate's client.

pub mod args;
mod client;
mod compute;
mod driver;
mod error;
mod flow;
pub mod observe;
mod send_queue;
mod weights;

pub use compute::Computer;
pub use error::WorkerError;

use client::Client;
use compute::Compute;
use driver::WorkerDriver;
use ps_coord::WorkerOutcome;
use ps_net::limits::SHARD_ANSWER_TIMEOUT;
use ps_net::{Attempts, Listener, Security};
use ps_proto::convert::Invitation;
use ps_proto::status::CallFailure;
use ps_run::{Job, Meter, Processors, Style};
use ps_shard::ServerOptions;
use ps_shard::shard::{self, Shard, ShardEnd, ShardOptions};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{info, warn};

/// Name and version of this program, as peers see it.
pub(crate) const BUILD: &str = concat!("ps-worker ", env!("CARGO_PKG_VERSION"));

/// The behaviour of a worker. No option changes a bit of the weights.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Address of the server, `HOST:PORT` or `unix:PATH`.
    pub server: String,
    /// The folder to which relative data paths of the run file refer; the current folder by default.
    pub data_root: Option<PathBuf>,
    /// Whether the run file, which comes from the server, may name data outside `data_root`.
    pub allow_any_path: bool,
    /// Prefixes that data URLs in the run file must have.
    pub allowed_urls: Vec<String>,
    /// The credentials of this worker and its demands on its peers.
    pub security: Security,
    /// Number of computing threads; by default one per processor.
    pub threads: Option<usize>,
    /// The processors to which these threads are bound, if any.
    pub cpus: Option<Processors>,
    /// Name of this worker in logs.
    pub name: String,
    /// How long to try to reach a server that does not answer.
    pub patience: Duration,
    /// How to show the progress of reading data.
    pub style: Style,
    /// The shard that this process hosts, if any.
    pub shard: Option<HostedShardOptions>,
    /// Counts the worker's traffic and work.
    pub meter: Arc<Meter>,
    /// Seed of a simulation, which replaces the system's randomness. There is then no computing thread, and
    /// time follows the clock of the caller's runtime.
    pub simulation: Option<u64>,
}

impl WorkerOptions {
    /// Options of a worker named `name` for a server at `server`, with the program's defaults.
    pub fn new(server: impl Into<String>, name: impl Into<String>) -> Self {
        WorkerOptions {
            server: server.into(),
            data_root: None,
            allow_any_path: false,
            allowed_urls: Vec::new(),
            security: Security::default(),
            threads: None,
            cpus: None,
            name: name.into(),
            patience: Duration::from_secs(300),
            style: Style::Quiet,
            shard: None,
            meter: Arc::default(),
            simulation: None,
        }
    }
}

/// The addresses of a shard in this process.
#[derive(Clone, Debug)]
pub struct HostedShardOptions {
    /// Address to listen on, `HOST:PORT` or `unix:PATH`.
    pub listen: String,
    /// Address at which other workers reach the shard, if not `listen`.
    pub advertise: Option<String>,
}

/// How a worker ended without a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Training is complete.
    Done,
    /// The worker was asked to stop before that.
    Stopped,
    /// An administrator has ended the run for good; holds the server's message.
    OnRequest(String),
}

/// How long a worker that is asked to stop keeps its shard, in case the coordinator is stopping, too, and
/// needs its weights for a checkpoint.
const SHARD_FAREWELL: Duration = Duration::from_secs(10);

/// The first and the longest pause between two attempts to reach a server that does not answer yet.
const JOIN_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Takes part in the server's run until it is over or `shutdown` completes. If the server stops, the worker
/// waits for the next one.
///
/// Runs on a current-thread tokio runtime as well as on any other; gradients are computed
/// on separate threads.
pub async fn run(
    options: WorkerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Ended, WorkerError> {
    run_with(options, None, shutdown).await
}

/// Like [`run`], but `computer`, if given, replaces the computation of gradients, to measure everything else.
pub async fn run_with(
    options: WorkerOptions,
    computer: Option<Box<dyn Computer>>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Ended, WorkerError> {
    let meter = Arc::clone(&options.meter);
    let ended = match take_part_boxed(options, computer, Box::pin(shutdown)).await {
        Err(WorkerError::RunFinished) => Ok(Ended::Done),
        ended => ended,
    };
    if matches!(ended, Ok(Ended::Done)) {
        meter.finish();
    }
    ended
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`take_part`] without types of the caller, so that it is compiled once with this crate and not again in
/// each program and test that runs a worker.
fn take_part_boxed<'a>(
    options: WorkerOptions,
    computer: Option<Box<dyn Computer>>,
    shutdown: Boxed<'a, ()>,
) -> Boxed<'a, Result<Ended, WorkerError>> {
    Box::pin(take_part(options, computer, shutdown))
}

async fn take_part(
    options: WorkerOptions,
    mut computer: Option<Box<dyn Computer>>,
    shutdown: Boxed<'_, ()>,
) -> Result<Ended, WorkerError> {
    if let Some(problem) = options.cpus.as_ref().and_then(Processors::reason_unusable) {
        return Err(WorkerError::Processors(problem));
    }
    let client = Client::new(&options.server, &options.name, &options.security)?;
    let is_stopping = AtomicBool::new(false);
    let shutdown = async {
        shutdown.await;
        is_stopping.store(true, Ordering::Relaxed);
    };
    tokio::pin!(shutdown);
    let mut listener = None;
    let mut refused: Option<(Invitation, WorkerError)> = None;
    loop {
        let invitation = tokio::select! {
            biased;
            found = find(&client, &options) => found?,
            () = &mut shutdown => return Ok(Ended::Stopped),
        };
        if let Some((before, error)) = refused.take() {
            // The server would refuse the same run file for the same reason, so this is a mismatch and not a
            // restart.
            if before.run_toml == invitation.run_toml {
                return Err(error);
            }
            info!(server = options.server, "the server has another run file now; joining again");
        }
        let prepared = tokio::select! {
            biased;
            prepared = prepare(&client, &options, &invitation, computer.take(), &mut listener) => prepared?,
            () = &mut shutdown => return Ok(Ended::Stopped),
        };
        match prepared.run(&options, &invitation, shutdown.as_mut()).await {
            // A server that was restarted with another run file, for example with more epochs, refuses what
            // this worker has loaded.
            Err(error) if error.is_refusal() && !is_stopping.load(Ordering::Relaxed) => {
                refused = Some((invitation, error))
            }
            ended => return ended,
        }
    }
}

/// A worker that has loaded its data.
struct Prepared {
    client: Client,
    compute: Compute,
    /// The shard in this process, if any, and the future that completes when it ends.
    shard: Option<(Arc<Shard>, ShardEnd)>,
}

/// Loads the data that `invitation` names, and starts the shard of this process, which listens where the
/// previous one did.
async fn prepare(
    client: &Client,
    options: &WorkerOptions,
    invitation: &Invitation,
    computer: Option<Box<dyn Computer>>,
    listener: &mut Option<Listener>,
) -> Result<Prepared, WorkerError> {
    info!(server = options.server, build = invitation.build, "server found, loading its data");
    let compute = Compute::start(invitation.run_toml.clone(), options.clone(), computer).await?;
    let Some(place) = &options.shard else {
        return Ok(Prepared { client: client.clone(), compute, shard: None });
    };
    let (shard, end) = host(place, options, invitation, compute.job.clone(), listener).await?;
    let shard = Arc::new(shard);
    Ok(Prepared {
        client: client.clone().with_local_shard(Arc::clone(&shard)),
        compute,
        shard: Some((shard, end)),
    })
}

impl Prepared {
    /// Takes part until the run is over, the worker is stopped, or the server refuses it.
    async fn run(
        self,
        options: &WorkerOptions,
        invitation: &Invitation,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Ended, WorkerError> {
        let Prepared { client, compute, shard } = self;
        let (shard, shard_end) = shard.unzip();
        let ended = async {
            match shard_end {
                Some(end) => end.await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        let driven = WorkerDriver::new(client, compute, invitation, options).run(shutdown);
        tokio::pin!(driven);
        let outcome = tokio::select! {
            biased;
            outcome = &mut driven => {
                // The coordinator still needs the weights of this shard, and dismisses the shard when it has
                // them. A coordinator that refuses the worker also refuses its shard.
                let is_over = outcome.as_ref().map_or_else(WorkerError::is_refusal, |_| true);
                if let Some(shard) = shard.filter(|_| is_over) {
                    let is_stopped = matches!(outcome, Ok(WorkerOutcome::Stopped));
                    let patience = if is_stopped { SHARD_FAREWELL } else { SHARD_ANSWER_TIMEOUT };
                    shard.leave();
                    if tokio::time::timeout(patience, &mut ended).await.is_err() && !is_stopped {
                        warn!("the coordinator has not released this worker's shard");
                    }
                }
                outcome?
            }
            // A run that is over for the shard is over for the worker, too, which will receive its own
            // dismissal.
            end = &mut ended => match end {
                Ok(_) => driven.await?,
                Err(error) => return Err(WorkerError::Shard(error)),
            }
        };
        match outcome {
            WorkerOutcome::Done => Ok(Ended::Done),
            WorkerOutcome::Stopped => Ok(Ended::Stopped),
            WorkerOutcome::Ended(reason) => Ok(Ended::OnRequest(reason)),
            WorkerOutcome::Failed(reason) => Err(WorkerError::RunFailed(reason)),
            WorkerOutcome::Banned(reason) => Err(WorkerError::Banned(reason)),
            WorkerOutcome::Unreachable { last, waited_ms } => Err(WorkerError::Unreachable {
                server: options.server.clone(),
                waited: Duration::from_millis(waited_ms),
                last,
            }),
        }
    }
}

/// Starts the shard of this process. A clone of its listener stays in `kept` for a possible successor.
async fn host(
    place: &HostedShardOptions,
    options: &WorkerOptions,
    invitation: &Invitation,
    job: Arc<Job>,
    kept: &mut Option<Listener>,
) -> Result<(Shard, ShardEnd), WorkerError> {
    let listening = |error| WorkerError::Listen { given: place.listen.clone(), error };
    let wrong = |problem: String| listening(std::io::Error::new(std::io::ErrorKind::InvalidInput, problem));
    let listener = match kept.take() {
        Some(listener) => listener,
        None => {
            Listener::bind(&options.security.address(&place.listen).map_err(wrong)?).map_err(listening)?
        }
    };
    *kept = listener.try_clone().ok();
    let address = match &place.advertise {
        Some(address) => address.clone(),
        None => listener.address().map_err(listening)?.to_string(),
    };
    let meter = Arc::clone(&options.meter);
    let placement = ShardOptions { coordinator: options.server.clone(), index: None, address, meter };
    let behaviour = ServerOptions {
        contact_timeout: invitation.silence,
        join_timeout: options.patience,
        security: options.security.clone(),
        simulation: options.simulation,
        ..ServerOptions::default()
    };
    shard::start(listener, job, &placement, &behaviour).await.map_err(WorkerError::Shard)
}

/// Asks the server for the run, and retries while it does not answer.
async fn find(client: &Client, options: &WorkerOptions) -> Result<Invitation, WorkerError> {
    let mut attempts = Attempts::new(JOIN_PAUSE, options.patience);
    for attempt in 1_u32.. {
        let failure = match client.join().await {
            Ok(invitation) => return Ok(invitation),
            Err(failure) => failure,
        };
        let last = retryable(failure, &options.server)?;
        let Some(pause) = attempts.failed() else {
            let (server, waited) = (options.server.clone(), attempts.waited());
            return Err(WorkerError::Unreachable { server, waited, last });
        };
        info!(
            server = options.server,
            attempt,
            "cannot reach the server yet: {last}; trying again in {} ms, for another {} s",
            pause.length.as_millis(),
            pause.left.as_secs()
        );
        tokio::time::sleep(pause.length).await;
    }
    unreachable!("patience ends before attempts can no longer be counted")
}

/// Classifies a failed call: returns the text of a transient failure, or a permanent one as an error.
fn retryable(failure: CallFailure, server: &str) -> Result<String, WorkerError> {
    match failure {
        CallFailure::Transient(text) => Ok(text),
        CallFailure::RunFinished => Err(WorkerError::RunFinished),
        CallFailure::Mismatch(what) => Err(WorkerError::Mismatch(what)),
        CallFailure::NotDownhill(sign) => Err(WorkerError::NotDownhill { server: server.into(), sign }),
        CallFailure::Refused(what) => Err(WorkerError::Protocol(what)),
    }
}
