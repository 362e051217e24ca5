//! The gRPC client: asks for the run and opens the streams of the rounds.

use crate::outgoing::{Item, Outgoing};
use crate::{BUILD, WorkerError};
use ps_coord::WorkerId;
use ps_core::NUMERICS_VERSION;
use ps_net::limits::CALL_TIMEOUT;
use ps_net::{Address, Connection, Security};
use ps_proto::Nonsense;
use ps_proto::convert::{self, Greeting, Invitation, ServerMessage, Shape, WorkerMessage};
use ps_proto::limits::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use ps_proto::status::{Verdict, verdict};
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
const WAITING_WORDS: usize = 16;

/// Bound of the queue to one connection: a few nodes, each in one part per layer, and heartbeats. If it is
/// full, the server reads nothing.
const WAITING_ITEMS: usize = 1024;

/// How long to wait for the coordinator's reason after a shard has closed its stream.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The address of the server and the identity of this worker.
#[derive(Clone)]
pub(crate) struct Client {
    server: Address,
    security: Security,
    name: String,
    /// The shard in this process, if there is one.
    own: Option<Arc<Shard>>,
}

/// The open streams of a worker: to the coordinator, and to every other shard.
pub(crate) struct Session {
    pub worker: WorkerId,
    pub links: Vec<Link>,
    /// Messages from all servers, until a stream ends.
    pub said: mpsc::Receiver<Said>,
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
pub(crate) enum Said {
    Message(ServerMessage),
    /// The server sent an invalid message; holds what was wrong.
    Nonsense(String),
    /// A stream has ended.
    Ended(Verdict),
}

/// The receiving end of the servers' messages, as the reading tasks use it.
#[derive(Clone)]
struct Ear {
    saying: mpsc::Sender<Said>,
    left: watch::Receiver<bool>,
}

impl Ear {
    /// A shard's stream has ended: waits, unless this worker is leaving, so that the coordinator can send
    /// the reason first.
    async fn last_word(&mut self) {
        let _ = timeout(LAST_WORD, self.left.wait_for(|&left| left)).await;
    }
}

impl Client {
    /// Creates a client for a server at `HOST:PORT` or `unix:PATH`. `security` protects all connections, to
    /// it and to shards.
    pub(crate) fn new(server: &str, name: &str, security: &Security) -> Result<Self, WorkerError> {
        let wrong = |problem| WorkerError::Address { given: server.into(), problem };
        let address = security.address(server).map_err(wrong)?;
        Ok(Client { server: address, security: security.clone(), name: name.into(), own: None })
    }

    /// Adds a shard in this process.
    pub(crate) fn beside(self, shard: Arc<Shard>) -> Self {
        Client { own: Some(shard), ..self }
    }

    /// Opens a connection to the server.
    pub(crate) async fn connect(&self) -> Result<Connection, Verdict> {
        Ok(self.server.connect(&self.security).await?)
    }

    /// Asks for the run file and the settings of the run.
    pub(crate) async fn join(&self) -> Result<Invitation, Verdict> {
        let mut client = service(self.server.connect(&self.security).await?);
        let request = v1::JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            worker_name: self.name.clone(),
            build: BUILD.into(),
            numerics_version: NUMERICS_VERSION,
        };
        let reply = answer(client.join(request)).await?;
        convert::invitation(reply.into_inner()).map_err(|nonsense| Verdict::Mismatch(nonsense.to_string()))
    }

    /// Opens the streams to the `shards` other shards and then to the coordinator, and waits until every
    /// server has admitted this worker. The coordinator must send something at least every `silence`.
    pub(crate) async fn open(
        &self,
        ours: v1::Fingerprints,
        shape: Shape,
        shards: u32,
        silence: Duration,
    ) -> Result<Session, Verdict> {
        let connection = self.server.connect(&self.security).await?;
        let (saying, said) = mpsc::channel(WAITING_WORDS);
        let (leaving, left) = watch::channel(false);
        let ear = Ear { saying, left };
        let mut tasks = JoinSet::new();
        let mut others = Vec::new();
        if shards > 0 {
            let reply = answer(service(connection.clone()).shards(v1::ShardsRequest {})).await?.into_inner();
            let places = convert::places(reply, shape.parameters).map_err(refused)?;
            for (index, address, kept) in places.into_iter().filter(|(_, _, kept)| !kept.is_empty()) {
                let (opened, sender) = match &self.own {
                    Some(shard) if shard.index() == index => {
                        self.enter(shard, &ours, shape, &ear, &mut tasks).await?
                    }
                    _ => {
                        let unreachable = |why| Verdict::Refused(format!("shard at {address}: {why}"));
                        let address = self.security.address(&address).map_err(unreachable)?;
                        let connection = address.connect(&self.security).await?;
                        self.greet(connection, &ours, shape, &ear, &mut tasks, None).await?
                    }
                };
                if opened.1 != kept {
                    // Shards may have been reassigned since the coordinator was asked.
                    let what = format!("shard {index} keeps {:?}, its coordinator said {kept:?}", opened.1);
                    return Err(Verdict::Passing(what));
                }
                others.push(Link { kept, sender });
            }
        }
        let ((worker, kept), sender) =
            self.greet(connection, &ours, shape, &ear, &mut tasks, Some(silence)).await?;
        debug!(server = %self.server, shards, "admitted everywhere");
        let mut links = vec![Link { kept, sender }];
        links.append(&mut others);
        Ok(Session { worker, links, said, tasks, leaving })
    }

    /// Opens one stream, greets, and waits for the admission. Meanwhile the coordinator must not be silent
    /// for longer than `silence`; messages from shards do not count.
    async fn greet(
        &self,
        mut connection: Connection,
        ours: &v1::Fingerprints,
        shape: Shape,
        ear: &Ear,
        tasks: &mut JoinSet<()>,
        silence: Option<Duration>,
    ) -> Result<(Admission, mpsc::Sender<Item>), Verdict> {
        let (sender, receiver) = mpsc::channel(WAITING_ITEMS);
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_name: self.name.clone(),
            build: BUILD.into(),
            fingerprints: Some(ours.clone()),
        };
        let first = FromWorker { message: Some(Message::Hello(hello)) };
        let outgoing = Outgoing::new(receiver, Some(first));
        let call = async {
            stream::call(&mut connection, stream::ROUNDS_PATH, stream::body(outgoing, Side::Client)).await
        };
        let mut reader = Reader::<v1::FromServer>::new(answer(call).await?);
        let admission = admission(answer(reader.message()).await?, &shape)?;
        let mut ear = ear.clone();
        tasks.spawn(async move {
            loop {
                let heard = match silence {
                    Some(silence) => timeout(silence, reader.message()).await.map_err(|_| silence),
                    None => Ok(reader.message().await),
                };
                let said = match heard {
                    Ok(Ok(Some(message))) => match convert::server_message(message, &shape) {
                        Ok(message) => Said::Message(message),
                        Err(nonsense) => Said::Nonsense(nonsense.to_string()),
                    },
                    Ok(Ok(None)) => Said::Ended(Verdict::Passing("the server closed the stream".into())),
                    Ok(Err(status)) => Said::Ended(verdict(&status)),
                    Err(silence) => Said::Ended(Verdict::Passing(format!(
                        "nothing heard from the server for {} ms",
                        silence.as_millis()
                    ))),
                };
                let is_last = !matches!(said, Said::Message(_));
                if is_last && silence.is_none() {
                    // When a run is over, a shard often closes its stream first; the coordinator sends the
                    // reason.
                    ear.last_word().await;
                }
                if ear.saying.send(said).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok((admission, sender))
    }

    /// Connects to the shard in this process: messages are passed on in memory, and tensors are not copied.
    async fn enter(
        &self,
        shard: &Shard,
        ours: &v1::Fingerprints,
        shape: Shape,
        ear: &Ear,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Admission, mpsc::Sender<Item>), Verdict> {
        let greeting = Greeting { name: self.name.clone(), build: BUILD.into(), fingerprints: ours.clone() };
        let mut inside = shard.enter(greeting).await.map_err(Verdict::Passing)?;
        let first = inside.messages.next().await.and_then(Result::ok);
        let admission = admission(first, &shape)?;
        let (sender, receiver) = mpsc::channel(WAITING_ITEMS);
        let mut outgoing = Outgoing::new(receiver, None);
        let mut ear = ear.clone();
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    message = outgoing.next() => match message {
                        Some(Ok(message)) => {
                            // The shard needs only sums; heartbeats are for the coordinator.
                            let message = convert::worker_message(message, &shape);
                            if let Ok(sum @ (WorkerMessage::NodeMetrics(_) | WorkerMessage::Node(_))) = message {
                                inside.push(sum).await;
                            }
                        }
                        _ => return,
                    },
                    message = inside.messages.next() => {
                        let said = match message {
                            Some(Ok(message)) => match convert::server_message(message, &shape) {
                                Ok(message) => Said::Message(message),
                                Err(nonsense) => Said::Nonsense(nonsense.to_string()),
                            },
                            _ => {
                                ear.last_word().await;
                                Said::Ended(Verdict::Passing("the shard of this process has ended".into()))
                            }
                        };
                        if ear.saying.send(said).await.is_err() {
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

fn admission(first: Option<v1::FromServer>, shape: &Shape) -> Result<Admission, Verdict> {
    let first = first.ok_or_else(|| Verdict::Passing("the server closed the stream at once".into()))?;
    match convert::server_message(first, shape) {
        Ok(ServerMessage::Admitted(worker, kept)) => Ok((worker, kept)),
        Ok(_) => Err(Verdict::Refused("the server's first message does not admit us".into())),
        Err(nonsense) => Err(refused(nonsense)),
    }
}

fn refused(nonsense: Nonsense) -> Verdict {
    Verdict::Refused(nonsense.to_string())
}

pub(crate) fn service(connection: Connection) -> ParameterServerClient<Connection> {
    ParameterServerClient::new(connection)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Waits for an answer until the timeout, and classifies its absence.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Verdict> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|status| verdict(&status)),
        Err(_) => Err(Verdict::Passing(format!(
            "connected, but no answer within {} s: the server is still starting, or it is no Downhill server",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}
