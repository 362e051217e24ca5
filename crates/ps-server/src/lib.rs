//! The parameter server: it holds the weights, hands out leaves, closes the rounds.
//!
//! [`run`] is given a bound listener, a loaded job and a future that says when to stop; it parses no flags,
//! binds no ports and catches no signals. Requests become events in `service`; `driver` steps the round logic and the shard
//! logic of [`ps_coord`] and carries out their actions; `plane` ties a job to the [`ps_plane::Plane`] that holds its weights;
//! `peers` and `outbox` are what goes to workers; `doors` says who comes in. The wire's types go no further than here.
//!
//! The weights may be cut among several servers. One of them, the coordinator, runs the round logic and has the connections
//! to the others in `shards`, and `whole` puts vectors together from their chunks; the others, in [`shard`], only fold, update
//! and send what they keep.

pub mod args;
mod doors;
mod driver;
mod error;
mod health;
mod identities;
pub mod launched;
mod outbox;
mod over;
mod peers;
mod plane;
mod service;
pub mod shard;
mod shards;
pub mod signals;
pub mod transport;
mod whole;

pub use error::{ENDED, ServerError};
pub use health::Health;
pub use over::stay;

use driver::{Driver, Incoming};
use ps_net::limits;
use ps_net::{Listener, Security};
use ps_proto::Shape;
use ps_proto::limits::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, part};
use ps_proto::v1::{self, parameter_server_server::ParameterServerServer};
use ps_run::{FolderError, Job, Recorder};
use service::{Front, Service};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tracing::{debug, warn};

/// Name and version of this program, as peers see it.
pub const BUILD: &str = concat!("ps-server ", env!("CARGO_PKG_VERSION"));

/// How the server behaves; nothing here changes a bit of the weights.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Workers without whom the first round does not open.
    pub min_workers: u32,
    /// Too few workers for this long end the run, and so do missing shards. A shard looks this long for its coordinator.
    pub join_timeout: Duration,
    /// A worker of whom nothing was heard for this long is lost. It is told to be heard five times as often.
    pub contact_timeout: Duration,
    /// Leaves that are not back after this long are also given to another worker.
    pub work_timeout: Duration,
    /// A wait that lasts is reported this often.
    pub notice_every: Duration,
    /// Workers at most; more are turned away and may try again.
    pub max_workers: u32,
    /// The share of nodes, 0 to 1, that are computed twice and compared. Only where one server keeps all weights.
    pub audit: f64,
    /// Who keeps which part of the weights.
    pub layout: Layout,
    /// What callers must show, and what this server shows where it calls others.
    pub security: Security,
    /// Whether each worker has a certificate or token of its own, so that a ban can be enforced. A second worker with the same
    /// one is refused while the first is there.
    pub individual_credentials: bool,
    /// A connection that brought no call that was let in for this long is closed.
    pub admission_timeout: Duration,
    /// Whether whoever is let in may ask for the description of the services.
    pub reflection: bool,
    /// In a simulation its seed, which decides what the system otherwise does: rounds have no thread of their own, and go
    /// by the clock of the caller's runtime.
    pub simulation: Option<u64>,
}

/// How the weights are cut among processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Parts, of whole chunks, as equal as can be.
    pub parts: u32,
    /// Whether the coordinator keeps the first; otherwise shards keep all.
    pub coordinator_keeps: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { parts: 1, coordinator_keeps: true }
    }
}

impl Layout {
    /// What the coordinator keeps of `parameters` elements.
    fn own(self, parameters: usize) -> Range<usize> {
        if self.coordinator_keeps { part(parameters, 0, self.parts) } else { 0..0 }
    }

    /// The number of the first of the other shards, as `--shard` counts them.
    fn first(self) -> u32 {
        u32::from(self.coordinator_keeps)
    }

    /// What each of the other shards keeps.
    fn others(self, parameters: usize) -> Vec<Range<usize>> {
        (self.first()..self.parts).map(|index| part(parameters, index, self.parts)).collect()
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            min_workers: 1,
            join_timeout: Duration::from_secs(600),
            contact_timeout: Duration::from_secs(10),
            work_timeout: Duration::from_secs(30),
            notice_every: Duration::from_secs(10),
            max_workers: limits::MAX_WORKERS as u32,
            audit: 0.0,
            layout: Layout::default(),
            security: Security::default(),
            individual_credentials: false,
            admission_timeout: limits::ADMISSION_TIMEOUT,
            reflection: false,
            simulation: None,
        }
    }
}

/// A run that came to a good end.
pub struct Finished {
    /// The job, given back.
    pub job: Job,
    /// The recorder, given back: it knows how to finish.
    pub recorder: Recorder,
    /// The weights.
    pub weights: Vec<f32>,
    /// Steps applied to them.
    pub version: u64,
    /// Whether these are all; otherwise the run was stopped or ended.
    pub is_done: bool,
    /// Whether an administrator ended the run before that, for good.
    pub is_ended: bool,
}

/// Serves `job` on `listener` until training is done, an administrator ends the run, or `shutdown` completes. `finish` then
/// writes the results; only afterwards anybody is told that the run is over. After a `shutdown`, workers and shards wait for
/// the next server.
///
/// The connections are served on the caller's tokio runtime; rounds and tensors have a thread of their own.
pub async fn run<T: Send + 'static>(
    listener: impl Into<Listener>,
    job: Job,
    options: ServerOptions,
    recorder: Recorder,
    shutdown: impl Future<Output = ()> + Send,
    finish: impl FnOnce(Finished) -> Result<T, FolderError> + Send + 'static,
) -> Result<T, ServerError> {
    let (send, mut receive) = oneshot::channel();
    let finish = Box::new(move |finished| {
        // The receiver lives as long as this function.
        finish(finished).map(|result| drop(send.send(result)))
    });
    serve_run(listener.into(), job, options, recorder, Box::pin(shutdown), finish).await?;
    receive.try_recv().map_err(|_| ServerError::panicked())
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Finish = Box<dyn FnOnce(Finished) -> Result<(), FolderError> + Send>;

/// [`run`] without types of the caller: compiled once, with this crate, instead of once more with each program and test
/// that runs a server.
fn serve_run<'a>(
    listener: Listener,
    job: Job,
    options: ServerOptions,
    recorder: Recorder,
    shutdown: Boxed<'a, ()>,
    finish: Finish,
) -> Boxed<'a, Result<(), ServerError>> {
    Box::pin(serve_until_over(listener, job, options, recorder, shutdown, finish))
}

async fn serve_until_over(
    listener: Listener,
    job: Job,
    options: ServerOptions,
    mut recorder: Recorder,
    mut shutdown: Boxed<'_, ()>,
    finish: Finish,
) -> Result<(), ServerError> {
    if let Some((weights, version)) = recorder.take_complete(&job) {
        // Nobody is needed.
        let finished = Finished { job, recorder, weights, version, is_done: true, is_ended: false };
        return finish(finished).map_err(ServerError::Unsaved);
    }
    let (inbox, events) = mpsc::channel(limits::INBOX_MESSAGES);
    let heartbeat = heartbeat(&options);
    let parameters = job.model.parameters();
    let invitation = invitation(&job, &options, heartbeat);
    let expected = invitation.expected.clone().unwrap_or_default();
    let kept = options.layout.own(parameters);
    let most = options.max_workers as usize;
    let service =
        Service::new(Some(invitation), expected.clone(), shape(&job), kept, heartbeat, most, inbox.clone());
    let (close, closing) = oneshot::channel::<()>();
    let (server, health) = serve(service, listener, &options, closing).await?;
    tokio::pin!(server);
    let mut driven = drive(Driver::new(job, recorder, expected, &options).run(events, finish), &options)?;

    let mut stopping = false;
    let result = loop {
        tokio::select! {
            biased;
            result = &mut driven => break result.unwrap_or_else(|_| Err(ServerError::panicked())),
            () = &mut shutdown, if !stopping => {
                stopping = true;
                health.set_not_serving::<ParameterServerServer<Service>>().await;
                // If the driver is gone, its result is about to arrive.
                let _ = inbox.send(Incoming::Stop).await;
            }
            served = &mut server => {
                let cause = served.err().map_or("it stopped".to_owned(), |error| error.to_string());
                return Err(ServerError::Internal(format!("serving connections: {cause}")));
            }
        }
    };
    // Workers read their dismissal and go; whoever does not is cut off.
    let _ = close.send(());
    if tokio::time::timeout(limits::FAREWELL_TIMEOUT, server).await.is_err() {
        debug!("not every connection was closed in time");
    }
    result
}

/// Serves `service` on `listener` until `closing` says so.
async fn serve(
    service: Service,
    listener: Listener,
    options: &ServerOptions,
    closing: oneshot::Receiver<()>,
) -> Result<(transport::Serving, HealthReporter), ServerError> {
    let rest = ParameterServerServer::new(service.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ParameterServerServer<Service>>().await;
    let mut services = Routes::new(health_service).add_service(Front { service, rest });
    if options.reflection {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| ServerError::Internal(format!("reflection: {error}")))?;
        services = services.add_service(reflection);
    }
    // The sender going away means the same.
    let closed = async { drop(closing.await) };
    let entrance = transport::Entrance {
        security: options.security.clone(),
        admission_timeout: options.admission_timeout,
    };
    let serving = transport::serve(services, listener, &entrance, closed).map_err(ServerError::Listener)?;
    Ok((serving, health))
}

/// How often each side lets itself be heard.
fn heartbeat(options: &ServerOptions) -> Duration {
    (options.contact_timeout / 5).max(Duration::from_millis(1))
}

/// What messages are checked against.
fn shape(job: &Job) -> Shape {
    Shape {
        plan: job.plan,
        parameters: job.model.parameters(),
        classes: job.model.classes(),
        weights: job.run.wire.weights,
    }
}

/// What other processes of the run must agree on.
fn expected(job: &Job) -> v1::Fingerprints {
    v1::Fingerprints {
        run: job.fingerprint.run.clone(),
        data: job.fingerprint.data.clone(),
        numerics: job.fingerprint.numerics,
        probe: job.probe(),
    }
}

/// Runs the driver, on a thread of its own if it may have one.
fn drive<T: Send + 'static>(
    driver: impl Future<Output = T> + Send + 'static,
    options: &ServerOptions,
) -> Result<oneshot::Receiver<T>, ServerError> {
    let (finished, result) = oneshot::channel();
    let unheard = || warn!("nobody waits for the end of the run any more");
    if options.simulation.is_some() {
        tokio::spawn(async move { finished.send(driver.await).unwrap_or_else(|_| unheard()) });
        return Ok(result);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| ServerError::Internal(format!("starting the driver: {error}")))?;
    let work = move || finished.send(runtime.block_on(driver)).unwrap_or_else(|_| unheard());
    std::thread::Builder::new()
        .name("rounds".into())
        .spawn(work)
        .map_err(|error| ServerError::Internal(format!("starting the driver: {error}")))?;
    Ok(result)
}

fn invitation(job: &Job, options: &ServerOptions, heartbeat: Duration) -> v1::JoinReply {
    v1::JoinReply {
        protocol_version: PROTOCOL_VERSION,
        build: BUILD.into(),
        run_toml: job.run.to_toml(),
        expected: Some(expected(job)),
        parameters: job.model.parameters() as u64,
        samples: job.plan.samples as u64,
        steps: job.plan.steps,
        heartbeat_interval_ms: heartbeat.as_millis() as u64,
        silence_timeout_ms: options.contact_timeout.as_millis() as u64,
        shards: options.layout.others(job.model.parameters()).len() as u32,
    }
}
