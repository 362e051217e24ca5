//! A small HTTP server on its own thread.
//!
//! Clients are not trusted: [`Bounds`] limits the number of connections, the time until a request has
//! arrived, the time that a client may stall, and the memory of each connection.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ps_net::connections::{ACCEPT_PAUSE, Connections, Permit};
use ps_net::limits::{
    Capacity, PAGE_BUFFER_BYTES, PAGE_HEADER_TIMEOUT, PAGE_REQUEST_TIMEOUT, PAGE_STALL_TIMEOUT,
};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_io_timeout::TimeoutStream;

/// Decides by the headers of a request whether to admit it.
pub type Gate = Arc<dyn Fn(&HeaderMap) -> bool + Send + Sync>;

/// An HTTP server, which serves until this is dropped.
pub struct Site {
    address: SocketAddr,
    connections: Arc<Connections>,
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Limits on the resources that clients can use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Maximum number of connections.
    pub capacity: Capacity,
    /// Time until the headers of a request must have arrived, for every request of a connection.
    pub header_timeout: Duration,
    /// Time until the body of a request must have arrived and its response must have begun.
    pub request_timeout: Duration,
    /// Longest time during which a client may not read from a response.
    pub stall_timeout: Duration,
}

impl Bounds {
    /// Returns the limits that [`ps_net::limits`] defines.
    pub(crate) fn new(capacity: Capacity) -> Self {
        Bounds {
            capacity,
            header_timeout: PAGE_HEADER_TIMEOUT,
            request_timeout: PAGE_REQUEST_TIMEOUT,
            stall_timeout: PAGE_STALL_TIMEOUT,
        }
    }
}

impl Site {
    /// Serves `routes` at `HOST:PORT`. Port 0 selects any free port.
    ///
    /// # Errors
    /// The address is invalid or not available.
    pub(crate) fn open(address: &str, routes: Router, bounds: Bounds) -> Result<Self, String> {
        let places = address.to_socket_addrs().map_err(|error| {
            format!(
                "{error}: expected HOST:PORT, such as 127.0.0.1:8080 (the run file comes before the flag)"
            )
        })?;
        let listener = TcpListener::bind(&places.collect::<Vec<_>>()[..]).map_err(problem)?;
        let address = listener.local_addr().map_err(problem)?;
        listener.set_nonblocking(true).map_err(problem)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(problem)?;
        let (close, closed) = oneshot::channel::<()>();
        let connections = Connections::new(bounds.capacity);
        let counted = Arc::clone(&connections);
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                () = serve(&listener, routes, bounds, &counted) => {}
                // Streams that are still open are cut off.
                _ = closed => {}
            }
            io::Result::Ok(())
        };
        let serve = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::warn!("{address} is no longer served: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(serve).map_err(problem)?;
        Ok(Site { address, connections, close: Some(close), thread: Some(thread) })
    }

    /// The address at which the server listens, with the actual port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }
}

/// Serves each connection on its own task.
async fn serve(
    listener: &tokio::net::TcpListener,
    routes: Router,
    bounds: Bounds,
    connections: &Arc<Connections>,
) {
    let routes = routes.layer(from_fn(move |request, next| in_time(bounds.request_timeout, request, next)));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                connections.throttled_log().log(|| format!("cannot accept connections: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match connections.admit(Some(peer.ip())) {
            Ok(permit) => drop(tokio::spawn(serve_one(stream, routes.clone(), bounds, permit))),
            Err(why) => connections.throttled_log().log(|| format!("{peer}: connection refused: {why}")),
        }
    }
}

async fn serve_one(stream: TcpStream, routes: Router, bounds: Bounds, _permit: Permit) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.stall_timeout));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // The timeout also applies between requests, so it closes idle connections.
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(PAGE_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(routes))
        .await;
    if let Err(error) = served {
        tracing::debug!("connection ended: {error}");
    }
}

/// Responds with a timeout error if a request does not arrive in time.
async fn in_time(timeout: Duration, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(timeout, next.run(request)).await;
    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

fn problem(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process uses this port".into(),
        _ => error.to_string(),
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.close = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::{get, post};
    use std::io::{Read, Write};

    const SOON: Duration = Duration::from_millis(50);
    /// A timeout longer than any test runs.
    const LATER: Duration = Duration::from_secs(600);

    fn bounds() -> Bounds {
        Bounds {
            capacity: Capacity { all: 4, of_one_address: 3 },
            header_timeout: LATER,
            request_timeout: LATER,
            stall_timeout: LATER,
        }
    }

    fn open(bounds: Bounds) -> Site {
        let routes = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/form", post(|body: String| async { body }))
            .route("/endless", get(|| async { Body::from_stream(tokio_stream::iter(endless())) }));
        Site::open("127.0.0.1:0", routes, bounds).unwrap()
    }

    fn endless() -> impl Iterator<Item = io::Result<Vec<u8>>> {
        std::iter::repeat_with(|| Ok(vec![0; 1 << 16]))
    }

    fn connect(site: &Site) -> std::net::TcpStream {
        std::net::TcpStream::connect(site.address()).unwrap()
    }

    fn send(site: &Site, text: &str) -> std::net::TcpStream {
        let mut socket = connect(site);
        // The server does not read a request that is too long to its end, so writing may fail.
        let _ = socket.write_all(text.as_bytes());
        socket
    }

    /// Reads until the other end closes the connection.
    fn rest(mut socket: std::net::TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset counts as closed as well.
        let _ = socket.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn wait_for(site: &Site, connections: usize) {
        while site.connections() != connections {
            std::thread::yield_now();
        }
    }

    #[test]
    fn connections_beyond_the_limit_are_closed_and_the_others_served() {
        let site = open(bounds());
        let held: Vec<_> = (0..3).map(|_| connect(&site)).collect();
        wait_for(&site, 3);
        assert_eq!(rest(connect(&site)), "");
        drop(held);
        wait_for(&site, 0);
        let answer = rest(send(&site, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("here"), "{answer}");
    }

    #[test]
    fn a_connection_without_a_request_is_closed() {
        let site = open(Bounds { header_timeout: SOON, ..bounds() });
        assert_eq!(rest(connect(&site)), "");
        assert_eq!(rest(send(&site, "GET / HTTP/1.1\r\nHost:")), "");
        // The limit also applies after the first request.
        let answer = rest(send(&site, "GET / HTTP/1.1\r\n\r\n"));
        assert!(answer.ends_with("here"), "{answer}");
        wait_for(&site, 0);
    }

    #[test]
    fn a_body_that_is_late_or_a_header_that_is_long_is_refused() {
        let site = open(Bounds { request_timeout: SOON, ..bounds() });
        let answer = rest(send(&site, "POST /form HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"));
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        let answer = rest(send(&site, &format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(1 << 20))));
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        wait_for(&site, 0);
    }

    #[test]
    fn a_client_that_does_not_read_is_disconnected() {
        let site = open(Bounds { stall_timeout: SOON, ..bounds() });
        let mut socket = send(&site, "GET /endless HTTP/1.1\r\n\r\n");
        socket.read_exact(&mut [0]).unwrap();
        assert_eq!(site.connections(), 1);
        wait_for(&site, 0);
    }
}
