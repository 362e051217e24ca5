//! The one task that owns the worker's round logic: events in, actions carried out.

use crate::client::{Client, Connection, Item};
use crate::compute::{Compute, Computed, Work};
use crate::{WorkerError, WorkerOptions, retryable};
use ps_coord::{Millis, WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerOutcome};
use ps_proto::convert::{self, Invitation, Nonsense, ServerMessage, WeightsPart};
use ps_proto::status::{Verdict, verdict};
use ps_proto::{tensor, v1};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{debug, debug_span, info};
use v1::from_worker::Message;

/// Work in hand whose weights do not come for this long: they are asked for again. Long, for asking for a large
/// model twice makes a slow link slower.
const WEIGHTS_TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause before connecting again, and the longest.
const RECONNECT_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3)];
/// How long a worker that is done waits for the server to close its side.
const FAREWELL: Duration = Duration::from_secs(1);

/// Drives the rounds until the round logic says that our part is over.
pub(crate) struct Driver {
    client: Client,
    server: String,
    compute: Compute,
    core: WorkerCore,
    attempt: Option<Attempt>,
    connection: Option<Connection>,
    weights: HeldWeights,
    /// Sums that were computed and are not sent yet.
    computed: Option<Computed>,
    started: Instant,
}

type Attempt = Pin<Box<dyn Future<Output = Result<Connection, Verdict>> + Send>>;

/// The weights that are here whole, and those that are arriving.
#[derive(Default)]
struct HeldWeights {
    held: Option<(u64, Arc<Vec<f32>>)>,
    arriving: Option<(u64, Vec<f32>)>,
    /// A buffer to receive the next ones in.
    spare: Vec<f32>,
}

/// What woke the driver.
enum Woken {
    Connected(Result<Connection, Verdict>),
    Received(Result<Option<v1::FromServer>, tonic::Status>),
    Computed(Option<Computed>),
    Stop,
    Timeout,
}

impl Driver {
    pub fn new(client: Client, compute: Compute, invitation: &Invitation, options: &WorkerOptions) -> Self {
        let config = WorkerConfig {
            heartbeat_ms: millis(invitation.heartbeat),
            server_timeout_ms: millis(invitation.silence),
            weights_timeout_ms: millis(WEIGHTS_TIMEOUT),
            reconnect_min_ms: millis(RECONNECT_PAUSE[0]),
            reconnect_max_ms: millis(RECONNECT_PAUSE[1]),
            give_up_ms: millis(options.patience),
            // The standard library's hasher is seeded by the system; no bit of the weights depends on it.
            jitter_seed: RandomState::new().hash_one(std::process::id()),
        };
        Driver {
            client,
            server: options.server.clone(),
            compute,
            core: WorkerCore::new(0, config),
            attempt: None,
            connection: None,
            weights: HeldWeights::default(),
            computed: None,
            started: Instant::now(),
        }
    }

    /// Runs to the end. `stop` completes when the user asks to stop.
    pub async fn run(
        mut self,
        mut stop: Pin<&mut (impl Future<Output = ()> + ?Sized)>,
    ) -> Result<WorkerOutcome, WorkerError> {
        let mut actions = Vec::new();
        let mut stopping = false;
        loop {
            let deadline = self.core.deadline();
            let woken = tokio::select! {
                biased;
                result = attempted(&mut self.attempt) => Woken::Connected(result),
                message = received(&mut self.connection) => Woken::Received(message),
                computed = self.compute.computed.recv() => Woken::Computed(computed),
                () = &mut stop, if !stopping => Woken::Stop,
                () = reach(self.started, deadline) => Woken::Timeout,
            };
            stopping |= matches!(woken, Woken::Stop);
            let event = self.event(woken)?;
            self.core.step(millis(self.started.elapsed()), event, &mut actions);
            for action in actions.drain(..) {
                if let WorkerAction::Finish(outcome) = action {
                    self.farewell(&outcome).await;
                    return Ok(outcome);
                }
                self.perform(action)?;
            }
        }
    }

    fn event(&mut self, woken: Woken) -> Result<WorkerEvent, WorkerError> {
        match woken {
            Woken::Connected(Ok(connection)) => {
                info!(worker = %connection.worker, server = self.server, "admitted");
                self.attempt = None;
                self.connection = Some(connection);
                self.weights.arriving = None;
                Ok(WorkerEvent::Connected)
            }
            Woken::Connected(Err(verdict)) => {
                self.attempt = None;
                self.lost(verdict)
            }
            Woken::Received(Ok(Some(message))) => match self.take(message) {
                Ok(event) => Ok(event),
                Err(nonsense) => Err(WorkerError::Protocol(format!("{}: {nonsense}", self.server))),
            },
            Woken::Received(Ok(None)) => self.lost(Verdict::Passing("the server closed the stream".into())),
            Woken::Received(Err(status)) => self.lost(verdict(&status)),
            Woken::Computed(Some(computed)) => {
                let event = WorkerEvent::Computed { step: computed.step, leaves: computed.leaves.clone() };
                self.computed = Some(computed);
                Ok(event)
            }
            Woken::Computed(None) => {
                Err(WorkerError::Internal("the computing thread ended; what it said is above".into()))
            }
            Woken::Stop => Ok(WorkerEvent::Stop),
            Woken::Timeout => Ok(WorkerEvent::Timeout),
        }
    }

    /// The connection, or the attempt at one, has failed.
    fn lost(&mut self, verdict: Verdict) -> Result<WorkerEvent, WorkerError> {
        self.connection = None;
        retryable(verdict, &self.server).map(WorkerEvent::Disconnected)
    }

    /// What a message means to the round logic.
    fn take(&mut self, message: v1::FromServer) -> Result<WorkerEvent, Nonsense> {
        let parameters = self.compute.shape.parameters;
        Ok(match convert::server_message(message, &self.compute.shape)? {
            ServerMessage::Admitted(_) => return Err(Nonsense::new("it admitted us twice")),
            ServerMessage::Heartbeat => WorkerEvent::Heard,
            ServerMessage::Dismissed(reason) => WorkerEvent::Dismissed(reason),
            ServerMessage::Assign { step, leaves } => WorkerEvent::Assigned { step, leaves },
            ServerMessage::Weights(part) => match self.weights.take(part, parameters)? {
                Some(version) => WorkerEvent::Weights { version },
                None => WorkerEvent::Heard,
            },
        })
    }

    fn perform(&mut self, action: WorkerAction) -> Result<(), WorkerError> {
        match action {
            WorkerAction::Connect => {
                self.connection = None;
                let (client, ours) = (self.client.clone(), self.compute.fingerprints.clone());
                let shape = self.compute.shape;
                self.attempt = Some(Box::pin(async move { client.open(ours, shape).await }));
            }
            WorkerAction::Compute { step, leaves } => {
                debug!(step, ?leaves, "computing");
                let (version, weights) = self.weights.held.clone().expect("the core knows what is held");
                assert_eq!(version, step, "the core asks for work at the weights that are held");
                let work = Work { step, leaves, weights };
                self.compute.work.send(work).map_err(|_| {
                    WorkerError::Internal("the computing thread ended; what it said is above".into())
                })?;
            }
            WorkerAction::Push { step, .. } => {
                let computed = self.computed.take().expect("what is pushed was just computed");
                let worker = self.connection.as_ref().map(|connection| connection.worker.0);
                for sum in computed.sums {
                    let _span = debug_span!("push", worker, step, node = %sum.node).entered();
                    debug!("sending");
                    self.send(Item::Node(Box::new(convert::node_chunks(step, sum))));
                }
            }
            WorkerAction::Discard { .. } => self.computed = None,
            WorkerAction::AskWeights => {
                self.send(Item::Message(Message::WeightsWanted(v1::WeightsWanted {})));
            }
            WorkerAction::Heartbeat => self.send(Item::Message(Message::Heartbeat(v1::Heartbeat {}))),
            WorkerAction::Notice(text) => info!(server = self.server, "{text}"),
            WorkerAction::Finish(_) => unreachable!("the loop ends there"),
        }
        Ok(())
    }

    /// Hands something to the connection. If it takes nothing, its end or its silence will be noticed where
    /// messages are received.
    fn send(&mut self, item: Item) {
        if let Some(connection) = &self.connection
            && connection.sender.try_send(item).is_err()
        {
            debug!("the connection takes nothing");
        }
    }

    /// Leaves the server in good order, if it is there.
    async fn farewell(&mut self, outcome: &WorkerOutcome) {
        if let WorkerOutcome::Ended(reason) = outcome {
            self.send(Item::Message(Message::Goodbye(v1::Goodbye { reason: reason.clone() })));
        }
        let Some(Connection { sender, mut stream, .. }) = self.connection.take() else { return };
        drop(sender);
        let drained = async { while let Ok(Some(_)) = stream.message().await {} };
        // A server that does not close its side is no reason to stay.
        let _ = timeout(FAREWELL, drained).await;
    }
}

impl HeldWeights {
    /// Takes a chunk; gives the version once all of it is here. The weights held until then stay.
    fn take(&mut self, part: WeightsPart, parameters: usize) -> Result<Option<u64>, Nonsense> {
        if part.offset == 0 {
            let mut buffer = match self.arriving.take() {
                Some((_, unfinished)) => unfinished,
                None => std::mem::take(&mut self.spare),
            };
            buffer.clear();
            buffer.reserve_exact(parameters);
            self.arriving = Some((part.version, buffer));
        }
        let arriving = self.arriving.as_mut();
        let Some((version, values)) =
            arriving.filter(|(version, values)| *version == part.version && values.len() == part.offset)
        else {
            return Err(Nonsense::new(format!(
                "chunk at element {} of the weights of version {} does not follow the chunk before it",
                part.offset, part.version
            )));
        };
        tensor::append(&part.bytes, values);
        if values.len() < parameters {
            return Ok(None);
        }
        let version = *version;
        let values = std::mem::take(values);
        self.arriving = None;
        let old = self.held.replace((version, Arc::new(values)));
        if let Some((_, old)) = old {
            self.spare = Arc::try_unwrap(old).unwrap_or_default();
        }
        Ok(Some(version))
    }
}

async fn attempted(attempt: &mut Option<Attempt>) -> Result<Connection, Verdict> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

async fn received(connection: &mut Option<Connection>) -> Result<Option<v1::FromServer>, tonic::Status> {
    match connection {
        Some(connection) => connection.stream.message().await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// Returns when the clock that began at `started` reads `deadline`.
async fn reach(started: Instant, deadline: Option<Millis>) {
    match deadline.and_then(|deadline| started.checked_add(Duration::from_millis(deadline))) {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(version: u64, offset: usize, values: &[f32]) -> WeightsPart {
        WeightsPart { version, offset, bytes: tensor::share(values.to_vec()) }
    }

    #[test]
    fn old_weights_stay_until_all_of_the_new_ones_are_here() {
        let mut weights = HeldWeights::default();
        assert_eq!(weights.take(part(0, 0, &[1.0, 2.0]), 3), Ok(None));
        assert!(weights.held.is_none());
        assert_eq!(weights.take(part(0, 2, &[3.0]), 3), Ok(Some(0)));
        assert_eq!(weights.take(part(1, 0, &[4.0, 5.0]), 3), Ok(None));
        assert_eq!(*weights.held.clone().unwrap().1, [1.0, 2.0, 3.0]);
        // The rest never comes; newer ones begin.
        assert_eq!(weights.take(part(2, 0, &[6.0, 7.0, 8.0]), 3), Ok(Some(2)));
        assert_eq!(*weights.held.clone().unwrap().1, [6.0, 7.0, 8.0]);
        assert!(weights.take(part(3, 1, &[9.0]), 3).is_err());
        assert_eq!(weights.take(part(3, 0, &[9.0]), 3), Ok(None));
        assert!(weights.take(part(3, 2, &[9.0]), 3).is_err());
        assert!(weights.take(part(4, 1, &[9.0]), 3).is_err());
    }
}
