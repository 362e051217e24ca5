//! What waits to be sent to one worker: bounded, never blocking whoever fills it.

use bytes::Bytes;
use ps_proto::convert::weights_chunk;
use ps_proto::limits::{DRAIN_TIMEOUT, OUTBOX_MESSAGES};
use ps_proto::v1::{FromServer, Heartbeat, from_server::Message};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_stream::Stream;
use tonic::Status;

/// The whole weights as they travel, shared by all workers they are sent to.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// Steps applied to them.
    pub version: u64,
    /// Little-endian binary32.
    pub bytes: Bytes,
}

/// The driver's end.
pub(crate) struct Outbox {
    shared: Arc<Mutex<Shared>>,
}

/// The connection's end: the stream of messages, with a heartbeat whenever nothing was sent for a while.
pub(crate) struct Outgoing {
    shared: Arc<Mutex<Shared>>,
    /// Weights of which chunks are still to be sent, and the next chunk.
    sending: Option<(Weights, usize)>,
    heartbeat: Interval,
}

/// Why nothing more can be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undeliverable {
    /// The connection is gone.
    Closed,
    /// The worker does not read what it is sent.
    Full,
}

#[derive(Default)]
struct Shared {
    queue: VecDeque<Item>,
    /// Since when the first of the queue waits; `None` if the queue is empty.
    waits_since: Option<Instant>,
    /// How the stream ends once the queue is empty.
    end: Option<Option<Status>>,
    /// The connection's end is gone.
    closed: bool,
    waker: Option<Waker>,
}

enum Item {
    Message(Message),
    Weights(Weights),
}

/// A queue to one worker.
pub(crate) fn channel(heartbeat: Duration) -> (Outbox, Outgoing) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let mut heartbeat = interval(heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    (Outbox { shared: shared.clone() }, Outgoing { shared, sending: None, heartbeat })
}

impl Outbox {
    /// Queues a message.
    pub fn message(&self, message: Message) -> Result<(), Undeliverable> {
        self.push(Item::Message(message), Instant::now())
    }

    /// Queues weights. Older ones that still wait, and work at them, are of no use any more and go.
    pub fn weights(&self, weights: Weights) -> Result<(), Undeliverable> {
        self.push(Item::Weights(weights), Instant::now())
    }

    /// Ends the stream after what is queued.
    pub fn finish(self) {}

    /// Ends the stream at once with a status; what is queued is forgotten.
    pub fn abandon(self, status: Status) {
        let mut shared = lock(&self.shared);
        shared.queue.clear();
        shared.end = Some(Some(status));
    }

    fn push(&self, item: Item, now: Instant) -> Result<(), Undeliverable> {
        let waker = {
            let mut shared = lock(&self.shared);
            if shared.closed {
                return Err(Undeliverable::Closed);
            }
            if let Item::Weights(weights) = &item {
                shared.queue.retain(|item| !item.is_outdated_by(weights.version));
            }
            let since = *shared.waits_since.get_or_insert(now);
            if now.saturating_duration_since(since) > DRAIN_TIMEOUT || shared.queue.len() >= OUTBOX_MESSAGES {
                return Err(Undeliverable::Full);
            }
            shared.queue.push_back(item);
            shared.waker.take()
        };
        // Outside the lock, so that whoever wakes does not wait for it.
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl Shared {
    fn pop(&mut self) -> Option<Item> {
        let item = self.queue.pop_front();
        self.waits_since = if self.queue.is_empty() { None } else { Some(Instant::now()) };
        item
    }
}

impl Item {
    fn is_outdated_by(&self, version: u64) -> bool {
        match self {
            Item::Weights(_) => true,
            Item::Message(Message::Assign(assign)) => assign.step < version,
            Item::Message(_) => false,
        }
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

impl Stream for Outgoing {
    type Item = Result<FromServer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = loop {
            if let Some((weights, index)) = &mut self.sending {
                match weights_chunk(weights.version, &weights.bytes, *index) {
                    Some(chunk) => {
                        *index += 1;
                        break Message::Weights(chunk);
                    }
                    None => self.sending = None,
                }
            }
            let item = {
                let mut shared = lock(&self.shared);
                match shared.pop() {
                    Some(item) => Some(item),
                    None => {
                        if let Some(end) = &mut shared.end {
                            return Poll::Ready(end.take().map(Err));
                        }
                        shared.waker = Some(context.waker().clone());
                        None
                    }
                }
            };
            match item {
                Some(Item::Message(message)) => break message,
                Some(Item::Weights(weights)) => self.sending = Some((weights, 0)),
                None => match self.heartbeat.poll_tick(context) {
                    Poll::Ready(_) => break Message::Heartbeat(Heartbeat {}),
                    Poll::Pending => return Poll::Pending,
                },
            }
        };
        Poll::Ready(Some(Ok(FromServer { message: Some(message) })))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        shared.queue.clear();
    }
}

/// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_proto::v1::Assign;
    use tokio_stream::StreamExt;

    fn weights(version: u64) -> Weights {
        Weights { version, bytes: ps_proto::tensor::share(vec![version as f32; 3]) }
    }

    fn assign(step: u64) -> Message {
        Message::Assign(Assign { step, leaf_start: 0, leaf_end: 1 })
    }

    async fn rest(outgoing: Outgoing) -> Vec<String> {
        let describe = |item: Result<FromServer, Status>| match item {
            Ok(FromServer { message: Some(Message::Weights(chunk)) }) => format!("weights {}", chunk.version),
            Ok(FromServer { message: Some(Message::Assign(assign)) }) => format!("assign {}", assign.step),
            Ok(FromServer { message: Some(Message::Heartbeat(_)) }) => "heartbeat".into(),
            Ok(other) => format!("{other:?}"),
            Err(status) => status.message().to_owned(),
        };
        outgoing.map(describe).filter(|text| text != "heartbeat").collect().await
    }

    #[tokio::test]
    async fn newer_weights_replace_those_that_still_wait_and_the_work_at_them() {
        let (outbox, outgoing) = channel(Duration::from_secs(60));
        outbox.weights(weights(0)).unwrap();
        outbox.message(assign(0)).unwrap();
        outbox.weights(weights(1)).unwrap();
        outbox.message(assign(1)).unwrap();
        outbox.finish();
        assert_eq!(rest(outgoing).await, ["weights 1", "assign 1"]);
    }

    #[tokio::test]
    async fn a_worker_that_reads_nothing_is_found_out_and_told() {
        let (outbox, outgoing) = channel(Duration::from_secs(60));
        let begun = Instant::now();
        let seconds_taken = (0..100)
            .take_while(|&second| {
                let now = begun + Duration::from_secs(second);
                outbox.push(Item::Weights(weights(second)), now).is_ok()
            })
            .count() as u64;
        assert_eq!(seconds_taken, DRAIN_TIMEOUT.as_secs() + 1);
        outbox.abandon(Status::resource_exhausted("too slow"));
        assert_eq!(rest(outgoing).await, ["too slow"]);

        let (outbox, outgoing) = channel(Duration::from_secs(60));
        let sent = (0..1000).take_while(|_| outbox.message(assign(0)).is_ok()).count();
        assert_eq!(sent, OUTBOX_MESSAGES);
        drop(outgoing);
        assert_eq!(outbox.message(assign(0)), Err(Undeliverable::Closed));
    }

    #[tokio::test]
    async fn a_silent_stream_beats() {
        let (outbox, mut outgoing) = channel(Duration::from_millis(1));
        for _ in 0..3 {
            let message = outgoing.next().await.unwrap().unwrap().message;
            assert_eq!(message, Some(Message::Heartbeat(Heartbeat {})));
        }
        drop(outbox);
        assert!(outgoing.next().await.is_none());
    }
}
