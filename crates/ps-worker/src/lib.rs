//! A worker: it asks the server what the run is, loads its own copy of the data, and computes the gradients of
//! the leaves that it is given.
//!
//! [`run`] parses no flags and catches no signals. `client` speaks gRPC; `driver` owns the round logic and
//! carries out what it says; `compute` is the thread that loads and computes, so that heartbeats go on
//! meanwhile; `flow` feeds it weights as they arrive and passes on sums as they become final. The wire's types go no further than here.

pub mod args;
mod client;
mod compute;
mod driver;
mod error;
mod flow;
pub mod observe;
mod outgoing;
mod weights;

pub use compute::Computer;
pub use error::WorkerError;

use client::Client;
use compute::Compute;
use driver::Driver;
use ps_coord::WorkerOutcome;
use ps_net::limits::SHARD_ANSWER_TIMEOUT;
use ps_net::{Attempts, Listener, Security};
use ps_proto::convert::Invitation;
use ps_proto::status::Verdict;
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

/// How the worker behaves; nothing here changes a bit of the weights.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The server, `HOST:PORT` or `unix:PATH`.
    pub server: String,
    /// Where relative paths of the run file's data start; the current folder otherwise.
    pub data_root: Option<PathBuf>,
    /// Whether the run file, which comes from the server, may name data that lies elsewhere.
    pub allow_any_path: bool,
    /// What the run file's URLs of data must begin with.
    pub allowed_urls: Vec<String>,
    /// What this worker shows and asks for.
    pub security: Security,
    /// Threads that compute; all cores otherwise.
    pub threads: Option<usize>,
    /// The processors that these threads are bound to, if they are.
    pub cpus: Option<Processors>,
    /// Our name in logs.
    pub name: String,
    /// For how long a server that is not there is tried again.
    pub patience: Duration,
    /// How reading the data is shown.
    pub style: Style,
    /// The shard that this process hosts, if it does.
    pub shard: Option<ShardPlace>,
    /// Counts what the worker does.
    pub meter: Arc<Meter>,
    /// In a simulation its seed, which decides what the system otherwise does: computing has no thread of its own, and
    /// time goes by the clock of the caller's runtime.
    pub simulation: Option<u64>,
}

impl WorkerOptions {
    /// A worker named `name` for a server at `server`, with the program's defaults.
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

/// Where a shard in this process is reached.
#[derive(Clone, Debug)]
pub struct ShardPlace {
    /// What it listens on, `HOST:PORT` or `unix:PATH`.
    pub listen: String,
    /// What other workers connect to, if that is something else.
    pub advertise: Option<String>,
}

/// How a worker's part ended without a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Training is done.
    Done,
    /// The worker was asked to stop before that.
    Stopped,
    /// An administrator has ended the run for good; what the server says.
    OnRequest(String),
}

/// For how long a worker that is asked to stop keeps its shard, in case its coordinator is stopping, too, and saves.
const SHARD_FAREWELL: Duration = Duration::from_secs(10);

/// The first pause between two attempts to reach a server that is not there yet, and the longest.
const JOIN_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Takes part in the run of the server until it is over or `shutdown` completes. A server that stops does not end it: the
/// worker waits for the next one.
///
/// Runs on a current-thread tokio runtime as well as on any other; computing has threads of its own.
pub async fn run(
    options: WorkerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Ended, WorkerError> {
    run_with(options, None, shutdown).await
}

/// The same with `computer`, if any, in the place of what computes gradients: for measuring everything else.
pub async fn run_with(
    options: WorkerOptions,
    computer: Option<Box<dyn Computer>>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Ended, WorkerError> {
    let meter = Arc::clone(&options.meter);
    let ended = match take_part_boxed(options, computer, Box::pin(shutdown)).await {
        Err(WorkerError::Over) => Ok(Ended::Done),
        ended => ended,
    };
    if matches!(ended, Ok(Ended::Done)) {
        meter.finish();
    }
    ended
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`take_part`] without types of the caller: compiled once, with this crate, instead of once more with each program and
/// test that runs a worker.
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
    if let Some(problem) = options.cpus.as_ref().and_then(Processors::objection) {
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
            if before.run_toml == invitation.run_toml {
                return Err(error);
            }
            info!(server = options.server, "the server has another run file now: joining again");
        }
        let prepared = tokio::select! {
            biased;
            prepared = prepare(&client, &options, &invitation, computer.take(), &mut listener) => prepared?,
            () = &mut shutdown => return Ok(Ended::Stopped),
        };
        match prepared.run(&options, &invitation, shutdown.as_mut()).await {
            // A server that was started again with another run file, such as one with more epochs, refuses what this
            // worker has loaded.
            Err(error) if error.is_refusal() && !is_stopping.load(Ordering::Relaxed) => {
                refused = Some((invitation, error))
            }
            ended => return ended,
        }
    }
}

/// What takes part in a run, its data loaded.
struct Prepared {
    client: Client,
    compute: Compute,
    /// The shard in this process, if there is one, and what completes when it ends.
    shard: Option<(Arc<Shard>, ShardEnd)>,
}

/// Loads what `invitation` names, and starts the shard of this process, which listens where the one before it did.
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
    Ok(Prepared { client: client.clone().beside(Arc::clone(&shard)), compute, shard: Some((shard, end)) })
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
        let driven = Driver::new(client, compute, invitation, options).run(shutdown);
        tokio::pin!(driven);
        let outcome = tokio::select! {
            biased;
            outcome = &mut driven => {
                // The coordinator still wants the weights that are kept here; it says when it has them. One that refuses the
                // worker refuses its shard, too.
                let is_over = outcome.as_ref().map_or_else(WorkerError::is_refusal, |_| true);
                if let Some(shard) = shard.filter(|_| is_over) {
                    let is_stopped = matches!(outcome, Ok(WorkerOutcome::Stopped));
                    let patience = if is_stopped { SHARD_FAREWELL } else { SHARD_ANSWER_TIMEOUT };
                    shard.leave();
                    if tokio::time::timeout(patience, &mut ended).await.is_err() && !is_stopped {
                        warn!("the coordinator has not let go of this worker's shard");
                    }
                }
                outcome?
            }
            // A run that is over is over for the worker, too, which will hear of it.
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

/// Starts the shard of this process. A clone of its listener stays in `kept`, for the one that may follow.
async fn host(
    place: &ShardPlace,
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

/// Asks the server what the run is, again and again while it is not there.
async fn find(client: &Client, options: &WorkerOptions) -> Result<Invitation, WorkerError> {
    let mut attempts = Attempts::new(JOIN_PAUSE, options.patience);
    for attempt in 1_u32.. {
        let verdict = match client.join().await {
            Ok(invitation) => return Ok(invitation),
            Err(verdict) => verdict,
        };
        let last = retryable(verdict, &options.server)?;
        let Some(pause) = attempts.failed() else {
            let (server, waited) = (options.server.clone(), attempts.waited());
            return Err(WorkerError::Unreachable { server, waited, last });
        };
        info!(
            server = options.server,
            attempt,
            "server not there yet: {last}; trying again in {} ms, for {} s more",
            pause.length.as_millis(),
            pause.left.as_secs()
        );
        tokio::time::sleep(pause.length).await;
    }
    unreachable!("patience ends before attempts can no longer be counted")
}

/// What a failed call means: something to try again, with its text, or the end.
fn retryable(verdict: Verdict, server: &str) -> Result<String, WorkerError> {
    match verdict {
        Verdict::Passing(text) => Ok(text),
        Verdict::Over => Err(WorkerError::Over),
        Verdict::Mismatch(what) => Err(WorkerError::Mismatch(what)),
        Verdict::NotOurs(sign) => Err(WorkerError::NotOurs { server: server.into(), sign }),
        Verdict::Refused(what) => Err(WorkerError::Protocol(what)),
    }
}
