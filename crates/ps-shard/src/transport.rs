//! How connections are served, with all settings from [`limits`]; the benches use the same functions.

use crate::admission::{self, AuthLayer};
use ps_config::SecurityArgs;
use ps_net::limits::{self, Capacity};
use ps_net::network::Accept;
use ps_net::{Listener, Security, SecurityFiles};
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::time::Duration;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::info;

/// Completes when, after the request to close, all connections are closed.
pub type Serving = Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>;

/// Opens the certificates and tokens that the flags name.
///
/// # Errors
/// As for [`Security::open`].
pub fn open_security(args: &SecurityArgs) -> Result<Security, String> {
    let SecurityArgs { tls_cert, tls_key, tls_ca, tls_name, token_file } = args;
    Security::open(SecurityFiles {
        tls_cert: tls_cert.as_deref(),
        tls_key: tls_key.as_deref(),
        tls_ca: tls_ca.as_deref(),
        tls_name: tls_name.as_deref(),
        token_file: token_file.as_deref(),
    })
}

/// Creates the runtime that serves connections. One thread is fastest for a few workers on a small machine; a
/// quarter of the cores of a large one serves many.
///
/// # Errors
/// The system does not allow more threads.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match cores {
        0..4 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads((cores / 4).max(2)).enable_all().build()
}

/// A server without services.
fn builder() -> Server {
    Server::builder()
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::MAX_STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(limits::MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(limits::MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(limits::MAX_ERROR_RESETS))
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
}

/// Conditions for the admission of connections.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// What callers must present.
    pub security: Security,
    /// How long a connection may take until one of its calls is admitted.
    pub admission_timeout: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        AdmissionConfig { security: Security::default(), admission_timeout: limits::ADMISSION_TIMEOUT }
    }
}

/// Serves `services` on `listener` until `closed` completes; only admitted calls reach them. Must be called
/// on the runtime that serves.
///
/// # Errors
/// The system does not allow the use of the listener.
pub fn serve(
    services: Routes,
    listener: Listener,
    config: &AdmissionConfig,
    closed: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Serving> {
    let capacity = Capacity::of_calls(ps_host::open_files());
    if capacity.all < limits::MAX_CONNECTIONS {
        info!(
            "at most {} connections, because of this process's limit of open files (ulimit -n)",
            capacity.all
        );
    }
    serve_some(builder(), services, listener, config, capacity, closed)
}

/// Serves `services` to health probes, without TLS or tokens: connections are few and short.
///
/// # Errors
/// As for [`serve`].
pub fn serve_probes(services: Routes, listener: TcpListener) -> io::Result<Serving> {
    // Connections that exceed the age are closed without a message, because probes do not need one.
    let builder =
        builder().max_connection_age(limits::HEALTH_CONNECTION_AGE).max_connection_age_grace(Duration::ZERO);
    let capacity = Capacity::of_health(ps_host::open_files());
    serve_some(
        builder,
        services,
        listener.into(),
        &AdmissionConfig::default(),
        capacity,
        std::future::pending(),
    )
}

fn serve_some(
    builder: Server,
    services: Routes,
    listener: Listener,
    config: &AdmissionConfig,
    capacity: Capacity,
    closed: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Serving> {
    let listener: Box<dyn Accept> = match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            Box::new(tokio::net::TcpListener::from_std(listener)?)
        }
        #[cfg(unix)]
        Listener::Unix(listener, file) => {
            listener.set_nonblocking(true)?;
            Box::new((tokio::net::UnixListener::from_std(listener)?, file))
        }
        Listener::Other(listener, _) => listener,
    };
    let authenticated = AuthLayer::new(config.security.clone(), services.prepare());
    let connections = admission::connections(listener, config, capacity);
    Ok(Box::pin(builder.serve_with_incoming_shutdown(authenticated, connections, closed)))
}
