//! Our stream between two threads of this process, through a socket.

use crate::cost::time::thread_seconds;
use crate::raw::Transport;
use bytes::Bytes;
use ps_net::{Address, Listener, Security};
use ps_plan::Node;
use ps_proto::convert;
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::{FromServer, FromWorker, Heartbeat, from_server, from_worker};
use ps_shard::transport::{self, AdmissionConfig};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::service::Routes;

/// The near end of a stream. The far end answers heartbeats.
pub(crate) struct Stream {
    runtime: Runtime,
    sender: mpsc::Sender<Result<FromWorker, Status>>,
    reader: Reader<FromServer>,
    busy: Arc<Busy>,
    /// The folder of the socket file, if the socket has one.
    _folder: tempfile::TempDir,
    _close: oneshot::Sender<()>,
}

/// How the far end handles chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// Chunks are dropped on arrival.
    Drop,
    /// Chunks are kept until a heartbeat, as a server keeps those that it collects.
    Keep,
}

/// The CPU time of the far end's thread at its last answer.
struct Busy {
    begun: Instant,
    ns: AtomicU64,
}

impl Stream {
    /// Opens a stream over a socket of this kind. The far end runs on `far`.
    pub(crate) fn new(transport: Transport, far: Runtime, chunks: Chunks) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let listener = Listener::bind(&address(transport, folder.path()))?;
        let address = listener.address()?;
        let (close, closing) = oneshot::channel::<()>();
        let busy = Arc::new(Busy { begun: Instant::now(), ns: AtomicU64::new(0) });
        let services = Routes::new(Echo { chunks, busy: Arc::clone(&busy) });
        std::thread::spawn(move || {
            far.block_on(async {
                let closed = async { drop(closing.await) };
                if let Ok(serving) = transport::serve(services, listener, &AdmissionConfig::default(), closed)
                {
                    // An error also occurs at the near end, which reports it.
                    let _ = serving.await;
                }
            });
        });
        let runtime = one_thread()?;
        let (sender, receiver) = mpsc::channel(4);
        let body = runtime.block_on(async {
            let line = address.connect(&Security::default()).await;
            let mut line = line.map_err(|verdict| io::Error::other(format!("{verdict:?}")))?;
            let body = stream::body(ReceiverStream::new(receiver), Side::Client);
            stream::call(&mut line, stream::ROUNDS_PATH, body).await.map_err(io::Error::other)
        })?;
        Ok(Stream { runtime, sender, reader: Reader::new(body), busy, _folder: folder, _close: close })
    }

    /// Sends a gradient in chunks, `times` times, followed by a heartbeat, and waits for the answer.
    pub(crate) fn round_trip(&mut self, gradient: &Bytes, times: usize) {
        let Stream { runtime, sender, reader, .. } = self;
        runtime.block_on(async {
            for _ in 0..times {
                for chunk in
                    convert::whole_gradient_chunks(0, Node::leaf(0), gradient.clone(), 0..gradient.len() / 4)
                {
                    sender.send(Ok(chunk)).await.expect("the connection stands");
                }
            }
            let message = Some(from_worker::Message::Heartbeat(Heartbeat {}));
            sender.send(Ok(FromWorker { message })).await.expect("the connection stands");
            reader.message().await.expect("the other end answers").expect("the stream goes on");
        });
    }

    /// Seconds of CPU time of the calling thread and of the far end, whose runtime must have a single thread.
    pub(crate) fn busy(&self) -> [f64; 2] {
        [thread_seconds(self.busy.begun), 1e-9 * self.busy.ns.load(Ordering::Acquire) as f64]
    }
}

/// Creates a runtime like the one on which a worker serves its connections.
pub(crate) fn one_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Returns a free address.
pub(crate) fn address(transport: Transport, folder: &Path) -> Address {
    match transport {
        Transport::Tcp => Address::Tcp("127.0.0.1:0".into()),
        #[cfg(unix)]
        Transport::Unix => Address::Unix(folder.join("socket")),
    }
}

/// A service that answers each heartbeat with another one.
#[derive(Clone)]
struct Echo {
    chunks: Chunks,
    busy: Arc<Busy>,
}

impl NamedService for Echo {
    const NAME: &'static str = "downhill.v1.ParameterServer";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (sender, receiver) = mpsc::channel(4);
        let Echo { chunks, busy } = self.clone();
        tokio::spawn(async move {
            let mut reader = Reader::<FromWorker>::new(request.into_body());
            let mut kept = Vec::new();
            while let Ok(Some(message)) = reader.message().await {
                if !matches!(message.message, Some(from_worker::Message::Heartbeat(_))) {
                    if chunks == Chunks::Keep {
                        kept.push(message);
                    }
                    continue;
                }
                kept.clear();
                // Stored before the answer is sent, so that the near end reads the time of the whole turn.
                busy.ns.store((1e9 * thread_seconds(busy.begun)) as u64, Ordering::Release);
                let answer = FromServer { message: Some(from_server::Message::Heartbeat(Heartbeat {})) };
                if sender.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        let mut response = http::Response::new(stream::body(ReceiverStream::new(receiver), Side::Server));
        let kind = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Box::pin(async { Ok(response) })
    }
}
