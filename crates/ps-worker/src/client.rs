//! The gRPC client: asks for the run and opens the streams of the rounds.

use crate::send_queue::{Item, SendQueue};
use crate::{BUILD, WorkerError};
use ps_coord::WorkerId;
use ps_core::NUMERICS_VERSION;
use ps_net::limits::CALL_TIMEOUT;
use ps_net::{Address, Connection, Security};
use ps_proto::InvalidMessage;
use ps_proto::convert::{self, Greeting, Invitation, ServerMessage, Shape, WorkerMessage};
use ps_proto::limits::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use ps_proto::status::{CallFailure, classify};
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::{self, FromWorker, from_worker::Message, parameter_server_client::ParameterServerClient};
use ps_shard::shard::Shard;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Status;
use tracing::debug;

/// Bound of the queue of messages from all servers to the driver; if it is full, reading stops.
const MAX_QUEUED_EVENTS: usize = 16;

/// Bound of the queue to one connection: a few nodes, each in one part per layer, and heartbeats. If it is
/// full, the server reads nothing.
const MAX_QUEUED_ITEMS: usize = 1024;

/// How long to wait for the coordinator's reason after a shard has closed its stream.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// The address of the server and the identity of this worker.
#[derive(Clone)]
pub(crate) struct Client {
    server: Address,
    security: Security,
    name: String,
    /// The shard in this process, if there is one.
    local_shard: Option<Arc<Shard>>,
}

/// The open streams of a worker: to the coordinator, and to every other shard.
pub(crate) struct Session {
    pub worker: WorkerId,
    pub links: Vec<Link>,
    /// Messages from all servers, until a stream ends.
    pub events: mpsc::Receiver<StreamEvent>,
    /// The tasks that read from the servers; dropping them ends the tasks.
    pub tasks: JoinSet<()>,
    /// Set once this worker leaves, so that no reason is awaited.
    pub leaving: watch::Sender<bool>,
}

/// The connection to one server; the first is the coordinator.
pub(crate) struct Link {
    /// The elements that the server keeps.
    pub kept: Range<usize>,
    pub sender: mpsc::Sender<Item>,
}

/// Input from a server.
pub(crate) enum StreamEvent {
    Message(ServerMessage),
    /// The server sent an invalid message; holds what was wrong.
    Invalid(String),
    /// A stream has ended.
    Ended(CallFailure),
}

/// The receiving end of the servers' messages, as the reading tasks use it.
#[derive(Clone)]
struct StreamSink {
    sender: mpsc::Sender<StreamEvent>,
    left: watch::Receiver<bool>,
}

impl StreamSink {
    /// A shard's stream has ended: waits, unless this worker is leaving, so that the coordinator can send
    /// the reason first.
    async fn wait_for_reason(&mut self) {
        // The end of the stream is reported in any case; this only gives a better reason time to arrive.
        let _ = timeout(REASON_TIMEOUT, self.left.wait_for(|&left| left)).await;
    }
}

impl Client {
    /// Creates a client for a server at `HOST:PORT` or `unix:PATH`. `security` protects all connections, to
    /// it and to shards.
    pub(crate) fn new(server: &str, name: &str, security: &Security) -> Result<Self, WorkerError> {
        let wrong = |problem| WorkerError::Address { given: server.into(), problem };
        let address = security.address(server).map_err(wrong)?;
        Ok(Client { server: address, security: security.clone(), name: name.into(), local_shard: None })
    }

    /// Adds a shard in this process.
    pub(crate) fn with_local_shard(self, shard: Arc<Shard>) -> Self {
        Client { local_shard: Some(shard), ..self }
    }

    /// Opens a connection to the server.
    pub(crate) async fn connect(&self) -> Result<Connection, CallFailure> {
        Ok(self.server.connect(&self.security).await?)
    }

    /// Asks for the run file and the settings of the run.
    pub(crate) async fn join(&self) -> Result<Invitation, CallFailure> {
        let mut client = service(self.server.connect(&self.security).await?);
        let request = v1::JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            worker_name: self.name.clone(),
            build: BUILD.into(),
            numerics_version: NUMERICS_VERSION,
        };
        let reply = answer(client.join(request)).await?;
        convert::invitation(reply.into_inner()).map_err(|invalid| CallFailure::Mismatch(invalid.to_string()))
    }

    /// Opens the streams to the `shards` other shards and then to the coordinator, and waits until every
    /// server has admitted this worker. The coordinator must send something at least every `silence`.
    pub(crate) async fn open(
        &self,
        ours: v1::Fingerprints,
        shape: Shape,
        shards: u32,
        silence: Duration,
    ) -> Result<Session, CallFailure> {
        let connection = self.server.connect(&self.security).await?;
        let (sender, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        let (leaving, left) = watch::channel(false);
        let sink = StreamSink { sender, left };
        let mut tasks = JoinSet::new();
        let mut others = Vec::new();
        if shards > 0 {
            let reply = answer(service(connection.clone()).shards(v1::ShardsRequest {})).await?.into_inner();
            let addresses = convert::shard_addresses(reply, shape.parameters).map_err(refused)?;
            // If there are fewer chunks than shards, the last shards keep nothing and need no stream.
            for (index, address, kept) in addresses.into_iter().filter(|(_, _, kept)| !kept.is_empty()) {
                let (opened, sender) = match &self.local_shard {
                    Some(shard) if shard.index() == index => {
                        self.connect_local(shard, &ours, shape, &sink, &mut tasks).await?
                    }
                    _ => {
                        let unreachable = |why| CallFailure::Refused(format!("shard at {address}: {why}"));
                        let address = self.security.address(&address).map_err(unreachable)?;
                        let connection = address.connect(&self.security).await?;
                        self.greet(connection, &ours, shape, &sink, &mut tasks, None).await?
                    }
                };
                if opened.1 != kept {
                    // Shards may have been reassigned since the coordinator was asked.
                    let what =
                        format!("shard {index} holds {:?}, but its coordinator announced {kept:?}", opened.1);
                    return Err(CallFailure::Transient(what));
                }
                others.push(Link { kept, sender });
            }
        }
        // The coordinator comes last: once it has admitted this worker, it may assign leaves, whose sums
        // every shard must be able to receive.
        let ((worker, kept), sender) =
            self.greet(connection, &ours, shape, &sink, &mut tasks, Some(silence)).await?;
        debug!(server = %self.server, shards, "admitted by the server and all shards");
        let mut links = vec![Link { kept, sender }];
        links.append(&mut others);
        Ok(Session { worker, links, events, tasks, leaving })
    }

    /// Opens one stream, greets, and waits for the admission. Meanwhile the coordinator must not be silent
    /// for longer than `silence`; messages from shards do not count.
    async fn greet(
        &self,
        mut connection: Connection,
        ours: &v1::Fingerprints,
        shape: Shape,
        sink: &StreamSink,
        tasks: &mut JoinSet<()>,
        silence: Option<Duration>,
    ) -> Result<(Admission, mpsc::Sender<Item>), CallFailure> {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_ITEMS);
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_name: self.name.clone(),
            build: BUILD.into(),
            fingerprints: Some(ours.clone()),
        };
        let first = FromWorker { message: Some(Message::Hello(hello)) };
        let queue = SendQueue::new(receiver, Some(first));
        let call = async {
            stream::call(&mut connection, stream::ROUNDS_PATH, stream::body(queue, Side::Client)).await
        };
        let mut reader = Reader::<v1::FromServer>::new(answer(call).await?);
        let admission = admission(answer(reader.message()).await?, &shape)?;
        let mut sink = sink.clone();
        tasks.spawn(async move {
            loop {
                // The limit concerns only the coordinator's stream. A message from a shard says nothing about
                // the way to the coordinator, which may be dead while shards still answer.
                let received = match silence {
                    Some(silence) => timeout(silence, reader.message()).await.map_err(|_| silence),
                    None => Ok(reader.message().await),
                };
                let event = match received {
                    Ok(Ok(Some(message))) => match convert::server_message(message, &shape) {
                        Ok(message) => StreamEvent::Message(message),
                        Err(invalid) => StreamEvent::Invalid(invalid.to_string()),
                    },
                    Ok(Ok(None)) => {
                        StreamEvent::Ended(CallFailure::Transient("the server closed the stream".into()))
                    }
                    Ok(Err(status)) => StreamEvent::Ended(classify(&status)),
                    Err(silence) => StreamEvent::Ended(CallFailure::Transient(format!(
                        "no message from the server for {} ms",
                        silence.as_millis()
                    ))),
                };
                let is_last = !matches!(event, StreamEvent::Message(_));
                if is_last && silence.is_none() {
                    // When a run is over, a shard often closes its stream first; the coordinator sends the
                    // reason.
                    sink.wait_for_reason().await;
                }
                if sink.sender.send(event).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok((admission, sender))
    }

    /// Connects to the shard in this process: messages are passed on in memory, and tensors are not copied.
    async fn connect_local(
        &self,
        shard: &Shard,
        ours: &v1::Fingerprints,
        shape: Shape,
        sink: &StreamSink,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Admission, mpsc::Sender<Item>), CallFailure> {
        let greeting = Greeting { name: self.name.clone(), build: BUILD.into(), fingerprints: ours.clone() };
        let mut local = shard.connect(greeting).await.map_err(CallFailure::Transient)?;
        let first = local.messages.next().await.and_then(Result::ok);
        let admission = admission(first, &shape)?;
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_ITEMS);
        let mut queue = SendQueue::new(receiver, None);
        let mut sink = sink.clone();
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    message = queue.next() => match message {
                        Some(Ok(message)) => {
                            // The shard needs only sums; heartbeats are for the coordinator.
                            let message = convert::worker_message(message, &shape);
                            if let Ok(sum @ (WorkerMessage::NodeMetrics(_) | WorkerMessage::Node(_))) = message {
                                local.push(sum).await;
                            }
                        }
                        _ => return,
                    },
                    message = local.messages.next() => {
                        let event = match message {
                            Some(Ok(message)) => match convert::server_message(message, &shape) {
                                Ok(message) => StreamEvent::Message(message),
                                Err(invalid) => StreamEvent::Invalid(invalid.to_string()),
                            },
                            _ => {
                                sink.wait_for_reason().await;
                                StreamEvent::Ended(CallFailure::Transient("the shard of this process has ended".into()))
                            }
                        };
                        if sink.sender.send(event).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok((admission, sender))
    }
}

/// The id of this worker, and the elements that the server keeps.
type Admission = (WorkerId, Range<usize>);

fn admission(first: Option<v1::FromServer>, shape: &Shape) -> Result<Admission, CallFailure> {
    let first =
        first.ok_or_else(|| CallFailure::Transient("the server closed the stream immediately".into()))?;
    match convert::server_message(first, shape) {
        Ok(ServerMessage::Admitted(worker, kept)) => Ok((worker, kept)),
        Ok(_) => Err(CallFailure::Refused("the server's first message does not admit this worker".into())),
        Err(invalid) => Err(refused(invalid)),
    }
}

fn refused(invalid: InvalidMessage) -> CallFailure {
    CallFailure::Refused(invalid.to_string())
}

pub(crate) fn service(connection: Connection) -> ParameterServerClient<Connection> {
    ParameterServerClient::new(connection)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Waits for an answer until the timeout, and classifies its absence.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, CallFailure> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|status| classify(&status)),
        Err(_) => Err(CallFailure::Transient(format!(
            "connected, but no answer within {} s: the server is still starting, or is not a Downhill server",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}
