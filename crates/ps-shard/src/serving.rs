//! The parts that every server needs for a job: serving connections, stating what must agree, and running a
//! driver.

use crate::service::{RoundsRouter, Service};
use crate::{ServerError, ServerOptions, transport};
use ps_net::Listener;
use ps_proto::Shape;
use ps_proto::limits::MAX_MESSAGE_BYTES;
use ps_proto::v1::{self, parameter_server_server::ParameterServerServer};
use ps_run::Job;
use std::future::Future;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tracing::warn;

/// Serves `service` on `listener` until `closing` completes.
pub async fn serve(
    service: Service,
    listener: Listener,
    options: &ServerOptions,
    closing: oneshot::Receiver<()>,
) -> Result<(transport::Serving, HealthReporter), ServerError> {
    let rest = ParameterServerServer::new(service.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ParameterServerServer<Service>>().await;
    let mut services = Routes::new(health_service).add_service(RoundsRouter { service, rest });
    if options.reflection {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| ServerError::Internal(format!("reflection: {error}")))?;
        services = services.add_service(reflection);
    }
    // A dropped sender means the same as a message.
    let closed = async { drop(closing.await) };
    let admission = transport::AdmissionConfig {
        security: options.security.clone(),
        admission_timeout: options.admission_timeout,
    };
    let serving = transport::serve(services, listener, &admission, closed).map_err(ServerError::Listener)?;
    Ok((serving, health))
}

/// The interval at which each side sends a heartbeat: a fifth of the contact timeout.
pub fn heartbeat(options: &ServerOptions) -> Duration {
    (options.contact_timeout / 5).max(Duration::from_millis(1))
}

/// The shape against which messages are checked.
pub fn shape(job: &Job) -> Shape {
    Shape {
        plan: job.plan,
        parameters: job.model.parameters(),
        classes: job.model.classes(),
        weights: job.run.wire.weights,
    }
}

/// The fingerprints that other processes of the run must match.
pub fn expected(job: &Job) -> v1::Fingerprints {
    v1::Fingerprints {
        run: job.fingerprint.run.clone(),
        data: job.fingerprint.data.clone(),
        numerics: job.fingerprint.numerics,
        probe: job.probe(),
    }
}

/// Runs the driver, on a separate thread except in a simulation.
pub fn drive<T: Send + 'static>(
    driver: impl Future<Output = T> + Send + 'static,
    options: &ServerOptions,
) -> Result<oneshot::Receiver<T>, ServerError> {
    let (finished, result) = oneshot::channel();
    let unheard = || warn!("nobody waits for the end of the run any more");
    if options.simulation.is_some() {
        tokio::spawn(async move { finished.send(driver.await).unwrap_or_else(|_| unheard()) });
        return Ok(result);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| ServerError::Internal(format!("starting the driver: {error}")))?;
    let work = move || finished.send(runtime.block_on(driver)).unwrap_or_else(|_| unheard());
    // Adding and updating chunks occupies a thread for long; connections must not wait for it.
    std::thread::Builder::new()
        .name("rounds".into())
        .spawn(work)
        .map_err(|error| ServerError::Internal(format!("starting the driver: {error}")))?;
    Ok(result)
}
