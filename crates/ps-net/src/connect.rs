//! A client's connection to a server.
//!
//! The socket is opened and the TLS handshake completed before tonic gets the stream. Errors therefore keep
//! their type, and this module can tell whether another attempt may help. A connection that breaks is never
//! reopened implicitly: its owner has to know that the server may be another one now.

use crate::address::Address;
use crate::limits::{self, CALL_TIMEOUT, CONNECT_TIMEOUT};
use crate::network::{Duplex, Network};
use crate::security::Security;
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

/// Why a connection could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Certificates, token or address do not match those of the server; another attempt would fail in
    /// the same way.
    Permanent(String),
    /// The server may be starting, or the network may be down: another attempt may succeed.
    Transient(String),
}

/// How a plaintext connection to a server that requires TLS ends. On the way through HTTP/2 only the text of
/// an error survives, so callers recognise it by this text.
pub const WANTS_TLS: &str =
    "the server requires TLS; set --tls-cert, --tls-key and --tls-ca (`downhill certs` creates the files)";

/// A connection to a server. Its calls carry the token of this process, if there is one.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Channel,
    authorization: Option<HeaderValue>,
}

impl Service<Request<Body>> for Connection {
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
    /// Connects with the settings in [`limits`]. `security` protects the connection; its token file
    /// is read again.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub async fn connect(&self, security: &Security) -> Result<Connection, ConnectError> {
        let authorization = security.authorization().map_err(ConnectError::Permanent)?;
        let stream = match self.dial(security).await {
            // A bit flipped during the handshake can look like a mismatch; a mismatch that occurs twice is
            // real.
            Err(ConnectError::Permanent(_)) => self.dial(security).await?,
            dialled => dialled?,
        };
        // Tonic takes the stream once; when it asks again, the connection has broken.
        let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
        let connect = move |_| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            async {
                stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection is lost"))
            }
        };
        let uri = match self {
            Address::Tcp(address) => format!("{}{address}", security.scheme()),
            // HTTP/2 requests need a host name; this one is never resolved.
            Address::Unix(_) => format!("{}localhost", security.scheme()),
        };
        let wrong = |error: tonic::transport::Error| ConnectError::Transient(describe(&error));
        let channel = endpoint(uri).map_err(wrong)?.connect_with_connector(tower::service_fn(connect)).await;
        Ok(Connection { channel: channel.map_err(wrong)?, authorization })
    }

    /// Opens a socket and completes the TLS handshake if `security` asks for it.
    async fn dial(&self, security: &Security) -> Result<Opened, ConnectError> {
        let opened = timeout(CONNECT_TIMEOUT, self.open(security.network())).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = opened.map_err(|error| ConnectError::Transient(describe(&error)))?;
        let Some(tls) = security.tls() else {
            return Ok(Opened { stream, first: Bytes::new(), is_plain: true });
        };
        let host = match self {
            Address::Tcp(address) => address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host),
            Address::Unix(_) => "localhost",
        };
        let name = tls.name(host).map_err(ConnectError::Permanent)?;
        let begin = async {
            let mut stream = tls.connector().connect(name, stream).await?;
            // An HTTP/2 server sends its settings first. In TLS 1.3 a server rejects the client's certificate
            // only after the client's handshake is complete, so the alert would otherwise surface in some
            // later call.
            let mut first = BytesMut::with_capacity(1024);
            match stream.read_buf(&mut first).await? {
                0 => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection immediately",
                )),
                _ => Ok(Opened { stream: Box::new(stream), first: first.freeze(), is_plain: false }),
            }
        };
        // A peer can accept the connection and never answer the handshake. Without a limit, the caller could
        // not count this as a failed attempt.
        match timeout(CALL_TIMEOUT, begin).await {
            Ok(begun) => begun.map_err(|error| crate::security::connect_error(&error)),
            Err(_) => Err(ConnectError::Transient(format!(
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

/// An error and its causes; a cause whose text is already part of the message is left out.
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

/// An open stream, of which [`Address::dial`] may have read the first bytes.
struct Opened {
    stream: Box<dyn Duplex>,
    /// Bytes that were read and not yet handed on.
    first: Bytes,
    /// Whether the stream is plaintext and its first byte has not been checked for a TLS alert.
    is_plain: bool,
}

/// First byte of a TLS record that carries an alert. The first byte of an HTTP/2 server is the highest byte
/// of the length of its settings frame, which is 0.
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
        // A server that requires TLS answers plaintext with an alert. HTTP/2 would report it as a damaged
        // frame, which hides the reason.
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
