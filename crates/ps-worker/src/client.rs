//! The gRPC client: asking what the run is, opening the stream of the rounds.

use crate::{BUILD, WorkerError};
use ps_core::NUMERICS_VERSION;
use ps_proto::convert::{self, Invitation, ServerMessage, Shape};
use ps_proto::limits;
use ps_proto::status::{Verdict, verdict};
use ps_proto::v1::{self, FromWorker, from_worker::Message, parameter_server_client::ParameterServerClient};
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Messages that wait for the connection: a few nodes and heartbeats; more means that the server reads
/// nothing.
const WAITING_MESSAGES: usize = 256;

/// Where the server is and who we are.
#[derive(Clone)]
pub(crate) struct Client {
    endpoint: Endpoint,
    name: String,
}

/// An open stream of rounds.
pub(crate) struct Connection {
    pub worker: ps_coord::WorkerId,
    pub sender: mpsc::Sender<Item>,
    pub stream: Streaming<v1::FromServer>,
}

/// What goes to the server.
pub(crate) enum Item {
    /// One message.
    Message(Message),
    /// The chunks of one node.
    Node(Box<dyn Iterator<Item = FromWorker> + Send>),
}

impl Client {
    /// For a server at `HOST:PORT`.
    pub fn new(server: &str, name: &str) -> Result<Self, WorkerError> {
        let wrong = |problem: &str| WorkerError::Address { given: server.into(), problem: problem.into() };
        let address = server.strip_prefix("http://").unwrap_or(server).trim_end_matches('/');
        if address.contains("://") {
            return Err(wrong("only plain http is spoken"));
        }
        let port = address.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?.1;
        port.parse::<u16>().map_err(|_| wrong("the port is not a number up to 65535"))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| wrong(&describe(&error)))?
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .max_frame_size(limits::MAX_FRAME_BYTES)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
            .tcp_nodelay(true);
        Ok(Client { endpoint, name: name.into() })
    }

    /// Asks what the run is.
    pub async fn join(&self) -> Result<Invitation, Verdict> {
        let mut client = self.connect().await?;
        let request = v1::JoinRequest {
            protocol_version: limits::PROTOCOL_VERSION,
            worker_name: self.name.clone(),
            build: BUILD.into(),
            numerics_version: NUMERICS_VERSION,
        };
        let reply = answer(client.join(request)).await?;
        convert::invitation(reply.into_inner()).map_err(|nonsense| Verdict::Mismatch(nonsense.to_string()))
    }

    /// Opens the stream and waits until we are admitted.
    pub async fn open(&self, ours: v1::Fingerprints, shape: Shape) -> Result<Connection, Verdict> {
        let mut client = self.connect().await?;
        let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
        let hello = v1::Hello {
            protocol_version: limits::PROTOCOL_VERSION,
            worker_name: self.name.clone(),
            build: BUILD.into(),
            fingerprints: Some(ours),
        };
        let first = FromWorker { message: Some(Message::Hello(hello)) };
        let outgoing = Outgoing { receiver, hello: Some(first), node: None };
        let mut stream = answer(client.rounds(outgoing)).await?.into_inner();
        let first = answer(stream.message()).await?;
        let first = first.ok_or_else(|| Verdict::Passing("the server closed the stream at once".into()))?;
        match convert::server_message(first, &shape) {
            Ok(ServerMessage::Admitted(worker)) => Ok(Connection { worker, sender, stream }),
            Ok(_) => Err(Verdict::Refused("the server's first message does not admit us".into())),
            Err(nonsense) => Err(Verdict::Refused(nonsense.to_string())),
        }
    }

    async fn connect(&self) -> Result<ParameterServerClient<Channel>, Verdict> {
        let channel = self.endpoint.connect().await.map_err(|error| Verdict::Passing(describe(&error)))?;
        Ok(ParameterServerClient::new(channel)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES))
    }
}

/// An answer in time, or what its absence means.
async fn answer<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Verdict> {
    match timeout(limits::CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|status| verdict(&status)),
        Err(_) => Err(Verdict::Passing(format!(
            "connected, but no answer within {} s: the server is still starting, or it is no Downhill server",
            limits::CALL_TIMEOUT.as_secs()
        ))),
    }
}

/// An error with its causes, each once.
fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// What the connection takes, message by message: a node is cut into chunks as it goes out.
struct Outgoing {
    receiver: mpsc::Receiver<Item>,
    hello: Option<FromWorker>,
    node: Option<Box<dyn Iterator<Item = FromWorker> + Send>>,
}

impl Stream for Outgoing {
    type Item = FromWorker;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FromWorker>> {
        loop {
            if let Some(message) = self.hello.take() {
                return Poll::Ready(Some(message));
            }
            if let Some(chunk) = self.node.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(chunk));
            }
            self.node = None;
            match self.receiver.poll_recv(context) {
                Poll::Ready(Some(Item::Message(message))) => {
                    return Poll::Ready(Some(FromWorker { message: Some(message) }));
                }
                Poll::Ready(Some(Item::Node(node))) => self.node = Some(node),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
