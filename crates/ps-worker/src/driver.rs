//! The one task that owns the worker's round logic: events in, actions carried out.

use crate::client::{Client, Link, Session, StreamEvent};
use crate::compute::{Compute, ComputeCommand, Computed, GradientSlice};
use crate::send_queue::Item;
use crate::{WorkerError, WorkerOptions, retryable};
use ps_coord::{Millis, WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerOutcome};
use ps_core::MetricSums;
use ps_plan::Node;
use ps_proto::convert::{self, Invitation, ServerMessage};
use ps_proto::status::CallFailure;
use ps_proto::v1::{self, FromWorker, from_worker::Message};
use ps_run::{Activity, Meter};
use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, timeout};
use tracing::{debug, debug_span, info};

/// How long work in hand may wait for the first chunk of its weights before the worker asks for them again.
/// The time is long because requesting a large model twice makes a slow link even slower.
const WEIGHTS_TIMEOUT: Duration = Duration::from_secs(30);
/// The first and the longest pause before reconnecting.
const RECONNECT_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];
/// How long a worker that is done waits for the server to close the stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Drives the rounds until the round logic ends this worker's participation.
pub(crate) struct WorkerDriver {
    client: Client,
    server: String,
    shards: u32,
    /// The server counts as out of reach if nothing arrives for this long.
    silence: Duration,
    compute: Compute,
    meter: Arc<Meter>,
    core: WorkerCore,
    attempt: Option<Attempt>,
    connection: Option<Session>,
    /// Nodes whose metrics and chunks are sent, but not their ends.
    computed: Option<Vec<Node>>,
    /// Events that an event has caused; handled before any from outside.
    events: VecDeque<WorkerEvent>,
    started: Instant,
}

type Attempt = Pin<Box<dyn Future<Output = Result<Session, CallFailure>> + Send>>;

/// The source of the next event.
enum Wake {
    Connected(Result<Session, CallFailure>),
    Received(StreamEvent),
    Computed(Option<Computed>),
    Stop,
    Timeout,
}

impl WorkerDriver {
    pub(crate) fn new(
        client: Client,
        compute: Compute,
        invitation: &Invitation,
        options: &WorkerOptions,
    ) -> Self {
        let config = WorkerConfig {
            heartbeat_ms: millis(invitation.heartbeat),
            server_timeout_ms: millis(invitation.silence),
            weights_timeout_ms: millis(WEIGHTS_TIMEOUT),
            reconnect_min_ms: millis(RECONNECT_PAUSE[0]),
            reconnect_max_ms: millis(RECONNECT_PAUSE[1]),
            give_up_ms: millis(options.patience),
            // The standard library's hasher is seeded by the system; no bit of the weights depends on it.
            jitter_seed: options
                .simulation
                .unwrap_or_else(|| RandomState::new().hash_one(std::process::id())),
        };
        WorkerDriver {
            client,
            server: options.server.clone(),
            shards: invitation.shards,
            silence: invitation.silence,
            compute,
            meter: Arc::clone(&options.meter),
            core: WorkerCore::new(0, config),
            attempt: None,
            connection: None,
            computed: None,
            events: VecDeque::new(),
            started: Instant::now(),
        }
    }

    /// Runs until the worker is done. `stop` completes when the user asks to stop.
    pub(crate) async fn run(
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
                    let wake = tokio::select! {
                        // In this order: what has already arrived counts before a deadline that has passed
                        // meanwhile. Otherwise a busy worker could take a server that answers for a silent
                        // one.
                        biased;
                        result = next_attempt(&mut self.attempt) => Wake::Connected(result),
                        event = next_stream_event(&mut self.connection) => Wake::Received(event),
                        computed = self.compute.computed.recv() => Wake::Computed(computed),
                        () = &mut stop, if !stopping => Wake::Stop,
                        () = reach(self.started, deadline) => Wake::Timeout,
                    };
                    stopping |= matches!(wake, Wake::Stop);
                    match self.event(wake)? {
                        Some(event) => event,
                        None => continue,
                    }
                }
            };
            self.core.step(millis(self.started.elapsed()), event, &mut actions);
            for action in actions.drain(..) {
                if let WorkerAction::Finish(outcome) = action {
                    self.say_goodbye(&outcome).await;
                    return Ok(outcome);
                }
                self.perform(action)?;
            }
        }
    }

    fn event(&mut self, wake: Wake) -> Result<Option<WorkerEvent>, WorkerError> {
        Ok(Some(match wake {
            Wake::Connected(Ok(connection)) => {
                info!(worker = %connection.worker, server = self.server, "admitted");
                self.attempt = None;
                self.connection = Some(connection);
                WorkerEvent::Connected
            }
            Wake::Connected(Err(failure)) => {
                self.attempt = None;
                self.on_connection_lost(failure)?
            }
            Wake::Received(StreamEvent::Message(message)) => self.handle_message(message)?,
            Wake::Received(StreamEvent::Invalid(what)) => {
                return Err(WorkerError::Protocol(format!("{}: {what}", self.server)));
            }
            Wake::Received(StreamEvent::Ended(failure)) => self.on_connection_lost(failure)?,
            Wake::Computed(Some(Computed::Metrics { step, node, metric_sums })) => {
                if self.core.wants_sums() {
                    self.push_metrics(step, node, metric_sums)?;
                }
                return Ok(None);
            }
            Wake::Computed(Some(Computed::Gradient(part))) => {
                // Once sums are not wanted, they never will be. If the computation ends in a push, every part
                // of it was therefore sent.
                if self.core.wants_sums() {
                    self.push(part)?;
                }
                return Ok(None);
            }
            Wake::Computed(Some(Computed::Leaves { step, leaves, nodes })) => {
                self.computed = Some(nodes);
                WorkerEvent::Computed { step, leaves }
            }
            // Happens to slow workers: others have computed the leaves, and the weights of two later steps
            // have arrived.
            Wake::Computed(Some(Computed::Missed { step, leaves, is_superseded: true })) => {
                WorkerEvent::Superseded { step, leaves }
            }
            Wake::Computed(Some(Computed::Missed { step, leaves, .. })) => {
                self.events.push_back(WorkerEvent::Superseded { step, leaves });
                match self.core.wants_sums() {
                    // The awaited weights will not arrive on this connection.
                    true => self.on_connection_lost(CallFailure::Transient(format!(
                        "the weights of version {step} did not arrive"
                    )))?,
                    false => return Ok(None),
                }
            }
            Wake::Computed(None) => return Err(self.computing_thread_ended()),
            Wake::Stop => WorkerEvent::Stop,
            Wake::Timeout => WorkerEvent::Timeout,
        }))
    }

    /// Handles a failed connection, or a failed attempt at one.
    fn on_connection_lost(&mut self, failure: CallFailure) -> Result<WorkerEvent, WorkerError> {
        self.meter.retry();
        self.connection = None;
        self.command(ComputeCommand::DropWeights)?;
        retryable(failure, &self.server).map(WorkerEvent::Disconnected)
    }

    /// Translates a message into an event for the round logic.
    fn handle_message(&mut self, message: ServerMessage) -> Result<WorkerEvent, WorkerError> {
        Ok(match message {
            ServerMessage::Admitted(..) => {
                return Err(WorkerError::Protocol(format!("{}: it admitted this worker twice", self.server)));
            }
            ServerMessage::Heartbeat => WorkerEvent::MessageReceived,
            ServerMessage::Dismissed(reason) => WorkerEvent::Dismissed(reason),
            // The server has already queued the weights.
            ServerMessage::Assign { step, leaves } => {
                self.events.push_back(WorkerEvent::Assigned { step, leaves });
                WorkerEvent::Weights { version: step }
            }
            ServerMessage::Weights(part) => {
                self.meter.receive(part.bytes.len());
                self.command(ComputeCommand::Weights(part))?;
                WorkerEvent::MessageReceived
            }
        })
    }

    fn command(&mut self, command: ComputeCommand) -> Result<(), WorkerError> {
        if self.compute.send(command) { Ok(()) } else { Err(self.computing_thread_ended()) }
    }

    fn computing_thread_ended(&self) -> WorkerError {
        WorkerError::Internal("the computing thread failed; see its messages above".into())
    }

    fn perform(&mut self, action: WorkerAction) -> Result<(), WorkerError> {
        match action {
            WorkerAction::Connect => {
                self.connection = None;
                self.command(ComputeCommand::DropWeights)?;
                let (client, ours) = (self.client.clone(), self.compute.fingerprints.clone());
                let (shape, shards, silence) = (self.compute.shape, self.shards, self.silence);
                self.attempt = Some(Box::pin(async move { client.open(ours, shape, shards, silence).await }));
            }
            WorkerAction::Compute { step, leaves } => {
                debug!(step, ?leaves, "computing");
                self.command(ComputeCommand::Compute { step, leaves })?;
            }
            WorkerAction::Push { step, .. } => {
                for node in self.computed.take().expect("what is pushed was just computed") {
                    self.push_end(step, node)?;
                }
            }
            WorkerAction::Discard { .. } => self.computed = None,
            WorkerAction::ReportDropped { step } => {
                if let Some(connection) = &self.connection {
                    let dropped = Message::Dropped(v1::Dropped { step });
                    send(&connection.links[0].sender, Item::Message(FromWorker { message: Some(dropped) }));
                }
            }
            WorkerAction::RequestWeights => {
                self.broadcast(Message::WeightsWanted(v1::WeightsWanted {}));
            }
            WorkerAction::Heartbeat => self.broadcast(Message::Heartbeat(v1::Heartbeat {})),
            WorkerAction::Notice(notice) => info!(server = self.server, "{notice}"),
            WorkerAction::Finish(_) => unreachable!("the loop ends there"),
        }
        Ok(())
    }

    /// Sends a node's metric sums to the first server and to every other that keeps something.
    fn push_metrics(&mut self, step: u64, node: Node, metric_sums: MetricSums) -> Result<(), WorkerError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let metrics = convert::node_metrics(step, node, metric_sums);
        let mut is_queued = true;
        for link in &connection.links {
            is_queued &= send(&link.sender, Item::Metrics(metrics.clone()));
        }
        if is_queued { Ok(()) } else { self.reconnect_stalled() }
    }

    /// Sends each server the chunks that it keeps.
    fn push(&mut self, part: GradientSlice) -> Result<(), WorkerError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let GradientSlice { step, node, offset, bytes } = part;
        let _span = debug_span!("push", worker = connection.worker.0, step, %node, offset).entered();
        debug!("sending");
        let begun = std::time::Instant::now();
        self.meter.send(bytes.len());
        let total = self.compute.shape.parameters;
        let end = offset + bytes.len() / 4;
        let keeps = |link: &&Link| link.kept.start < end && offset < link.kept.end;
        let mut is_queued = true;
        for link in connection.links.iter().filter(keeps) {
            let chunks =
                convert::gradient_chunks(step, node, total, offset, bytes.clone(), link.kept.clone());
            is_queued &= send(&link.sender, Item::Chunks(Box::new(chunks)));
        }
        self.meter.spend(Activity::Push, begun.elapsed());
        if is_queued { Ok(()) } else { self.reconnect_stalled() }
    }

    /// Reports to the first server that all chunks of a node are sent.
    fn push_end(&mut self, step: u64, node: Node) -> Result<(), WorkerError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let done = convert::node_done(step, node);
        if send(&connection.links[0].sender, Item::Message(done)) { Ok(()) } else { self.reconnect_stalled() }
    }

    /// Reconnects because a server accepts no data: without the missing part the node is useless.
    fn reconnect_stalled(&mut self) -> Result<(), WorkerError> {
        let lost =
            self.on_connection_lost(CallFailure::Transient("the server does not read what is sent".into()))?;
        self.events.push_back(lost);
        Ok(())
    }

    /// Sends a message to all servers.
    fn broadcast(&self, message: Message) {
        for link in self.connection.iter().flat_map(|connection| &connection.links) {
            send(&link.sender, Item::Message(FromWorker { message: Some(message.clone()) }));
        }
    }

    /// Says goodbye to the server, if it is connected.
    async fn say_goodbye(&mut self, outcome: &WorkerOutcome) {
        if *outcome == WorkerOutcome::Stopped {
            self.broadcast(Message::Goodbye(v1::Goodbye { reason: "the worker was stopped".into() }));
        }
        // The tasks must live until the end of this function: dropping them would end the reading that the
        // loop below waits for.
        let Some(Session { links, mut events, tasks: _reading, leaving, .. }) = self.connection.take() else {
            return;
        };
        leaving.send_replace(true);
        let mut left = links.len();
        // Dropping the queues ends the streams of this worker, to which the servers respond by closing
        // theirs.
        drop(links);
        let drained = async {
            while left > 0
                && let Some(event) = events.recv().await
            {
                left -= usize::from(matches!(event, StreamEvent::Ended(_)));
            }
        };
        // A server that does not close the stream must not keep this process alive.
        let _ = timeout(CLOSE_TIMEOUT, drained).await;
    }
}

/// Queues something for a connection; `false` if the queue is full. The loss of a connection is noticed where
/// messages are received.
fn send(sender: &mpsc::Sender<Item>, item: Item) -> bool {
    !matches!(sender.try_send(item), Err(TrySendError::Full(_)))
}

async fn next_attempt(attempt: &mut Option<Attempt>) -> Result<Session, CallFailure> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

async fn next_stream_event(connection: &mut Option<Session>) -> StreamEvent {
    match connection {
        Some(connection) => {
            let ended = || StreamEvent::Ended(CallFailure::Transient("the server closed the stream".into()));
            connection.events.recv().await.unwrap_or_else(ended)
        }
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// Completes when the clock that began at `started` reads `deadline`.
async fn reach(started: Instant, deadline: Option<Millis>) {
    match deadline.and_then(|deadline| started.checked_add(Duration::from_millis(deadline))) {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
