//! Requests to events: admission, and one reading task for each worker.

use crate::driver::{Incoming, Peer};
use crate::outbox::{self, Outgoing, Weights};
use ps_coord::{Departure, WorkerId};
use ps_proto::convert::{self, Shape, WorkerMessage};
use ps_proto::limits::{HELLO_TIMEOUT, MAX_WORKERS, PROTOCOL_VERSION};
use ps_proto::v1::{self, FromWorker, parameter_server_server::ParameterServer};
use ps_proto::{Refusal, status};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, debug, info, info_span};

/// The gRPC service of one run.
pub(crate) struct Service {
    pub invitation: v1::JoinReply,
    pub expected: v1::Fingerprints,
    pub shape: Shape,
    pub heartbeat: Duration,
    pub inbox: mpsc::Sender<Incoming>,
    places: Arc<Semaphore>,
    next: AtomicU32,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub fn new(
        invitation: v1::JoinReply,
        shape: Shape,
        heartbeat: Duration,
        inbox: mpsc::Sender<Incoming>,
    ) -> Self {
        let expected = invitation.expected.clone().unwrap_or_default();
        let places = Arc::new(Semaphore::new(MAX_WORKERS));
        Service { invitation, expected, shape, heartbeat, inbox, places, next: AtomicU32::new(0) }
    }

    /// Puts a question to the driver.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Incoming) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(question(reply)).await.map_err(|_| Refusal::Ending)?;
        answer.await.map_err(|_| Refusal::Ending.into())
    }

    /// Waits for the greeting and compares what must agree.
    async fn admit(&self, stream: &mut Streaming<FromWorker>) -> Result<convert::Greeting, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, stream.message()).await;
        let first = first.map_err(|_| Refusal::NoHello)??;
        let greeting = convert::first_message(first.unwrap_or_default())?;
        if let Some(differences) = status::differences(&self.expected, &greeting.fingerprints) {
            return Err(Refusal::Differs(differences).into());
        }
        Ok(greeting)
    }
}

#[tonic::async_trait]
impl ParameterServer for Service {
    type RoundsStream = Outgoing;
    type PullWeightsStream = Pin<Box<dyn Stream<Item = Result<v1::WeightsChunk, Status>> + Send>>;

    async fn join(&self, request: Request<v1::JoinRequest>) -> Answer<v1::JoinReply> {
        let address = request.remote_addr();
        let asked = request.into_inner();
        if asked.protocol_version != PROTOCOL_VERSION {
            let build = asked.build.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(Refusal::Protocol { theirs: asked.protocol_version, build }.into());
        }
        let ours = self.expected.numerics;
        if asked.numerics_version != ours {
            return Err(Refusal::Numerics { theirs: asked.numerics_version, ours }.into());
        }
        debug!(?address, name = ?asked.worker_name, "a worker asks what the run is");
        Ok(Response::new(self.invitation.clone()))
    }

    async fn rounds(&self, request: Request<Streaming<FromWorker>>) -> Answer<Outgoing> {
        let address = request.remote_addr();
        let mut stream = request.into_inner();
        let greeting = self.admit(&mut stream).await.inspect_err(|refusal| {
            info!(?address, "worker refused: {}", refusal.message());
        })?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
        let worker = WorkerId(self.next.fetch_add(1, Ordering::Relaxed));
        let (outbox, outgoing) = outbox::channel(self.heartbeat);
        // A new queue has room for one message.
        let _ = outbox.message(convert::admitted(worker, self.shape.parameters));
        let span = info_span!("worker", %worker, name = greeting.name);
        let peer = Peer { name: greeting.name, address, outbox };
        self.inbox.send(Incoming::Joined { worker, peer }).await.map_err(|_| Refusal::Ending)?;
        let inbox = self.inbox.clone();
        tokio::spawn(read(stream, worker, self.shape, inbox, place).instrument(span));
        Ok(Response::new(outgoing))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        self.ask(Incoming::Status).await.map(Response::new)
    }

    async fn pull_weights(&self, _: Request<v1::PullWeightsRequest>) -> Answer<Self::PullWeightsStream> {
        let Weights { version, bytes } = self.ask(Incoming::Weights).await?;
        let chunks = (0..).map_while(move |index| convert::weights_chunk(version, &bytes, index)).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

/// Turns what a worker sends into events until its stream ends. A full inbox stops the reading, which in time
/// stops the sending: no memory is taken for what the driver cannot take.
async fn read(
    mut stream: Streaming<FromWorker>,
    worker: WorkerId,
    shape: Shape,
    inbox: mpsc::Sender<Incoming>,
    _place: OwnedSemaphorePermit,
) {
    let reason = loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break Departure::Disconnected("it closed its stream".into()),
            // A message that is too long or no protobuf is the worker's fault, the rest the network's.
            Err(status) if is_nonsense(&status) => break Departure::Misbehaved(status.message().to_owned()),
            Err(status) => break Departure::Disconnected(status.message().to_owned()),
        };
        match convert::worker_message(message, &shape) {
            Ok(message) => {
                let is_last = matches!(message, WorkerMessage::Goodbye(_));
                if inbox.send(Incoming::Message { worker, message }).await.is_err() || is_last {
                    return;
                }
            }
            Err(nonsense) => break Departure::Misbehaved(nonsense.to_string()),
        }
    };
    debug!(%reason, "stream ended");
    // If the driver is gone, so is the run.
    let _ = inbox.send(Incoming::Left { worker, reason }).await;
}

/// Whether tonic could not decode what the peer sent.
fn is_nonsense(status: &Status) -> bool {
    use tonic::Code;
    let text = status.message();
    matches!(status.code(), Code::OutOfRange)
        || (matches!(status.code(), Code::Internal)
            && (text.contains("decode") || text.contains("compression flag")))
}
