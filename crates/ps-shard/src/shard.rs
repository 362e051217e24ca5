//! A shard other than the coordinator: it keeps a part of the weights, folds gradients, updates its part and
//! sends it to workers.
//!
//! A shard does not need to know the members of the run: it makes its part of a step when all leaves have
//! arrived, from whichever workers. It reports this to its coordinator, and serves workers as the coordinator
//! does. The coordinator sends it the weights to resume from, before the first step and whenever a server was
//! lost; the shard outlives its coordinator's process. [`start`] takes a loaded job. [`Shard::connect`]
//! connects a worker in the same process without a socket.

use crate::outbox::OutboxStream;
use crate::peers::Peers;
use crate::plane::{LocalGradients, new_plane};
use crate::requests::Incoming;
use crate::service::{Service, WorkerSlot};
use crate::serving::{drive, expected, heartbeat, serve, shape};
use crate::{BUILD, ServerError, ServerOptions};
use ps_config::{Difference, RunConfig};
use ps_coord::{Departure, Dismissal, ShardAction, ShardCore, ShardEvent, ShardReport, WorkerId};
use ps_core::optim::UpdateNorms;
use ps_core::{Gradients, NUMERICS_VERSION};
use ps_net::limits::{self, CALL_TIMEOUT};
use ps_net::security::Credential;
use ps_net::{Attempts, Connection, Listener, Security};
use ps_plane::{OptimizerStateChunk, Plane};
use ps_proto::convert::{self, Attached, Greeting, StateChunk, ToShardMessage, WorkerMessage};
use ps_proto::limits::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use ps_proto::status::{CallFailure, classify};
use ps_proto::v1::{self, from_shard, parameter_server_client::ParameterServerClient};
use ps_proto::{InvalidMessage, Refusal, tensor};
use ps_run::{Activity, Job, Meter};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info, warn};

/// Bound of the queue to the coordinator: one message per step, and the weights on request.
const WAITING_MESSAGES: usize = 64;
/// Maximum number of differing run-file keys to name in an error.
const NAMED_KEYS: usize = 5;

/// The shard's position in the run and its addresses.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Address of the coordinator, `HOST:PORT`.
    pub coordinator: String,
    /// Index among the shards other than the coordinator, from 0; `None` if the coordinator assigns one
    /// at each connection.
    pub index: Option<u32>,
    /// Address at which workers reach this shard, `HOST:PORT`.
    pub address: String,
    /// Counts the shard's traffic and work.
    pub meter: Arc<Meter>,
}

/// A handle to a running shard.
pub struct Shard {
    index: Arc<AtomicU32>,
    leaving: watch::Sender<bool>,
    service: Service,
    inbox: mpsc::Sender<Incoming>,
}

/// Completes when the coordinator reports that the run is over, or the shard fails. If the coordinator only
/// stops, the shard waits for the next one.
pub type ShardEnd = Pin<Box<dyn Future<Output = Result<Dismissal, ServerError>> + Send>>;

/// A worker's connection to a shard in the same process. Dropping it disconnects the worker.
pub struct LocalConnection {
    /// The worker's id at this shard.
    pub worker: WorkerId,
    /// Messages from the shard.
    pub messages: OutboxStream,
    inbox: mpsc::Sender<Incoming>,
    _slot: WorkerSlot,
}

impl LocalConnection {
    /// Passes metrics or a chunk of a node to the shard.
    pub async fn push(&self, message: WorkerMessage) {
        // If the shard is gone, the task that waits for its end notices.
        let _ = self.inbox.send(Incoming::Message { worker: self.worker, message }).await;
    }
}

impl Drop for LocalConnection {
    fn drop(&mut self) {
        let reason = Departure::Disconnected("the worker has released its shard".into());
        // If the inbox is full, the shard is ending, and the message can be dropped.
        let _ = self.inbox.try_send(Incoming::Left { worker: self.worker, reason });
    }
}

impl Shard {
    /// Index among the shards other than the coordinator.
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    /// From now on, the shard ends when its coordinator stops instead of waiting for the next one.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// Connects a worker in this process.
    ///
    /// # Errors
    /// The shard is ending.
    pub async fn connect(&self, greeting: Greeting) -> Result<LocalConnection, String> {
        let admitted = self.service.admit(greeting, "this process".into(), Credential::default()).await;
        let (worker, messages, slot) = admitted.map_err(|status| status.message().to_owned())?;
        Ok(LocalConnection { worker, messages, inbox: self.inbox.clone(), _slot: slot })
    }
}

/// Attaches to the coordinator and serves workers on `listener` until the run is over.
///
/// # Errors
/// The coordinator cannot be reached, refuses the shard, or does not answer.
pub async fn start(
    listener: impl Into<Listener>,
    job: Arc<Job>,
    placement: &ShardOptions,
    options: &ServerOptions,
) -> Result<(Shard, ShardEnd), ServerError> {
    let listener = listener.into();
    let (leaving, is_leaving) = watch::channel(false);
    let fingerprints = expected(&job);
    let coordinator = CoordinatorClient {
        placement: placement.clone(),
        fingerprints: fingerprints.clone(),
        run: job.run.clone(),
        parameters: job.model.parameters(),
        leaving: is_leaving,
        connect_timeout: options.join_timeout,
        security: options.security.clone(),
    };
    // Precedes serving workers: only the coordinator tells which elements this shard keeps.
    let (attached, streams) = coordinator.attach_with_retry().await?;
    let (index, kept) = (Arc::new(AtomicU32::new(attached.index)), attached.kept.clone());
    let (inbox, events) = mpsc::channel(limits::INBOX_MESSAGES);
    let shape = shape(&job);
    // The coordinator enforces the limit on workers.
    let (max_workers, heartbeat) = (limits::MAX_WORKERS, heartbeat(options));
    let service =
        Service::new(None, fingerprints, shape, kept.clone(), heartbeat, max_workers, inbox.clone());
    let (close, closing) = oneshot::channel::<()>();
    let (server, _health) = serve(service.clone(), listener, options, closing).await?;
    tokio::spawn(async move {
        if let Err(error) = server.await {
            debug!("serving connections: {error}");
        }
    });
    let driver = ShardDriver {
        core: ShardCore::new(kept.clone()),
        parameters: shape.parameters,
        plane: plane(&job, kept),
        gradients: None,
        job,
        index: index.clone(),
        service: service.clone(),
        peers: Peers::new(Arc::clone(&placement.meter)),
        meter: Arc::clone(&placement.meter),
        coordinator: None,
        address: placement.coordinator.clone(),
        incoming_weights: None,
        verdict: None,
        update_norms: Vec::new(),
    };
    let (inputs, coordinator_inputs) = mpsc::channel(WAITING_MESSAGES);
    tokio::spawn(coordinator.maintain_connection(attached, streams, inputs));
    let driver = async move {
        let end = driver.run(events, coordinator_inputs).await;
        // If connections are no longer served, there is nothing left to close.
        let _ = close.send(());
        end
    };
    let end = drive(driver, options)?;
    let end = Box::pin(async { end.await.unwrap_or_else(|_| Err(ServerError::panicked())) });
    Ok((Shard { index, leaving, service, inbox }, end))
}

/// Creates the data plane of a shard that keeps `kept`. It also keeps the previous weights, because the shard
/// can be one step ahead of the other servers.
fn plane(job: &Job, kept: Range<usize>) -> Plane {
    new_plane(job, kept).keep_previous()
}

/// The client of the coordinator.
struct CoordinatorClient {
    placement: ShardOptions,
    fingerprints: v1::Fingerprints,
    run: RunConfig,
    parameters: usize,
    /// Set by [`Shard::leave`].
    leaving: watch::Receiver<bool>,
    /// How long to try to reach an absent coordinator.
    connect_timeout: Duration,
    security: Security,
}

/// Open streams to and from the coordinator.
type CoordinatorStreams = (mpsc::Sender<v1::FromShard>, Streaming<v1::ToShard>);

/// Input from the coordinator.
enum CoordinatorInput {
    /// The coordinator has admitted this shard, perhaps again and under another index; the sender
    /// leads to it.
    Attached(Attached, mpsc::Sender<v1::FromShard>),
    Message(ToShardMessage),
    /// The coordinator can no longer be reached; the client tries to reconnect.
    Lost,
    /// The coordinator did not come back in time, or refuses this shard.
    Gone(ServerError),
}

/// A refusal of the coordinator: transient or permanent.
enum AttachError {
    Transient(String),
    Permanent(ServerError),
}

/// The first and the longest pause between two attempts to reach the coordinator.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

impl CoordinatorClient {
    /// Attaches to the coordinator, and retries while it is absent or has no vacant shard.
    async fn attach_with_retry(&self) -> Result<(Attached, CoordinatorStreams), ServerError> {
        let address = &self.placement.coordinator;
        let mut attempts = Attempts::new(PAUSES, self.connect_timeout);
        loop {
            let why = match self.attach().await {
                Ok((attached, streams)) => {
                    // An index given by the user counts the coordinator as shard 0.
                    let shard = attached.index + u32::from(self.placement.index.is_some());
                    info!(shard, elements = ?attached.kept, address, "attached");
                    return Ok((attached, streams));
                }
                Err(AttachError::Permanent(error)) => return Err(error),
                Err(AttachError::Transient(why)) => why,
            };
            let Some(pause) = attempts.failed() else { return Err(self.error(why)) };
            info!(
                address,
                "the coordinator does not accept this shard yet: {why}; trying again for {} s",
                pause.left.as_secs()
            );
            tokio::time::sleep(pause.length).await;
        }
    }

    fn error(&self, why: String) -> ServerError {
        ServerError::Coordinator { address: self.placement.coordinator.clone(), why }
    }

    /// Classifies a failed call.
    fn attach_error(&self, failure: CallFailure) -> AttachError {
        match failure {
            CallFailure::Transient(why) => AttachError::Transient(why),
            CallFailure::RunFinished => AttachError::Permanent(ServerError::RunFinished),
            CallFailure::Mismatch(why) => AttachError::Permanent(ServerError::Refused {
                address: self.placement.coordinator.clone(),
                why,
            }),
            CallFailure::NotDownhill(why) | CallFailure::Refused(why) => {
                AttachError::Permanent(self.error(why))
            }
        }
    }

    /// Opens the stream and exchanges greetings.
    async fn attach(&self) -> Result<(Attached, CoordinatorStreams), AttachError> {
        let wrong = |why| AttachError::Permanent(self.error(why));
        let address = self.security.address(&self.placement.coordinator).map_err(wrong)?;
        let channel =
            address.connect(&self.security).await.map_err(|error| self.attach_error(error.into()))?;
        let mut client = ParameterServerClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
        let hello = v1::ShardHello {
            protocol_version: PROTOCOL_VERSION,
            build: BUILD.into(),
            fingerprints: Some(self.fingerprints.clone()),
            index: self.placement.index,
            address: self.placement.address.clone(),
        };
        // A new queue has room for one message.
        let _ = sender.try_send(from_shard(from_shard::Message::Hello(hello)));
        let greet = async {
            let mut stream = client.attach(ReceiverStream::new(receiver)).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, tonic::Status>((stream, first.unwrap_or_default()))
        };
        // Transient, because a coordinator that is still loading its data answers late.
        let timed_out = |_| AttachError::Transient(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
        let (stream, first) = match tokio::time::timeout(CALL_TIMEOUT, greet).await.map_err(timed_out)? {
            Ok(greeted) => greeted,
            Err(status) => {
                let failure = match classify(&status) {
                    // The fingerprints only show that something differs. The user needs to know which keys.
                    CallFailure::Mismatch(why) => {
                        CallFailure::Mismatch(self.keys_that_differ(&mut client).await.unwrap_or(why))
                    }
                    failure => failure,
                };
                return Err(self.attach_error(failure));
            }
        };
        let attached = convert::attached(first, self.parameters);
        let attached = attached.map_err(|invalid| wrong(invalid.to_string()))?;
        Ok((attached, (sender, stream)))
    }

    /// Describes the keys in which this shard's run file differs from the coordinator's; `None` if none
    /// differ or the coordinator does not answer.
    async fn keys_that_differ(&self, client: &mut ParameterServerClient<Connection>) -> Option<String> {
        let request = v1::JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            worker_name: self.placement.address.clone(),
            build: BUILD.into(),
            numerics_version: NUMERICS_VERSION,
        };
        let reply = tokio::time::timeout(CALL_TIMEOUT, client.join(request)).await.ok()?.ok()?.into_inner();
        let theirs = RunConfig::parse(&reply.run_toml, "the coordinator's run file", &[]).ok()?;
        let mut differences = self.run.differences(&theirs);
        // Processes may read the same data from different places; the fingerprint of the run leaves these
        // keys out.
        differences.retain(|difference| !difference.is_data_source);
        let named = differences.iter().take(NAMED_KEYS).map(|Difference { key, values, .. }| {
            let [ours, theirs] = values.each_ref().map(|value| value.as_deref().unwrap_or("not set"));
            format!("{key} is {theirs} at the coordinator and {ours} here")
        });
        let named = named.collect::<Vec<_>>().join(", ");
        let and_more = if differences.len() > NAMED_KEYS { ", and more" } else { "" };
        (!named.is_empty()).then(|| {
            format!("its run file differs from this shard's: {named}{and_more}; start this shard with the same run file and the same --set")
        })
    }

    /// Completes once [`Shard::leave`] is called.
    async fn wait_for_leave(&self) {
        if self.leaving.clone().wait_for(|&is_leaving| is_leaving).await.is_err() {
            // The shard was dropped without leaving.
            std::future::pending().await
        }
    }

    /// Forwards the coordinator's messages, and reconnects when its stream ends.
    async fn maintain_connection(
        self,
        attached: Attached,
        streams: CoordinatorStreams,
        inputs: mpsc::Sender<CoordinatorInput>,
    ) {
        let (mut attached, (mut sender, mut stream)) = (attached, streams);
        loop {
            let kept = attached.kept.clone();
            if inputs.send(CoordinatorInput::Attached(attached, sender)).await.is_err() {
                return;
            }
            let why = loop {
                let message = match stream.message().await {
                    Ok(Some(message)) => convert::to_shard(message, self.parameters, &kept),
                    Ok(None) => break "it closed its stream".to_owned(),
                    Err(status) => break status.message().to_owned(),
                };
                let input = match message {
                    // The coordinator only stops; a new one may be started.
                    Ok(ToShardMessage::Dismissed(Dismissal::Stopped(why))) if !*self.leaving.borrow() => {
                        break why;
                    }
                    Ok(message) => CoordinatorInput::Message(message),
                    Err(invalid) => break invalid.to_string(),
                };
                let is_last = matches!(input, CoordinatorInput::Message(ToShardMessage::Dismissed(_)));
                if inputs.send(input).await.is_err() || is_last {
                    return;
                }
            };
            warn!(address = self.placement.coordinator, "coordinator lost: {why}; reconnecting");
            if inputs.send(CoordinatorInput::Lost).await.is_err() {
                return;
            }
            let found = tokio::select! {
                biased;
                found = self.attach_with_retry() => found,
                () = self.wait_for_leave() => Err(self.error(why)),
                () = inputs.closed() => return,
            };
            (attached, (sender, stream)) = match found {
                Ok(found) => found,
                Err(error) => return drop(inputs.send(CoordinatorInput::Gone(error)).await),
            };
        }
    }
}

/// The one task that owns the shard's logic and its data plane.
struct ShardDriver {
    core: ShardCore,
    job: Arc<Job>,
    parameters: usize,
    /// Also read by [`Shard::index`].
    index: Arc<AtomicU32>,
    service: Service,
    plane: Plane,
    /// Built when data of a worker must first be checked by recomputation.
    gradients: Option<Gradients>,
    peers: Peers,
    meter: Arc<Meter>,
    /// The queue to the coordinator, once it was connected.
    coordinator: Option<mpsc::Sender<v1::FromShard>>,
    address: String,
    /// The weights to resume from, while they arrive.
    incoming_weights: Option<IncomingWeights>,
    /// The coordinator's last verdict, until it is carried out.
    verdict: Option<ps_core::control::Verdict>,
    /// How far the weights moved in the last step, if the verdict asked for it.
    update_norms: Vec<UpdateNorms>,
}

/// Weights and state of some version, while they arrive.
struct IncomingWeights {
    version: u64,
    /// Elements that this shard keeps, `[kept]`.
    weights: Vec<f32>,
    /// State vectors of the optimizer and the policies, `[vectors, kept]`.
    state: Vec<f32>,
    /// Number of steps behind the optimizer's state.
    count: u64,
}

impl ShardDriver {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Incoming>,
        mut inputs: mpsc::Receiver<CoordinatorInput>,
    ) -> Result<Dismissal, ServerError> {
        let (mut events, mut actions) = (VecDeque::new(), Vec::new());
        loop {
            tokio::select! {
                // The coordinator comes first: while workers keep the inbox full, a restore must not wait,
                // and it makes the messages in the inbox useless.
                biased;
                input = inputs.recv() => events.extend(self.handle_coordinator(input.ok_or_else(ServerError::panicked)?)?),
                incoming = inbox.recv() => {
                    events.extend(self.handle(incoming.ok_or_else(ServerError::panicked)?));
                }
            }
            while let Some(event) = events.pop_front() {
                self.core.step(event, &mut actions);
                for action in actions.drain(..) {
                    if let ShardAction::Finish(reason) = action {
                        return Ok(reason);
                    }
                    events.extend(self.perform(action).await);
                }
            }
            // The shard's logic does not track workers, so only the plane has to know.
            for (worker, _) in self.peers.take_dropped() {
                self.plane.forget(worker);
            }
        }
    }

    /// Translates input from the coordinator into an event for the shard's logic.
    fn handle_coordinator(&mut self, input: CoordinatorInput) -> Result<Option<ShardEvent>, ServerError> {
        let message = match input {
            CoordinatorInput::Attached(Attached { index, kept }, coordinator) => {
                self.coordinator = Some(coordinator);
                self.index.store(index, Ordering::Relaxed);
                return Ok(Some(ShardEvent::Attached { kept }));
            }
            CoordinatorInput::Lost => return Ok(Some(ShardEvent::CoordinatorLost)),
            CoordinatorInput::Gone(error) => return Err(error),
            CoordinatorInput::Message(message) => message,
        };
        Ok(match message {
            ToShardMessage::Restore { version, number, count } => {
                let kept = self.plane.kept().len();
                let state = self.plane.control().vectors().len() * kept;
                self.incoming_weights = (version > 0).then(|| IncomingWeights {
                    version,
                    weights: vec![0.0; kept],
                    state: vec![0.0; state],
                    count,
                });
                Some(ShardEvent::Restore { version, number, elements: kept + state })
            }
            ToShardMessage::Weights(chunk) => self.arrived(chunk, |incoming| &mut incoming.weights),
            ToShardMessage::State(vector, chunk) => {
                let kept = self.plane.kept().len();
                let vector = vector * kept..(vector + 1) * kept;
                self.arrived(chunk, |incoming| incoming.state.get_mut(vector).unwrap_or_default())
            }
            ToShardMessage::Verdict(verdict) => {
                let step = verdict.step_params.step;
                self.verdict = Some(verdict);
                Some(ShardEvent::Decided { step })
            }
            ToShardMessage::WeightsWanted { version, state } => {
                Some(ShardEvent::WeightsRequested { version, with_state: state })
            }
            ToShardMessage::MissingWanted(step) => Some(ShardEvent::MissingRequested { step }),
            ToShardMessage::Dismissed(reason) => Some(ShardEvent::Dismissed(reason)),
        })
    }

    /// Stores a chunk of the weights to resume from; each arrives once, in order.
    fn arrived(
        &mut self,
        chunk: StateChunk,
        values: impl FnOnce(&mut IncomingWeights) -> &mut [f32],
    ) -> Option<ShardEvent> {
        let StateChunk { version, offset, bytes } = chunk;
        let start = self.plane.kept().start;
        let incoming = self.incoming_weights.as_mut().filter(|incoming| incoming.version == version)?;
        let elements = bytes.len() / 4;
        // A vector that this run does not have is ignored.
        if let Some(values) = values(incoming).get_mut(offset - start..offset - start + elements) {
            tensor::read(&bytes, values);
        }
        Some(ShardEvent::Arrived { version, elements })
    }

    /// Translates input from a worker or a caller into events for the shard's logic.
    fn handle(&mut self, incoming: Incoming) -> Vec<ShardEvent> {
        match incoming {
            Incoming::Joined { worker, peer } => {
                self.peers.admit(worker, peer);
                return vec![ShardEvent::Joined { worker }];
            }
            Incoming::Message { worker, message } => return self.handle_message(worker, message),
            Incoming::Left { worker, reason: Departure::Misbehaved(why) } => {
                return vec![self.refuse(worker, InvalidMessage::new(why))];
            }
            Incoming::Left { worker, .. } => self.disconnect(worker, None),
            // The caller may be gone, here and below.
            Incoming::Weights(reply) => {
                let _ = reply.send((self.plane.version(), self.plane.kept_chunks()));
            }
            Incoming::Checkpoint(reply) | Incoming::End(reply) => {
                let _ = reply.send(Err(Refusal::OnlyAShard));
            }
            Incoming::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Incoming::ShardAddresses(reply) => {
                let _ = reply.send(Err(Refusal::OnlyAShard));
            }
            Incoming::Attach(request) => {
                let _ = request.reply.send(Err(Refusal::OnlyAShard));
            }
            Incoming::Shard { .. } | Incoming::Stop => {}
        }
        Vec::new()
    }

    fn handle_message(&mut self, worker: WorkerId, message: WorkerMessage) -> Vec<ShardEvent> {
        let mut events = Vec::new();
        // Messages of a worker that was sent away may still be in the inbox.
        if self.peers.get(worker).is_none() {
            return events;
        }
        let oldest = self.plane.oldest();
        let mut recompute = LocalGradients { job: &self.job, gradients: &mut self.gradients };
        let taken = match message {
            WorkerMessage::NodeMetrics(metrics) => {
                self.plane.take_metrics(worker, metrics, &mut recompute).map(|()| None)
            }
            WorkerMessage::Node(part) => {
                let begun = std::time::Instant::now();
                self.meter.receive(part.bytes.len());
                let taken = self.plane.take(worker, part, &mut recompute);
                self.meter.spend(Activity::Fold, begun.elapsed());
                taken
            }
            WorkerMessage::NodeDone(done) => self.plane.take_end(worker, done).map(|_| None),
            WorkerMessage::WeightsWanted => {
                self.peers.lacks_weights(worker);
                events.push(ShardEvent::WeightsWanted { worker });
                Ok(None)
            }
            WorkerMessage::Goodbye(_) => {
                self.disconnect(worker, None);
                Ok(None)
            }
            WorkerMessage::Heartbeat | WorkerMessage::Dropped => Ok(None),
        };
        match taken {
            Ok(Some(part)) => self.peers.broadcast(&part),
            Ok(None) => {}
            Err(rejected) => events.push(self.refuse(worker, rejected.into())),
        }
        // A chunk of the next step shows that all servers have made the last one. Weights from before it are
        // dropped from the queues.
        if self.plane.oldest() > oldest {
            self.serve_all();
        }
        events.extend(self.progress());
        events
    }

    /// The event that follows from the state of the open step, if any.
    fn progress(&self) -> Option<ShardEvent> {
        let step = self.plane.version();
        match self.plane.awaits_decision() {
            true => self.plane.is_gathered().then_some(ShardEvent::Gathered { step }),
            false => self.plane.is_complete().then_some(ShardEvent::Completed { step }),
        }
    }

    /// Ends the stream of a worker that sent an invalid message.
    fn refuse(&mut self, worker: WorkerId, invalid: InvalidMessage) -> ShardEvent {
        let (why, counted) = (invalid.to_string(), self.plane.counted_at(worker));
        info!(%worker, "worker dropped: {why}");
        self.disconnect(worker, Some(invalid.into()));
        ShardEvent::Refused { counted, why }
    }

    async fn perform(&mut self, action: ShardAction) -> Option<ShardEvent> {
        match action {
            ShardAction::Keep { kept } => {
                let index = self.index.load(Ordering::Relaxed);
                info!(index, elements = ?kept, "this shard now holds another part of the weights");
                self.plane = plane(&self.job, kept.clone());
                self.service.keep(kept);
            }
            ShardAction::SendAllAway => {
                let workers: Vec<WorkerId> = self.peers.ids().collect();
                workers.into_iter().for_each(|worker| self.disconnect(worker, Some(Refusal::Rewound)));
            }
            ShardAction::Serve { worker } => self.peers.serve(worker, &self.plane),
            ShardAction::ServeAll => self.serve_all(),
            ShardAction::TurnAway { worker } => self.disconnect(worker, Some(Refusal::NotReady)),
            ShardAction::Begin => {
                self.plane.restart();
                info!(version = 0, "this shard resumes from here");
            }
            ShardAction::Resume { version } => {
                if let Some(IncomingWeights { weights, state, count, .. }) = self.incoming_weights.take() {
                    self.plane.restore(version, &weights, &state);
                    self.plane.control_mut().follow(count);
                    info!(version, "this shard resumes from here");
                }
            }
            ShardAction::Measure { step } => {
                let measured = convert::measured(step, &self.plane.measure());
                self.send(from_shard::Message::Measured(measured)).await;
            }
            ShardAction::Follow { step } => return self.follow(step),
            ShardAction::Commit { step } => return Some(self.commit(step)),
            ShardAction::Report(report) => {
                let message = self.message(report);
                self.send(message).await;
            }
            ShardAction::SendWeights { version, with_state } => self.send_weights(version, with_state),
            ShardAction::WarnUselessVerdict { step } => {
                warn!(step, "unexpected verdict");
            }
            // The loop in `run` ends there.
            ShardAction::Finish(_) => {}
        }
        None
    }

    /// Computes the chunks of the step that was waiting for the verdict.
    fn follow(&mut self, step: u64) -> Option<ShardEvent> {
        let verdict = self.verdict.take()?;
        if !self.plane.control().supports(&verdict) {
            warn!(step, "unexpected verdict");
            return None;
        }
        self.plane.follow(verdict);
        for part in self.plane.release() {
            self.peers.broadcast(&part);
        }
        self.progress()
    }

    fn commit(&mut self, step: u64) -> ShardEvent {
        // Measured before the commit, because the next weights are compared with the current ones.
        self.update_norms = self.plane.measure_update();
        let begun = std::time::Instant::now();
        let committed = self.plane.commit(&[]);
        self.meter.spend(Activity::Update, begun.elapsed());
        match committed {
            Ok(_) => ShardEvent::Committed { step },
            Err(_) => ShardEvent::Diverged { step },
        }
    }

    fn message(&mut self, report: ShardReport) -> from_shard::Message {
        match report {
            ShardReport::Restored { number } => from_shard::Message::Restored(v1::ShardRestored { number }),
            ShardReport::Applied { step } => {
                from_shard::Message::Applied(convert::applied(step, &std::mem::take(&mut self.update_norms)))
            }
            ShardReport::Diverged { step } => from_shard::Message::Diverged(v1::ShardDiverged { step }),
            ShardReport::Tainted { step, why } => {
                from_shard::Message::Tainted(v1::ShardTainted { step, reason: why })
            }
            ShardReport::Missing { step } => {
                from_shard::Message::Missing(convert::missing(step, &self.plane.missing()))
            }
        }
    }

    /// Sends a message to the coordinator. If it is gone, the end of its stream reports it.
    async fn send(&self, message: from_shard::Message) {
        if let Some(coordinator) = &self.coordinator {
            let _ = coordinator.send(from_shard(message)).await;
        }
    }

    fn serve_all(&mut self) {
        let workers: Vec<WorkerId> = self.peers.ids().collect();
        for worker in workers {
            self.peers.serve(worker, &self.plane);
        }
    }

    /// Sends the coordinator the weights of `version` from a separate task, so that
    /// rounds continue meanwhile.
    fn send_weights(&self, version: u64, with_state: bool) {
        let Some(coordinator) = self.coordinator.clone() else { return };
        // Taken before the task starts, because the coordinator lets the next step begin once the first chunk
        // has arrived.
        let Some(weights) = self.plane.chunks_at(version) else { return };
        let state = if with_state { self.plane.state_at(version) } else { Vec::new() };
        let parameters = self.parameters;
        tokio::spawn(async move {
            let chunk = |(offset, bytes)| convert::weights_chunk(version, offset, parameters, bytes);
            let weights = weights.into_iter().map(chunk).map(from_shard::Message::Weights);
            let part = |part: OptimizerStateChunk| {
                let OptimizerStateChunk { vector, offset, bytes } = part;
                from_shard::Message::State(convert::optimizer_state_chunk(
                    version, vector, offset, parameters, bytes,
                ))
            };
            for message in weights.chain(state.into_iter().map(part)) {
                // If the coordinator is gone, the end of its stream reports it.
                if coordinator.send(from_shard(message)).await.is_err() {
                    return;
                }
            }
        });
    }

    fn disconnect(&mut self, worker: WorkerId, refusal: Option<Refusal>) {
        self.plane.forget(worker);
        self.peers.disconnect(worker, refusal);
    }

    fn status(&self) -> v1::StatusReply {
        v1::StatusReply {
            version: self.plane.version(),
            steps: self.job.plan.steps,
            state: format!("shard of coordinator {}", self.address),
            loss: f64::NAN,
            ..v1::StatusReply::default()
        }
    }
}

fn from_shard(message: from_shard::Message) -> v1::FromShard {
    v1::FromShard { message: Some(message) }
}
