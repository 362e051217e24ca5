//! Chunks and small messages through our framing of gRPC, over loopback, one thread at each end.

use crate::threads::runtime;
use crate::time::{Passing, median, thread_seconds};
use ps_core::{Node, Tally};
use ps_proto::limits;
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::{self, FromServer, FromWorker, from_server, from_worker};
use ps_proto::{Address, convert, tensor};
use ps_scale::Costs;
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

const PINGS: usize = 500;
/// Times that a tensor is sent.
const TENSORS: usize = 7;

/// Small messages in a ping-pong, on a machine that does nothing else.
pub(crate) fn measure_messages(costs: &mut Costs) -> Result<(), String> {
    let Seconds { passed, here, there } = between_two_threads(async |client, ends| {
        let mut turns = Vec::new();
        for _ in 0..5 {
            turns.push(client.timed(ends, PINGS, Vec::new).await?);
        }
        Ok(middle(&turns[1..], PINGS as f64))
    })?;
    // Each end sends and receives once.
    costs.message = (here + there) / 4.0;
    costs.wire_wake = (passed / 2.0 - 2.0 * costs.message).max(0.0);
    Ok(())
}

/// The chunks of a gradient, one after the other, again and again.
pub(crate) fn measure_chunks(parameters: usize, costs: &mut Costs) -> Result<(), String> {
    let gradient = tensor::share(vec![0.001; parameters]);
    let chunks = || convert::node_chunks(0, Node::leaf(0), gradient.clone(), 0..parameters).collect();
    let Seconds { here, there, .. } = between_two_threads(async |client, ends| {
        let mut turns = Vec::new();
        let mut passing = Passing::default();
        for _ in 0..TENSORS + 2 {
            passing.pass();
            turns.push(client.timed(ends, 1, chunks).await?);
        }
        Ok(middle(&turns[2..], 1.0))
    })?;
    let bytes = (parameters * 4) as f64;
    (costs.send_byte, costs.receive_byte) = (here / bytes, there / bytes);
    Ok(())
}

/// Connects two threads, each at its end of a stream, and has `run` measure.
fn between_two_threads(
    run: impl AsyncFnOnce(&mut Client, &Ends) -> Result<Seconds, Status>,
) -> Result<Seconds, String> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no port on loopback: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (close, closing) = oneshot::channel::<()>();
    let ends = Arc::new(Ends { begun: Instant::now(), busy_ns: AtomicU64::new(0) });
    let there = Arc::clone(&ends);
    let serving = std::thread::spawn(move || {
        runtime()?.block_on(serve(listener, there, closing)).map_err(|error| format!("serving: {error}"))
    });
    let failed = |why: String| format!("through {address}: {why}");
    let measured = runtime()?.block_on(async {
        let mut client = Client::connect(&address.to_string()).await.map_err(failed)?;
        run(&mut client, &ends).await.map_err(|status| failed(status.message().to_owned()))
    });
    drop(close);
    serving.join().map_err(|_| "the serving thread panicked".to_owned())??;
    measured
}

/// The median of turns, each of `count` messages.
fn middle(turns: &[Seconds], count: f64) -> Seconds {
    let of = |take: fn(&Seconds) -> f64| median(turns.iter().map(take).collect()) / count;
    Seconds { passed: of(|turn| turn.passed), here: of(|turn| turn.here), there: of(|turn| turn.there) }
}

/// Seconds that pass, and that the threads at both ends are busy.
#[derive(Clone, Copy)]
struct Seconds {
    passed: f64,
    here: f64,
    there: f64,
}

/// What both ends see.
struct Ends {
    begun: Instant,
    /// How long the serving thread had been busy when it answered last.
    busy_ns: AtomicU64,
}

struct Client {
    sender: mpsc::Sender<Result<FromWorker, Status>>,
    reader: Reader<FromServer>,
}

impl Client {
    async fn connect(address: &str) -> Result<Self, String> {
        let address: Address = address.parse()?;
        let mut channel = address.connect().await.map_err(|error| error.to_string())?;
        let (sender, receiver) = mpsc::channel(256);
        let body = stream::body(ReceiverStream::new(receiver), Side::Client);
        let answer = stream::call(&mut channel, stream::ROUNDS_PATH, body).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(Client { sender, reader: Reader::new(answer) })
    }

    /// Sends some messages and then a node's end, and waits for the answer, `turns` times.
    async fn timed(
        &mut self,
        ends: &Ends,
        turns: usize,
        messages: impl Fn() -> Vec<FromWorker>,
    ) -> Result<Seconds, Status> {
        let closed = |_| Status::unavailable("the stream was closed");
        let there = ends.busy_ns.load(Ordering::Acquire);
        let (here, begun) = (thread_seconds(ends.begun), Instant::now());
        for _ in 0..turns {
            let end = convert::node_done(0, Node::leaf(0), Tally { samples: 1, ..Tally::default() });
            for message in messages().into_iter().chain([end]) {
                self.sender.send(Ok(message)).await.map_err(closed)?;
            }
            self.reader.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        }
        Ok(Seconds {
            passed: begun.elapsed().as_secs_f64(),
            here: thread_seconds(ends.begun) - here,
            there: 1e-9 * (ends.busy_ns.load(Ordering::Acquire) - there) as f64,
        })
    }
}

async fn serve(
    listener: TcpListener,
    ends: Arc<Ends>,
    closing: oneshot::Receiver<()>,
) -> Result<(), Box<dyn std::error::Error>> {
    listener.set_nonblocking(true)?;
    let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
    let server = Server::builder()
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .add_service(Answering { ends });
    server.serve_with_incoming_shutdown(incoming, async { drop(closing.await) }).await?;
    Ok(())
}

/// Answers each end of a node by a heartbeat, and keeps what came before it until then, as a server does.
#[derive(Clone)]
struct Answering {
    ends: Arc<Ends>,
}

impl NamedService for Answering {
    const NAME: &'static str = "downhill.v1.ParameterServer";
}

impl tower::Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answers, receiver) = mpsc::channel(4);
        let ends = Arc::clone(&self.ends);
        let mut reader = Reader::<FromWorker>::new(request.into_body());
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok(Some(FromWorker { message: Some(message) })) = reader.message().await {
                let from_worker::Message::NodeDone(_) = message else {
                    kept.push(message);
                    continue;
                };
                kept.clear();
                ends.busy_ns.store((1e9 * thread_seconds(ends.begun)) as u64, Ordering::Release);
                let heartbeat = from_server::Message::Heartbeat(v1::Heartbeat {});
                if answers.send(Ok(FromServer { message: Some(heartbeat) })).await.is_err() {
                    return;
                }
            }
        });
        Box::pin(async move {
            let mut response = http::Response::new(stream::body(ReceiverStream::new(receiver), Side::Server));
            let grpc = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
            Ok(response)
        })
    }
}
