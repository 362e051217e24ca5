//! How connections are served, with all settings of [`limits`]; the benches serve theirs in the same way.

use ps_proto::Listener;
use ps_proto::limits;
use std::future::Future;
use std::io;
use std::pin::Pin;
#[cfg(unix)]
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};

/// Completes when all connections are closed after the end was asked for.
pub type Serving = Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>;

/// The runtime that serves connections: one thread is fastest for a few workers on a small machine, and a
/// quarter of a large one's cores serves many.
///
/// # Errors
/// The system does not let us start threads.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match cores {
        0..4 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads((cores / 4).max(2)).enable_all().build()
}

/// A server without services.
pub fn builder() -> Server {
    Server::builder()
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::MAX_STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
}

/// Serves on `listener` until `closed` completes.
///
/// # Errors
/// The system does not let us use the listener.
pub fn serve(
    router: Router,
    listener: Listener,
    closed: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Serving> {
    Ok(match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            // Small messages must not wait for one another, so Nagle's algorithm is off; the server's own setting
            // does not reach connections that it did not accept itself.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Box::pin(router.serve_with_incoming_shutdown(incoming, closed))
        }
        #[cfg(unix)]
        Listener::Unix(listener, file) => {
            listener.set_nonblocking(true)?;
            let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
            Box::pin(async move {
                let served = router.serve_with_incoming_shutdown(incoming, closed).await;
                drop(file);
                served
            })
        }
    })
}
