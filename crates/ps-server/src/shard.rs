//! A shard that is not the coordinator: it keeps a part of the weights, folds and updates it, and sends it out.
//!
//! It needs no view of who takes part: a step of its part is made when all leaves have come, from whomever. It tells
//! its coordinator so, and serves workers as the coordinator does. [`start`] is given a loaded job; [`Shard::enter`]
//! is for a worker in the same process, to which and from which no byte passes a socket.

use crate::driver::Incoming;
use crate::outbox::Outgoing;
use crate::peers::Peers;
use crate::plane::Plane;
use crate::service::{Place, Service};
use crate::{BUILD, ServerError, ServerOptions, drive, expected, heartbeat, serve, shape};
use ps_coord::{Departure, Dismissal, WorkerId};
use ps_core::StepReport;
use ps_proto::convert::{self, Attached, Greeting, NodePart, ToShardMessage, WorkerMessage};
use ps_proto::limits::{self, CALL_TIMEOUT, PROTOCOL_VERSION};
use ps_proto::status::{Verdict, verdict};
use ps_proto::v1::{self, from_shard, parameter_server_client::ParameterServerClient};
use ps_proto::{Listener, Nonsense, Refusal, Security};
use ps_run::Job;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info};

/// Messages to the coordinator that wait: one a step, and the weights when it asks for them.
const WAITING_MESSAGES: usize = 64;

/// How a shard is placed.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// The coordinator, `HOST:PORT`.
    pub coordinator: String,
    /// Which of the shards that are not the coordinator, from 0; nothing if the coordinator says.
    pub index: Option<u32>,
    /// Where workers reach this shard, `HOST:PORT`.
    pub address: String,
}

/// A shard that takes part.
pub struct Shard {
    /// Which.
    pub index: u32,
    /// The elements that it keeps.
    pub kept: Range<usize>,
    service: Service,
    inbox: mpsc::Sender<Incoming>,
}

/// Completes when the coordinator ends the run, or something else ends the shard.
pub type ShardEnd = Pin<Box<dyn Future<Output = Result<Dismissal, ServerError>> + Send>>;

/// A worker's connection to a shard in its own process.
pub struct Inside {
    /// The worker's id there.
    pub worker: WorkerId,
    /// What the shard sends.
    pub messages: Outgoing,
    inbox: mpsc::Sender<Incoming>,
    _place: Place,
}

impl Inside {
    /// Hands the shard a chunk of a node's sum.
    pub async fn push(&self, part: NodePart) {
        let message = WorkerMessage::Node(part);
        // If the shard is gone, its end is noticed where it is waited for.
        let _ = self.inbox.send(Incoming::Message { worker: self.worker, message }).await;
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let reason = Departure::Disconnected("the worker has let go of its shard".into());
        // A full inbox of a shard that is ending is no loss.
        let _ = self.inbox.try_send(Incoming::Left { worker: self.worker, reason });
    }
}

impl Shard {
    /// Takes a worker of this process in.
    ///
    /// # Errors
    /// The shard is ending.
    pub async fn enter(&self, greeting: Greeting) -> Result<Inside, String> {
        let entered = self.service.enter(greeting, "this process".into()).await;
        let (worker, messages, place) = entered.map_err(|status| status.message().to_owned())?;
        Ok(Inside { worker, messages, inbox: self.inbox.clone(), _place: place })
    }
}

/// Attaches to the coordinator and serves workers on `listener` until the run is over.
///
/// # Errors
/// The coordinator is not there, refuses the shard, or does not answer.
pub async fn start(
    listener: impl Into<Listener>,
    job: Arc<Job>,
    placement: &ShardOptions,
    options: &ServerOptions,
) -> Result<(Shard, ShardEnd), ServerError> {
    let listener = listener.into();
    let fingerprints = expected(&job);
    let (sender, coordinator) = attach(&job, placement, &fingerprints, &options.security).await?;
    let (Attached { index, kept }, coordinator) = coordinator;
    info!(index, elements = ?kept, coordinator = placement.coordinator, "attached as a shard");
    let (inbox, events) = mpsc::channel(limits::INBOX_MESSAGES);
    let shape = shape(&job);
    let service = Service::new(None, fingerprints, shape, kept.clone(), heartbeat(options), inbox.clone());
    let (close, closing) = oneshot::channel::<()>();
    let server = serve(service.clone(), listener, options, closing).await?;
    tokio::spawn(async move {
        if let Err(error) = server.await {
            debug!("serving connections: {error}");
        }
    });
    let plane = Plane::new(&job, kept.clone()).keep_previous();
    let driver = Driver {
        parameters: shape.parameters,
        job,
        plane,
        peers: Peers::default(),
        coordinator: sender,
        address: placement.coordinator.clone(),
        has_diverged: false,
    };
    let (orders, said) = mpsc::channel(WAITING_MESSAGES);
    tokio::spawn(listen(coordinator, orders));
    let end = drive(async move {
        let end = driver.run(events, said).await;
        let _ = close.send(());
        end
    })?;
    let end = Box::pin(async { end.await.unwrap_or_else(|_| Err(ServerError::panicked())) });
    Ok((Shard { index, kept, service, inbox }, end))
}

type Link = (mpsc::Sender<v1::FromShard>, (Attached, Streaming<v1::ToShard>));

/// Greets the coordinator.
async fn attach(
    job: &Job,
    placement: &ShardOptions,
    fingerprints: &v1::Fingerprints,
    security: &Security,
) -> Result<Link, ServerError> {
    let failed = |why: String| ServerError::Coordinator { address: placement.coordinator.clone(), why };
    let judged = |verdict| match verdict {
        Verdict::Mismatch(why) => ServerError::Refused { address: placement.coordinator.clone(), why },
        Verdict::Passing(why) | Verdict::NotOurs(why) | Verdict::Refused(why) => failed(why),
    };
    let address = security.address(&placement.coordinator).map_err(failed)?;
    let channel = address.connect(security).await.map_err(judged)?;
    let mut client = ParameterServerClient::new(channel).max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
    let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
    let hello = v1::ShardHello {
        protocol_version: PROTOCOL_VERSION,
        build: BUILD.into(),
        fingerprints: Some(fingerprints.clone()),
        index: placement.index,
        address: placement.address.clone(),
    };
    // A new queue has room for one message.
    let _ = sender.try_send(from_shard(from_shard::Message::Hello(hello)));
    let greet = async {
        let mut stream = client.attach(ReceiverStream::new(receiver)).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, tonic::Status>((stream, first.unwrap_or_default()))
    };
    let (stream, first) = tokio::time::timeout(CALL_TIMEOUT, greet)
        .await
        .map_err(|_| failed(format!("no answer within {} s", CALL_TIMEOUT.as_secs())))?
        .map_err(|status| judged(verdict(&status)))?;
    let attached = convert::attached(first, job.model.parameters());
    let attached = attached.map_err(|nonsense| failed(nonsense.to_string()))?;
    Ok((sender, (attached, stream)))
}

/// What the coordinator says, until its stream ends.
async fn listen(mut stream: Streaming<v1::ToShard>, orders: mpsc::Sender<Result<ToShardMessage, String>>) {
    loop {
        let order = match stream.message().await {
            Ok(Some(message)) => convert::to_shard(message).map_err(|nonsense| nonsense.to_string()),
            Ok(None) => Err("it closed its stream".to_owned()),
            Err(status) => Err(status.message().to_owned()),
        };
        let is_last = order.is_err();
        if orders.send(order).await.is_err() || is_last {
            return;
        }
    }
}

/// The one task that owns the shard's data plane.
struct Driver {
    job: Arc<Job>,
    parameters: usize,
    plane: Plane,
    peers: Peers,
    coordinator: mpsc::Sender<v1::FromShard>,
    address: String,
    has_diverged: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Incoming>,
        mut orders: mpsc::Receiver<Result<ToShardMessage, String>>,
    ) -> Result<Dismissal, ServerError> {
        let address = self.address.clone();
        let lost = |why: String| ServerError::Coordinator { address: address.clone(), why };
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Ok(ToShardMessage::WeightsWanted(version))) => self.send_weights(version).await,
                    Some(Ok(ToShardMessage::Dismissed(reason))) => return Ok(reason),
                    Some(Err(why)) => return Err(lost(why)),
                    None => return Err(lost("its stream ended".into())),
                },
                incoming = inbox.recv() => match incoming {
                    Some(incoming) => self.receive(incoming).await,
                    None => return Err(ServerError::panicked()),
                },
            }
            for (worker, _) in self.peers.take_dropped() {
                self.plane.forget(worker);
            }
        }
    }

    async fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Joined { worker, peer } => {
                self.peers.admit(worker, peer);
                self.peers.serve(worker, &self.plane);
            }
            Incoming::Message { worker, message } => self.hear(worker, message).await,
            Incoming::Left { worker, reason } => {
                let refusal = match reason {
                    Departure::Misbehaved(why) => Some(Refusal::Nonsense(Nonsense::new(why))),
                    _ => None,
                };
                self.part(worker, refusal);
            }
            // Whoever asked may be gone, here and below.
            Incoming::Weights(reply) => {
                let _ = reply.send((self.plane.version(), self.plane.kept_parts()));
            }
            Incoming::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Incoming::Places(reply) => {
                let _ = reply.send(Err(Refusal::OnlyAShard));
            }
            Incoming::Attach(request) => {
                let _ = request.reply.send(Err(Refusal::OnlyAShard));
            }
            Incoming::Shard { .. } | Incoming::Stop => {}
        }
    }

    async fn hear(&mut self, worker: WorkerId, message: WorkerMessage) {
        if self.peers.get(worker).is_none() {
            return;
        }
        let oldest = self.plane.oldest();
        let taken = match message {
            WorkerMessage::Node(part) => self.plane.take(&self.job, worker, part),
            WorkerMessage::NodeDone(done) => self.plane.take_end(&self.job, worker, done).map(|()| None),
            WorkerMessage::WeightsWanted => {
                self.peers.lacks_weights(worker);
                self.peers.serve(worker, &self.plane);
                Ok(None)
            }
            WorkerMessage::Goodbye(_) => {
                self.part(worker, None);
                Ok(None)
            }
            WorkerMessage::Heartbeat => Ok(None),
        };
        match taken {
            Ok(Some(part)) => self.peers.broadcast(&part),
            Ok(None) => {}
            Err(nonsense) => {
                info!(%worker, "worker dropped: {nonsense}");
                self.part(worker, Some(nonsense.into()));
            }
        }
        if self.plane.oldest() > oldest {
            self.serve_all();
        }
        if self.plane.is_complete() && !self.has_diverged {
            self.commit().await;
        }
    }

    fn serve_all(&mut self) {
        let workers: Vec<WorkerId> = self.peers.ids().collect();
        for worker in workers {
            self.peers.serve(worker, &self.plane);
        }
    }

    /// All chunks of the step are made.
    async fn commit(&mut self) {
        let step = self.plane.version();
        let message = match self.plane.commit() {
            Ok(StepReport { .. }) => from_shard::Message::Applied(v1::ShardApplied { step }),
            Err(_) => {
                self.has_diverged = true;
                from_shard::Message::Diverged(v1::ShardDiverged { step })
            }
        };
        self.serve_all();
        // If the coordinator is gone, its stream's end says so.
        let _ = self.coordinator.send(from_shard(message)).await;
    }

    async fn send_weights(&mut self, version: u64) {
        for (offset, bytes) in self.plane.parts_at(version).unwrap_or_default() {
            let chunk = convert::weights_chunk(version, offset, self.parameters, bytes);
            let _ = self.coordinator.send(from_shard(from_shard::Message::Weights(chunk))).await;
        }
    }

    fn part(&mut self, worker: WorkerId, refusal: Option<Refusal>) {
        self.plane.forget(worker);
        self.peers.part(worker, refusal);
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
