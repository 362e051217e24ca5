//! The health service on a separate address, without TLS, for supervisors.

use ps_proto::v1::parameter_server_server::SERVICE_NAME;
use ps_shard::transport;
use std::io;
use std::net::{SocketAddr, TcpListener};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

/// The service, on a separate thread, for the lifetime of the process. It answers for `""`, which is serving
/// from the beginning, and for the parameter server, which is serving only after [`Health::ready`].
pub struct Health {
    reporter: HealthReporter,
    runtime: tokio::runtime::Handle,
    address: SocketAddr,
}

impl Health {
    /// Starts the service at `HOST:PORT`.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn open(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (reporter, service) = health_reporter();
        let handle = runtime.handle().clone();
        let first = reporter.clone();
        let serve = async move {
            first.set_service_status("", ServingStatus::Serving).await;
            first.set_service_status(SERVICE_NAME, ServingStatus::NotServing).await;
            transport::serve_probes(Routes::new(service), listener)?.await.map_err(io::Error::other)
        };
        // On a separate thread, because the main thread is about to read data.
        std::thread::Builder::new().name("health".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!("health checks are no longer answered: {error}");
            }
        })?;
        Ok(Health { reporter, runtime: handle, address })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reports that workers are served from now on, or no longer.
    pub fn ready(&self, is_ready: bool) {
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        let reporter = self.reporter.clone();
        self.runtime.spawn(async move { reporter.set_service_status(SERVICE_NAME, status).await });
    }
}
