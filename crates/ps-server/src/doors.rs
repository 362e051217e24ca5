//! The way in: how many connections there are, how long a stranger may take to make itself known, and which calls are
//! let in.
//!
//! A connection is accepted, becomes TLS where certificates are asked for, and is then watched ([`Guarded`]) until it has
//! brought a call that was let in ([`Door`]). One that does not in time is closed, whatever it was slow at.

use crate::transport::Entrance;
use ps_proto::limits::{
    FAREWELL_TIMEOUT, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ADDRESS, PULL_TIMEOUT, UNARY_TIMEOUT,
};
use ps_proto::network::{Accept, Duplex};
use ps_proto::security::handshake_refusal;
use ps_proto::stream::ROUNDS_PATH;
use ps_proto::{Refusal, Security};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};
use tracing::{debug, info};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Visitor(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    /// Its address, or that it is on this machine.
    place: String,
    /// Whether a call of it was let in.
    is_admitted: AtomicBool,
}

impl Visitor {
    fn new(place: String) -> Self {
        Visitor(Arc::new(Seen { place, is_admitted: AtomicBool::new(false) }))
    }

    /// Where it is, in words if it has no address.
    pub fn place(&self) -> &str {
        &self.0.place
    }
}

/// Where the caller is, as far as its connection tells.
pub(crate) fn place(extensions: &http::Extensions) -> String {
    extensions.get::<Visitor>().map_or_else(|| "unknown".to_owned(), |visitor| visitor.place().to_owned())
}

/// Every call passes here before any service sees it.
#[derive(Clone, Debug)]
pub(crate) struct Door<S> {
    security: Security,
    complaints: Arc<Complaints>,
    services: S,
}

impl<S> Door<S> {
    /// In front of `services`.
    pub fn new(security: Security, services: S) -> Self {
        Door { security, complaints: Arc::default(), services }
    }

    /// Whether a call with these headers may come in.
    fn admits(&self, request: &http::Request<Body>) -> Result<(), Refusal> {
        self.security.admits(request.headers())?;
        let encoding = request.headers().get("grpc-encoding");
        match encoding.is_none_or(|encoding| encoding.as_bytes() == b"identity") {
            true => Ok(()),
            false => Err(Refusal::Compressed),
        }
    }
}

impl<S> Service<http::Request<Body>> for Door<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A refusal needs no service; whoever is let in waits for it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let visitor = request.extensions().get::<Visitor>();
        if let Err(refusal) = self.admits(&request) {
            let place = visitor.map_or("unknown", Visitor::place);
            self.complaints.tell(|| format!("{place}: call refused: {refusal}"));
            return Box::pin(std::future::ready(Ok(Status::from(refusal).into_http())));
        }
        if let Some(visitor) = visitor {
            visitor.0.is_admitted.store(true, Ordering::Relaxed);
        }
        let patience = patience(request.uri().path());
        let answer = self.services.clone().oneshot(request);
        Box::pin(async move {
            match patience {
                None => answer.await,
                Some(patience) => match timeout(patience, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(Status::from(Refusal::TooSlow).into_http()),
                },
            }
        })
    }
}

/// How long a call may take until its answer begins; streams from the caller have waits of their own.
fn patience(path: &str) -> Option<Duration> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match method {
        _ if path == ROUNDS_PATH => None,
        "Attach" | "Watch" => None,
        _ if service.starts_with("grpc.reflection") => None,
        "PullWeights" => Some(PULL_TIMEOUT),
        _ => Some(UNARY_TIMEOUT),
    }
}

/// What strangers cause to be said, at most once a second: whoever knocks often fills no disk.
#[derive(Debug, Default)]
struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    const EVERY: Duration = Duration::from_secs(1);

    fn tell(&self, what: impl FnOnce() -> String) {
        let mut said = lock(&self.0);
        if said.0.is_some_and(|last| last.elapsed() < Self::EVERY) {
            said.1 += 1;
            return;
        }
        match said.1 {
            0 => info!("{}", what()),
            unsaid => info!(unsaid, "{}", what()),
        }
        *said = (Some(Instant::now()), 0);
    }
}

/// How many connections there are, and from where.
#[derive(Debug, Default)]
struct Places {
    all: usize,
    /// Of each address that has any.
    of: BTreeMap<IpAddr, usize>,
}

/// A connection's place among all, free again when this is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Mutex<Places>>,
    address: Option<IpAddr>,
}

impl Place {
    /// One more from `address`, or why there is none.
    fn take(places: &Arc<Mutex<Places>>, address: Option<IpAddr>) -> Result<Place, String> {
        let mut held = lock(places);
        if held.all >= MAX_CONNECTIONS {
            return Err(format!("there are {MAX_CONNECTIONS} connections, which is the limit"));
        }
        if let Some(address) = address {
            let count = held.of.entry(address).or_default();
            if *count >= MAX_CONNECTIONS_PER_ADDRESS {
                return Err(format!(
                    "there are {MAX_CONNECTIONS_PER_ADDRESS} connections from there, which is the limit"
                ));
            }
            *count += 1;
        }
        held.all += 1;
        drop(held);
        Ok(Place { places: places.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.places);
        places.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = places.of.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                places.of.remove(&address);
            }
        }
    }
}

/// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections that are ready to be served, until the stream of them is dropped: then nothing listens any more.
pub(crate) fn connections(
    listener: Box<dyn Accept>,
    entrance: &Entrance,
) -> ReceiverStream<io::Result<Guarded>> {
    let (ready, connections) = tokio::sync::mpsc::channel(16);
    let (acceptor, patience) = (entrance.security.acceptor(), entrance.admission_timeout);
    tokio::spawn(async move {
        let places = Arc::<Mutex<Places>>::default();
        let complaints = Arc::<Complaints>::default();
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Such as too many open files: some will be closed.
                    complaints.tell(|| format!("accepting connections: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let whence = address.map_or_else(|| "this machine".to_owned(), |address| address.to_string());
            let place = match Place::take(&places, address.map(|address| address.ip().to_canonical())) {
                Ok(place) => place,
                Err(why) => {
                    complaints.tell(|| format!("{whence}: connection refused: {why}"));
                    continue;
                }
            };
            let visitor = Visitor::new(whence);
            let (ready, acceptor, complaints) = (ready.clone(), acceptor.clone(), complaints.clone());
            tokio::spawn(async move {
                let deadline = Box::pin(sleep(patience));
                let stream = match acceptor {
                    None => stream,
                    Some(acceptor) => match timeout(patience, secure(acceptor, stream)).await {
                        Ok(Ok(stream)) => stream,
                        Ok(Err(why)) => {
                            complaints.tell(|| format!("{}: connection refused: {why}", visitor.place()));
                            return;
                        }
                        Err(_) => return,
                    },
                };
                let guarded = Guarded { stream, visitor, deadline: Some(deadline), _place: place };
                // If nobody takes it, nothing is served any more.
                let _ = ready.send(Ok(guarded)).await;
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Between two attempts to accept, when the system does not let us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes a connection TLS; says why not otherwise.
async fn secure(
    acceptor: tokio_rustls::TlsAcceptor,
    stream: Box<dyn Duplex>,
) -> Result<Box<dyn Duplex>, String> {
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => Ok(Box::new(stream)),
        Err((error, mut stream)) => {
            // An alert is on its way. Closed with something unread, the connection would be reset, and the other end
            // would never read why.
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

/// What is read of a connection that is refused.
const MAX_DRAINED_BYTES: usize = 64 << 10;

/// A connection that is closed unless a call of it is let in in time.
pub(crate) struct Guarded {
    stream: Box<dyn Duplex>,
    visitor: Visitor,
    /// Until it is let in.
    deadline: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Guarded {
    /// An error once it is too late.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.deadline else { return Ok(()) };
        if self.visitor.0.is_admitted.load(Ordering::Relaxed) {
            self.deadline = None;
            return Ok(());
        }
        match deadline.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                debug!("{}: closed, no call in time", self.visitor.place());
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

impl Connected for Guarded {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        self.visitor.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let places = Arc::<Mutex<Places>>::default();
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let held: Vec<Place> =
            (0..MAX_CONNECTIONS_PER_ADDRESS).map(|_| Place::take(&places, address(1)).unwrap()).collect();
        assert!(Place::take(&places, address(1)).unwrap_err().contains("from there"));
        let other = Place::take(&places, address(2)).unwrap();
        drop(held);
        assert_eq!(lock(&places).of.len(), 1);
        drop(other);
        let all: Vec<Place> = (0..MAX_CONNECTIONS).map(|_| Place::take(&places, None).unwrap()).collect();
        assert!(Place::take(&places, address(1)).unwrap_err().contains("the limit"));
        drop(all);
        let left = lock(&places);
        assert_eq!((left.all, left.of.len()), (0, 0));
    }
}
