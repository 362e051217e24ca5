//! Admission of connections and calls: how long a peer may take to authenticate, and which calls are
//! admitted. [`Connections`] limits the number of connections.
//!
//! A connection is accepted, becomes TLS if certificates are configured, and is then watched ([`GuardedStream`])
//! until one of its calls is admitted ([`AuthLayer`]). If none is admitted in time, the connection is closed,
//! whichever stage was slow.

use crate::transport::AdmissionConfig;
use ps_net::Security;
use ps_net::connections::{ACCEPT_PAUSE, Connections, Permit, ThrottledLog};
use ps_net::limits::{Capacity, FAREWELL_TIMEOUT, PULL_TIMEOUT, UNARY_TIMEOUT};
use ps_net::network::{Accept, Duplex};
use ps_net::security::{Credential, certificate_name, handshake_refusal};
use ps_proto::Refusal;
use ps_proto::stream::ROUNDS_PATH;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};
use tracing::debug;

/// The peer of a connection. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo(Arc<PeerState>);

#[derive(Debug)]
struct PeerState {
    /// The peer's address, or a phrase if it is on this machine.
    address: String,
    /// Subject and issuer of its certificate.
    certificate: Option<String>,
    /// Whether it connected to the server's Unix socket.
    is_on_socket: bool,
    /// Whether one of its calls was admitted.
    is_admitted: AtomicBool,
    /// The log of refused peers of its port.
    log: Arc<ThrottledLog>,
}

impl PeerInfo {
    fn new(address: String, is_on_socket: bool, log: Arc<ThrottledLog>) -> Self {
        let is_admitted = AtomicBool::new(false);
        PeerInfo(Arc::new(PeerState { address, is_on_socket, certificate: None, is_admitted, log }))
    }

    /// The same peer, once TLS has verified its certificate.
    fn certified(&self, certificate: Option<String>) -> Self {
        let PeerState { address, is_on_socket, log, .. } = &*self.0;
        PeerInfo(Arc::new(PeerState {
            address: address.clone(),
            is_on_socket: *is_on_socket,
            certificate,
            is_admitted: AtomicBool::new(false),
            log: Arc::clone(log),
        }))
    }

    /// The peer that made the call with these extensions.
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or_else(|| PeerInfo::new("unknown".into(), false, Arc::default()))
    }

    /// The peer's address, or a phrase if it has none.
    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    /// Logs that a connection or call of this peer was refused, and why. The rate is limited for
    /// the whole port.
    pub(crate) fn refused(&self, what: &str, why: &str) {
        self.0.log.log(|| format!("{}: {what} refused: {why}", self.address()));
    }
}

/// Marks a call whose caller may end the run: it carries an administrator's token, or came over the
/// server's Unix socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Administrator;

/// Checks every call before any service sees it.
#[derive(Clone, Debug)]
pub(crate) struct AuthLayer<S> {
    security: Security,
    services: S,
}

impl<S> AuthLayer<S> {
    /// Lets only those calls reach `services` that `security` admits.
    pub(crate) fn new(security: Security, services: S) -> Self {
        AuthLayer { security, services }
    }

    /// Decides whether a call with these headers is admitted. Returns the line of its token in the token
    /// file, if tokens are used.
    fn admits(&self, request: &http::Request<Body>) -> Result<Option<usize>, Refusal> {
        let token_line = self.security.admits(request.headers())?;
        // A compressed message could expand into far more than its stated length, against which the limits
        // are checked.
        let encoding = request.headers().get("grpc-encoding");
        match encoding.is_none_or(|encoding| encoding.as_bytes() == b"identity") {
            true => Ok(token_line),
            false => Err(Refusal::Compressed),
        }
    }
}

impl<S> Service<http::Request<Body>> for AuthLayer<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A refusal needs no service; an admitted call waits for its service in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = PeerInfo::of(request.extensions());
        if peer.0.is_on_socket || self.security.is_admin(request.headers()) {
            request.extensions_mut().insert(Administrator);
        }
        let token_line = match self.admits(&request) {
            Ok(token_line) => token_line,
            Err(refusal) => {
                peer.refused("call", &refusal.to_string());
                return Box::pin(std::future::ready(Ok(Status::from(refusal).into_http())));
            }
        };
        let certificate = peer.0.certificate.clone();
        request.extensions_mut().insert(Credential { certificate, token_line });
        // Relaxed is enough: the flag guards no other data, and it is read again with the next read or write.
        peer.0.is_admitted.store(true, Ordering::Relaxed);
        let time_limit = call_timeout(request.uri().path());
        let answer = self.services.clone().oneshot(request);
        Box::pin(async move {
            match time_limit {
                None => answer.await,
                Some(time_limit) => match timeout(time_limit, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(Status::from(Refusal::TooSlow).into_http()),
                },
            }
        })
    }
}

/// How long a call may take until its answer begins; `None` for streams from the caller, which
/// have separate timeouts.
fn call_timeout(path: &str) -> Option<Duration> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match method {
        _ if path == ROUNDS_PATH => None,
        "Attach" | "Watch" => None,
        _ if service.starts_with("grpc.reflection") => None,
        // Both may have to ask the shards for their weights.
        "PullWeights" | "Stop" => Some(PULL_TIMEOUT),
        _ => Some(UNARY_TIMEOUT),
    }
}

/// Connections that are ready to be served, at most `capacity` at a time. Dropping the
/// stream stops listening.
pub(crate) fn connections(
    listener: Box<dyn Accept>,
    config: &AdmissionConfig,
    capacity: Capacity,
) -> ReceiverStream<io::Result<GuardedStream>> {
    let (ready, connections) = tokio::sync::mpsc::channel(16);
    let (acceptor, time_limit) = (config.security.acceptor(), config.admission_timeout);
    tokio::spawn(async move {
        let connections = Connections::new(capacity);
        let log = connections.throttled_log();
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // For example too many open files: some will be closed.
                    log.log(|| format!("accepting connections: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let peer_address =
                address.map_or_else(|| "this machine".to_owned(), |address| address.to_string());
            let peer = PeerInfo::new(peer_address, address.is_none(), Arc::clone(log));
            // Precedes TLS, because a handshake that never ends occupies an open file like any other
            // connection.
            let permit = match connections.admit(address.map(|address| address.ip())) {
                Ok(permit) => permit,
                Err(why) => {
                    peer.refused("connection", &why);
                    continue;
                }
            };
            let (ready, acceptor) = (ready.clone(), acceptor.clone());
            tokio::spawn(async move {
                // Runs from here, so that the handshake and the first call share one limit.
                let deadline = Box::pin(sleep(time_limit));
                let (stream, peer) = match acceptor {
                    None => (stream, peer),
                    Some(acceptor) => match timeout(time_limit, secure(acceptor, stream)).await {
                        Ok(Ok((stream, certificate))) => (stream, peer.certified(certificate)),
                        Ok(Err(why)) => return peer.refused("connection", &why),
                        Err(_) => return,
                    },
                };
                let guarded = GuardedStream { stream, peer, deadline: Some(deadline), _permit: permit };
                // If the receiver is gone, nothing is served any more.
                let _ = ready.send(Ok(guarded)).await;
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Completes the TLS handshake, and returns the stream with the name in the peer's certificate, or
/// why it failed.
async fn secure(
    acceptor: tokio_rustls::TlsAcceptor,
    stream: Box<dyn Duplex>,
) -> Result<(Box<dyn Duplex>, Option<String>), String> {
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => {
            let certificate = certificate_name(stream.get_ref().1.peer_certificates());
            Ok((Box::new(stream), certificate))
        }
        Err((error, mut stream)) => {
            // An alert is on its way. Closing the connection with unread data would reset it, and the peer
            // would never read the reason.
            let leave = async {
                let _ = stream.shutdown().await;
                let mut nothing = [0; 4096];
                let mut left = MAX_DRAINED_BYTES;
                while left > 0 {
                    match stream.read(&mut nothing).await {
                        Ok(count @ 1..) => left = left.saturating_sub(count),
                        _ => break,
                    }
                }
            };
            let _ = timeout(FAREWELL_TIMEOUT, leave).await;
            Err(handshake_refusal(&error))
        }
    }
}

/// Maximum number of bytes that are read from a refused connection.
const MAX_DRAINED_BYTES: usize = 64 << 10;

/// A connection that is closed unless one of its calls is admitted in time.
pub(crate) struct GuardedStream {
    stream: Box<dyn Duplex>,
    peer: PeerInfo,
    /// Set until a call is admitted.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: Permit,
}

impl GuardedStream {
    /// Returns an error once the deadline has passed.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.deadline else { return Ok(()) };
        if self.peer.0.is_admitted.load(Ordering::Relaxed) {
            self.deadline = None;
            return Ok(());
        }
        // Polling also registers the task, so that a peer that sends nothing at all is closed in time.
        match deadline.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                debug!("{}: closed, no call in time", self.peer.address());
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

impl Connected for GuardedStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
