//! The one task that owns the round logic and the data plane: events in, actions carried out.

use crate::identities::Identities;
pub(crate) use crate::peers::Peer;
use crate::peers::Peers;
use crate::plane::{LocalGradients, new_plane, restore};
use crate::shards::{AttachRequest, Fetch, ShardSaid, Shards};
use crate::{Finished, ServerError, ServerOptions};
use bytes::Bytes;
use ps_checkpoint::Snapshot;
use ps_coord::{
    Departure, Dismissal, Millis, Notice, Outcome, RewindCause, ServerAction, ServerConfig, ServerCore,
    ServerEvent, WorkerId, WorkerStatus,
};
use ps_core::optim::{Moved, PieceSums};
use ps_core::{Gradients, StepReport, trainer::Diverged};
use ps_net::connections::Complaints;
use ps_net::limits::SHARD_ANSWER_TIMEOUT;
use ps_plan::Section;
use ps_plane::{Plane, StatePart};
use ps_proto::convert::{self, ShardMessage, WorkerMessage};
use ps_proto::{Nonsense, Refusal, tensor, v1};
use ps_run::{Ban, FolderError, Job, Part, Recorder, Wanted, WorkerRow, WorkerStanding};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, debug_span, info, info_span, warn};

/// What the connections tell the driver.
pub(crate) enum Incoming {
    /// A worker was admitted.
    Joined { worker: WorkerId, peer: Peer },
    /// It said something that passed the checks.
    Message { worker: WorkerId, message: WorkerMessage },
    /// Its stream has ended, or it said something that did not pass.
    Left { worker: WorkerId, reason: Departure },
    /// Somebody asks for a checkpoint.
    Checkpoint(oneshot::Sender<Result<u64, Refusal>>),
    /// Somebody asks how far the run is.
    Status(oneshot::Sender<v1::StatusReply>),
    /// Somebody asks for the weights that are kept here: their version, and each chunk's first element and bytes.
    Weights(oneshot::Sender<(u64, Vec<(usize, Bytes)>)>),
    /// Somebody asks where the shards are.
    Places(oneshot::Sender<Result<v1::ShardsReply, Refusal>>),
    /// A shard asks to take part.
    Attach(AttachRequest),
    /// A shard has said something, or is gone.
    Shard { index: u32, said: ShardSaid },
    /// This process is asked to stop; the run resumes when a server is started again.
    Stop,
    /// An administrator asks to end the run for good. The answer, once it is saved: its steps.
    End(oneshot::Sender<Result<u64, Refusal>>),
}

/// A wait for which the driver did not listen this long is not held against any worker.
const DEAF_AFTER: Duration = Duration::from_millis(500);
/// Whoever watches is told so often where the workers stand.
const SHOWN_EVERY: Duration = Duration::from_millis(250);
/// A worker that was waited for less than this is not worth a word in the summary.
const WORTH_TELLING: Duration = Duration::from_secs(1);

pub(crate) struct Driver {
    job: Job,
    recorder: Recorder,
    fingerprints: v1::Fingerprints,
    core: ServerCore,
    plane: Plane,
    /// Built when a worker is first doubted.
    gradients: Option<Gradients>,
    peers: Peers,
    shards: Shards,
    /// What the shards go on from when they are first there.
    start: Option<Snapshot>,
    /// The other shards' weights, after a step whose weights are looked at here before the next one begins.
    fetch: Option<Fetch>,
    /// What is to become of these.
    wanted: Wanted,
    /// What is to be saved of a step while the next ones are made.
    saving: Option<Saving>,
    /// What was saved last, and after how many steps, once more is not to be had.
    fallen_back: Option<(u64, Vec<f32>)>,
    /// The run cannot be saved or loaded any more.
    failed: Option<FolderError>,
    /// Events that actions have brought about, taken before any from outside.
    events: VecDeque<ServerEvent>,
    /// A step that was made and is not told to the recorder yet: the new weights go out first.
    made: Option<StepReport>,
    /// Sums over the pieces of other shards, of the step that is to be decided about, or already of the one after it.
    measured: BTreeMap<u32, (u64, Vec<PieceSums>)>,
    /// How far their weights went.
    moved: BTreeMap<u32, Vec<Moved>>,
    diverged: Option<Diverged>,
    /// Administrators who wait for the end of the run.
    enders: Vec<oneshot::Sender<Result<u64, Refusal>>>,
    /// Names and addresses of all workers that ever were admitted.
    seen: BTreeMap<WorkerId, (String, String)>,
    /// Who they are, and whom bans keep out.
    identities: Identities,
    /// Bans that the log has.
    logged_bans: usize,
    /// What is logged of workers that are turned away.
    complaints: Complaints,
    loss: f64,
    /// Whether the first leaves were given out.
    begun: bool,
    started: Instant,
    /// When whoever watches was last told where the workers stand.
    shown: Option<Instant>,
}

/// A checkpoint of several shards on its way.
struct Saving {
    fetch: Fetch,
    /// What is known here of that step, once it is.
    own: Option<Own>,
}

/// The coordinator's part of a checkpoint.
struct Own {
    progress: ps_checkpoint::Progress,
    weights: Vec<(usize, Bytes)>,
    state: Vec<StatePart>,
}

impl Own {
    /// The whole weights and state, with the parts of the other shards.
    fn joined(self, job: &Job, fetched: Option<&Fetch>) -> (ps_checkpoint::Progress, Vec<f32>, Vec<f32>) {
        let parameters = job.model.parameters();
        let weights =
            whole(parameters, self.weights.iter().chain(fetched.into_iter().flat_map(Fetch::weights)));
        let vector = |vector: usize| {
            let own = self.state.iter().filter(|part| part.vector == vector);
            let own: Vec<_> = own.map(|part| (part.offset, part.bytes.clone())).collect();
            whole(parameters, own.iter().chain(fetched.into_iter().flat_map(|fetch| fetch.state(vector))))
        };
        let state: Vec<Vec<f32>> = (0..job.control().vectors().len()).map(vector).collect();
        (self.progress, weights, state.concat())
    }
}

impl Driver {
    pub fn new(
        job: Job,
        mut recorder: Recorder,
        fingerprints: v1::Fingerprints,
        options: &ServerOptions,
    ) -> Self {
        let parameters = job.model.parameters();
        let shards = Shards::new(parameters, options.layout.others(parameters), options.layout.first());
        let mut plane = new_plane(&job, options.layout.own(parameters));
        let start = recorder.take_start();
        if let Some(start) = &start {
            restore(&mut plane, start);
        }
        let config = ServerConfig {
            plan: job.plan,
            start_version: plane.version(),
            min_workers: options.min_workers,
            join_timeout_ms: millis(options.join_timeout),
            contact_timeout_ms: millis(options.contact_timeout),
            work_timeout_ms: millis(options.work_timeout),
            notice_every_ms: millis(options.notice_every),
            shards: shards.keepers(),
            first_shard: options.layout.first(),
            audit: options.audit,
            // The standard library's hasher is seeded by the system.
            audit_seed: options.simulation.unwrap_or_else(|| RandomState::new().hash_one(std::process::id())),
        };
        if options.audit > 0.0 {
            plane.audit();
        }
        let logged_bans = recorder.bans().len();
        let mut identities = Identities::new(options.individual_credentials, recorder.bans());
        let contributors = start.iter().flat_map(|start| &start.progress.contributors);
        let known = contributors.map(|(name, since)| (identities.contributor(name.clone()), *since));
        let core = ServerCore::new(0, config).remembering(known);
        Driver {
            job,
            fingerprints,
            core,
            plane,
            gradients: None,
            peers: Peers::new(Arc::clone(&recorder.board().meter)),
            recorder,
            start: start.filter(|_| shards.keepers() > 0),
            shards,
            fetch: None,
            wanted: Wanted::default(),
            saving: None,
            fallen_back: None,
            failed: None,
            events: VecDeque::new(),
            made: None,
            measured: BTreeMap::new(),
            moved: BTreeMap::new(),
            diverged: None,
            enders: Vec::new(),
            seen: BTreeMap::new(),
            identities,
            logged_bans,
            complaints: Complaints::default(),
            loss: f64::NAN,
            begun: false,
            started: Instant::now(),
            shown: None,
        }
    }

    /// Runs until the round logic says that the run is over, it cannot be saved any more, or nobody is left who could
    /// tell anything.
    ///
    /// `finish` writes the results, before anybody hears that there are any: whoever is told that the run is over need not
    /// come again, whatever becomes of this process.
    pub async fn run<T>(
        mut self,
        mut inbox: mpsc::Receiver<Incoming>,
        finish: impl FnOnce(Finished) -> Result<T, FolderError>,
    ) -> Result<T, ServerError> {
        let mut actions = Vec::new();
        let outcome = 'run: loop {
            let event = match self.events.pop_front() {
                Some(event) => Some(event),
                None => {
                    if let Err(error) = self.failed.take().map_or_else(|| self.record(), Err) {
                        return Err(self.unsaved(error));
                    }
                    // News comes before the clock, so that a full inbox is not taken for silence.
                    let waiting = std::time::Instant::now();
                    let is_watched = self.recorder.board().is_watched();
                    let woken = tokio::select! {
                        biased;
                        incoming = inbox.recv() => Some(incoming),
                        () = reach(self.started, self.core.deadline()) => None,
                        () = tokio::time::sleep(SHOWN_EVERY), if is_watched => {
                            self.show();
                            continue;
                        }
                    };
                    self.recorder.board().meter.spend(Part::Wait, waiting.elapsed());
                    match woken {
                        Some(Some(incoming)) => self.receive(incoming),
                        Some(None) => break 'run Outcome::Stopped { version: self.plane.version() },
                        None => Some(ServerEvent::Timeout),
                    }
                }
            };
            if let Some(event) = event {
                self.core.step(millis(self.started.elapsed()), event, &mut actions);
                if let Some(ServerAction::Finish(outcome)) = actions.last() {
                    break 'run outcome.clone();
                }
                actions.drain(..).for_each(|action| self.perform(action));
            }
            if self.shards.keepers() > 0 {
                // They apply a step before the round logic hears that it is made.
                self.decide();
            }
            self.show();
            let dropped = self.peers.take_dropped();
            self.events.extend(dropped.into_iter().map(|(worker, reason)| {
                self.plane.forget(worker);
                ServerEvent::Left { worker, reason }
            }));
        };
        let (farewells, rest): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, ServerAction::Dismiss { .. }));
        rest.into_iter().for_each(|action| self.perform(action));
        self.blame_the_slowest();
        let (reason, worth_fetching) = match &outcome {
            // The last step was not over before its weights were here.
            Outcome::Done => (Dismissal::Done, false),
            Outcome::Stopped { .. } => (Dismissal::Stopped("the coordinator was stopped".into()), true),
            Outcome::Ended { .. } => (Dismissal::Ended("the run was ended on request".into()), true),
            Outcome::Diverged { .. } => (Dismissal::Failed("training diverged".into()), false),
            Outcome::TooFewWorkers { .. } => (Dismissal::Failed("too few workers".into()), true),
            Outcome::ShardsMissing { .. } => (Dismissal::Failed("shards are missing".into()), false),
        };
        // Before fetching what is to be saved: recording the end of an epoch drops what was fetched to be looked at.
        if let Err(error) = self.record() {
            return Err(self.unsaved(error));
        }
        if worth_fetching && let Err(why) = self.fetch_all(&mut inbox).await {
            warn!("the last weights are not to be had: {why}; going back to what is saved");
            if let Err(error) = self.go_back() {
                return Err(self.unsaved(error));
            }
        }
        if let Err(error) = self.record().and_then(|()| self.save_last(&outcome)) {
            return Err(self.unsaved(error));
        }
        self.end(outcome, &reason, farewells, finish)
    }

    fn unsaved(mut self, error: FolderError) -> ServerError {
        self.recorder.abandon(&error);
        unsaved(&self.shards, &mut self.peers, self.enders, error)
    }

    /// Without the shards, what was saved last is what there is.
    fn go_back(&mut self) -> Result<(), FolderError> {
        let (version, weights) = match self.saved_last()? {
            Some(found) => (found.progress.step, found.weights),
            None => (0, self.job.model.initial(self.job.plan.seed)),
        };
        self.made = None;
        self.fallen_back = Some((version, weights));
        Ok(())
    }

    /// What the run goes on from; nothing from the beginning. What was told of later steps is forgotten.
    fn saved_last(&mut self) -> Result<Option<Snapshot>, FolderError> {
        match self.start.take() {
            Some(start) => Ok(Some(start)),
            None if self.plane.version() == 0 && !self.begun => Ok(None),
            None => self.recorder.rewind(),
        }
    }

    /// Waits until the other shards' weights are here.
    async fn fetch_all(&mut self, inbox: &mut mpsc::Receiver<Incoming>) -> Result<(), String> {
        let version = self.plane.version();
        if self.shards.keepers() == 0 {
            return Ok(());
        }
        if !self.shards.are_restored() {
            return Err("not all shards are there".into());
        }
        let vectors = if self.recorder.has_checkpoints() { self.plane.control().vectors().len() } else { 0 };
        let is_enough = |fetch: &Fetch| fetch.version == version && (fetch.has_state() || vectors == 0);
        if !self.fetch.as_ref().is_some_and(is_enough) {
            self.fetch = Some(self.shards.want_weights(version, vectors));
        }
        let arrive = async {
            while self.fetch.as_ref().is_some_and(|fetch| !fetch.is_complete()) {
                match inbox.recv().await {
                    Some(Incoming::Shard { index, said: ShardSaid::Gone(why) }) => {
                        return Err(format!("{} is gone: {why}", self.shards.name(index)));
                    }
                    Some(incoming) => drop(self.receive(incoming)),
                    None => return Err("the service has ended".into()),
                }
            }
            Ok(())
        };
        let late = || format!("no weights of the shards within {} s", SHARD_ANSWER_TIMEOUT.as_secs());
        tokio::time::timeout(SHARD_ANSWER_TIMEOUT, arrive).await.unwrap_or_else(|_| Err(late()))
    }

    /// What an incoming message means to the round logic.
    fn receive(&mut self, incoming: Incoming) -> Option<ServerEvent> {
        match incoming {
            Incoming::Joined { worker, peer } => self.admit(worker, peer),
            Incoming::Message { worker, message } => self.hear(worker, message),
            Incoming::Left { worker, reason: Departure::Misbehaved(why) } => {
                Some(self.refuse(worker, Nonsense::new(why)))
            }
            Incoming::Left { worker, reason } => {
                self.part(worker, None);
                Some(ServerEvent::Left { worker, reason })
            }
            // Whoever asked may be gone, here and below.
            Incoming::Checkpoint(reply) => {
                self.recorder.ask_for_checkpoint();
                let _ = reply.send(Ok(self.plane.version() + 1));
                None
            }
            Incoming::Status(reply) => {
                let _ = reply.send(self.status());
                None
            }
            Incoming::Weights(reply) => {
                let _ = reply.send((self.plane.version(), self.plane.kept_parts()));
                None
            }
            Incoming::Places(reply) => {
                let _ = reply.send(self.shards.places());
                None
            }
            Incoming::Attach(request) => {
                self.shards.attach(request);
                if self.shards.is_to_be_restored()
                    && let Err(error) = self.restore()
                {
                    self.failed = Some(error);
                }
                None
            }
            Incoming::Shard { index, said } => self.hear_shard(index, said),
            Incoming::Stop => Some(ServerEvent::Stop),
            Incoming::End(reply) => {
                self.enders.push(reply);
                Some(ServerEvent::End)
            }
        }
    }

    fn admit(&mut self, worker: WorkerId, peer: Peer) -> Option<ServerEvent> {
        if let Some(refusal) = self.identities.refusal(&peer, self.peers.iter()) {
            self.complaints.log(|| format!("{}: worker {} refused: {refusal}", peer.address, peer.name));
            peer.outbox.abandon(refusal.into());
            return None;
        }
        self.seen.insert(worker, (peer.name.clone(), peer.address.clone()));
        let contributor = self.identities.admit(worker, &peer);
        self.peers.admit(worker, peer);
        self.events.push_back(ServerEvent::Joined { worker });
        Some(ServerEvent::Identified { worker, contributor })
    }

    fn hear(&mut self, worker: WorkerId, message: WorkerMessage) -> Option<ServerEvent> {
        // One that was sent away does not count, whatever it still says.
        self.peers.get(worker)?;
        let mut recompute = LocalGradients { job: &self.job, gradients: &mut self.gradients };
        let taken = match message {
            WorkerMessage::Heartbeat => Ok(ServerEvent::Heard { worker }),
            WorkerMessage::WeightsWanted => {
                self.peers.lacks_weights(worker);
                Ok(ServerEvent::WeightsWanted { worker })
            }
            WorkerMessage::Dropped => Ok(ServerEvent::Dropped { worker }),
            WorkerMessage::Goodbye(why) => {
                info!(%worker, why, "worker leaves");
                self.part(worker, None);
                Ok(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
            WorkerMessage::NodeMetrics(metrics) => {
                let taken = self.plane.take_metrics(worker, metrics, &mut recompute);
                taken.map(|()| ServerEvent::Heard { worker })
            }
            WorkerMessage::Node(part) => {
                let _span = debug_span!("gather", %worker, part.step, node = %part.node).entered();
                let (begun, meter) = (std::time::Instant::now(), &self.recorder.board().meter);
                meter.receive(part.bytes.len());
                let taken = self.plane.take(worker, part, &mut recompute).map(|made| {
                    if let Some(part) = made {
                        self.peers.broadcast(&part);
                    }
                    ServerEvent::Heard { worker }
                });
                meter.spend(Part::Fold, begun.elapsed());
                taken
            }
            WorkerMessage::NodeDone(done) => {
                let (step, node) = (done.step, done.node);
                debug!(%worker, step, %node, "node arrived");
                self.recorder.board().contributed(|| self.lane(worker));
                let taken = self.plane.take_end(worker, done);
                taken.map(|digest| ServerEvent::Contributed { worker, step, node, digest })
            }
        };
        Some(taken.unwrap_or_else(|rejected| self.refuse(worker, rejected.into())))
    }

    /// Ends the stream of a worker that has sent what cannot be right. A step that it is part of is made again without it.
    fn refuse(&mut self, worker: WorkerId, nonsense: Nonsense) -> ServerEvent {
        let (why, mut counted) = (nonsense.to_string(), self.plane.counts_on(worker));
        self.part(worker, Some(nonsense.into()));
        if counted && self.shards.keepers() > 0 {
            // Its chunks may be anywhere, and some shards may have applied the step.
            self.rewind(RewindCause::WorkerRefused { worker, why: why.clone() });
            counted = false;
        }
        ServerEvent::Refused { worker, why, counted }
    }

    /// Has everybody go back to what is saved, though no shard is lost.
    fn rewind(&mut self, cause: RewindCause) {
        self.events.push_back(ServerEvent::Rewind(cause));
        (self.fetch, self.saving, self.made, self.wanted) = (None, None, None, Wanted::default());
        if self.shards.are_there()
            && let Err(error) = self.restore()
        {
            self.failed = Some(error);
        }
    }

    fn hear_shard(&mut self, index: u32, said: ShardSaid) -> Option<ServerEvent> {
        match said {
            ShardSaid::Message(ShardMessage::Applied { step, moved }) => {
                if step == self.plane.version() {
                    self.moved.insert(index, moved);
                }
                return Some(ServerEvent::Applied { shard: index, step });
            }
            ShardSaid::Message(ShardMessage::Diverged(step)) => {
                // The shard has what it needs of the step, and so will everybody else.
                self.plane.diverge(step);
                return Some(ServerEvent::Applied { shard: index, step });
            }
            ShardSaid::Message(ShardMessage::Weights(chunk)) => {
                return self.fetched(|fetch| fetch.take_weights(chunk.clone()));
            }
            ShardSaid::Message(ShardMessage::State(vector, chunk)) => {
                return self.fetched(|fetch| fetch.take_state(vector, chunk.clone()));
            }
            ShardSaid::Message(ShardMessage::Measured { step, sums }) => {
                let seat = self.shards.kept().find(|(shard, _)| *shard == index);
                let pieces = seat.map_or(0, |(_, kept)| self.plane.control().rules().pieces(kept));
                if sums.len() != pieces {
                    let why = format!("it sent sums over {} pieces and keeps {pieces}", sums.len());
                    return self.hear_shard(index, ShardSaid::Gone(why));
                }
                self.measured.insert(index, (step, sums));
            }
            ShardSaid::Message(ShardMessage::Tainted { step, reason }) => {
                // A step that is made already stays.
                if step >= self.plane.version() {
                    self.rewind(RewindCause::Tainted { shard: self.shards.number(index), why: reason });
                }
            }
            ShardSaid::Message(ShardMessage::Missing { step, leaves }) => {
                return Some(ServerEvent::Missing { shard: index, step, leaves });
            }
            ShardSaid::Message(ShardMessage::Restored(number)) => {
                if self.shards.note_restored(index, number) {
                    return Some(ServerEvent::Restored { version: self.plane.version() });
                }
            }
            ShardSaid::Gone(why) => {
                warn!("{} is gone: {why}", self.shards.name(index));
                if self.shards.lose(index) {
                    self.measured.clear();
                    self.moved.clear();
                    // What it was asked for does not come, and the step is made again.
                    (self.fetch, self.saving, self.made, self.wanted) = (None, None, None, Wanted::default());
                    return Some(ServerEvent::ShardLost { shard: index });
                }
            }
        }
        None
    }

    /// Takes a chunk of what shards were asked for. A step that was made is over if it waited for this one.
    fn fetched(&mut self, take: impl Fn(&mut Fetch)) -> Option<ServerEvent> {
        let waited = self.waits_for_shards();
        self.fetch.iter_mut().for_each(&take);
        self.saving.iter_mut().for_each(|saving| take(&mut saving.fetch));
        if let Err(error) = self.save_fetched() {
            self.failed = Some(error);
        }
        let made = self.made.as_ref().filter(|_| waited && !self.waits_for_shards())?;
        Some(over(made))
    }

    /// Whether the step in hand is not over before the shards have sent what they were asked for, or begun to.
    fn waits_for_shards(&self) -> bool {
        let saving = self.saving.as_ref().map(|saving| &saving.fetch);
        self.fetch.as_ref().is_some_and(|fetch| !fetch.is_complete())
            || saving.is_some_and(|fetch| !fetch.is_begun())
    }

    /// All shards are there: they, and what is kept here, go on from what was saved last.
    fn restore(&mut self) -> Result<(), FolderError> {
        let found = self.saved_last()?;
        match &found {
            Some(start) => restore(&mut self.plane, start),
            None => self.plane.restart(),
        }
        self.measured.clear();
        self.moved.clear();
        let state = found.as_ref().map(|found| (&found.weights[..], &found.state[..]));
        self.shards.restore(self.plane.version(), self.plane.control().count(), state);
        Ok(())
    }

    fn perform(&mut self, action: ServerAction) {
        match action {
            ServerAction::SendWeights { worker, .. } => self.peers.serve(worker, &self.plane),
            ServerAction::Assign { worker, step, leaves } => {
                if !std::mem::replace(&mut self.begun, true) {
                    // The wait for workers is no part of the training's time.
                    self.recorder.begin();
                }
                debug!(%worker, step, ?leaves, "assigned");
                self.recorder.board().assigned(|| self.lane(worker), step, || Section::words(&leaves));
                let assign = v1::Assign { step, leaf_start: leaves.start, leaf_end: leaves.end };
                self.peers.message(worker, v1::from_server::Message::Assign(assign));
            }
            ServerAction::Judge { step, node } => {
                let begun = Instant::now();
                let mut recompute = LocalGradients { job: &self.job, gradients: &mut self.gradients };
                let digest = self.plane.judge(node, &mut recompute);
                self.events.push_back(ServerEvent::Judged { step, node, digest });
                self.was_deaf_since(begun);
            }
            ServerAction::Ban { worker, what, since } => self.ban(worker, what, since),
            ServerAction::GoBack { since } => self.go_back_before(since),
            ServerAction::AskMissing { step } => self.shards.ask_missing(step),
            ServerAction::StartOver { step } => {
                warn!(step, "what was gathered of this step is forgotten, and gathered again");
                self.plane.start_over();
            }
            ServerAction::Update { step } => info_span!("update", step).in_scope(|| self.update(step)),
            ServerAction::Dismiss { worker, reason } => {
                // Of a ban, the log has more than this.
                if !matches!(reason, Dismissal::Done | Dismissal::Banned(_)) {
                    info!(%worker, %reason, "worker dismissed");
                }
                self.peers.message(worker, convert::dismissed(&reason));
                self.part(worker, None);
            }
            ServerAction::Notice(notice @ Notice::Rewinding(_)) => {
                warn!("{}", self.named(&notice, &notice.workers()));
            }
            ServerAction::Notice(notice) => info!("{}", self.named(&notice, &notice.workers())),
            // The loop ends there.
            ServerAction::Finish(_) => {}
        }
    }

    /// A worker has sent a wrong sum, and has had a part in the weights since `since`.
    fn ban(&mut self, worker: WorkerId, reason: String, since: Option<u64>) {
        let (name, address) = self.seen.get(&worker).cloned().unwrap_or_default();
        let credential = self.identities.ban(worker);
        let ban = Ban {
            worker: name,
            address,
            credential,
            step: self.plane.version(),
            reason,
            since,
            ..Ban::default()
        };
        // With a part in the weights, what becomes of them is known in a moment.
        if since.is_none() {
            warn!(%worker, "worker banned: {}", ban.line());
        }
        if let Err(error) = self.recorder.ban(ban) {
            self.failed = Some(error);
        }
    }

    /// Wrong sums may be part of the weights since this step.
    fn go_back_before(&mut self, since: u64) {
        self.made = None;
        match self.recorder.go_back(since) {
            Ok(Some(found)) => {
                match &found {
                    Some(start) => restore(&mut self.plane, start),
                    None => self.plane.restart(),
                }
                self.events.push_back(ServerEvent::WentBack { version: self.plane.version() });
            }
            Ok(None) => self.events.push_back(ServerEvent::CannotGoBack),
            Err(error) => {
                self.failed = Some(error);
                return;
            }
        }
        let bans = self.recorder.bans();
        for ban in bans.iter().skip(self.logged_bans).filter(|ban| ban.since.is_some()) {
            warn!("worker banned: {}", ban.line());
        }
        self.logged_bans = bans.len();
    }

    fn update(&mut self, step: u64) {
        let begun = std::time::Instant::now();
        self.decide();
        for part in self.plane.release() {
            self.peers.broadcast(&part);
        }
        let mut moved = BTreeMap::from([(self.plane.kept().start, self.plane.measure_way())]);
        let others =
            self.shards.kept().filter_map(|(index, kept)| Some((kept.start, self.moved.remove(&index)?)));
        moved.extend(others.collect::<Vec<_>>());
        let moved = moved.into_values().collect::<Vec<_>>().concat();
        self.measured.retain(|_, (measured, _)| *measured > step);
        self.moved.clear();
        let committed = self.plane.commit(&moved);
        self.recorder.board().meter.spend(Part::Update, begun.elapsed());
        match committed {
            Ok(report) => {
                self.recorder.board().made("update", begun);
                self.loss = report.tally.mean_loss();
                self.made = Some(report);
                if self.shards.keepers() > 0 {
                    self.want_weights(step);
                }
                if let Some(made) = self.made.as_ref().filter(|_| !self.waits_for_shards()) {
                    self.events.push_back(over(made));
                }
            }
            Err(diverged) => {
                self.diverged = Some(diverged);
                self.events.push_back(ServerEvent::Diverged { step });
            }
        }
    }

    /// Decides about the step in hand if it waits for that and all is known that it takes: what was seen of it, and the
    /// sums over all pieces.
    fn decide(&mut self) {
        if !(self.plane.is_held() && self.plane.is_seen() && self.plane.is_gathered()) {
            return;
        }
        let others: Option<Vec<_>> = self
            .shards
            .kept()
            .map(|(index, kept)| {
                let (step, sums) = self.measured.get(&index)?;
                (*step == self.plane.version()).then(|| (kept.start, sums.clone()))
            })
            .collect();
        let Some(others) = others else { return };
        let mut sums = BTreeMap::from([(self.plane.kept().start, self.plane.measure())]);
        // Where nothing is kept here, whoever keeps the first element comes in its place.
        sums.extend(others);
        let sums = sums.into_values().collect::<Vec<_>>().concat();
        let step = self.plane.version();
        match self.plane.decide(&sums) {
            Some(verdict) => self.shards.decide(verdict),
            // Nobody makes this step.
            None => {
                let shards = 0..self.shards.keepers();
                self.events.extend(shards.map(|shard| ServerEvent::Applied { shard, step }));
            }
        }
    }

    /// Asks the shards for the weights after `step` if they are needed: for validation, a checkpoint or the result.
    fn want_weights(&mut self, step: u64) {
        let mut wanted = self.recorder.wants(step + 1).unwrap_or_else(|error| {
            self.failed = Some(error);
            Wanted::default()
        });
        wanted.save &= self.saving.is_none();
        self.wanted = wanted;
        let plan = self.job.plan;
        let is_last = step + 1 == plan.steps || self.made.as_ref().is_some_and(|made| made.is_last);
        let is_looked_at = is_last || wanted.look;
        if !wanted.save && !is_looked_at {
            return;
        }
        // What is kept as the best may be what the run gives.
        let is_kept = self.job.control.early_stopping.is_some() || self.recorder.keeps_end();
        let is_wanted = wanted.save || is_last && is_kept;
        let vectors = if is_wanted { self.plane.control().vectors().len() } else { 0 };
        let fetch = self.shards.want_weights(self.plane.version(), vectors);
        match is_looked_at {
            true => self.fetch = Some(fetch),
            false => self.saving = Some(Saving { fetch, own: None }),
        }
    }

    /// Ends the stream to a worker: after what is queued, or at once with a refusal.
    fn part(&mut self, worker: WorkerId, refusal: Option<Refusal>) {
        self.plane.forget(worker);
        self.peers.part(worker, refusal);
    }

    /// Tells the recorder of the step just made. Validation, at the end of an epoch, takes a while, in which
    /// workers are at the next step already.
    ///
    /// # Errors
    /// The run cannot be saved any more.
    fn record(&mut self) -> Result<(), FolderError> {
        if self.waits_for_shards() {
            return Ok(());
        }
        let Some(report) = self.made.take() else { return Ok(()) };
        let begun = Instant::now();
        self.recorder.step(&report, self.peers.len());
        let wanted = match self.shards.keepers() > 0 {
            true => std::mem::take(&mut self.wanted),
            false => self.recorder.wants(self.plane.version())?,
        };
        if wanted.look {
            let weights = self.weights();
            self.recorder.look(self.plane.version(), &weights);
        }
        if wanted.save {
            let own = self.own();
            match &mut self.saving {
                Some(saving) => saving.own = Some(own),
                None => self.save(own)?,
            }
        }
        self.save_fetched()?;
        if wanted.look && self.plane.version() < self.job.plan.steps && !self.recorder.is_concluded() {
            self.fetch = None;
        }
        self.was_deaf_since(begun);
        Ok(())
    }

    /// Begins to save what the shards were asked for, once all of it is here.
    fn save_fetched(&mut self) -> Result<(), FolderError> {
        let is_whole = |saving: &mut Saving| saving.own.is_some() && saving.fetch.is_complete();
        let Some(Saving { fetch, own: Some(own) }) = self.saving.take_if(is_whole) else { return Ok(()) };
        let (progress, weights, state) = own.joined(&self.job, Some(&fetch));
        self.recorder.checkpoint(progress, weights, state)
    }

    /// Nobody was listened to since then, which is not held against anybody.
    fn was_deaf_since(&mut self, begun: Instant) {
        if begun.elapsed() > DEAF_AFTER {
            self.events.extend(self.peers.ids().map(|worker| ServerEvent::Heard { worker }));
        }
    }

    /// The coordinator's part of a checkpoint of now.
    fn own(&mut self) -> Own {
        let version = self.plane.version();
        let name = |contributor| self.identities.name(contributor).map(str::to_owned);
        let contributors = self.core.contributors().filter_map(|(it, since)| Some((name(it)?, since)));
        self.recorder.note_contributors(contributors.collect());
        Own {
            progress: self.recorder.progress(version, self.plane.control().state().clone()),
            weights: self.plane.kept_parts(),
            state: self.plane.state_at(version),
        }
    }

    /// Saves this with what was fetched from the other shards.
    fn save(&mut self, own: Own) -> Result<(), FolderError> {
        let (progress, weights, state) = own.joined(&self.job, self.fetch.as_ref());
        self.recorder.checkpoint(progress, weights, state)
    }

    /// A run that is stopped can be gone on with.
    fn save_last(&mut self, outcome: &Outcome) -> Result<(), FolderError> {
        match outcome {
            Outcome::Stopped { .. } | Outcome::Ended { .. } | Outcome::TooFewWorkers { .. }
                if self.recorder.has_checkpoints() && self.fallen_back.is_none() =>
            {
                let own = self.own();
                self.save(own)
            }
            _ => Ok(()),
        }
    }

    /// The whole weights, `[parameters]`: those kept here, and those fetched from the other shards.
    fn weights(&self) -> Vec<f32> {
        let fetched = self.fetch.iter().flat_map(Fetch::weights);
        whole(self.job.model.parameters(), self.plane.kept_parts().iter().chain(fetched))
    }

    /// The weights that the run gives, of which the last step is made.
    fn close(&mut self) -> Vec<f32> {
        let mut weights = self.weights();
        if self.recorder.keeps_end() {
            let (_, _, state) = self.own().joined(&self.job, self.fetch.as_ref());
            let control = self.plane.control().state().clone();
            self.recorder.keep_end(self.plane.version(), control, weights.clone(), state);
        }
        let validation = self.recorder.validate(&self.job, &weights);
        if self.job.control.early_stopping.is_some() && !self.recorder.is_concluded() {
            let (_, _, state) = self.own().joined(&self.job, self.fetch.as_ref());
            if let Some(event) = self.plane.control().close(&mut weights, &state, validation.as_ref()) {
                self.recorder.event(self.plane.version(), &event);
            }
        }
        weights
    }

    /// What a worker is called by whoever watches.
    fn lane(&self, worker: WorkerId) -> String {
        self.seen.get(&worker).map_or_else(|| worker.to_string(), |(name, _)| format!("{worker} {name}"))
    }

    /// Tells whoever watches where the run and its workers stand, now and then.
    fn show(&mut self) {
        let board = self.recorder.board();
        if !board.is_watched() || self.shown.is_some_and(|shown| shown.elapsed() < SHOWN_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let status = self.core.status();
        let now = millis(self.started.elapsed());
        let activity = self.named(&status.waits_for, &status.waits_for.workers());
        let checkpoint = self.recorder.durable();
        let row = |worker: WorkerStatus| {
            let peer = self.peers.get(worker.worker)?;
            Some(WorkerRow {
                id: worker.worker.0,
                name: peer.name.clone(),
                address: peer.address.clone(),
                standing: WorkerStanding::Known(worker.state),
                leaves: worker.leaves,
                sums: worker.contributions,
                speed: worker.speed.unwrap_or(0.0),
                silent_ms: now.saturating_sub(worker.last_heard),
                held_up_ms: worker.held_up_ms,
            })
        };
        board.tell(|seen| {
            (seen.rescued, seen.audited) = (status.rescued, status.audited);
            seen.activity = activity;
            seen.waited = Duration::from_millis(now.saturating_sub(status.since));
            seen.workers = status.workers.into_iter().filter_map(row).collect();
        });
        board.checkpoint(checkpoint);
    }

    fn status(&self) -> v1::StatusReply {
        let status = self.core.status();
        let now = millis(self.started.elapsed());
        let workers = status.workers.iter().filter_map(|worker| {
            let peer = self.peers.get(worker.worker)?;
            Some(v1::WorkerStatus {
                worker_id: worker.worker.0,
                name: peer.name.clone(),
                address: peer.address.clone(),
                nodes: worker.contributions,
                state: worker.state.to_string(),
                leaves: worker.leaves,
                silent_ms: now.saturating_sub(worker.last_heard),
                leaves_per_second: worker.speed.unwrap_or(0.0),
                held_up_ms: worker.held_up_ms,
            })
        });
        let (checkpoint, age) = self.recorder.durable().unwrap_or_default();
        v1::StatusReply {
            version: status.version,
            steps: status.steps,
            state: self.named(&status.waits_for, &status.waits_for.workers()),
            workers: workers.collect(),
            loss: self.loss,
            fingerprints: Some(self.fingerprints.clone()),
            waited_ms: now.saturating_sub(status.since),
            checkpoint,
            checkpoint_age_ms: millis(age),
            rescued_leaves: status.rescued,
            audited_nodes: status.audited,
        }
    }

    /// A line of the round logic, which names workers by id, followed by the names and addresses of these.
    fn named(&self, line: &impl Display, workers: &[WorkerId]) -> String {
        // A line stays a line: the first few are enough.
        const SHOWN: usize = 4;
        let known = workers.iter().filter_map(|id| Some((id, self.seen.get(id)?))).take(SHOWN);
        let names: Vec<String> =
            known.map(|(id, (name, address))| format!("{id}: {name} at {address}")).collect();
        if names.is_empty() { line.to_string() } else { format!("{line} [{}]", names.join(", ")) }
    }

    /// Tells the recorder whom the run waited for, if it was long enough to matter.
    fn blame_the_slowest(&mut self) {
        let slowest = self.core.status().workers.into_iter().max_by_key(|worker| worker.held_up_ms);
        let Some(slowest) = slowest else { return };
        let waited = Duration::from_millis(slowest.held_up_ms);
        if waited >= WORTH_TELLING && 20 * waited >= self.started.elapsed() {
            let unknown = || (slowest.worker.to_string(), "an unknown address".to_owned());
            let (name, address) = self.seen.get(&slowest.worker).cloned().unwrap_or_else(unknown);
            self.recorder.blame(format!("{name} at {address}"), waited);
        }
    }

    /// Writes the results, and then tells everybody.
    fn end<T>(
        mut self,
        outcome: Outcome,
        reason: &Dismissal,
        farewells: Vec<ServerAction>,
        finish: impl FnOnce(Finished) -> Result<T, FolderError>,
    ) -> Result<T, ServerError> {
        let is_done = outcome == Outcome::Done;
        let is_ended = matches!(outcome, Outcome::Ended { .. });
        // What each worker did in the last steps is seen, too.
        self.shown = None;
        self.show();
        let result = match outcome {
            Outcome::Done => Ok((self.plane.version(), self.close())),
            Outcome::Stopped { .. } | Outcome::Ended { .. } => {
                Ok(self.fallen_back.take().unwrap_or_else(|| (self.plane.version(), self.weights())))
            }
            Outcome::TooFewWorkers { present, needed, waited_ms } => {
                let waited = Duration::from_millis(waited_ms);
                Err(ServerError::TooFewWorkers { present, needed, waited })
            }
            Outcome::ShardsMissing { shards, waited_ms } => {
                Err(ServerError::ShardsMissing { shards, waited: Duration::from_millis(waited_ms) })
            }
            Outcome::Diverged { .. } => Err(ServerError::Diverged(
                self.diverged.take().expect("the data plane said that it diverged"),
            )),
        };
        let Driver { job, recorder, mut peers, shards, enders, .. } = self;
        let mut saved = None;
        let ended = match result {
            Ok((version, weights)) => {
                match finish(Finished { job, recorder, weights, version, is_done, is_ended }) {
                    Ok(result) => {
                        saved = Some(version);
                        Ok(result)
                    }
                    Err(error) => return Err(unsaved(&shards, &mut peers, enders, error)),
                }
            }
            Err(error) => {
                recorder.abandon(&error);
                Err(error)
            }
        };
        for farewell in farewells {
            if let ServerAction::Dismiss { worker, reason } = farewell {
                debug!(%worker, %reason, "worker dismissed");
                peers.message(worker, convert::dismissed(&reason));
                peers.part(worker, None);
            }
        }
        shards.dismiss(reason);
        // One who came too late is told that the server is ending.
        if let Some(version) = saved.filter(|_| is_done || is_ended) {
            enders.into_iter().for_each(|ender| drop(ender.send(Ok(version))));
        }
        ended
    }
}

/// A step was made, perhaps the last one.
fn over(made: &StepReport) -> ServerEvent {
    let step = made.step;
    if made.is_last { ServerEvent::Concluded { step } } else { ServerEvent::Updated { step } }
}

/// The run cannot be saved: everybody hears why, and fails with it.
fn unsaved(
    shards: &Shards,
    peers: &mut Peers,
    enders: Vec<oneshot::Sender<Result<u64, Refusal>>>,
    error: FolderError,
) -> ServerError {
    let reason = Dismissal::Failed(format!("the run cannot be saved: {error}"));
    for worker in peers.ids().collect::<Vec<_>>() {
        peers.message(worker, convert::dismissed(&reason));
        peers.part(worker, None);
    }
    shards.dismiss(&reason);
    for ender in enders {
        let _ = ender.send(Err(Refusal::Unsaved(format!("the run cannot be saved: {error}"))));
    }
    ServerError::Unsaved(error)
}

/// A flat vector of chunks, with their first elements.
fn whole<'a>(elements: usize, parts: impl Iterator<Item = &'a (usize, Bytes)>) -> Vec<f32> {
    let (mut values, mut missing) = (vec![0.0; elements], elements);
    for (offset, bytes) in parts {
        let count = bytes.len() / 4;
        tensor::read(bytes, &mut values[*offset..*offset + count]);
        missing -= count;
    }
    assert_eq!(missing, 0, "a vector is looked at only when all of its parts are here");
    values
}

pub(crate) fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// Returns when the clock that began at `started` reads `deadline`.
async fn reach(started: Instant, deadline: Option<Millis>) {
    match deadline.and_then(|deadline| started.checked_add(Duration::from_millis(deadline))) {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
