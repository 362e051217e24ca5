//! What connections run over: the system's network, or a simulated one in tests.

use crate::address::SocketFile;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection of any kind, in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that is being opened.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'a>>;

/// The next incoming connection, and the address of the peer if it has one.
pub type Accepting<'a> =
    Pin<Box<dyn Future<Output = io::Result<(Box<dyn Duplex>, Option<SocketAddr>)>> + Send + 'a>>;

/// A network that replaces the system's.
pub trait Network: Debug + Send + Sync {
    /// Opens a connection to `HOST:PORT`.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// A source of incoming connections.
pub trait Accept: Debug + Send + Sync {
    /// Waits for the next connection.
    fn accept(&self) -> Accepting<'_>;
}

impl Accept for tokio::net::TcpListener {
    fn accept(&self) -> Accepting<'_> {
        Box::pin(async {
            let (stream, address) = tokio::net::TcpListener::accept(self).await?;
            // Small messages must not wait for one another. An error here means that the peer has gone;
            // reading will report it.
            let _ = stream.set_nodelay(true);
            Ok((Box::new(stream) as _, Some(address)))
        })
    }
}

#[cfg(unix)]
impl Accept for (tokio::net::UnixListener, Arc<SocketFile>) {
    fn accept(&self) -> Accepting<'_> {
        Box::pin(async {
            let (stream, _) = self.0.accept().await?;
            Ok((Box::new(stream) as _, None))
        })
    }
}
