//! The port for Kubernetes' gRPC probes.

use ps_net::limits::Capacity;
use ps_server::Health;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[tokio::test]
async fn health_reports_whether_workers_are_served() {
    let health = Health::open("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", health.address())).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut ask = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        client.check(request).await.map(|reply| reply.into_inner().status().as_str_name().to_owned())
    };
    let server = "downhill.v1.ParameterServer";
    assert_eq!(ask("").await.unwrap(), "SERVING");
    assert_eq!(ask(server).await.unwrap(), "NOT_SERVING");
    for (is_ready, expected) in [(true, "SERVING"), (false, "NOT_SERVING")] {
        health.ready(is_ready);
        // A separate task updates the status.
        while ask(server).await.unwrap() != expected {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask("").await.unwrap(), "SERVING");
    }
    assert_eq!(ask("someone.else").await.unwrap_err().code(), tonic::Code::NotFound);
}

#[test]
fn one_address_cannot_exhaust_the_health_connections() {
    let health = Health::open("127.0.0.1:0").unwrap();
    let max = Capacity::of_health(ps_host::open_files()).of_one_address;
    let connect = || TcpStream::connect(health.address()).unwrap();
    let held: Vec<TcpStream> = (0..max).map(|_| connect()).collect();
    // Accepted and closed while the earlier connections wait for a call.
    let mut refused = connect();
    refused.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match refused.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    drop(held);
}

#[test]
fn a_port_in_use_is_an_io_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Health::open(&taken.local_addr().unwrap().to_string()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}
