//! The queue of messages to one server.

use ps_proto::v1::{FromWorker, from_worker::Message};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// An item to send to a server.
pub(crate) enum Item {
    /// The metric sums of a node; sent before any waiting chunk, because the server refuses a
    /// chunk without them.
    Metrics(FromWorker),
    /// One message; sent after all chunks that were queued before it.
    Message(FromWorker),
    /// Chunks of a node.
    Chunks(Box<dyn Iterator<Item = FromWorker> + Send>),
}

/// The stream of messages that the connection sends. Chunks of the last layers are queued first, but those of
/// earlier layers overtake them while they wait, because their weights are needed first in the next step.
pub(crate) struct SendQueue {
    receiver: mpsc::Receiver<Item>,
    is_closed: bool,
    metrics: VecDeque<FromWorker>,
    /// By step, first element and sequence number.
    chunks: BTreeMap<(u64, u64, usize), FromWorker>,
    /// Number of chunks so far.
    number: usize,
    messages: VecDeque<FromWorker>,
}

impl SendQueue {
    /// Creates a stream that begins with `hello`, if given.
    pub(crate) fn new(receiver: mpsc::Receiver<Item>, hello: Option<FromWorker>) -> Self {
        let messages = hello.into_iter().collect();
        let (metrics, chunks) = (VecDeque::new(), BTreeMap::new());
        SendQueue { receiver, is_closed: false, metrics, chunks, number: 0, messages }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Metrics(message) => self.metrics.push_back(message),
            Item::Message(message) => self.messages.push_back(message),
            Item::Chunks(chunks) => {
                for message in chunks {
                    if let Some(Message::Node(chunk)) = &message.message {
                        // The number keeps apart the chunks of several nodes, which have the same step and
                        // offset.
                        self.chunks.insert((chunk.step, chunk.offset, self.number), message);
                        self.number += 1;
                    }
                }
            }
        }
    }
}

impl Stream for SendQueue {
    type Item = Result<FromWorker, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Everything that waits is taken in before a message is chosen. Otherwise no chunk could overtake
        // another one that was queued earlier.
        while !self.is_closed {
            match self.receiver.poll_recv(context) {
                Poll::Ready(Some(item)) => self.take(item),
                Poll::Ready(None) => self.is_closed = true,
                Poll::Pending => break,
            }
        }
        let chunk = self.metrics.pop_front().or_else(|| self.chunks.pop_first().map(|(_, chunk)| chunk));
        match chunk.or_else(|| self.messages.pop_front()) {
            Some(message) => Poll::Ready(Some(Ok(message))),
            None if self.is_closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ps_core::MetricSums;
    use ps_plan::Node;
    use ps_proto::convert::{gradient_chunks, node_done, node_metrics};
    use ps_proto::limits::chunk_elements;
    use tokio_stream::StreamExt;

    const PARAMETERS: usize = 200_000;

    /// The chunks `first..end` of a node of step 7.
    fn chunks(index: u32, first: usize, end: usize) -> Item {
        let size = chunk_elements(PARAMETERS);
        let range = first * size..PARAMETERS.min(end * size);
        let bytes = Bytes::from(vec![0; 4 * range.len()]);
        let node = Node { level: 0, index };
        Item::Chunks(Box::new(gradient_chunks(7, node, PARAMETERS, range.start, bytes, 0..PARAMETERS)))
    }

    fn describe(item: Result<FromWorker, Status>) -> String {
        match item.unwrap().message.unwrap() {
            Message::Node(chunk) => {
                format!("{} of {}", chunk.offset / chunk_elements(PARAMETERS) as u64, chunk.index)
            }
            Message::NodeMetrics(metrics) => format!("metrics of {}", metrics.index),
            Message::NodeDone(done) => format!("end of {}", done.index),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn metrics_are_sent_first_then_the_first_layers_chunks_and_a_nodes_end_last() {
        let (sender, receiver) = mpsc::channel(16);
        let mut queue = SendQueue::new(receiver, None);
        sender.try_send(chunks(0, 2, 4)).unwrap_or_else(|_| panic!());
        assert_eq!(describe(queue.next().await.unwrap()), "2 of 0");
        sender.try_send(chunks(0, 0, 2)).unwrap_or_else(|_| panic!());
        let metrics = node_metrics(7, Node::leaf(1), MetricSums::default());
        sender.try_send(Item::Metrics(metrics)).unwrap_or_else(|_| panic!());
        sender.try_send(chunks(1, 2, 4)).unwrap_or_else(|_| panic!());
        let done = node_done(7, Node::leaf(0));
        sender.try_send(Item::Message(done)).unwrap_or_else(|_| panic!());
        sender.try_send(chunks(1, 0, 2)).unwrap_or_else(|_| panic!());
        drop(sender);
        let rest: Vec<String> = queue.map(describe).collect().await;
        let expected = [
            "metrics of 1",
            "0 of 0",
            "0 of 1",
            "1 of 0",
            "1 of 1",
            "2 of 1",
            "3 of 0",
            "3 of 1",
            "end of 0",
        ];
        assert_eq!(rest, expected);
    }
}
