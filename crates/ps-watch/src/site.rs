//! A small HTTP server on a thread of its own.

use axum::Router;
use axum::http::HeaderMap;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Whether a request with these headers may come in.
pub type Gate = Arc<dyn Fn(&HeaderMap) -> bool + Send + Sync>;

/// It serves until this is dropped.
pub struct Site {
    address: SocketAddr,
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Serves `routes` at `HOST:PORT`; port 0: any free one.
    ///
    /// # Errors
    /// What is wrong with the address, or keeps us from it.
    pub fn open(address: &str, routes: Router) -> Result<Self, String> {
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
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                served = async { axum::serve(listener, routes).await } => served,
                // Streams that stay open are cut.
                _ = closed => Ok(()),
            }
        };
        let serve = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::warn!("{address} is not served any more: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(serve).map_err(problem)?;
        Ok(Site { address, close: Some(close), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn problem(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process has this port".into(),
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
