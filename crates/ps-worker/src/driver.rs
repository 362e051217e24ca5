//! The one task that owns the worker's round logic: events in, actions carried out.

use crate::client::{Client, Connection, Item, Said};
use crate::compute::{Compute, Computed, ComputedNode, Order};
use crate::{WorkerError, WorkerOptions, retryable};
use ps_coord::{Millis, WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerOutcome};
use ps_proto::convert::{self, Invitation, ServerMessage};
use ps_proto::status::Verdict;
use ps_proto::v1::{self, FromWorker, from_worker::Message};
use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, debug_span, info};

/// Work in hand whose weights do not begin to come for this long: they are asked for again. Long, for asking for a
/// large model twice makes a slow link slower.
const WEIGHTS_TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause before connecting again, and the longest.
const RECONNECT_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3)];
/// How long a worker that is done waits for the server to close its side.
const FAREWELL: Duration = Duration::from_secs(1);

/// Drives the rounds until the round logic says that our part is over.
pub(crate) struct Driver {
    client: Client,
    server: String,
    shards: u32,
    compute: Compute,
    core: WorkerCore,
    attempt: Option<Attempt>,
    connection: Option<Connection>,
    /// Sums that were computed and are not sent yet.
    computed: Option<Vec<ComputedNode>>,
    /// Events that an event has brought about, taken before any from outside.
    events: VecDeque<WorkerEvent>,
    started: Instant,
}

type Attempt = Pin<Box<dyn Future<Output = Result<Connection, Verdict>> + Send>>;

/// What woke the driver.
enum Woken {
    Connected(Result<Connection, Verdict>),
    Received(Said),
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
            shards: invitation.shards,
            compute,
            core: WorkerCore::new(0, config),
            attempt: None,
            connection: None,
            computed: None,
            events: VecDeque::new(),
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
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => {
                    let woken = tokio::select! {
                        biased;
                        result = attempted(&mut self.attempt) => Woken::Connected(result),
                        said = received(&mut self.connection) => Woken::Received(said),
                        computed = self.compute.computed.recv() => Woken::Computed(computed),
                        () = &mut stop, if !stopping => Woken::Stop,
                        () = reach(self.started, deadline) => Woken::Timeout,
                    };
                    stopping |= matches!(woken, Woken::Stop);
                    self.event(woken)?
                }
            };
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
                Ok(WorkerEvent::Connected)
            }
            Woken::Connected(Err(verdict)) => {
                self.attempt = None;
                self.lost(verdict)
            }
            Woken::Received(Said::Message(message)) => self.take(message),
            Woken::Received(Said::Nonsense(what)) => {
                Err(WorkerError::Protocol(format!("{}: {what}", self.server)))
            }
            Woken::Received(Said::Ended(verdict)) => self.lost(verdict),
            Woken::Computed(Some(Computed { step, leaves, sums })) => {
                let computed = WorkerEvent::Computed { step, leaves };
                if sums.is_some() {
                    self.computed = sums;
                    return Ok(computed);
                }
                // What the computation waited for will not come on this connection.
                self.events.push_back(computed);
                self.lost(Verdict::Passing(format!("the weights of version {step} did not arrive")))
            }
            Woken::Computed(None) => Err(self.compute_is_gone()),
            Woken::Stop => Ok(WorkerEvent::Stop),
            Woken::Timeout => Ok(WorkerEvent::Timeout),
        }
    }

    /// The connection, or the attempt at one, has failed.
    fn lost(&mut self, verdict: Verdict) -> Result<WorkerEvent, WorkerError> {
        self.connection = None;
        self.order(Order::Forget)?;
        retryable(verdict, &self.server).map(WorkerEvent::Disconnected)
    }

    /// What a message means to the round logic.
    fn take(&mut self, message: ServerMessage) -> Result<WorkerEvent, WorkerError> {
        Ok(match message {
            ServerMessage::Admitted(..) => {
                return Err(WorkerError::Protocol(format!("{}: it admitted us twice", self.server)));
            }
            ServerMessage::Heartbeat => WorkerEvent::Heard,
            ServerMessage::Dismissed(reason) => WorkerEvent::Dismissed(reason),
            // The server has seen to it that the weights are on their way.
            ServerMessage::Assign { step, leaves } => {
                self.events.push_back(WorkerEvent::Assigned { step, leaves });
                WorkerEvent::Weights { version: step }
            }
            ServerMessage::Weights(part) => {
                self.order(Order::Weights(part))?;
                WorkerEvent::Heard
            }
        })
    }

    fn order(&self, order: Order) -> Result<(), WorkerError> {
        self.compute.orders.send(order).map_err(|_| self.compute_is_gone())
    }

    fn compute_is_gone(&self) -> WorkerError {
        WorkerError::Internal("the computing thread ended; what it said is above".into())
    }

    fn perform(&mut self, action: WorkerAction) -> Result<(), WorkerError> {
        match action {
            WorkerAction::Connect => {
                self.connection = None;
                self.order(Order::Forget)?;
                let (client, ours) = (self.client.clone(), self.compute.fingerprints.clone());
                let (shape, shards) = (self.compute.shape, self.shards);
                self.attempt = Some(Box::pin(async move { client.open(ours, shape, shards).await }));
            }
            WorkerAction::Compute { step, leaves } => {
                debug!(step, ?leaves, "computing");
                self.order(Order::Work { step, leaves })?;
            }
            WorkerAction::Push { step, .. } => {
                for node in self.computed.take().expect("what is pushed was just computed") {
                    self.push(step, node);
                }
            }
            WorkerAction::Discard { .. } => self.computed = None,
            WorkerAction::AskWeights => {
                self.say(Message::WeightsWanted(v1::WeightsWanted {}));
            }
            WorkerAction::Heartbeat => self.say(Message::Heartbeat(v1::Heartbeat {})),
            WorkerAction::Notice(text) => info!(server = self.server, "{text}"),
            WorkerAction::Finish(_) => unreachable!("the loop ends there"),
        }
        Ok(())
    }

    /// Sends each server the chunks of a node that it keeps, and the first one the node's end.
    fn push(&self, step: u64, computed: ComputedNode) {
        let Some(connection) = &self.connection else { return };
        let ComputedNode { node, tally, gradient } = computed;
        let _span = debug_span!("push", worker = connection.worker.0, step, %node).entered();
        debug!("sending");
        for link in connection.links.iter().filter(|link| !link.kept.is_empty()) {
            let chunks = convert::node_chunks(step, node, gradient.clone(), link.kept.clone());
            send(&link.sender, Item::Node(Box::new(chunks)));
        }
        send(&connection.links[0].sender, Item::Message(convert::node_done(step, node, tally)));
    }

    /// Says something to all servers.
    fn say(&self, message: Message) {
        for link in self.connection.iter().flat_map(|connection| &connection.links) {
            send(&link.sender, Item::Message(FromWorker { message: Some(message.clone()) }));
        }
    }

    /// Leaves the server in good order, if it is there.
    async fn farewell(&mut self, outcome: &WorkerOutcome) {
        if let WorkerOutcome::Ended(reason) = outcome {
            self.say(Message::Goodbye(v1::Goodbye { reason: reason.clone() }));
        }
        let Some(Connection { links, mut said, tasks: _reading, leaving, .. }) = self.connection.take()
        else {
            return;
        };
        leaving.send_replace(true);
        let mut left = links.len();
        drop(links);
        let drained = async {
            while left > 0
                && let Some(said) = said.recv().await
            {
                left -= usize::from(matches!(said, Said::Ended(_)));
            }
        };
        // A server that does not close its side is no reason to stay.
        let _ = timeout(FAREWELL, drained).await;
    }
}

/// Hands something to a connection. If it takes nothing, its end or its silence will be noticed where messages are
/// received.
fn send(sender: &mpsc::Sender<Item>, item: Item) {
    if sender.try_send(item).is_err() {
        debug!("the connection takes nothing");
    }
}

async fn attempted(attempt: &mut Option<Attempt>) -> Result<Connection, Verdict> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

async fn received(connection: &mut Option<Connection>) -> Said {
    match connection {
        Some(connection) => {
            let ended = || Said::Ended(Verdict::Passing("the server closed the stream".into()));
            connection.said.recv().await.unwrap_or_else(ended)
        }
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
