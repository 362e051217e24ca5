//! The parameter server: it holds the weights, assigns leaves and closes the rounds.
//!
//! [`run`] takes a bound listener, a loaded job and a future that completes when the server must stop; it
//! parses no flags, binds no ports and catches no signals. Requests become events in [`ps_shard::service`];
//! `driver` steps the round logic and the shard logic of [`ps_coord`] and carries out their actions.
//! Connections, admission, the plane of a job and the messages to workers are in [`ps_shard`]. The wire types
//! are not used outside this crate and [`ps_shard`].
//!
//! The weights may be split among several servers. One of them, the coordinator, runs the round logic; its
//! connections to the others are in `shards`, and `assembly` assembles vectors from their chunks. The others,
//! [`ps_shard::shard`], only fold, update and send the weights that they keep.

pub mod args;
mod assembly;
mod driver;
mod finished_run;
mod health;
mod identities;
pub mod launched;
mod shards;

pub use finished_run::serve_finished_run;
pub use health::Health;
pub use ps_shard::{ENDED, ServerError, ServerOptions, ShardLayout};

use driver::ServerDriver;
use ps_net::Listener;
use ps_net::limits;
use ps_proto::limits::PROTOCOL_VERSION;
use ps_proto::v1::{self, parameter_server_server::ParameterServerServer};
use ps_run::{FolderError, Job, Recorder};
use ps_shard::BUILD;
use ps_shard::requests::Incoming;
use ps_shard::service::Service;
use ps_shard::serving::{drive, expected, heartbeat, serve, shape};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

/// The result of a run that ended without a failure.
pub struct Finished {
    /// The job that was passed to [`run`].
    pub job: Job,
    /// The recorder that was passed to [`run`]; writes the results.
    pub recorder: Recorder,
    /// The final weights, `[parameters]`.
    pub weights: Vec<f32>,
    /// Steps applied to them.
    pub version: u64,
    /// Whether all steps were made; otherwise the run was stopped or ended.
    pub is_done: bool,
    /// Whether an administrator ended the run for good before that.
    pub is_ended: bool,
}

/// Serves `job` on `listener` until training is complete, an administrator ends the run, or `shutdown`
/// completes. Then `finish` writes the results, and only afterwards do workers and shards hear that the run
/// is over. After a `shutdown`, they wait for the next server.
///
/// Connections are served on the caller's tokio runtime; rounds and tensors are handled on a separate thread.
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

/// [`run`] without types of the caller, so that it is compiled once with this crate and not again in each
/// program and test that runs a server.
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
        // A run that is already complete needs no workers.
        let finished = Finished { job, recorder, weights, version, is_done: true, is_ended: false };
        return finish(finished).map_err(ServerError::Unsaved);
    }
    let (inbox, events) = mpsc::channel(limits::INBOX_MESSAGES);
    let heartbeat = heartbeat(&options);
    let parameters = job.model.parameters();
    let invitation = invitation(&job, &options, heartbeat);
    let expected = invitation.expected.clone().unwrap_or_default();
    let kept = options.layout.coordinator_range(parameters);
    let max_workers = options.max_workers as usize;
    let service = Service::new(
        Some(invitation),
        expected.clone(),
        shape(&job),
        kept,
        heartbeat,
        max_workers,
        inbox.clone(),
    );
    let (close, closing) = oneshot::channel::<()>();
    let (server, health) = serve(service, listener, &options, closing).await?;
    tokio::pin!(server);
    let mut driven =
        drive(ServerDriver::new(job, recorder, expected, &options).run(events, finish), &options)?;

    let mut stopping = false;
    let result = loop {
        tokio::select! {
            // The result comes first, because the connections may end together with the run.
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
    // Workers read their dismissal and close their streams; the others are cut off.
    let _ = close.send(());
    if tokio::time::timeout(limits::FAREWELL_TIMEOUT, server).await.is_err() {
        debug!("not every connection was closed in time");
    }
    result
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
        shards: options.layout.shard_ranges(job.model.parameters()).len() as u32,
    }
}
