//! The gRPC client: asking what the run is, opening the stream of the rounds.

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

/// Messages from all servers that wait for the driver; more stop the reading.
const WAITING_WORDS: usize = 16;

/// Items that wait for the connection: a few nodes, each in a part for each layer, and heartbeats; more means that the
/// server reads nothing.
const WAITING_ITEMS: usize = 1024;

/// How long after a shard has gone its coordinator may still say why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Where the server is and who we are.
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
    /// What all of them say, until one ends.
    pub said: mpsc::Receiver<Said>,
    /// What reads them; it ends when this is dropped.
    pub tasks: JoinSet<()>,
    /// Set once we leave: no last word is waited for then.
    pub leaving: watch::Sender<bool>,
}

/// The way to one server; the first is the one that hands out work.
pub(crate) struct Link {
    /// The elements that it keeps.
    pub kept: Range<usize>,
    pub sender: mpsc::Sender<Item>,
}

/// What came of a link.
pub(crate) enum Said {
    Message(ServerMessage),
    /// The server said what cannot be right.
    Nonsense(String),
    /// A stream has ended.
    Ended(Verdict),
}

/// Who listens to what the servers say.
#[derive(Clone)]
struct Ear {
    saying: mpsc::Sender<Said>,
    left: watch::Receiver<bool>,
}

impl Ear {
    /// A shard is gone: leaves whoever hands out work the time to say why, unless we know.
    async fn last_word(&mut self) {
        let _ = timeout(LAST_WORD, self.left.wait_for(|&left| left)).await;
    }
}

impl Client {
    /// For a server at `HOST:PORT` or `unix:PATH`; all connections, to it and to shards, are protected by `security`.
    pub(crate) fn new(server: &str, name: &str, security: &Security) -> Result<Self, WorkerError> {
        let wrong = |problem| WorkerError::Address { given: server.into(), problem };
        let address = security.address(server).map_err(wrong)?;
        Ok(Client { server: address, security: security.clone(), name: name.into(), own: None })
    }

    /// With a shard in this process.
    pub(crate) fn beside(self, shard: Arc<Shard>) -> Self {
        Client { own: Some(shard), ..self }
    }

    /// A connection to the server.
    pub(crate) async fn connect(&self) -> Result<Connection, Verdict> {
        Ok(self.server.connect(&self.security).await?)
    }

    /// Asks what the run is.
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

    /// Opens the streams, to all shards first, and waits until we are admitted everywhere. `shards` is how many
    /// others there are. Whoever hands out work says something within `silence`.
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
                    // Shards may have changed places since the coordinator was asked.
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

    /// Opens one stream, greets, and waits until we are admitted. Whoever hands out work must not be silent for longer than
    /// `silence`: what shards say meanwhile does not make up for that.
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
                    // A shard is often the first to go when a run is over; whoever hands out work says so.
                    ear.last_word().await;
                }
                if ear.saying.send(said).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok((admission, sender))
    }

    /// Takes part in the shard of this process: messages are handed over, tensors stay where they are.
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
                            // The shard wants sums and nothing else; heartbeats are for the coordinator.
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

/// Our id, and what the server keeps.
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

/// An answer in time, or what its absence means.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Verdict> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|status| verdict(&status)),
        Err(_) => Err(Verdict::Passing(format!(
            "connected, but no answer within {} s: the server is still starting, or it is no Downhill server",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}
