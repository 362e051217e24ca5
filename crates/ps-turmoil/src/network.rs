//! Connections over the simulated network.

use ps_net::Listener;
use ps_net::network::{Accept, Accepting, Connecting, Network};
use std::fmt;
use std::io;
use turmoil::net::{TcpListener, TcpStream};

/// The port on which every host listens.
const PORT: u16 = 4370;

/// The address on which a host listens.
pub(crate) fn address(host: &str) -> String {
    format!("{host}:{PORT}")
}

/// Starts to listen on `host`, which must be the current host.
pub(crate) async fn listen(host: &str) -> io::Result<Listener> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(Listener::Other(Box::new(SimulatedListener(listener)), address(host)))
}

/// A connector for the simulated network.
#[derive(Debug)]
pub(crate) struct SimulatedNetwork;

impl Network for SimulatedNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as _) })
    }
}

struct SimulatedListener(TcpListener);

impl fmt::Debug for SimulatedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedListener")
    }
}

impl Accept for SimulatedListener {
    fn accept(&self) -> Accepting<'_> {
        Box::pin(async {
            let (stream, address) = self.0.accept().await?;
            Ok((Box::new(stream) as _, Some(address)))
        })
    }
}
