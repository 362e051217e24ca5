//! What connections go over: the system's network, or in simulations another.

use crate::address::SocketFile;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of a connection, of whatever kind.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that is being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'a>>;

/// The next connection that comes in, and where from, if that is an address.
pub type Accepting<'a> =
    Pin<Box<dyn Future<Output = io::Result<(Box<dyn Duplex>, Option<SocketAddr>)>> + Send + 'a>>;

/// A network in the place of the system's.
pub trait Network: Debug + Send + Sync {
    /// Opens a connection to `HOST:PORT`.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// Something that connections come from.
pub trait Accept: Debug + Send + Sync {
    /// The next one.
    fn accept(&self) -> Accepting<'_>;
}

impl Accept for tokio::net::TcpListener {
    fn accept(&self) -> Accepting<'_> {
        Box::pin(async {
            let (stream, address) = tokio::net::TcpListener::accept(self).await?;
            // Small messages must not wait for one another. A connection that is gone already shows when it is read.
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
