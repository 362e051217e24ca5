//! Streams with length-prefixed frames that arrive in pieces of any size.

use crate::{Seed, choice};
use bytes::Bytes;
use http_body::Frame;
use prost::Message;
use ps_proto::stream::Reader;
use ps_proto::v1::{FromServer, FromWorker, Heartbeat, NodeChunk, WeightsChunk, from_server, from_worker};
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tonic::Status;
use tonic::body::Body;

/// The first byte determines the length of the pieces, on which the result must not depend.
pub(crate) fn run(input: &[u8]) {
    let (piece, stream) = choice(input);
    if piece.is_multiple_of(2) {
        same_in_any_pieces::<FromWorker>(piece, stream);
    } else {
        same_in_any_pieces::<FromServer>(piece, stream);
    }
}

fn same_in_any_pieces<M: Message + Default + PartialEq + std::fmt::Debug>(piece: u8, stream: &[u8]) {
    let whole = read::<M>(stream, usize::MAX);
    assert_eq!(read::<M>(stream, usize::from(piece >> 1) + 1), whole);
}

/// Reads the messages, and the error with which the stream ends, if any.
fn read<M: Message + Default>(stream: &[u8], piece: usize) -> (Vec<M>, Option<String>) {
    let pieces = stream.chunks(piece.min(stream.len().max(1))).map(Bytes::copy_from_slice).collect();
    let mut reader = Reader::<M>::new(Body::new(Pieces(pieces)));
    let mut messages = Vec::new();
    loop {
        let mut next = pin!(reader.message());
        match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Some(message))) => messages.push(message),
            Poll::Ready(Ok(None)) => return (messages, None),
            Poll::Ready(Err(status)) => return (messages, Some(status.to_string())),
            Poll::Pending => panic!("it waits for what is there"),
        }
    }
}

struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

pub(crate) fn seeds() -> Vec<Seed> {
    let tensor = Bytes::from(vec![3; 40]);
    let node = NodeChunk { step: 7, level: 2, index: 300, offset: 0, total: 10, gradient: tensor.clone() };
    let heartbeat = from_worker::Message::Heartbeat(Heartbeat {});
    let from_worker = [from_worker::Message::Node(node.clone()), heartbeat, from_worker::Message::Node(node)]
        .map(|message| framed(&FromWorker { message: Some(message) }))
        .concat();
    let weights = WeightsChunk { version: u64::MAX, offset: 3, total: 10, weights: tensor };
    let from_server = framed(&FromServer { message: Some(from_server::Message::Weights(weights)) });
    let stream = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    vec![
        ("worker-in-pieces-of-1", stream(0, &from_worker)),
        ("worker-in-pieces-of-8", stream(14, &from_worker)),
        ("server-in-pieces-of-3", stream(5, &from_server)),
        ("server-cut", stream(5, &from_server[..30])),
        ("too-long", stream(0, &[0, 1, 0, 0, 0, 1, 2, 3])),
        ("compressed", stream(0, &[1, 0, 0, 0, 0])),
    ]
}

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
}
