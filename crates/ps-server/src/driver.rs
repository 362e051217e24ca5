//! The one task that owns the round logic, the shard logic and the data plane: events in, actions carried
//! out.

mod ending;
mod status;

use crate::assembly::{Fetched, OwnChunks};
use crate::identities::Identities;
use crate::shards::Shards;
use crate::{Finish, ServerError, ServerOptions};
use ps_checkpoint::Snapshot;
use ps_coord::{
    CoordinatorAction, CoordinatorConfig, CoordinatorCore, CoordinatorEvent, Departure, Dismissal,
    FetchPurpose, FollowUp, Millis, Notice, Outcome, ServerAction, ServerConfig, ServerCore, ServerEvent,
    Unfetched, WorkerId,
};
use ps_core::{Gradients, StepReport, trainer::Diverged};
use ps_net::connections::ThrottledLog;
use ps_net::limits::SHARD_ANSWER_TIMEOUT;
use ps_plan::Section;
use ps_plane::Plane;
use ps_proto::convert::{self, ShardMessage, WorkerMessage};
use ps_proto::limits::chunks;
use ps_proto::{InvalidMessage, Refusal, v1};
use ps_run::{Activity, Ban, FolderError, Job, Recorder};
use ps_shard::peers::{Peer, Peers};
use ps_shard::plane::{LocalGradients, new_plane, restore};
use ps_shard::requests::{AttachRequest, Incoming, ShardInput};
use status::{Roster, StatusBoard};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, debug_span, info, info_span, warn};

/// If the driver was busy for longer than this and received nothing, no worker counts as silent
/// for that time.
const SLOW_HANDLING: Duration = Duration::from_millis(500);

/// Carries out the actions of the two state machines.
pub(crate) struct ServerDriver {
    job: Job,
    recorder: Recorder,
    /// The round logic.
    core: ServerCore,
    /// The shard logic.
    coordinator: CoordinatorCore,
    plane: Plane,
    /// Built when data of a worker must first be checked by recomputation.
    gradients: Option<Gradients>,
    peers: Peers,
    shards: Shards,
    /// Events that actions have caused; handled before any from outside.
    events: VecDeque<ServerEvent>,
    /// The checkpoint that a resumed run starts from, until all shards have received it.
    start: Option<Snapshot>,
    /// The last step that was made, until it is recorded.
    made: Option<StepReport>,
    /// This process's part of a checkpoint, until it is saved.
    captured: Option<OwnChunks>,
    /// Chunks that were fetched from the other shards.
    fetched: BTreeMap<FetchPurpose, Fetched>,
    /// Whether the weights of all shards could be fetched at the end of the run; `None` until that is known.
    closed: Option<Result<(), Unfetched>>,
    /// The last saved weights and their version, if they are the run's result because the last weights could
    /// not be fetched.
    last_saved: Option<(u64, Vec<f32>)>,
    /// Why the run can no longer be saved or loaded.
    failed: Option<FolderError>,
    diverged: Option<Diverged>,
    /// Administrators who wait for the end of the run.
    end_replies: Vec<oneshot::Sender<Result<u64, Refusal>>>,
    roster: Roster,
    identities: Identities,
    /// Number of bans that the log contains.
    logged_bans: usize,
    /// The rate-limited log of workers that are turned away.
    throttled_log: ThrottledLog,
    status_board: StatusBoard,
    /// Whether leaves were ever assigned.
    begun: bool,
    started: Instant,
}

impl ServerDriver {
    pub(crate) fn new(
        job: Job,
        mut recorder: Recorder,
        fingerprints: v1::Fingerprints,
        options: &ServerOptions,
    ) -> Self {
        let parameters = job.model.parameters();
        let (others, first_shard) = (options.layout.shard_ranges(parameters), options.layout.first_shard());
        let mut plane = new_plane(&job, options.layout.coordinator_range(parameters));
        let start = recorder.take_start();
        if let Some(start) = &start {
            restore(&mut plane, start);
        }
        let shards = Shards::new(others.clone(), first_shard);
        let config = ServerConfig {
            plan: job.plan,
            start_version: plane.version(),
            min_workers: options.min_workers,
            join_timeout_ms: millis(options.join_timeout),
            contact_timeout_ms: millis(options.contact_timeout),
            work_timeout_ms: millis(options.work_timeout),
            notice_every_ms: millis(options.notice_every),
            shards: shards.keepers(),
            first_shard,
            audit: options.audit,
            // The standard library's hasher is seeded by the system.
            audit_seed: options.simulation.unwrap_or_else(|| RandomState::new().hash_one(std::process::id())),
        };
        let coordinator = CoordinatorCore::new(CoordinatorConfig {
            chunks: others
                .into_iter()
                .map(|kept| chunks(parameters, kept).map(|chunk| chunk.start).collect())
                .collect(),
            state_vectors: plane.control().vectors().len(),
            first_shard,
            start_version: plane.version(),
            answer_timeout_ms: millis(SHARD_ANSWER_TIMEOUT),
        });
        if options.audit > 0.0 {
            plane.audit();
        }
        let mut identities = Identities::new(options.individual_credentials, recorder.bans());
        let contributors = start.iter().flat_map(|start| &start.progress.contributors);
        // Checkpoints name contributors by identity, because each process assigns its own numbers.
        let known = contributors.map(|(name, since)| (identities.contributor(name.clone()), *since));
        let core = ServerCore::new(0, config).with_contributors(known);
        ServerDriver {
            core,
            coordinator,
            plane,
            gradients: None,
            peers: Peers::new(Arc::clone(&recorder.run_state().meter)),
            events: VecDeque::new(),
            // The plane of a single server is restored above. Shards get theirs once all are present.
            start: start.filter(|_| shards.keepers() > 0),
            shards,
            made: None,
            captured: None,
            fetched: BTreeMap::new(),
            closed: None,
            last_saved: None,
            failed: None,
            diverged: None,
            end_replies: Vec::new(),
            roster: Roster::default(),
            identities,
            logged_bans: recorder.bans().len(),
            throttled_log: ThrottledLog::default(),
            status_board: StatusBoard::new(fingerprints),
            begun: false,
            started: Instant::now(),
            job,
            recorder,
        }
    }

    /// Runs until the round logic ends the run, the run can no longer be saved, or all senders of
    /// requests are gone.
    ///
    /// `finish` writes the results before any worker hears of the end: a worker never comes back, so results
    /// that are lost afterwards could not be computed again.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Incoming>,
        finish: Finish,
    ) -> Result<(), ServerError> {
        let mut actions = Vec::new();
        let outcome = loop {
            let event = match self.next(&mut inbox).await {
                Ok(Some(event)) => event,
                Ok(None) => break Outcome::Stopped { version: self.plane.version() },
                Err(error) => return Err(self.unsaved(error)),
            };
            self.core.step(self.now(), event, &mut actions);
            if let Some(ServerAction::Finish(outcome)) = actions.last() {
                break outcome.clone();
            }
            actions.drain(..).for_each(|action| self.perform(action));
            self.show();
            self.report_dropped();
        };
        // Held back until the results are written, see `end`.
        let (farewells, rest): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, ServerAction::Dismiss { .. }));
        rest.into_iter().for_each(|action| self.perform(action));
        match self.close(&outcome, &mut inbox).await {
            Ok(()) => self.end(outcome, farewells, finish),
            Err(error) => Err(self.unsaved(error)),
        }
    }

    /// Returns the next event for the round logic; `None` once the service has ended.
    ///
    /// # Errors
    /// The run can no longer be saved or loaded.
    async fn next(
        &mut self,
        inbox: &mut mpsc::Receiver<Incoming>,
    ) -> Result<Option<ServerEvent>, FolderError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            self.idle()?;
            // Recording may have requested a stop.
            if !self.events.is_empty() {
                continue;
            }
            let waiting = std::time::Instant::now();
            let is_watched = self.recorder.run_state().is_watched();
            // Messages come before the clock, so that a full inbox is not taken for silence.
            let received = tokio::select! {
                biased;
                incoming = inbox.recv() => Some(incoming),
                () = reach(self.started, self.core.deadline()) => None,
                () = tokio::time::sleep(StatusBoard::INTERVAL), if is_watched => {
                    self.show();
                    continue;
                }
            };
            self.recorder.run_state().meter.spend(Activity::Wait, waiting.elapsed());
            match received {
                Some(Some(incoming)) => {
                    if let Some(event) = self.handle(incoming) {
                        return Ok(Some(event));
                    }
                    self.report_dropped();
                }
                Some(None) => return Ok(None),
                None => return Ok(Some(ServerEvent::Timeout)),
            }
        }
    }

    /// Records the last step while no message is waiting. At the end of an epoch this takes a while, in which
    /// workers already compute the next step.
    ///
    /// # Errors
    /// The run can no longer be saved or loaded.
    fn idle(&mut self) -> Result<(), FolderError> {
        // Actions cannot return errors. Those of the last ones are found here, and those of recording below.
        self.failed.take().map_or(Ok(()), Err)?;
        self.coordinate(CoordinatorEvent::Idle);
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Reports workers that were dropped, because they stopped reading, while actions were carried out.
    fn report_dropped(&mut self) {
        for (worker, reason) in self.peers.take_dropped() {
            self.plane.forget(worker);
            self.events.push_back(ServerEvent::Left { worker, reason });
        }
    }

    /// Translates an incoming message into an event for the round logic.
    fn handle(&mut self, incoming: Incoming) -> Option<ServerEvent> {
        match incoming {
            Incoming::Joined { worker, peer } => self.admit(worker, peer),
            Incoming::Message { worker, message } => self.handle_message(worker, message),
            Incoming::Left { worker, reason: Departure::Misbehaved(why) } => {
                Some(self.refuse(worker, InvalidMessage::new(why)))
            }
            Incoming::Left { worker, reason } => {
                self.disconnect(worker, None);
                Some(ServerEvent::Left { worker, reason })
            }
            // The caller may be gone, here and below.
            Incoming::Checkpoint(reply) => {
                // Checkpoints are taken between steps, so the open step will be part of it.
                self.recorder.request_checkpoint();
                let _ = reply.send(Ok(self.plane.version() + 1));
                None
            }
            Incoming::Status(reply) => {
                let _ = reply.send(self.status());
                None
            }
            Incoming::Weights(reply) => {
                let _ = reply.send((self.plane.version(), self.plane.kept_chunks()));
                None
            }
            Incoming::ShardAddresses(reply) => {
                let _ = reply.send(self.shards.addresses(|shard| self.coordinator.is_ready(shard)));
                None
            }
            Incoming::Attach(request) => {
                self.attach(request);
                None
            }
            Incoming::Shard { index, input } => {
                self.handle_shard(index, input);
                None
            }
            Incoming::Stop => Some(ServerEvent::Stop),
            Incoming::End(reply) => {
                self.end_replies.push(reply);
                Some(ServerEvent::End)
            }
        }
    }

    fn admit(&mut self, worker: WorkerId, peer: Peer) -> Option<ServerEvent> {
        if let Some(refusal) = self.identities.refusal(&peer, self.peers.iter()) {
            self.throttled_log.log(|| format!("{}: worker {} refused: {refusal}", peer.address, peer.name));
            peer.outbox.abandon(refusal.into());
            return None;
        }
        self.roster.note(worker, &peer);
        let contributor = self.identities.admit(worker, &peer);
        self.peers.admit(worker, peer);
        // Queued behind the returned event, because the identity of a worker precedes its admission.
        self.events.push_back(ServerEvent::Joined { worker });
        Some(ServerEvent::Identified { worker, contributor })
    }

    fn handle_message(&mut self, worker: WorkerId, message: WorkerMessage) -> Option<ServerEvent> {
        // Messages of a worker that was sent away are ignored.
        self.peers.get(worker)?;
        let mut recompute = LocalGradients { job: &self.job, gradients: &mut self.gradients };
        let taken = match message {
            WorkerMessage::Heartbeat => Ok(ServerEvent::MessageReceived { worker }),
            WorkerMessage::WeightsWanted => {
                self.peers.lacks_weights(worker);
                Ok(ServerEvent::WeightsWanted { worker })
            }
            WorkerMessage::Dropped => Ok(ServerEvent::Dropped { worker }),
            WorkerMessage::Goodbye(why) => {
                info!(%worker, why, "worker leaves");
                self.disconnect(worker, None);
                Ok(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
            WorkerMessage::NodeMetrics(metrics) => {
                let taken = self.plane.take_metrics(worker, metrics, &mut recompute);
                taken.map(|()| ServerEvent::MessageReceived { worker })
            }
            WorkerMessage::Node(part) => {
                let _span = debug_span!("gather", %worker, part.step, node = %part.node).entered();
                let (begun, meter) = (std::time::Instant::now(), &self.recorder.run_state().meter);
                meter.receive(part.bytes.len());
                let taken = self.plane.take(worker, part, &mut recompute).map(|made| {
                    if let Some(part) = made {
                        self.peers.broadcast(&part);
                    }
                    ServerEvent::MessageReceived { worker }
                });
                meter.spend(Activity::Fold, begun.elapsed());
                taken
            }
            WorkerMessage::NodeDone(done) => {
                let (step, node) = (done.step, done.node);
                debug!(%worker, step, %node, "node arrived");
                self.recorder.run_state().contributed(|| self.roster.lane(worker));
                let taken = self.plane.take_end(worker, done);
                taken.map(|digest| ServerEvent::Contributed { worker, step, node, digest })
            }
        };
        if self.shards.keepers() > 0 {
            // Shards wait for the verdict before they apply the step, and the round logic closes the round
            // only afterwards.
            self.decide_if_gathered();
        }
        Some(taken.unwrap_or_else(|rejected| self.refuse(worker, rejected.into())))
    }

    fn decide_if_gathered(&mut self) {
        if self.plane.awaits_decision() && self.plane.has_all_metrics() && self.plane.is_gathered() {
            self.coordinate(CoordinatorEvent::Gathered { step: self.plane.version() });
        }
    }

    /// Ends the stream of a worker that sent an invalid message. If it contributed to the open step, the step
    /// is made again without it.
    fn refuse(&mut self, worker: WorkerId, invalid: InvalidMessage) -> ServerEvent {
        let (why, mut counted) = (invalid.to_string(), self.plane.counts_on(worker));
        self.disconnect(worker, Some(invalid.into()));
        if counted && self.shards.keepers() > 0 {
            // Its chunks may have reached any shard, and some shards may have applied the step.
            self.coordinate(CoordinatorEvent::Refused { worker, why: why.clone() });
            counted = false;
        }
        ServerEvent::Refused { worker, why, counted }
    }

    fn attach(&mut self, request: AttachRequest) {
        let wanted = request.greeting.index;
        let mut request = Some(request);
        for action in self.decisions(CoordinatorEvent::AttachRequested { shard: wanted }) {
            match action {
                CoordinatorAction::Admit { shard } => {
                    request.take().into_iter().for_each(|request| self.shards.admit(shard, request));
                }
                CoordinatorAction::Refuse(why) => {
                    request.take().into_iter().for_each(|request| request.refuse(why));
                }
                action => self.carry_out(action),
            }
        }
    }

    fn handle_shard(&mut self, shard: u32, input: ShardInput) {
        let event = match input {
            ShardInput::Message(ShardMessage::Applied { step, update_norms }) => {
                self.shards.update_norms.insert(shard, (step, update_norms));
                CoordinatorEvent::Applied { shard, step }
            }
            ShardInput::Message(ShardMessage::Diverged(step)) => CoordinatorEvent::Diverged { shard, step },
            ShardInput::Message(ShardMessage::Weights(chunk)) => return self.arrived(shard, 0, chunk),
            ShardInput::Message(ShardMessage::State(vector, chunk)) => {
                return self.arrived(shard, 1 + vector, chunk);
            }
            ShardInput::Message(ShardMessage::Measured { step, sums }) => {
                let pieces = self.plane.control().optimizer().pieces(self.shards.kept(shard));
                // `decide` concatenates the sums of all servers, so a wrong number would shift those of every
                // shard behind.
                if sums.len() != pieces {
                    let why = format!("it sent sums over {} pieces, but holds {pieces}", sums.len());
                    return self.handle_shard(shard, ShardInput::Gone(why));
                }
                self.shards.measured.insert(shard, (step, sums));
                CoordinatorEvent::Measured { shard, step }
            }
            ShardInput::Message(ShardMessage::Tainted { step, reason }) => {
                CoordinatorEvent::Tainted { shard, step, why: reason }
            }
            ShardInput::Message(ShardMessage::Missing { step, leaves }) => {
                CoordinatorEvent::Missing { shard, step, leaves }
            }
            ShardInput::Message(ShardMessage::Restored(number)) => {
                CoordinatorEvent::Restored { shard, number }
            }
            ShardInput::Gone(why) => {
                warn!("{} is gone: {why}", self.shards.name(shard));
                self.shards.remove(shard);
                CoordinatorEvent::Lost { shard }
            }
        };
        self.coordinate(event);
    }

    fn arrived(&mut self, shard: u32, vector: usize, chunk: convert::StateChunk) {
        let convert::StateChunk { version, offset, bytes } = chunk;
        let chunk = ps_coord::ChunkId { version, vector, offset };
        for action in self.decisions(CoordinatorEvent::Arrived { shard, chunk }) {
            match action {
                CoordinatorAction::Keep { purpose } => {
                    self.fetched.entry(purpose).or_default().keep(vector, offset, bytes.clone());
                }
                action => self.carry_out(action),
            }
        }
    }

    /// Steps the shard logic and carries out its actions.
    fn coordinate(&mut self, event: CoordinatorEvent) {
        for action in self.decisions(event) {
            self.carry_out(action);
        }
    }

    fn decisions(&mut self, event: CoordinatorEvent) -> Vec<CoordinatorAction> {
        let mut actions = Vec::new();
        self.coordinator.step(self.now(), event, &mut actions);
        actions
    }

    fn carry_out(&mut self, action: CoordinatorAction) {
        match action {
            CoordinatorAction::Report(event) => self.events.push_back(event),
            CoordinatorAction::Restore { number } => match self.restore(number) {
                Ok(version) => self.coordinate(CoordinatorEvent::Loaded { version }),
                Err(error) => self.failed = Some(error),
            },
            CoordinatorAction::Decide { step } => self.decide(step),
            CoordinatorAction::Diverge { step } => self.plane.diverge(step),
            CoordinatorAction::Fetch { purpose, version, with_state } => {
                self.fetched.insert(purpose, Fetched::default());
                self.shards.fetch(version, with_state);
            }
            CoordinatorAction::Record { .. } => self.record(),
            CoordinatorAction::Inspect { version } => {
                let weights = self.weights();
                self.recorder.inspect(version, &weights);
            }
            CoordinatorAction::Capture { .. } => self.captured = Some(self.own_chunks()),
            CoordinatorAction::Save { purpose } => self.save(purpose),
            CoordinatorAction::Forget { purpose } => {
                self.fetched.remove(&purpose);
                // Without the chunks of the other shards, this server's part of the checkpoint is of no use.
                if purpose == FetchPurpose::Save {
                    self.captured = None;
                }
            }
            CoordinatorAction::DiscardStep => self.made = None,
            CoordinatorAction::Closed(result) => self.closed = Some(result),
            // These answer the event of the caller, which carries them out.
            CoordinatorAction::Admit { .. }
            | CoordinatorAction::Refuse(_)
            | CoordinatorAction::Keep { .. } => {}
        }
    }

    /// All shards are present: they and this server resume from the last saved state.
    fn restore(&mut self, number: u64) -> Result<u64, FolderError> {
        let found = self.load_last_saved()?;
        match &found {
            Some(start) => restore(&mut self.plane, start),
            None => self.plane.restart(),
        }
        let state = found.as_ref().map(|found| (&found.weights[..], &found.state[..]));
        let version = self.plane.version();
        self.shards.restore(number, version, self.plane.control().count(), state);
        Ok(version)
    }

    /// The state that the run resumes from; `None` for the initial weights. Drops the records of later steps.
    fn load_last_saved(&mut self) -> Result<Option<Snapshot>, FolderError> {
        match self.start.take() {
            // Used once: when the servers go back again, there may be a newer checkpoint.
            Some(start) => Ok(Some(start)),
            None if self.plane.version() == 0 && !self.begun => Ok(None),
            None => self.recorder.rewind(),
        }
    }

    /// Decides about the open step from the sums over all pieces, in the order of the weights.
    fn decide(&mut self, step: u64) {
        // Sorted by first element: norms are added in the order of the weights, not in that of the answers.
        let mut sums = BTreeMap::from([(self.plane.kept().start, self.plane.measure())]);
        // If this server keeps nothing, its empty entry is replaced by that of the shard with the first
        // element.
        sums.extend(self.shards.measured_at(step));
        let sums = sums.into_values().collect::<Vec<_>>().concat();
        match self.plane.decide(&sums) {
            Some(verdict) => self.shards.decide(verdict),
            None => self.coordinate(CoordinatorEvent::NotFinite { step }),
        }
    }

    fn perform(&mut self, action: ServerAction) {
        match action {
            ServerAction::SendWeights { worker, .. } => self.peers.serve(worker, &self.plane),
            ServerAction::Assign { worker, step, leaves } => {
                if !std::mem::replace(&mut self.begun, true) {
                    // The training time does not include the wait for workers.
                    self.recorder.begin();
                }
                debug!(%worker, step, ?leaves, "assigned");
                let lane = || self.roster.lane(worker);
                self.recorder.run_state().assigned(lane, step, || Section::words(&leaves));
                let assign = v1::Assign { step, leaf_start: leaves.start, leaf_end: leaves.end };
                self.peers.message(worker, v1::from_server::Message::Assign(assign));
            }
            ServerAction::Recompute { step, node } => {
                let begun = Instant::now();
                let mut recompute = LocalGradients { job: &self.job, gradients: &mut self.gradients };
                let digest = self.plane.recompute_digest(node, &mut recompute);
                self.events.push_back(ServerEvent::Recomputed { step, node, digest });
                self.extend_deadlines(begun);
            }
            ServerAction::Ban { worker, what, since } => self.ban(worker, what, since),
            ServerAction::RollBack { since } => self.roll_back_before(since),
            ServerAction::RequestMissing { step } => self.shards.request_missing(step),
            ServerAction::StartOver { step } => {
                warn!(step, "sums of this step are discarded and gathered again");
                self.plane.start_over();
            }
            ServerAction::Update { step } => info_span!("update", step).in_scope(|| self.update(step)),
            ServerAction::Dismiss { worker, reason } => {
                // A ban has a separate, more detailed log line.
                if !matches!(reason, Dismissal::Done | Dismissal::Banned(_)) {
                    info!(%worker, %reason, "worker dismissed");
                }
                // Without a refusal, the stream ends after the queued messages, so the worker reads why it
                // was sent away.
                self.peers.message(worker, convert::dismissed(&reason));
                self.disconnect(worker, None);
            }
            ServerAction::Notice(notice) => {
                let line = self.roster.named(&notice, &notice.workers());
                match notice {
                    Notice::Rewinding(_) => warn!("{line}"),
                    _ => info!("{line}"),
                }
            }
            // The loop in `run` ends there.
            ServerAction::Finish(_) => {}
        }
    }

    /// Records the ban of a worker that sent a wrong sum and has contributed to the weights since `since`.
    fn ban(&mut self, worker: WorkerId, reason: String, since: Option<u64>) {
        let (name, address) = self.roster.find(worker).unwrap_or_default();
        let credential = self.identities.ban(worker);
        let step = self.plane.version();
        let ban = Ban { worker: name, address, credential, step, reason, since, ..Ban::default() };
        // Otherwise the log line follows once it is known how far the run goes back.
        if since.is_none() {
            warn!(%worker, "worker banned: {}", ban.line());
        }
        if let Err(error) = self.recorder.ban(ban) {
            self.failed = Some(error);
        }
    }

    /// Restores weights from before `since`, the first step that may contain wrong sums.
    fn roll_back_before(&mut self, since: u64) {
        // The last step may not be recorded yet, and is about to be undone.
        self.made = None;
        match self.recorder.go_back(since) {
            Ok(Some(found)) => {
                match &found {
                    Some(start) => restore(&mut self.plane, start),
                    None => self.plane.restart(),
                }
                let version = self.plane.version();
                self.coordinate(CoordinatorEvent::Loaded { version });
                self.events.push_back(ServerEvent::RolledBack { version });
            }
            Ok(None) => self.events.push_back(ServerEvent::CannotRollBack),
            Err(error) => {
                self.failed = Some(error);
                return;
            }
        }
        // By now the recorder has noted in each ban how far the run went back, or that it could not.
        let bans = self.recorder.bans();
        for ban in bans.iter().skip(self.logged_bans).filter(|ban| ban.since.is_some()) {
            warn!("worker banned: {}", ban.line());
        }
        self.logged_bans = bans.len();
    }

    fn update(&mut self, step: u64) {
        let begun = std::time::Instant::now();
        // On a single server nothing waits for the verdict, so it is made only once the audits are settled.
        self.decide_if_gathered();
        for part in self.plane.release() {
            self.peers.broadcast(&part);
        }
        // Measured before the commit, because the next weights are compared with the current ones.
        let mut update_norms = BTreeMap::from([(self.plane.kept().start, self.plane.measure_update())]);
        update_norms.extend(self.shards.update_norms_at(step));
        let committed = self.plane.commit(&update_norms.into_values().collect::<Vec<_>>().concat());
        self.recorder.run_state().meter.spend(Activity::Update, begun.elapsed());
        match committed {
            Ok(report) => {
                self.recorder.run_state().made("update", begun);
                self.status_board.loss = report.metric_sums.mean_loss();
                self.on_step_made(report);
            }
            Err(diverged) => {
                self.diverged = Some(diverged);
                self.events.push_back(ServerEvent::Diverged { step });
            }
        }
    }

    fn on_step_made(&mut self, report: StepReport) {
        let (step, plan) = (report.step, self.job.plan);
        // The step is made all the same; `next` finds the failure before the following one.
        let needs = self.recorder.needs(step + 1).unwrap_or_else(|error| {
            self.failed = Some(error);
            ps_run::Needs::default()
        });
        let follow_up = FollowUp {
            inspect: needs.inspect,
            // The last weights are the result and need no checkpoint.
            save: needs.save && !report.is_last,
            // The kept best weights may be the result, which includes their state.
            state: self.job.control.early_stopping.is_some() || self.recorder.keeps_end(),
        };
        let is_last = report.is_last || step + 1 == plan.steps;
        self.made = Some(report);
        self.coordinate(CoordinatorEvent::Made { step, is_last, follow_up });
    }

    fn record(&mut self) {
        let Some(report) = self.made.take() else { return };
        let begun = Instant::now();
        self.recorder.step(&report, self.peers.count());
        if self.recorder.is_stop_requested() {
            self.events.push_back(ServerEvent::Stop);
        }
        self.extend_deadlines(begun);
    }

    /// Starts saving the captured part together with the chunks from the other shards.
    fn save(&mut self, purpose: FetchPurpose) {
        let Some(own) = self.captured.take() else { return };
        let (progress, weights, state) = own.assemble(&self.job, self.fetched.get(&purpose));
        // What was fetched to be inspected is dropped by `Forget`, unless it is the run's result.
        if purpose == FetchPurpose::Save {
            self.fetched.remove(&purpose);
        }
        if let Err(error) = self.recorder.checkpoint(progress, weights, state) {
            self.failed = Some(error);
        }
    }

    /// The coordinator's part of a checkpoint of the current version.
    fn own_chunks(&mut self) -> OwnChunks {
        let version = self.plane.version();
        let name = |contributor| self.identities.name(contributor).map(str::to_owned);
        let contributors = self.core.contributors().filter_map(|(it, since)| Some((name(it)?, since)));
        self.recorder.note_contributors(contributors.collect());
        OwnChunks {
            progress: self.recorder.progress(version, self.plane.control().state().clone()),
            weights: self.plane.kept_chunks(),
            state: self.plane.state_at(version),
        }
    }

    /// Counts all workers as heard if this process was busy since `begun` for so long that it may have
    /// missed their messages.
    fn extend_deadlines(&mut self, begun: Instant) {
        if begun.elapsed() > SLOW_HANDLING {
            self.events.extend(self.peers.ids().map(|worker| ServerEvent::MessageReceived { worker }));
        }
    }

    /// Ends the stream to a worker: after the queued messages, or at once with a refusal.
    fn disconnect(&mut self, worker: WorkerId, refusal: Option<Refusal>) {
        self.plane.forget(worker);
        self.peers.disconnect(worker, refusal);
    }

    fn now(&self) -> Millis {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// Completes when the clock that began at `started` reads `deadline`.
async fn reach(started: Instant, deadline: Option<Millis>) {
    match deadline.and_then(|deadline| started.checked_add(Duration::from_millis(deadline))) {
        Some(instant) => tokio::time::sleep_until(instant).await,
        // A deadline beyond the range of the clock never comes.
        None => std::future::pending().await,
    }
}
