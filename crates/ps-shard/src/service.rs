//! The gRPC service: it turns calls into events for the driver, admits workers, and runs one reading task for
//! each of them.

use crate::admission::{Administrator, PeerInfo};
use crate::outbox::{self, OutboxStream, QueuedMessages};
use crate::peers::Peer;
use crate::requests::{AttachRequest, Incoming, ShardInput};
use ps_coord::{Departure, WorkerId};
use ps_net::limits::{FAREWELL_TIMEOUT, HELLO_TIMEOUT, MAX_PULLS, MAX_WORKERS};
use ps_net::security::Credential;
use ps_proto::convert::{self, Shape, WorkerMessage};
use ps_proto::limits::PROTOCOL_VERSION;
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::{self, FromWorker, parameter_server_server::ParameterServer};
use ps_proto::{Refusal, status};
use std::convert::Infallible;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service as HttpService, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, debug, info, info_span};

/// The gRPC service of one run; clones share it.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    /// The answer to `Join`; a shard has none.
    invitation: Option<v1::JoinReply>,
    expected: v1::Fingerprints,
    shape: Shape,
    /// The elements that this server keeps. They can change for a shard whose coordinator has restarted.
    kept: Mutex<Range<usize>>,
    heartbeat: Duration,
    inbox: mpsc::Sender<Incoming>,
    /// Maximum number of workers.
    workers: usize,
    slots: Arc<Semaphore>,
    pulls: Arc<Semaphore>,
    next: AtomicU32,
}

/// One of the limited slots for workers; dropping it makes room for another worker.
pub struct WorkerSlot {
    /// Completes when the driver drops the worker.
    disconnected: oneshot::Receiver<()>,
    /// The messages that are still queued at that time.
    queued: QueuedMessages,
    _permit: OwnedSemaphorePermit,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Creates the service of a server that keeps the elements `kept`.
    pub fn new(
        invitation: Option<v1::JoinReply>,
        expected: v1::Fingerprints,
        shape: Shape,
        kept: Range<usize>,
        heartbeat: Duration,
        workers: usize,
        inbox: mpsc::Sender<Incoming>,
    ) -> Self {
        let workers = workers.min(MAX_WORKERS);
        let (slots, next) = (Arc::new(Semaphore::new(workers)), AtomicU32::new(0));
        let pulls = Arc::new(Semaphore::new(MAX_PULLS));
        Service(Arc::new(Shared {
            invitation,
            expected,
            shape,
            kept: Mutex::new(kept),
            heartbeat,
            inbox,
            workers,
            slots,
            pulls,
            next,
        }))
    }

    /// Keeps other elements from now on.
    pub(crate) fn keep(&self, kept: Range<usize>) {
        *self.kept() = kept;
    }

    fn kept(&self) -> MutexGuard<'_, Range<usize>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to the driver and waits for the answer.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Incoming) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.0.inbox.send(request(reply)).await.map_err(|_| Refusal::Ending)?;
        answer.await.map_err(|_| Refusal::Ending.into())
    }

    /// Waits for a worker's greeting and compares the fingerprints.
    async fn read_greeting(&self, stream: &mut Reader<FromWorker>) -> Result<convert::Greeting, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, stream.message()).await;
        let first = first.map_err(|_| Refusal::NoHello)??;
        let greeting = convert::first_message(first.unwrap_or_default())?;
        self.compare(&greeting.fingerprints)?;
        Ok(greeting)
    }

    /// Waits for a shard's greeting and compares the fingerprints.
    async fn read_shard_greeting(
        &self,
        stream: &mut Streaming<v1::FromShard>,
    ) -> Result<convert::ShardGreeting, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, stream.message()).await;
        let greeting = convert::shard_greeting(first.map_err(|_| Refusal::NoHello)??.unwrap_or_default())?;
        self.compare(&greeting.fingerprints)?;
        Ok(greeting)
    }

    fn compare(&self, theirs: &v1::Fingerprints) -> Result<(), Refusal> {
        match status::differences(&self.0.expected, theirs) {
            Some(differences) => Err(Refusal::Differs(differences)),
            None => Ok(()),
        }
    }

    /// Admits a worker whose greeting is accepted: reports it to the driver and returns the messages to send.
    pub(crate) async fn admit(
        &self,
        greeting: convert::Greeting,
        address: String,
        credential: Credential,
    ) -> Result<(WorkerId, OutboxStream, WorkerSlot), Status> {
        let full = |_| Refusal::Full { workers: self.0.workers };
        let slot = self.0.slots.clone().try_acquire_owned().map_err(full)?;
        let worker = WorkerId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let parameters = self.0.shape.parameters;
        let (outbox, messages) = outbox::channel(self.0.heartbeat, parameters);
        // A new queue has room for one message.
        let _ = outbox.message(convert::admitted(worker, parameters, self.kept().clone()));
        let (disconnector, disconnected) = oneshot::channel();
        let slot = WorkerSlot { disconnected, queued: outbox.queued(), _permit: slot };
        let peer = Peer {
            name: greeting.name,
            address,
            credential,
            outbox,
            is_served: false,
            _disconnector: disconnector,
        };
        self.0.inbox.send(Incoming::Joined { worker, peer }).await.map_err(|_| Refusal::Ending)?;
        Ok((worker, messages, slot))
    }

    /// Serves the stream of the rounds.
    async fn rounds(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let peer = PeerInfo::of(request.extensions());
        let credential = request.extensions().get::<Credential>().cloned().unwrap_or_default();
        let mut stream = Reader::<FromWorker>::new(request.into_body());
        let refused = |refusal: &Status| peer.refused("worker", refusal.message());
        let greeting = self.read_greeting(&mut stream).await.inspect_err(refused)?;
        let name = greeting.name.clone();
        let admitted = self.admit(greeting, peer.address().to_owned(), credential).await;
        let (worker, messages, slot) = admitted.inspect_err(refused)?;
        let span = info_span!("worker", %worker, name);
        tokio::spawn(read(stream, worker, self.0.shape, self.0.inbox.clone(), slot).instrument(span));
        let mut response = http::Response::new(stream::body(messages, Side::Server));
        let kind = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Ok(response)
    }
}

#[tonic::async_trait]
impl ParameterServer for Service {
    type RoundsStream = Pin<Box<dyn Stream<Item = Result<v1::FromServer, Status>> + Send>>;
    type AttachStream = ReceiverStream<Result<v1::ToShard, Status>>;
    type PullWeightsStream = Pin<Box<dyn Stream<Item = Result<v1::WeightsChunk, Status>> + Send>>;

    async fn join(&self, request: Request<v1::JoinRequest>) -> Answer<v1::JoinReply> {
        let peer = PeerInfo::of(request.extensions());
        let asked = convert::join_request(request.into_inner()).map_err(Refusal::from)?;
        if asked.protocol_version != PROTOCOL_VERSION {
            let (theirs, build) = (asked.protocol_version, asked.build);
            return Err(Refusal::Protocol { theirs, build }.into());
        }
        let ours = self.0.expected.numerics;
        if asked.numerics_version != ours {
            return Err(Refusal::Numerics { theirs: asked.numerics_version, ours }.into());
        }
        debug!(address = peer.address(), name = asked.worker_name, "a worker asks what the run is");
        self.0.invitation.clone().map(Response::new).ok_or_else(|| Refusal::OnlyAShard.into())
    }

    async fn rounds(&self, _: Request<Streaming<FromWorker>>) -> Answer<Self::RoundsStream> {
        Err(Status::internal("the stream of the rounds is served by RoundsRouter"))
    }

    async fn shards(&self, _: Request<v1::ShardsRequest>) -> Answer<v1::ShardsReply> {
        self.ask(Incoming::ShardAddresses).await?.map(Response::new).map_err(Status::from)
    }

    async fn attach(&self, request: Request<Streaming<v1::FromShard>>) -> Answer<Self::AttachStream> {
        let peer = PeerInfo::of(request.extensions());
        let mut stream = request.into_inner();
        let greeting = self.read_shard_greeting(&mut stream).await;
        let greeting = greeting.inspect_err(|refusal| peer.refused("shard", refusal.message()))?;
        let service = self.clone();
        let (reply, admission) = oneshot::channel();
        // In a separate task: the call's future is dropped when its connection ends, but the driver must hear
        // of the end of every shard that it admitted, or the shard's number would never be vacant again.
        tokio::spawn(async move {
            let ask = |reply| Incoming::Attach(AttachRequest { greeting, reply });
            let answer = service.ask(ask).await.and_then(|answer| answer.map_err(Status::from));
            let (index, kept, outgoing) = match answer {
                Ok(answer) => answer,
                Err(refusal) => {
                    peer.refused("shard", refusal.message());
                    let _ = reply.send(Err(refusal));
                    return;
                }
            };
            // If the call has ended, so does the stream.
            let _ = reply.send(Ok(outgoing));
            let Shared { inbox, shape, .. } = &*service.0;
            let end = loop {
                let message = match stream.message().await {
                    Ok(Some(message)) => message,
                    Ok(None) => break "it closed its stream".to_owned(),
                    Err(status) => break status.message().to_owned(),
                };
                match convert::shard_message(message, shape, &kept) {
                    Ok(message) => {
                        let input = ShardInput::Message(message);
                        if inbox.send(Incoming::Shard { index, input }).await.is_err() {
                            return;
                        }
                    }
                    Err(invalid) => break invalid.to_string(),
                }
            };
            // If the driver is gone, so is the run.
            let _ = inbox.send(Incoming::Shard { index, input: ShardInput::Gone(end) }).await;
        });
        let outgoing = admission.await.map_err(|_| Refusal::Ending)??;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        self.ask(Incoming::Status).await.map(Response::new)
    }

    async fn checkpoint(&self, _: Request<v1::CheckpointRequest>) -> Answer<v1::CheckpointReply> {
        let version = self.ask(Incoming::Checkpoint).await??;
        Ok(Response::new(v1::CheckpointReply { version }))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Answer<v1::StopReply> {
        let peer = PeerInfo::of(request.extensions());
        if request.extensions().get::<Administrator>().is_none() {
            peer.refused("call to end the run", "the caller is not an administrator");
            return Err(Refusal::NotAdmin.into());
        }
        info!(caller = peer.address(), "asked to end the run");
        let version = self.ask(Incoming::End).await??;
        Ok(Response::new(v1::StopReply { version }))
    }

    async fn pull_weights(&self, _: Request<v1::PullWeightsRequest>) -> Answer<Self::PullWeightsStream> {
        let pull = self.0.pulls.clone().try_acquire_owned().map_err(|_| Refusal::TooManyPulls)?;
        let (version, parts) = self.ask(Incoming::Weights).await?;
        let total = self.0.shape.parameters;
        let chunks = parts.into_iter().map(move |(at, bytes)| {
            // Moved into the closure, so that the permit lives as long as the stream.
            let _ = &pull;
            Ok(convert::weights_chunk(version, at, total, bytes))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

/// The service as HTTP: the stream of the rounds is framed by this crate to avoid copies, everything
/// else by tonic.
#[derive(Clone)]
pub(crate) struct RoundsRouter<S> {
    pub service: Service,
    pub rest: S,
}

impl<S: NamedService> NamedService for RoundsRouter<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> HttpService<http::Request<Body>> for RoundsRouter<S>
where
    S: HttpService<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.rest.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != stream::ROUNDS_PATH {
            return Box::pin(self.rest.call(request));
        }
        let service = self.service.clone();
        Box::pin(async move { Ok(service.rounds(request).await.unwrap_or_else(Status::into_http)) })
    }
}

/// Turns a worker's messages into events until its stream ends. A full inbox stops the reading, and flow
/// control then stops the sender, so no memory is spent on messages that the driver cannot take yet. A worker
/// that was sent away has a moment to close its stream; then its slot is free, even if it still sends or
/// does not read.
async fn read(
    mut stream: Reader<FromWorker>,
    worker: WorkerId,
    shape: Shape,
    inbox: mpsc::Sender<Incoming>,
    mut slot: WorkerSlot,
) {
    let reason = loop {
        let message = tokio::select! {
            // The dismissal comes first, because a worker that was sent away may go on sending without end.
            biased;
            _ = &mut slot.disconnected => return drain_dismissed(stream, slot).await,
            message = stream.message() => message,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => break Departure::Disconnected("it closed its stream".into()),
            // A message that is too long or cannot be decoded is the worker's fault; other errors are the
            // network's.
            Err(status) if is_undecodable(&status) => {
                break Departure::Misbehaved(status.message().to_owned());
            }
            Err(status) => break Departure::Disconnected(status.message().to_owned()),
        };
        match convert::worker_message(message, &shape) {
            Ok(message) => {
                let is_last = matches!(message, WorkerMessage::Goodbye(_));
                // The driver removes the worker when it handles the goodbye, so no `Left` follows.
                if inbox.send(Incoming::Message { worker, message }).await.is_err() || is_last {
                    return;
                }
            }
            Err(invalid) => break Departure::Misbehaved(invalid.to_string()),
        }
    };
    debug!(%reason, "stream ended");
    // If the driver is gone, so is the run.
    let _ = inbox.send(Incoming::Left { worker, reason }).await;
}

/// Keeps reading for a moment, because closing the connection at once could reset it before the worker has
/// read its dismissal.
async fn drain_dismissed(mut stream: Reader<FromWorker>, slot: WorkerSlot) {
    let leave = async { while let Ok(Some(_)) = stream.message().await {} };
    if tokio::time::timeout(FAREWELL_TIMEOUT, leave).await.is_err() {
        debug!("the dismissed worker has not disconnected; its messages are ignored");
    }
    slot.queued.discard();
}

/// Whether a message of the peer could not be decoded.
fn is_undecodable(status: &Status) -> bool {
    use tonic::Code;
    let text = status.message();
    // Errors of the connection are `Internal` as well, so only the text tells a malformed message from a
    // broken connection.
    matches!(status.code(), Code::OutOfRange)
        || (matches!(status.code(), Code::Internal)
            && (text.contains("decode") || text.contains("compression flag")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Frame;
    use ps_core::Precision;
    use ps_plan::BatchPlan;
    use tokio_stream::StreamExt;

    /// A body that stays open and sends nothing.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dismissed_worker_that_keeps_its_stream_open_loses_its_slot() {
        let plan = BatchPlan::new(1, 8, 8, 4, 1, None);
        let shape = Shape { plan, parameters: 3, classes: 0, weights: Precision::F32 };
        let slots = Arc::new(Semaphore::new(1));
        let (inbox, _events) = mpsc::channel(1);
        let (outbox, mut outgoing) = outbox::channel(Duration::from_secs(1), 3);
        outbox.message(convert::admitted(WorkerId(0), 3, 0..3)).unwrap();
        let (disconnector, disconnected) = oneshot::channel();
        let permit = slots.clone().try_acquire_owned().unwrap();
        let slot = WorkerSlot { disconnected, queued: outbox.queued(), _permit: permit };
        let stream = Reader::<FromWorker>::new(Body::new(Silent));
        let reading = tokio::spawn(read(stream, WorkerId(0), shape, inbox, slot));
        tokio::task::yield_now().await;
        assert_eq!(slots.available_permits(), 0);
        // The driver drops the worker.
        drop((outbox, disconnector));
        tokio::time::timeout(2 * FAREWELL_TIMEOUT, reading).await.unwrap().unwrap();
        assert_eq!(slots.available_permits(), 1);
        // Its unread messages are dropped.
        assert!(outgoing.next().await.is_none());
    }
}
