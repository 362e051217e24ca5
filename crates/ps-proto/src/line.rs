//! A caller's connection to a server: dialled, protected, and told apart from what is no server of ours.
//!
//! The socket is opened and its TLS finished before tonic sees it, so that whatever goes wrong is known by its type:
//! whether another try may help is decided here. A line that breaks is not dialled again behind its owner's back.

use crate::address::Address;
use crate::limits::{self, CALL_TIMEOUT, CONNECT_TIMEOUT};
use crate::network::{Duplex, Network};
use crate::security::Security;
use crate::status::{Verdict, WANTS_TLS};
use bytes::{Buf, Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::{Channel, Endpoint};
use tower::Service;

/// A connection whose calls carry our token, if we have one.
#[derive(Clone, Debug)]
pub struct Line {
    channel: Channel,
    authorization: Option<HeaderValue>,
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        self.channel.call(request)
    }
}

impl Address {
    /// A connection, with all settings of [`limits`], protected by `security`, whose token is read anew.
    ///
    /// # Errors
    /// Why there is none, and whether another try may help.
    pub async fn connect(&self, security: &Security) -> Result<Line, Verdict> {
        let authorization = security.authorization().map_err(Verdict::Mismatch)?;
        let stream = match self.dial(security).await {
            // A bit that is flipped while TLS begins can look like an end that does not fit. What comes twice is believed.
            Err(Verdict::Mismatch(_)) => self.dial(security).await?,
            dialled => dialled?,
        };
        // Handed over once; when it breaks, so does the line.
        let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
        let connect = move |_| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            async {
                stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection is lost"))
            }
        };
        let uri = match self {
            Address::Tcp(address) => format!("{}{address}", security.scheme()),
            // The name goes into requests and nowhere else.
            Address::Unix(_) => format!("{}localhost", security.scheme()),
        };
        let wrong = |error: tonic::transport::Error| Verdict::Passing(describe(&error));
        let channel = endpoint(uri).map_err(wrong)?.connect_with_connector(tower::service_fn(connect)).await;
        Ok(Line { channel: channel.map_err(wrong)?, authorization })
    }

    /// A socket, with TLS around it if there is to be.
    async fn dial(&self, security: &Security) -> Result<Opened, Verdict> {
        let opened = timeout(CONNECT_TIMEOUT, self.open(security.network())).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = opened.map_err(|error| Verdict::Passing(describe(&error)))?;
        let Some(tls) = security.tls() else {
            return Ok(Opened { stream, first: Bytes::new(), is_plain: true });
        };
        let host = match self {
            Address::Tcp(address) => address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host),
            Address::Unix(_) => "localhost",
        };
        let name = tls.name(host).map_err(Verdict::Mismatch)?;
        let begin = async {
            let mut stream = tls.connector().connect(name, stream).await?;
            // A server of HTTP/2 speaks first. One that refuses our certificate says so here, where nothing else of
            // ours is on its way to it.
            let mut first = BytesMut::with_capacity(1024);
            match stream.read_buf(&mut first).await? {
                0 => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection at once",
                )),
                _ => Ok(Opened { stream: Box::new(stream), first: first.freeze(), is_plain: false }),
            }
        };
        match timeout(CALL_TIMEOUT, begin).await {
            Ok(begun) => begun.map_err(|error| crate::security::verdict(&error)),
            Err(_) => Err(Verdict::Passing(format!(
                "connected, but no answer to TLS within {} s: the server is still starting, or it does not speak TLS",
                CALL_TIMEOUT.as_secs()
            ))),
        }
    }

    async fn open(&self, network: Option<&dyn Network>) -> io::Result<Box<dyn Duplex>> {
        match (self, network) {
            (Address::Tcp(address), Some(network)) => network.connect(address).await,
            (Address::Tcp(address), None) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            (Address::Unix(path), _) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            (Address::Unix(_), _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn endpoint(uri: String) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri)?
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT))
}

/// An error with its causes, each once.
fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A stream of which something may have been read already.
struct Opened {
    stream: Box<dyn Duplex>,
    /// What was read.
    first: Bytes,
    /// Nothing was read yet, and nothing protects it.
    is_plain: bool,
}

/// First byte of a TLS record that carries an alert. An HTTP/2 server's first byte is that of the length of its
/// settings, which is 0.
const ALERT: u8 = 0x15;

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let opened = &mut *self;
        if !opened.first.is_empty() {
            let count = opened.first.len().min(buffer.remaining());
            buffer.put_slice(&opened.first[..count]);
            opened.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut opened.stream).poll_read(context, buffer))?;
        if std::mem::take(&mut opened.is_plain) && buffer.filled().get(before) == Some(&ALERT) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, WANTS_TLS)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opened {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
