//! gRPC's framing of the long-lived streams, written by hand to avoid copies of tensors.
//!
//! On the wire this is ordinary gRPC: a flag and a length before each protobuf message. tonic's own codec
//! copies every message into one buffer on the way out and out of another on the way in. Here a tensor leaves
//! as a slice of the memory that holds it, after a few bytes of header, and arrives as a slice of the buffer
//! that the socket was read into, unless HTTP/2 split it. `docs/performance.md` has measurements.

use crate::limits::MAX_MESSAGE_BYTES;
use crate::v1::{FromServer, FromWorker, from_server, from_worker};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap, HeaderValue};

/// The path of the stream of the rounds.
pub const ROUNDS_PATH: &str = "/downhill.v1.ParameterServer/Rounds";

/// The flag (uncompressed) and the big-endian length before a message.
const PREFIX_BYTES: usize = 5;

/// Payloads up to this many bytes are copied behind their header, because a separate frame would cost more.
const SMALL_PAYLOAD_BYTES: usize = 16 << 10;

/// Pieces up to this many bytes are merged while they wait for the rest of their message, once
/// [`LOOSE_PIECES`] pieces wait. Otherwise a peer that sends tiny frames could make the bookkeeping many
/// times larger than the data.
const SMALL_PIECE_BYTES: usize = 1 << 10;

/// Number of pieces from which small ones are merged. A message in frames of sensible size needs fewer.
const LOOSE_PIECES: usize = 16;

/// A message that may end in a tensor.
pub trait TensorMessage: Message + Sized {
    /// Takes the tensor out of the message, with its position. The tensor's field must be the last of
    /// the inner message.
    fn take_tensor(&mut self) -> Option<(Tensor, Bytes)>;
}

/// The position of a tensor in a message: the field numbers of the inner message and of the tensor in it.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    outer: u32,
    inner: u32,
    /// Length of the inner message without the tensor.
    header: usize,
}

impl TensorMessage for FromServer {
    fn take_tensor(&mut self) -> Option<(Tensor, Bytes)> {
        let Some(from_server::Message::Weights(chunk)) = &mut self.message else { return None };
        let bytes = std::mem::take(&mut chunk.weights);
        Some((Tensor { outer: 2, inner: 4, header: chunk.encoded_len() }, bytes))
    }
}

impl TensorMessage for FromWorker {
    fn take_tensor(&mut self) -> Option<(Tensor, Bytes)> {
        let Some(from_worker::Message::Node(chunk)) = &mut self.message else { return None };
        let bytes = std::mem::take(&mut chunk.gradient);
        Some((Tensor { outer: 2, inner: 6, header: chunk.encoded_len() }, bytes))
    }
}

/// Encodes a message as its head and, if the tensor is large, the tensor.
fn frame(mut message: impl TensorMessage) -> (Bytes, Bytes) {
    let Some((tensor, payload)) = message.take_tensor().filter(|(_, payload)| !payload.is_empty()) else {
        return (framed(&message), Bytes::new());
    };
    let Tensor { outer, inner, header } = tensor;
    let field = key_len(inner) + encoded_len_varint(payload.len() as u64) + payload.len();
    let body = header + field;
    let length = key_len(outer) + encoded_len_varint(body as u64) + body;
    let is_small = payload.len() <= SMALL_PAYLOAD_BYTES;
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + length - if is_small { 0 } else { payload.len() });
    head.put_u8(0);
    head.put_u32(length as u32);
    encode_key(outer, WireType::LengthDelimited, &mut head);
    encode_varint(body as u64, &mut head);
    // Without its tensor, the message consists of a key and a length, which are replaced above, and the
    // header.
    let bare = message.encode_to_vec();
    head.put_slice(&bare[bare.len() - header..]);
    encode_key(inner, WireType::LengthDelimited, &mut head);
    encode_varint(payload.len() as u64, &mut head);
    if is_small {
        head.put_slice(&payload);
        return (head.freeze(), Bytes::new());
    }
    (head.freeze(), payload)
}

/// Encodes a message behind its prefix.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// The body of a stream of messages.
pub fn body<M, S>(messages: S, side: Side) -> Body
where
    M: TensorMessage + 'static,
    S: Stream<Item = Result<M, Status>> + Send + 'static,
{
    Body::new(Writer { messages: Box::pin(messages), payload: Bytes::new(), side, ended: false })
}

/// The side that writes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller: the body just ends.
    Client,
    /// The callee: the body ends with a status.
    Server,
}

/// Calls `path` with a body of messages. Returns the body of the answer once its headers have arrived.
///
/// # Errors
/// The status with which the server answered, or why it could not answer.
pub async fn call<C>(channel: &mut C, path: &'static str, body: Body) -> Result<Body, Status>
where
    C: tonic::client::GrpcService<Body, ResponseBody = Body>,
    C::Error: Into<tonic::codegen::StdError>,
{
    let failed = |error: C::Error| Status::from_error(error.into());
    poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
    let mut request = http::Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let response = channel.call(request).await.map_err(failed)?;
    // A call that is refused at once has no body. Its status is then in the headers instead of the trailers.
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != tonic::Code::Ok
    {
        return Err(status);
    }
    match response.status() {
        http::StatusCode::OK => Ok(response.into_body()),
        other => Err(Status::unknown(format!("HTTP status {other}"))),
    }
}

struct Writer<S> {
    messages: Pin<Box<S>>,
    payload: Bytes,
    side: Side,
    ended: bool,
}

impl<M: TensorMessage, S: Stream<Item = Result<M, Status>>> http_body::Body for Writer<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.payload.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.payload)))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(self.messages.as_mut().poll_next(context)) {
            Some(Ok(message)) => {
                let (head, payload) = frame(message);
                // The tensor becomes a frame of its own, so that it leaves as the slice in which it is held.
                self.payload = payload;
                return Poll::Ready(Some(Ok(Frame::data(head))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        if self.side == Side::Client {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// The messages of a body.
pub struct Reader<M> {
    body: Body,
    pieces: Pieces,
    /// Length of the message that is arriving, once its prefix is here.
    length: Option<usize>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Reader<M> {
    /// Reads from the body of a request or a response.
    pub fn new(body: Body) -> Self {
        Reader { body, pieces: Pieces::default(), length: None, message: PhantomData }
    }

    /// Returns the next message; `None` at a regular end. Cancel safe: nothing is lost if the
    /// future is dropped.
    ///
    /// # Errors
    /// The status with which the stream ended or broke; `OUT_OF_RANGE` for a message that is too long,
    /// `INTERNAL` for one that cannot be decoded.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await {
                None => {
                    // The stream ended in the middle of a message, even if only its prefix has arrived.
                    return match self.length.is_none() && self.pieces.remaining() == 0 {
                        true => Ok(None),
                        false => Err(Status::unavailable("the stream ended in the middle of a message")),
                    };
                }
                Some(Err(status)) => return Err(status),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.pieces.push(data),
                    Err(frame) => {
                        // With the status OK, the body ends at the next poll, which also detects an
                        // incomplete message.
                        let status = frame.trailers_ref().and_then(Status::from_header_map);
                        if let Some(status) = status.filter(|status| status.code() != tonic::Code::Ok) {
                            return Err(status);
                        }
                    }
                },
            }
        }
    }

    /// Returns a message that has arrived completely.
    fn take(&mut self) -> Result<Option<M>, Status> {
        let length = match self.length {
            Some(length) => length,
            None if self.pieces.remaining() < PREFIX_BYTES => return Ok(None),
            None => {
                self.pieces.settle();
                let flag = self.pieces.get_u8();
                let length = self.pieces.get_u32() as usize;
                if flag != 0 {
                    return Err(Status::internal(format!(
                        "compression flag {flag}, but compression is not supported"
                    )));
                }
                if length > MAX_MESSAGE_BYTES {
                    return Err(Status::out_of_range(format!(
                        "a message of {length} bytes exceeds the limit of {MAX_MESSAGE_BYTES}"
                    )));
                }
                // Kept across calls: the prefix is consumed, but the rest of the message may not be here yet.
                *self.length.insert(length)
            }
        };
        if self.pieces.remaining() < length {
            return Ok(None);
        }
        self.pieces.settle();
        self.length = None;
        let rest = self.pieces.split_off(length);
        let mut whole = std::mem::replace(&mut self.pieces, rest);
        M::decode(&mut whole)
            .map(Some)
            .map_err(|error| Status::internal(format!("failed to decode a message: {error}")))
    }
}

/// Bytes in the pieces in which they arrived.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    /// Merged small pieces that follow `pieces`; empty whenever anything is read.
    tail: BytesMut,
    remaining: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.remaining += piece.len();
        if piece.len() <= SMALL_PIECE_BYTES && self.pieces.len() >= LOOSE_PIECES {
            self.tail.extend_from_slice(&piece);
            return;
        }
        // Small pieces that were merged earlier precede this one.
        self.settle();
        self.pieces.push_back(piece);
    }

    /// Appends the merged small pieces as the last piece.
    fn settle(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Keeps the first `at` bytes and returns the others, without copying.
    fn split_off(&mut self, at: usize) -> Pieces {
        let mut first = Pieces::default();
        while first.remaining < at {
            let Some(mut piece) = self.pieces.pop_front() else { break };
            let needed = at - first.remaining;
            if piece.len() > needed {
                self.pieces.push_front(piece.split_off(needed));
            }
            first.remaining += piece.len();
            first.pieces.push_back(piece);
        }
        self.remaining -= first.remaining;
        std::mem::replace(self, first)
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "only what is here is skipped");
        self.remaining -= count;
        while let Some(first) = self.pieces.front_mut() {
            let step = count.min(first.len());
            first.advance(step);
            count -= step;
            if !first.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
    }

    /// A slice of the received data if the bytes lie in one piece, otherwise a copy.
    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        assert!(length <= self.remaining, "only what is here is taken");
        match self.pieces.front_mut() {
            Some(first) if first.len() >= length => {
                let bytes = first.split_to(length);
                self.remaining -= length;
                if first.is_empty() {
                    self.pieces.pop_front();
                }
                bytes
            }
            _ => {
                let mut bytes = BytesMut::with_capacity(length);
                bytes.put(self.take(length));
                bytes.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn node(gradient: Vec<u8>) -> FromWorker {
        let chunk =
            v1::NodeChunk { step: 7, level: 2, index: 300, offset: 0, total: 9, gradient: gradient.into() };
        FromWorker { message: Some(from_worker::Message::Node(chunk)) }
    }

    fn weights(version: u64, weights: Vec<u8>) -> v1::WeightsChunk {
        v1::WeightsChunk { version, offset: 3, total: 1 << 40, weights: weights.into() }
    }

    /// Messages with and without tensors.
    fn messages() -> Vec<FromWorker> {
        let heartbeat = from_worker::Message::Heartbeat(v1::Heartbeat {});
        vec![
            FromWorker { message: Some(heartbeat) },
            node(vec![1, 2, 3, 4]),
            node((0..100_000_u32).map(|i| i as u8).collect()),
            node(Vec::new()),
            FromWorker { message: None },
        ]
    }

    #[test]
    fn hand_written_framing_matches_protobuf() {
        fn check(message: impl TensorMessage + Clone) {
            let expected = framed(&message);
            let (head, payload) = frame(message);
            assert_eq!([head, payload].concat(), expected);
        }
        messages().into_iter().for_each(check);
        for size in [0, 4, 1 << 20] {
            let chunk = weights(u64::MAX, vec![7; size]);
            check(FromServer { message: Some(from_server::Message::Weights(chunk)) });
        }
    }

    #[tokio::test]
    async fn messages_are_read_from_frames_of_any_size() {
        let bytes: Vec<u8> = messages()
            .into_iter()
            .flat_map(|message| {
                let (head, payload) = frame(message);
                [head, payload].concat()
            })
            .collect();
        for size in [1, 3, 1000, 4096, 70_000, bytes.len()] {
            let frames: Vec<_> =
                bytes.chunks(size).map(|piece| Ok::<_, Status>(Bytes::copy_from_slice(piece))).collect();
            let body = Body::new(Frames(frames.into()));
            let mut reader = Reader::<FromWorker>::new(body);
            for expected in messages() {
                assert_eq!(reader.message().await.unwrap(), Some(expected), "{size}");
            }
            assert_eq!(reader.message().await.unwrap(), None);
        }
    }

    #[test]
    fn a_message_in_tiny_frames_uses_little_extra_memory() {
        let mut pieces = Pieces::default();
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
        bytes.iter().for_each(|&byte| pieces.push(Bytes::copy_from_slice(&[byte])));
        assert!(pieces.pieces.len() <= LOOSE_PIECES);
        assert!(pieces.tail.capacity() <= 4 * bytes.len());
        pieces.settle();
        assert_eq!(pieces.copy_to_bytes(bytes.len()), bytes);
    }

    #[tokio::test]
    async fn invalid_framing_is_refused() {
        let read = |bytes: &'static [u8]| async move {
            let body = Body::new(Frames(VecDeque::from([Ok(Bytes::from_static(bytes))])));
            Reader::<FromWorker>::new(body).message().await.unwrap_err()
        };
        assert_eq!(read(&[0, 1, 0, 0, 0]).await.code(), tonic::Code::OutOfRange);
        assert!(read(&[1, 0, 0, 0, 0]).await.message().contains("compression flag 1"));
        assert!(read(&[0, 0, 0, 0, 2, 0xff, 0xff]).await.message().contains("decode"));
        for cut in [&[0, 0, 0][..], &[0, 0, 0, 0, 9], &[0, 0, 0, 0, 9, 1]] {
            assert!(read(cut).await.message().contains("middle of a message"), "{cut:?}");
        }
    }

    #[tokio::test]
    async fn a_server_ends_its_stream_with_a_status_and_a_client_without() {
        let ends = |side| {
            let messages = [Ok(messages().remove(0)), Err(Status::data_loss("broken"))];
            Reader::<FromWorker>::new(body(tokio_stream::iter(messages), side))
        };
        let mut reader = ends(Side::Server);
        assert!(reader.message().await.unwrap().is_some());
        assert_eq!(reader.message().await.unwrap_err().message(), "broken");
        let mut reader = ends(Side::Client);
        assert!(reader.message().await.unwrap().is_some());
        assert_eq!(reader.message().await.unwrap(), None);
    }

    struct Frames(VecDeque<Result<Bytes, Status>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| bytes.map(Frame::data)))
        }
    }
}
