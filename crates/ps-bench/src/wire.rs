//! Sockets of this machine, bare and with the stream of the rounds on them.

use crate::raw::Way;
use crate::{Bench, Entrant, Error, Measurement, race};
use ps_core::Node;
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::{FromServer, FromWorker, Heartbeat, from_server, from_worker};
use ps_proto::{Address, Listener, convert, tensor};
use ps_server::transport;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;

/// Bytes of a message that goes to and fro.
const PING_BYTES: usize = 64;

/// Bytes that are written at once.
const BLOCK_BYTES: usize = 1 << 20;

pub(crate) fn measure(bench: &mut Bench) -> Result<(), Error> {
    for (what, unit) in [("latency", "us"), ("bandwidth", "GB/s")] {
        let names: Vec<[String; 2]> = Way::ALL
            .iter()
            .map(|way| {
                let ours = if *way == Way::Tcp { "grpc".to_owned() } else { format!("grpc-{}", way.name()) };
                [way.name(), &ours].map(|way| format!("wire/{way}/{what}"))
            })
            .collect();
        if !names.iter().flatten().any(|name| bench.wants(name)) {
            continue;
        }
        let bytes = bench.effort().pick(128, 16) << 20;
        let failed = |why: &dyn std::fmt::Display| Error::failed(&format!("the wire's {what}"), why);
        let mut entrants = Vec::new();
        for (way, [bare, ours]) in Way::ALL.iter().zip(&names) {
            let ends = (|| {
                Ok((Bare::new(*way, if what == "latency" { PING_BYTES } else { bytes })?, Stream::new(*way)?))
            })();
            let (mut socket, mut stream) = ends.map_err(|error: io::Error| failed(&error))?;
            entrants.push(Entrant::new(bare, move || socket.there_and_back()));
            let bytes = if what == "latency" { 0 } else { bytes };
            entrants.push(Entrant::new(ours, move || stream.there_and_back(bytes)));
        }
        let times = race(&mut entrants, bench.effort());
        drop(entrants);
        for ([bare, ours], times) in names.iter().zip(times.chunks(2)) {
            let [other, own] = [times[0], times[1]].map(|time| match what {
                "latency" => time / 2.0 * 1e6,
                _ => bytes as f64 / time / 1e9,
            });
            bench.tell(Measurement::new(bare, other, unit))?;
            bench.tell(Measurement::new(ours, own, unit).against(bare, other))?;
        }
    }
    Ok(())
}

/// A bare socket; a thread at its other end.
struct Bare {
    socket: Box<dyn crate::raw::Socket>,
    bytes: usize,
    block: Vec<u8>,
}

impl Bare {
    /// Sends `bytes` bytes, of which the other end sends back the last [`PING_BYTES`].
    fn new(way: Way, bytes: usize) -> io::Result<Self> {
        let [near, mut far] = way.pair()?;
        std::thread::spawn(move || {
            let mut block = vec![0; BLOCK_BYTES.min(bytes)];
            loop {
                for _ in 0..bytes / block.len() {
                    // The near end has gone.
                    if far.read_exact(&mut block).is_err() {
                        return;
                    }
                }
                if far.write_all(&block[..PING_BYTES]).is_err() {
                    return;
                }
            }
        });
        Ok(Bare { socket: near, bytes, block: vec![1; BLOCK_BYTES.min(bytes)] })
    }

    fn there_and_back(&mut self) {
        for _ in 0..self.bytes / self.block.len() {
            self.socket.write_all(&self.block).expect("the other end reads");
        }
        self.socket.read_exact(&mut self.block[..PING_BYTES]).expect("the other end writes");
    }
}

/// Our stream; its other end counts nothing and answers heartbeats.
struct Stream {
    runtime: Runtime,
    sender: mpsc::Sender<Result<FromWorker, Status>>,
    reader: Reader<FromServer>,
    gradient: bytes::Bytes,
    /// The socket's file, if it has one.
    _folder: tempfile::TempDir,
    _close: oneshot::Sender<()>,
}

impl Stream {
    fn new(way: Way) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let listener = Listener::bind(&address(way, folder.path()))?;
        let address = listener.address()?;
        let (close, closing) = oneshot::channel::<()>();
        let router = transport::builder().add_service(Echo);
        let far = transport::runtime()?;
        std::thread::spawn(move || {
            far.block_on(async {
                let closed = async { drop(closing.await) };
                if let Ok(serving) = transport::serve(router, listener, closed) {
                    // An error shows at the near end.
                    let _ = serving.await;
                }
            });
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, receiver) = mpsc::channel(4);
        let body = runtime.block_on(async {
            let mut channel = address.connect().await.map_err(io::Error::other)?;
            let body = stream::body(ReceiverStream::new(receiver), Side::Client);
            stream::call(&mut channel, stream::ROUNDS_PATH, body).await.map_err(io::Error::other)
        })?;
        let gradient = tensor::share(vec![1.0; BLOCK_BYTES / 4 * 8]);
        Ok(Stream { runtime, sender, reader: Reader::new(body), gradient, _folder: folder, _close: close })
    }

    /// Sends `bytes` bytes of chunks and a heartbeat, and waits for that to be answered.
    fn there_and_back(&mut self, bytes: usize) {
        let Stream { runtime, sender, reader, gradient, .. } = self;
        runtime.block_on(async {
            for _ in 0..bytes / gradient.len() {
                for chunk in convert::node_chunks(0, Node::leaf(0), gradient.clone(), 0..gradient.len() / 4) {
                    sender.send(Ok(chunk)).await.expect("the connection stands");
                }
            }
            let message = Some(from_worker::Message::Heartbeat(Heartbeat {}));
            sender.send(Ok(FromWorker { message })).await.expect("the connection stands");
            reader.message().await.expect("the other end answers").expect("the stream goes on");
        });
    }
}

/// A free address.
pub(crate) fn address(way: Way, folder: &std::path::Path) -> Address {
    match way {
        Way::Tcp => Address::Tcp("127.0.0.1:0".into()),
        #[cfg(unix)]
        Way::Unix => Address::Unix(folder.join("socket")),
    }
}

/// Answers each heartbeat with one; chunks are read and dropped.
#[derive(Clone)]
struct Echo;

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
        tokio::spawn(async move {
            let mut reader = Reader::<FromWorker>::new(request.into_body());
            while let Ok(Some(message)) = reader.message().await {
                let is_heartbeat = matches!(message.message, Some(from_worker::Message::Heartbeat(_)));
                let answer = FromServer { message: Some(from_server::Message::Heartbeat(Heartbeat {})) };
                if is_heartbeat && sender.send(Ok(answer)).await.is_err() {
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
