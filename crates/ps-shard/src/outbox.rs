//! The queue of messages to one worker: bounded, and never blocking the driver that fills it.

use bytes::Bytes;
use ps_net::limits::{DRAIN_TIMEOUT, OUTBOX_MESSAGES};
use ps_plane::WeightsChunk;
use ps_proto::convert::weights_chunk;
use ps_proto::v1::{FromServer, Heartbeat, from_server::Message};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_stream::Stream;
use tonic::Status;

/// The driver's end.
pub struct Outbox {
    shared: Arc<Mutex<Shared>>,
}

/// The connection's end: the stream of messages, with a heartbeat whenever nothing was sent for a while.
pub struct OutboxStream {
    shared: Arc<Mutex<Shared>>,
    parameters: usize,
    heartbeat: Interval,
}

/// Access to the messages that are still queued after the driver's end is dropped.
pub(crate) struct QueuedMessages(Arc<Mutex<Shared>>);

impl QueuedMessages {
    /// Discards the queued messages and ends the stream.
    pub(crate) fn discard(self) {
        let mut shared = lock(&self.0);
        shared.messages.clear();
        shared.weights.clear();
        shared.end.get_or_insert(None);
        if let Some(waker) = shared.waker.take() {
            drop(shared);
            waker.wake();
        }
    }
}

/// Why nothing more can be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Undeliverable {
    /// The connection is gone.
    Closed,
    /// The worker does not read its messages.
    Full,
}

#[derive(Default)]
struct Shared {
    messages: VecDeque<Message>,
    /// Chunks of weights, by version and first element. Messages are sent first, then older weights before
    /// newer ones; within a version, the chunks that the forward pass needs first.
    weights: BTreeMap<(u64, usize), Bytes>,
    /// Time of the last removal from a non-empty queue, or of the first message in it; `None` if the
    /// queue is empty.
    waits_since: Option<Instant>,
    /// How the stream ends once the queue is empty.
    end: Option<Option<Status>>,
    /// Set when the connection's end is dropped.
    closed: bool,
    waker: Option<Waker>,
}

/// Creates a queue to one worker of a model with `parameters` parameters.
pub(crate) fn channel(heartbeat: Duration, parameters: usize) -> (Outbox, OutboxStream) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let mut heartbeat = interval(heartbeat);
    // A stream that was busy with weights owes no burst of heartbeats afterwards.
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    (Outbox { shared: shared.clone() }, OutboxStream { shared, parameters, heartbeat })
}

impl Outbox {
    /// Queues a message.
    pub(crate) fn message(&self, message: Message) -> Result<(), Undeliverable> {
        self.push(Instant::now(), |shared| shared.messages.push_back(message))
    }

    /// Queues a chunk of weights.
    pub(crate) fn weights(&self, part: WeightsChunk) -> Result<(), Undeliverable> {
        let WeightsChunk { version, offset, bytes } = part;
        self.push(Instant::now(), |shared| {
            shared.weights.insert((version, offset), bytes);
        })
    }

    /// Drops weights before `version`, and assignments for earlier steps.
    pub(crate) fn discard_before(&self, version: u64) {
        let mut shared = lock(&self.shared);
        // Only assignments become obsolete: a dismissal does not belong to a version.
        let older = |message: &Message| matches!(message, Message::Assign(assign) if assign.step < version);
        shared.messages.retain(|message| !older(message));
        shared.weights = shared.weights.split_off(&(version, 0));
    }

    /// Access to the messages that will remain when this is dropped.
    pub(crate) fn queued(&self) -> QueuedMessages {
        QueuedMessages(self.shared.clone())
    }

    /// Ends the stream after the queued messages.
    pub(crate) fn finish(self) {}

    /// Ends the stream at once with a status; queued messages are dropped.
    pub fn abandon(self, status: Status) {
        let mut shared = lock(&self.shared);
        shared.messages.clear();
        shared.weights.clear();
        shared.end = Some(Some(status));
    }

    fn push(&self, now: Instant, queue: impl FnOnce(&mut Shared)) -> Result<(), Undeliverable> {
        let waker = {
            let mut shared = lock(&self.shared);
            if shared.closed {
                return Err(Undeliverable::Closed);
            }
            // Progress counts, not age: over a slow link, a queue may stay long, but something
            // leaves it now and then.
            let since = *shared.waits_since.get_or_insert(now);
            let is_late = now.saturating_duration_since(since) > DRAIN_TIMEOUT;
            if is_late || shared.messages.len() >= OUTBOX_MESSAGES {
                return Err(Undeliverable::Full);
            }
            queue(&mut shared);
            shared.waker.take()
        };
        // Outside the lock, so that the woken task does not wait for it.
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl Shared {
    /// The next message for a model of `parameters` parameters.
    fn pop(&mut self, parameters: usize) -> Option<Message> {
        let message = self.messages.pop_front().or_else(|| {
            let ((version, offset), bytes) = self.weights.pop_first()?;
            Some(Message::Weights(weights_chunk(version, offset, parameters, bytes)))
        });
        let is_empty = self.messages.is_empty() && self.weights.is_empty();
        self.waits_since = if is_empty { None } else { Some(Instant::now()) };
        message
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.end.get_or_insert(None);
        if let Some(waker) = shared.waker.take() {
            drop(shared);
            waker.wake();
        }
    }
}

impl Stream for OutboxStream {
    type Item = Result<FromServer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = {
            let mut shared = lock(&self.shared);
            match shared.pop(self.parameters) {
                Some(message) => Some(message),
                None => {
                    if let Some(end) = &mut shared.end {
                        return Poll::Ready(end.take().map(Err));
                    }
                    // Stored under the lock that found the queue empty, so that a message queued right
                    // afterwards wakes this task.
                    shared.waker = Some(context.waker().clone());
                    None
                }
            }
        };
        let message = match message {
            Some(message) => message,
            None => match self.heartbeat.poll_tick(context) {
                Poll::Ready(_) => Message::Heartbeat(Heartbeat {}),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(Some(Ok(FromServer { message: Some(message) })))
    }
}

impl Drop for OutboxStream {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        // Frees the tensors at once; the driver notices that the stream is closed only when it queues the
        // next message.
        shared.messages.clear();
        shared.weights.clear();
    }
}

/// Ignores poisoning: the state is consistent between any two statements, so a panic elsewhere does
/// not spoil it.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_proto::v1::Assign;
    use tokio_stream::StreamExt;

    fn weights(version: u64, offset: usize) -> WeightsChunk {
        WeightsChunk { version, offset, bytes: ps_proto::tensor::share(vec![version as f32; 3]) }
    }

    fn assign(step: u64) -> Message {
        Message::Assign(Assign { step, leaf_start: 0, leaf_end: 1 })
    }

    async fn rest(stream: OutboxStream) -> Vec<String> {
        let describe = |item: Result<FromServer, Status>| match item {
            Ok(FromServer { message: Some(Message::Weights(chunk)) }) => {
                format!("weights {} at {}", chunk.version, chunk.offset)
            }
            Ok(FromServer { message: Some(Message::Assign(assign)) }) => format!("assign {}", assign.step),
            Ok(FromServer { message: Some(Message::Heartbeat(_)) }) => "heartbeat".into(),
            Ok(other) => format!("{other:?}"),
            Err(status) => status.message().to_owned(),
        };
        stream.map(describe).filter(|text| text != "heartbeat").collect().await
    }

    #[tokio::test]
    async fn messages_come_first_then_chunks_in_the_order_of_their_use() {
        let (outbox, stream) = channel(Duration::from_secs(60), 9);
        for part in [weights(1, 6), weights(0, 3), weights(1, 0), weights(1, 3)] {
            outbox.weights(part).unwrap();
        }
        outbox.message(assign(1)).unwrap();
        outbox.finish();
        let expected = ["assign 1", "weights 0 at 3", "weights 1 at 0", "weights 1 at 3", "weights 1 at 6"];
        assert_eq!(rest(stream).await, expected);
    }

    #[tokio::test]
    async fn older_weights_and_assignments_can_be_discarded() {
        let (outbox, stream) = channel(Duration::from_secs(60), 3);
        outbox.weights(weights(0, 0)).unwrap();
        outbox.message(assign(0)).unwrap();
        outbox.weights(weights(1, 0)).unwrap();
        outbox.discard_before(1);
        outbox.message(assign(1)).unwrap();
        outbox.finish();
        assert_eq!(rest(stream).await, ["assign 1", "weights 1 at 0"]);
    }

    #[tokio::test]
    async fn a_worker_that_reads_nothing_is_refused() {
        let (outbox, stream) = channel(Duration::from_secs(60), 3);
        let begun = Instant::now();
        let seconds_taken = (0..100)
            .take_while(|&second| outbox.push(begun + Duration::from_secs(second), |_| ()).is_ok())
            .count() as u64;
        assert_eq!(seconds_taken, DRAIN_TIMEOUT.as_secs() + 1);
        outbox.abandon(Status::resource_exhausted("too slow"));
        assert_eq!(rest(stream).await, ["too slow"]);

        let (outbox, stream) = channel(Duration::from_secs(60), 3);
        let sent = (0..1000).take_while(|_| outbox.message(assign(0)).is_ok()).count();
        assert_eq!(sent, OUTBOX_MESSAGES);
        drop(stream);
        assert_eq!(outbox.message(assign(0)), Err(Undeliverable::Closed));
    }

    #[tokio::test]
    async fn an_idle_stream_sends_heartbeats() {
        let (outbox, mut stream) = channel(Duration::from_millis(1), 3);
        for _ in 0..3 {
            let message = stream.next().await.unwrap().unwrap().message;
            assert_eq!(message, Some(Message::Heartbeat(Heartbeat {})));
        }
        drop(outbox);
        assert!(stream.next().await.is_none());
    }
}
