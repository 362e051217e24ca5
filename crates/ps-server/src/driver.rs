//! The one task that owns the round logic and the data plane: events in, actions carried out.

use crate::apply::{Plane, Taken};
use crate::outbox::{Outbox, Undeliverable, Weights};
use crate::{Finished, ServerError, ServerOptions};
use ps_coord::{
    Departure, Dismissal, Millis, Outcome, ServerAction, ServerConfig, ServerCore, ServerEvent, WorkerId,
};
use ps_core::{StepReport, trainer::Diverged};
use ps_proto::convert::{self, WorkerMessage};
use ps_proto::{Refusal, v1};
use ps_run::{Job, Recorder};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, debug_span, info, info_span, warn};

/// What the connections tell the driver.
pub(crate) enum Incoming {
    /// A worker was admitted.
    Joined { worker: WorkerId, peer: Peer },
    /// It said something that passed the checks.
    Message { worker: WorkerId, message: WorkerMessage },
    /// Its stream has ended, or it said something that did not pass.
    Left { worker: WorkerId, reason: Departure },
    /// Somebody asks how far the run is.
    Status(oneshot::Sender<v1::StatusReply>),
    /// Somebody asks for the weights.
    Weights(oneshot::Sender<Weights>),
    /// The user asks to stop.
    Stop,
}

/// A worker that can be talked to.
pub(crate) struct Peer {
    pub name: String,
    pub address: Option<SocketAddr>,
    pub outbox: Outbox,
}

/// A wait for which the driver did not listen this long is not held against any worker.
const DEAF_AFTER: Duration = Duration::from_millis(500);

pub(crate) struct Driver {
    job: Job,
    recorder: Recorder,
    fingerprints: v1::Fingerprints,
    core: ServerCore,
    plane: Plane,
    peers: BTreeMap<WorkerId, Peer>,
    /// Events that actions have brought about, taken before any from outside.
    events: VecDeque<ServerEvent>,
    /// A step that was made and is not told to the recorder yet: the new weights go out first.
    made: Option<StepReport>,
    diverged: Option<Diverged>,
    loss: f64,
    /// Whether the first leaves were given out.
    begun: bool,
    started: Instant,
}

impl Driver {
    pub fn new(
        job: Job,
        recorder: Recorder,
        fingerprints: v1::Fingerprints,
        options: &ServerOptions,
    ) -> Self {
        let config = ServerConfig {
            plan: job.plan,
            start_version: 0,
            min_workers: options.min_workers,
            join_timeout_ms: millis(options.join_timeout),
            contact_timeout_ms: millis(options.contact_timeout),
            work_timeout_ms: millis(options.work_timeout),
            notice_every_ms: millis(options.notice_every),
        };
        let plane = Plane::new(job.trainer());
        Driver {
            job,
            recorder,
            fingerprints,
            core: ServerCore::new(0, config),
            plane,
            peers: BTreeMap::new(),
            events: VecDeque::new(),
            made: None,
            diverged: None,
            loss: f64::NAN,
            begun: false,
            started: Instant::now(),
        }
    }

    /// Runs until the round logic says that the run is over, or nobody is left who could tell anything.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Incoming>) -> Result<Finished, ServerError> {
        let mut actions = Vec::new();
        let outcome = 'run: loop {
            let event = match self.events.pop_front() {
                Some(event) => Some(event),
                None => {
                    self.record();
                    // News comes before the clock, so that a full inbox is not taken for silence.
                    tokio::select! {
                        biased;
                        incoming = inbox.recv() => match incoming {
                            Some(incoming) => self.receive(incoming),
                            None => break 'run Outcome::Stopped { version: self.plane.version() },
                        },
                        () = reach(self.started, self.core.deadline()) => Some(ServerEvent::Timeout),
                    }
                }
            };
            let Some(event) = event else { continue };
            self.core.step(millis(self.started.elapsed()), event, &mut actions);
            for action in actions.drain(..) {
                if let ServerAction::Finish(outcome) = action {
                    break 'run outcome;
                }
                self.perform(action);
            }
        };
        self.record();
        self.end(outcome)
    }

    /// What an incoming message means to the round logic.
    fn receive(&mut self, incoming: Incoming) -> Option<ServerEvent> {
        match incoming {
            Incoming::Joined { worker, peer } => {
                let address = peer.address.map_or("an unknown address".to_owned(), |a| a.to_string());
                info!(%worker, name = peer.name, address, "worker admitted");
                self.peers.insert(worker, peer);
                Some(ServerEvent::Joined { worker })
            }
            Incoming::Message { worker, message } => self.hear(worker, message),
            Incoming::Left { worker, reason } => {
                let refusal = match &reason {
                    Departure::Misbehaved(why) => {
                        Some(Refusal::Nonsense(convert::Nonsense::new(why.clone())))
                    }
                    _ => None,
                };
                self.part(worker, refusal);
                Some(ServerEvent::Left { worker, reason })
            }
            Incoming::Status(reply) => {
                // Whoever asked may be gone.
                let _ = reply.send(self.status());
                None
            }
            Incoming::Weights(reply) => {
                let _ = reply.send(self.plane.serialised());
                None
            }
            Incoming::Stop => Some(ServerEvent::Stop),
        }
    }

    fn hear(&mut self, worker: WorkerId, message: WorkerMessage) -> Option<ServerEvent> {
        if !self.peers.contains_key(&worker) {
            // It was sent away; what it still says does not count.
            return None;
        }
        match message {
            WorkerMessage::Heartbeat => Some(ServerEvent::Heard { worker }),
            WorkerMessage::WeightsWanted => Some(ServerEvent::WeightsWanted { worker }),
            WorkerMessage::Goodbye(why) => {
                info!(%worker, why, "worker leaves");
                self.part(worker, None);
                Some(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
            WorkerMessage::Node(part) => {
                let (step, node) = (part.step, part.node);
                let _span = debug_span!("gather", %worker, step, %node).entered();
                match self.plane.take(&self.job, worker, part) {
                    Ok(Taken::Part) => Some(ServerEvent::Heard { worker }),
                    Ok(Taken::Whole) => Some(ServerEvent::Contributed { worker, step, node }),
                    Err(nonsense) => {
                        let reason = Departure::Misbehaved(nonsense.to_string());
                        self.part(worker, Some(nonsense.into()));
                        Some(ServerEvent::Left { worker, reason })
                    }
                }
            }
        }
    }

    fn perform(&mut self, action: ServerAction) {
        match action {
            ServerAction::SendWeights { worker, .. } => {
                let weights = self.plane.serialised();
                self.send(worker, |outbox| outbox.weights(weights));
            }
            ServerAction::Assign { worker, step, leaves } => {
                if !std::mem::replace(&mut self.begun, true) {
                    // The wait for workers is no part of the training's time.
                    self.recorder.begin();
                }
                debug!(%worker, step, ?leaves, "assigned");
                let assign = v1::Assign { step, leaf_start: leaves.start, leaf_end: leaves.end };
                self.send(worker, |outbox| outbox.message(v1::from_server::Message::Assign(assign)));
            }
            ServerAction::Update { step } => {
                let event = info_span!("update", step).in_scope(|| self.update(step));
                self.events.push_back(event);
            }
            ServerAction::Dismiss { worker, reason } => {
                if !matches!(reason, Dismissal::Done) {
                    info!(%worker, %reason, "worker dismissed");
                }
                self.send(worker, |outbox| outbox.message(convert::dismissed(&reason)));
                self.part(worker, None);
            }
            ServerAction::Notice(text) => info!("{text}"),
            ServerAction::Finish(_) => unreachable!("the loop ends there"),
        }
    }

    fn update(&mut self, step: u64) -> ServerEvent {
        match self.plane.update() {
            Ok(report) => {
                self.loss = report.tally.mean_loss();
                self.made = Some(report);
                ServerEvent::Updated { step }
            }
            Err(diverged) => {
                self.diverged = Some(diverged);
                ServerEvent::Diverged { step }
            }
        }
    }

    /// Hands something to a worker's connection; one that takes nothing any more is dropped.
    fn send(&mut self, worker: WorkerId, push: impl FnOnce(&Outbox) -> Result<(), Undeliverable>) {
        let Some(peer) = self.peers.get(&worker) else { return };
        let reason = match push(&peer.outbox) {
            Ok(()) => return,
            Err(Undeliverable::Closed) => Departure::Disconnected("the stream was closed".into()),
            Err(Undeliverable::Full) => {
                warn!(%worker, name = peer.name, "worker does not read what it is sent and is dropped");
                Departure::Disconnected(Refusal::NotDraining.to_string())
            }
        };
        self.part(worker, Some(Refusal::NotDraining));
        self.events.push_back(ServerEvent::Left { worker, reason });
    }

    /// Ends the stream to a worker: after what is queued, or at once with a refusal.
    fn part(&mut self, worker: WorkerId, refusal: Option<Refusal>) {
        self.plane.forget(worker);
        let Some(peer) = self.peers.remove(&worker) else { return };
        match refusal {
            Some(refusal) => peer.outbox.abandon(refusal.into()),
            None => peer.outbox.finish(),
        }
    }

    /// Tells the recorder of the step just made. Validation, at the end of an epoch, takes a while, in which
    /// workers are at the next step already.
    fn record(&mut self) {
        let Some(report) = self.made.take() else { return };
        let begun = Instant::now();
        self.recorder.step(&report, self.peers.len());
        if self.job.plan.ends_epoch(report.step) {
            let validation = self.job.validate(self.plane.weights());
            self.recorder.epoch(validation.as_ref());
        }
        if begun.elapsed() > DEAF_AFTER {
            self.events.extend(self.peers.keys().map(|&worker| ServerEvent::Heard { worker }));
        }
    }

    fn status(&self) -> v1::StatusReply {
        let status = self.core.status();
        let workers = status.workers.iter().filter_map(|worker| {
            let peer = self.peers.get(&worker.worker)?;
            Some(v1::WorkerStatus {
                worker_id: worker.worker.0,
                name: peer.name.clone(),
                address: peer.address.map_or_else(String::new, |address| address.to_string()),
                nodes: worker.contributions,
            })
        });
        v1::StatusReply {
            version: status.version,
            steps: status.steps,
            state: status.to_string(),
            workers: workers.collect(),
            loss: self.loss,
            fingerprints: Some(self.fingerprints.clone()),
        }
    }

    fn end(self, outcome: Outcome) -> Result<Finished, ServerError> {
        let error = match outcome {
            Outcome::Done | Outcome::Stopped { .. } => {
                let (version, weights) = (self.plane.version(), self.plane.weights().to_vec());
                let is_done = outcome == Outcome::Done;
                return Ok(Finished { job: self.job, recorder: self.recorder, weights, version, is_done });
            }
            Outcome::TooFewWorkers { present, needed, waited_ms } => {
                ServerError::TooFewWorkers { present, needed, waited: Duration::from_millis(waited_ms) }
            }
            Outcome::Diverged { .. } => {
                ServerError::Diverged(self.diverged.expect("the data plane said that it diverged"))
            }
        };
        self.recorder.abandon();
        Err(error)
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
