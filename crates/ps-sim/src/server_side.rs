//! The coordinator's shell and data plane in the simulator.

use crate::cluster::{Cluster, SimEvent};
use crate::disk::Saved;
use crate::network::{LinkId, Sum, ToServer, ToWorker};
use crate::shard_links::{FromShard, ShardLinkId, ToShard};
use crate::shard_side::current;
use crate::{OwnGradients, SimJob, checks};
use bytes::Bytes;
use ps_checkpoint::{Progress, Snapshot};
use ps_coord::{
    ChunkId, Contributor, CoordinatorAction, CoordinatorConfig, CoordinatorCore, CoordinatorEvent, Departure,
    Digest, Dismissal, FetchPurpose, FollowUp, Millis, Outcome, ServerAction, ServerConfig, ServerCore,
    ServerEvent, WorkerId,
};
use ps_core::chunk::read;
use ps_core::optim::{PieceSums, UpdateNorms};
use ps_core::{MetricSums, StepReport};
use ps_plan::{Node, Section};
use ps_plane::{GradientChunk, NodeDone, NodeMetrics, OptimizerStateChunk, Plane, Rejected};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// The coordinator: the process that runs the round logic and the shard logic and holds the first part of the
/// weights. It may crash and restart.
pub(crate) struct Server {
    pub core: ServerCore,
    pub coordinator: CoordinatorCore,
    pub plane: Plane,
    /// Events that actions have caused and that are still to be processed.
    events: VecDeque<ServerEvent>,
    /// By shard, the latest sums over its pieces, and their step.
    measured: BTreeMap<u32, (u64, Vec<PieceSums>)>,
    /// By shard, how far the weights moved in the latest step, and that step.
    update_norms: BTreeMap<u32, (u64, Vec<UpdateNorms>)>,
    /// Chunks that shards have sent, by the purpose for which they were requested.
    fetched: BTreeMap<FetchPurpose, Chunks>,
    /// The coordinator's part of a checkpoint that is being collected.
    captured: Option<Captured>,
    pub outcome: Option<Outcome>,
    /// The final weights of the run.
    pub result: Vec<f32>,
    pub is_up: bool,
    /// Whether the coordinator and all shards hold weights of one version.
    pub is_whole: bool,
    /// Grows each time the servers lose their common version, so that older messages can be recognised.
    pub era: u32,
    /// By shard, its connection if it is attached.
    pub seats: Vec<Option<ShardLinkId>>,
    /// Number of times that the run returned to a checkpoint because of a liar. A save that started before
    /// is then discarded.
    returns: u32,
    /// Whether a step is being made.
    updating: bool,
    links: BTreeMap<WorkerId, LinkId>,
    next_worker: u32,
    /// The earliest timer in the queue.
    timer: Option<Millis>,
}

/// The coordinator's part of a checkpoint.
struct Captured {
    progress: Progress,
    own: Chunks,
    /// The weights and state that the whole checkpoint must have, if they are known.
    truth: Option<(Vec<f32>, Vec<f32>)>,
}

/// Chunks, by vector (0 is the weights) and first element.
type Chunks = BTreeMap<(usize, usize), Bytes>;

impl Server {
    pub(crate) fn new(
        job: &SimJob<'_>,
        now: Millis,
        mut plane: Plane,
        contributors: &BTreeMap<String, u64>,
    ) -> Self {
        if job.audit > 0.0 {
            plane.audit();
        }
        Server {
            core: Server::core(now, job, plane.version(), contributors),
            coordinator: Server::coordinator(job, &plane),
            plane,
            events: VecDeque::new(),
            measured: BTreeMap::new(),
            update_norms: BTreeMap::new(),
            fetched: BTreeMap::new(),
            captured: None,
            outcome: None,
            result: Vec::new(),
            is_up: true,
            is_whole: job.servers == 1,
            era: 0,
            seats: vec![None; job.servers as usize - 1],
            returns: 0,
            updating: false,
            links: BTreeMap::new(),
            next_worker: 0,
            timer: None,
        }
    }

    /// Whether a step is being made.
    pub(crate) fn is_updating(&self) -> bool {
        self.updating
    }

    fn coordinator(job: &SimJob<'_>, plane: &Plane) -> CoordinatorCore {
        let chunks = job.chunks();
        let offsets = |server| chunks[job.kept(server)].iter().map(|chunk| chunk.start).collect();
        CoordinatorCore::new(CoordinatorConfig {
            chunks: (1..job.servers as usize).map(offsets).collect(),
            state_vectors: plane.control().vectors().len(),
            first_shard: 0,
            start_version: plane.version(),
            // Never used: no simulated run is stopped, so its weights are not fetched at a deadline.
            answer_timeout_ms: 0,
        })
        .with_mutation(job.mutation)
    }

    fn core(
        now: Millis,
        job: &SimJob<'_>,
        start_version: u64,
        contributors: &BTreeMap<String, u64>,
    ) -> ServerCore {
        let config = ServerConfig {
            plan: job.plan,
            start_version,
            min_workers: job.workers,
            // Longer than any outage, because a run that gives up counts as a violation. Stalls and
            // partitions last longer than the contact timeout or shorter, so a worker may be lost or come
            // back in time.
            join_timeout_ms: 50_000,
            contact_timeout_ms: 1_500,
            work_timeout_ms: 1_000,
            notice_every_ms: 5_000,
            shards: job.servers - 1,
            first_shard: 0,
            audit: job.audit,
            // Differs between processes of the coordinator, as in a real run, and depends on nothing but the
            // seed.
            audit_seed: now,
        };
        let known = |(slot, since): (&String, &u64)| Some((Contributor(slot.parse().ok()?), *since));
        ServerCore::new(now, config)
            .with_mutation(job.mutation)
            .with_contributors(contributors.iter().filter_map(known))
    }
}

impl Cluster<'_> {
    pub(crate) fn server_receives(&mut self, id: LinkId, message: ToServer) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        if !self.server.is_up {
            return Ok(());
        }
        if let ToServer::Hello = message {
            if link.worker.is_some() || self.server.outcome.is_some() {
                return Ok(());
            }
            let worker = WorkerId(self.server.next_worker);
            link.worker = Some(worker);
            self.server.next_worker += 1;
            self.server.links.insert(worker, id);
            self.network.counts.admissions += 1;
            let contributor = Contributor(self.links[&id].slot as u32);
            self.send_to_worker(id, ToWorker::Welcome);
            self.server_steps(ServerEvent::Identified { worker, contributor })?;
            return self.server_steps(ServerEvent::Joined { worker });
        }
        // A message that overtakes the greeting is dropped, because a stream that is not open
        // yet carries nothing.
        let Some(worker) = link.worker else { return Ok(()) };
        match message {
            ToServer::Hello => Ok(()),
            ToServer::Heartbeat => {
                self.send_to_worker(id, ToWorker::HeartbeatSeen);
                self.server_steps(ServerEvent::MessageReceived { worker })
            }
            ToServer::Dropped => self.server_steps(ServerEvent::Dropped { worker }),
            ToServer::RequestWeights => self.server_steps(ServerEvent::WeightsWanted { worker }),
            ToServer::Sum { step, sum, chunks } => self.server_gathers(worker, step, &sum, chunks),
            ToServer::Breaking { step, sum, chunks } => {
                self.server_closes(worker);
                self.server_breaks_off(worker, step, &sum, chunks)
            }
            ToServer::Goodbye => {
                link.server_open = false;
                self.server_steps(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
        }
    }

    /// Receives the coordinator's whole part of a node's sum, which ends the node.
    fn server_gathers(
        &mut self,
        worker: WorkerId,
        step: u64,
        sum: &Sum,
        chunks: Range<usize>,
    ) -> Result<(), String> {
        let version = self.server.plane.version();
        self.network.counts.stale_sums += u64::from(step < version);
        let covered =
            |plane: &Plane| sum.chunks.first().is_none_or(|&(offset, _)| plane.covers(offset, sum.node));
        let is_new = step == version && !covered(&self.server.plane);
        let taken = self
            .server_takes(worker, step, sum, chunks.clone())
            .and_then(|()| self.server.plane.take_end(worker, NodeDone { step, node: sum.node }));
        match taken {
            Ok(digest) => {
                let count = chunks.len() as u64;
                match is_new && covered(&self.server.plane) {
                    true => self.network.counts.counted += count,
                    false => self.network.counts.ignored += count,
                }
                if is_new && sum.is_lie {
                    self.lies.count(self.links[&self.server.links[&worker]].slot);
                }
                // Shards are waiting for the verdict.
                if !self.shards.is_empty() {
                    self.decide_if_gathered()?;
                }
                self.server_steps(ServerEvent::Contributed { worker, step, node: sum.node, digest })
            }
            // A flipped bit may make a value infinite or NaN, which the plane refuses. Honest values are
            // finite in this job.
            Err(rejected) if sum.is_lie => {
                self.server_closes(worker);
                self.server_refuses(worker, rejected.to_string())
            }
            Err(rejected) => Err(format!("an honest worker is refused: {rejected}")),
        }
    }

    /// Receives the metric sums of a node and some of its chunks.
    fn server_takes(
        &mut self,
        worker: WorkerId,
        step: u64,
        sum: &Sum,
        chunks: Range<usize>,
    ) -> Result<(), Rejected> {
        let node = sum.node;
        let mut own = OwnGradients { job: self.job, gradients: &mut self.gradients };
        let plane = &mut self.server.plane;
        plane.take_metrics(
            worker,
            NodeMetrics { step, node, metric_sums: sum.metric_sums.clone() },
            &mut own,
        )?;
        for (offset, bytes) in sum.chunks.get(chunks).unwrap_or_default() {
            let chunk = GradientChunk { step, node, offset: *offset, bytes: bytes.clone() };
            plane.take(worker, chunk, &mut own)?;
        }
        Ok(())
    }

    /// Receives wrong chunks, followed by an invalid message. Where nodes are audited, the chunks of a node
    /// that has not ended are not in the sums yet.
    fn server_breaks_off(
        &mut self,
        worker: WorkerId,
        step: u64,
        sum: &Sum,
        chunks: Range<usize>,
    ) -> Result<(), String> {
        let taken = self.server_takes(worker, step, sum, chunks);
        let why =
            taken.err().map_or("a message that cannot be right".into(), |rejected| rejected.to_string());
        self.server_refuses(worker, why)
    }

    fn server_refuses(&mut self, worker: WorkerId, why: String) -> Result<(), String> {
        let mut counted = self.server.plane.counts_on(worker);
        self.server.plane.forget(worker);
        self.network.counts.refused += 1;
        self.network.counts.refused_counted += u64::from(counted);
        if counted && !self.shards.is_empty() {
            self.coordinate(CoordinatorEvent::Refused { worker, why: why.clone() })?;
            counted = false;
        }
        self.server_steps(ServerEvent::Refused { worker, why, counted })
    }

    /// The coordinator closes its connection to a worker.
    fn server_closes(&mut self, worker: WorkerId) {
        let id = self.server.links[&worker];
        if let Some(link) = self.links.get_mut(&id) {
            link.server_open = false;
        }
        self.at(self.now + 1, SimEvent::WorkerSeesEnd { link: id, why: "refused" });
    }

    pub(crate) fn server_sees_end(&mut self, id: LinkId) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        link.server_open = false;
        let Some(worker) = link.worker else { return Ok(()) };
        self.server.plane.forget(worker);
        let reason = Departure::Disconnected("connection reset".into());
        self.server_steps(ServerEvent::Left { worker, reason })
    }

    pub(crate) fn update_done(&mut self, era: u32, step: u64) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.decide_if_gathered()?;
        let expected = self.expected_sections(step)?;
        let Server { plane, update_norms, .. } = &mut self.server;
        plane.release();
        let others = update_norms
            .values()
            .filter(|(update_norms, _)| *update_norms == step)
            .map(|(_, update_norms)| update_norms.clone());
        let update_norms: Vec<Vec<UpdateNorms>> =
            std::iter::once(plane.measure_update()).chain(others).collect();
        let committed = plane.commit(&update_norms.concat());
        self.inject_faults();
        let Ok(report) = committed else {
            self.server.updating = false;
            return self.server_steps(ServerEvent::Diverged { step });
        };
        self.lies.commit(step)?;
        checks::samples(&self.job.plan, step, &report.metric_sums)?;
        self.check_sections(&report, expected)?;
        let version = self.server.plane.version();
        let follow_up = FollowUp {
            inspect: self.job.plan.ends_epoch(step),
            save: version.is_multiple_of(self.job.checkpoint_every),
            state: true,
        };
        let is_last = version >= self.job.plan.steps;
        self.coordinate(CoordinatorEvent::Made { step, is_last, follow_up })?;
        self.server_handles_events()
    }

    fn decide_if_gathered(&mut self) -> Result<(), String> {
        let plane = &self.server.plane;
        match plane.awaits_decision() && plane.has_all_metrics() && plane.is_gathered() {
            true => self.coordinate(CoordinatorEvent::Gathered { step: plane.version() }),
            false => Ok(()),
        }
    }

    /// Decides about the step from the sums over all pieces.
    fn decide(&mut self, step: u64) -> Result<(), String> {
        let Server { plane, measured, .. } = &mut self.server;
        let mut sums = plane.measure();
        let of_step = measured.values().filter(|(measured, _)| *measured == step);
        of_step.for_each(|(_, measured)| sums.extend(measured));
        match plane.decide(&sums).cloned() {
            Some(verdict) => {
                let verdict = Arc::new(verdict);
                self.send_to_shards(|| ToShard::Decided { verdict: verdict.clone() });
                Ok(())
            }
            None => self.coordinate(CoordinatorEvent::NotFinite { step }),
        }
    }

    /// Handles a message from a shard on its current connection.
    pub(crate) fn coordinator_is_sent(
        &mut self,
        link: ShardLinkId,
        message: FromShard,
    ) -> Result<(), String> {
        let index = self.shard_links[link].shard;
        let shard = index as u32;
        if !self.reaches_coordinator(link) || self.server.outcome.is_some() {
            return Ok(());
        }
        if let FromShard::Attach = message {
            return self.coordinator_admits(link);
        }
        // The message was sent on a connection that the coordinator has given up.
        if self.server.seats[index] != Some(link) {
            return Ok(());
        }
        let event = match message {
            FromShard::Attach => return Ok(()),
            FromShard::Restored { number } => CoordinatorEvent::Restored { shard, number },
            FromShard::Measured { step, sums } => {
                self.server.measured.insert(shard, (step, sums));
                CoordinatorEvent::Measured { shard, step }
            }
            FromShard::Applied { step, update_norms } => {
                self.server.update_norms.insert(shard, (step, update_norms));
                CoordinatorEvent::Applied { shard, step }
            }
            FromShard::Diverged { step } => CoordinatorEvent::Diverged { shard, step },
            FromShard::Tainted { step, why } => CoordinatorEvent::Tainted { shard, step, why },
            FromShard::Missing { step, leaves } => CoordinatorEvent::Missing { shard, step, leaves },
            FromShard::Chunk { chunk, bytes } => {
                for action in self.decisions(CoordinatorEvent::Arrived { shard, chunk }) {
                    match action {
                        CoordinatorAction::Keep { purpose } => {
                            let chunks = self.server.fetched.entry(purpose).or_default();
                            chunks.insert((chunk.vector, chunk.offset), bytes.clone());
                        }
                        action => self.carry_out(action)?,
                    }
                }
                return self.server_handles_events();
            }
            FromShard::Ended => {
                self.server.seats[index] = None;
                CoordinatorEvent::Lost { shard }
            }
        };
        self.coordinate(event)?;
        self.server_handles_events()
    }

    fn coordinator_admits(&mut self, link: ShardLinkId) -> Result<(), String> {
        let index = self.shard_links[link].shard;
        for action in self.decisions(CoordinatorEvent::AttachRequested { shard: Some(index as u32) }) {
            match action {
                CoordinatorAction::Admit { .. } => {
                    self.server.seats[index] = Some(link);
                    self.send_to_shard(link, ToShard::Admitted);
                }
                CoordinatorAction::Refuse(_) => self.cut_shard_link(link, 0),
                action => self.carry_out(action)?,
            }
        }
        self.server_handles_events()
    }

    fn send_to_shards(&mut self, message: impl Fn() -> ToShard) {
        for link in self.server.seats.clone().into_iter().flatten() {
            self.send_to_shard(link, message());
        }
    }

    /// Steps the shard logic and carries out its actions.
    fn coordinate(&mut self, event: CoordinatorEvent) -> Result<(), String> {
        self.decisions(event).into_iter().try_for_each(|action| self.carry_out(action))
    }

    fn decisions(&mut self, event: CoordinatorEvent) -> Vec<CoordinatorAction> {
        let mut actions = Vec::new();
        self.server.coordinator.step(self.now, event, &mut actions);
        for action in &actions {
            self.note(|| format!("  coordinator: {action:?}"));
        }
        actions
    }

    fn carry_out(&mut self, action: CoordinatorAction) -> Result<(), String> {
        match action {
            CoordinatorAction::Report(event) => self.reported(event)?,
            CoordinatorAction::Restore { number } => {
                let version = self.restore(number)?;
                self.coordinate(CoordinatorEvent::Loaded { version })?;
            }
            CoordinatorAction::Decide { step } => self.decide(step)?,
            CoordinatorAction::Diverge { step } => self.server.plane.diverge(step),
            CoordinatorAction::Fetch { purpose, version, with_state } => {
                self.server.fetched.insert(purpose, Chunks::new());
                self.send_to_shards(|| ToShard::WeightsWanted { version, with_state });
            }
            CoordinatorAction::Inspect { .. } => {
                let (weights, _) = self.whole(self.own_chunks(), FetchPurpose::Inspect, 1)?;
                if let Some((truth, _)) = self.truth() {
                    checks::same("what is looked at", &weights, &truth)?;
                }
            }
            CoordinatorAction::Capture { version } => self.capture(version),
            CoordinatorAction::Save { purpose } => self.save_later(purpose)?,
            CoordinatorAction::Forget { purpose } => drop(self.server.fetched.remove(&purpose)),
            CoordinatorAction::Closed(result) => return Err(format!("closed early: {result:?}")),
            // The simulator records no steps.
            CoordinatorAction::Record { .. } | CoordinatorAction::DiscardStep => {}
            // These answer an incoming message and are carried out where it arrives.
            CoordinatorAction::Admit { .. }
            | CoordinatorAction::Refuse(_)
            | CoordinatorAction::Keep { .. } => {}
        }
        Ok(())
    }

    /// Checks that what the shard logic reports to the round logic is true.
    fn reported(&mut self, event: ServerEvent) -> Result<(), String> {
        match &event {
            ServerEvent::ShardLost { .. } | ServerEvent::Rewind(_) => {
                self.server.is_whole = false;
                self.server.updating = false;
                self.server.era += 1;
                self.network.counts.rewinds_refused += u64::from(matches!(event, ServerEvent::Rewind(_)));
            }
            ServerEvent::Restored { .. } => {
                checks::restored(&self.server, &self.shards)?;
                self.server.is_whole = true;
                self.rewound = true;
            }
            ServerEvent::Applied { shard, step } => {
                checks::applied(&self.server, &self.shards[*shard as usize], *step)?;
            }
            ServerEvent::Updated { .. } | ServerEvent::Concluded { .. } => self.server.updating = false,
            _ => {}
        }
        self.server.events.push_back(event);
        Ok(())
    }

    /// Restores the coordinator's part from the checkpoint and sends the shards theirs.
    fn restore(&mut self, number: u64) -> Result<u64, String> {
        self.network.counts.rewinds += 1;
        let before = self.server.core.version();
        let snapshot = self.load()?;
        let (version, era) = (self.server.plane.version(), self.server.era);
        self.network.counts.rewinds_back += u64::from(version < before);
        let count = self.server.plane.control().count();
        self.send_to_shards(|| ToShard::Restore { era, version, number, count });
        let Some(Snapshot { weights, state, .. }) = snapshot else { return Ok(version) };
        let vectors = std::iter::once(&weights[..]).chain(state.chunks(weights.len()));
        for (vector, values) in vectors.enumerate() {
            for (index, link) in self.server.seats.clone().into_iter().enumerate() {
                let Some(link) = link else { continue };
                for chunk in self.kept[index + 1].clone() {
                    let range = self.chunks[chunk].clone();
                    let chunk = ChunkId { version, vector, offset: range.start };
                    self.send_to_shard(link, ToShard::Chunk { chunk, values: values[range].into() });
                }
            }
        }
        Ok(version)
    }

    /// Expected loss and metrics of the sections that are only evaluated; `None` unless all
    /// weights are available.
    fn expected_sections(&mut self, step: u64) -> Result<[Option<MetricSums>; 2], String> {
        let (job, tree) = (self.job, self.job.plan.step(step).tree());
        if !self.shards.is_empty() || tree.all_leaves() == tree.leaves() {
            return Ok([None, None]);
        }
        let Some((weights, _)) = self.truth() else { return Ok([None, None]) };
        Ok([Section::LastBatch, Section::Validation].map(|section| {
            let leaves = tree.section(section);
            (!leaves.is_empty())
                .then(|| job.sums(&mut self.gradients, &weights, step, leaves).remove(0).metric_sums)
        }))
    }

    /// Checks that the sections other than the batch are complete and, if all weights are available, that
    /// they have the expected bits.
    fn check_sections(
        &mut self,
        report: &StepReport,
        expected: [Option<MetricSums>; 2],
    ) -> Result<(), String> {
        let step = report.step;
        let place = self.job.plan.step(step);
        let [last_batch, validation] = expected;
        if place.validation > 0 {
            self.network.counts.sections += 1;
            let samples = report.validation.as_ref().map(|metric_sums| metric_sums.samples);
            if samples != Some(place.validation as u64) {
                return Err(format!("validation of step {step} is of {samples:?} samples"));
            }
            if validation.is_some() && validation != report.validation {
                let found = &report.validation;
                return Err(format!("validation of step {step} sums to {found:?}, not to {validation:?}"));
            }
        }
        if place.last_batch > 0 {
            self.network.counts.sections += 1;
            let Some(probe) = &report.probe else {
                // A step that the guard undoes is not probed.
                if self.job.control.guard.is_some() {
                    return Ok(());
                }
                return Err(format!("step {step} tells nothing of the step before it, which was probed"));
            };
            let actual = last_batch.map(|metric_sums| probe.loss - metric_sums.mean_loss());
            if actual.is_some_and(|actual| actual != probe.actual) {
                return Err(format!(
                    "step {} lowered the loss by {actual:?}, not by {}",
                    probe.step, probe.actual
                ));
            }
        }
        Ok(())
    }

    /// The chunks of the coordinator's weights and state.
    fn own_chunks(&self) -> Chunks {
        let plane = &self.server.plane;
        let weights = plane.kept_chunks().into_iter().map(|(offset, bytes)| ((0, offset), bytes));
        let part = |OptimizerStateChunk { vector, offset, bytes }| ((1 + vector, offset), bytes);
        weights.chain(plane.state_at(plane.version()).into_iter().map(part)).collect()
    }

    /// Assembles the first `vectors` vectors, of which 0 is the weights, from the coordinator's chunks and
    /// those that shards have sent.
    fn whole(
        &self,
        mut own: Chunks,
        purpose: FetchPurpose,
        vectors: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), String> {
        own.extend(
            self.server.fetched.get(&purpose).into_iter().flatten().map(|(id, bytes)| (*id, bytes.clone())),
        );
        let parameters = self.job.model.parameters();
        let mut values = vec![0.0; vectors * parameters];
        for vector in 0..vectors {
            for chunk in &self.chunks {
                let bytes = own.get(&(vector, chunk.start));
                let bytes = bytes.ok_or_else(|| format!("chunk {chunk:?} of vector {vector} is not here"))?;
                read(bytes.as_chunks().0, &mut values[vector * parameters + chunk.start..][..chunk.len()]);
            }
        }
        let state = values.split_off(parameters);
        Ok((values, state))
    }

    /// Captures the coordinator's part of a checkpoint.
    fn capture(&mut self, version: u64) {
        let contributors = self.server.core.contributors();
        let contributors = contributors.map(|(Contributor(slot), since)| (slot.to_string(), since)).collect();
        let control = self.server.plane.control().state().clone();
        let progress = Progress {
            step: version,
            metric_sums: MetricSums::new(2),
            contributors,
            control,
            ..Progress::default()
        };
        // The truth is taken now, because the weights change while the rest of the checkpoint arrives.
        let (own, truth) = (self.own_chunks(), self.truth());
        self.server.captured = Some(Captured { progress, own, truth });
    }

    /// Saves the captured checkpoint while training continues.
    fn save_later(&mut self, purpose: FetchPurpose) -> Result<(), String> {
        let captured = self.server.captured.take().ok_or("nothing was set aside to be saved")?;
        let Captured { progress, own, truth } = captured;
        let vectors = 1 + self.server.plane.control().vectors().len();
        let (weights, state) = self.whole(own, purpose, vectors)?;
        if let Some((its_weights, its_state)) = truth {
            checks::same("a checkpoint", &weights, &its_weights)?;
            checks::same("a checkpoint's state", &state, &its_state)?;
        }
        let snapshot = Arc::new(Snapshot { progress, weights, state });
        let delay = self.network.up_to(50);
        let (process, returns) = (self.server_process, self.server.returns);
        self.at(self.now + 1 + delay, SimEvent::Save { process, returns, snapshot });
        Ok(())
    }

    pub(crate) fn save(&mut self, process: u32, returns: u32, snapshot: &Snapshot) -> Result<(), String> {
        let is_same = self.server_process == process && self.server.returns == returns;
        if !self.server.is_up || !is_same || self.server.outcome.is_some() {
            return Ok(());
        }
        match self.disk.save(self.now, snapshot, &mut self.network)? {
            Saved::Continues => {}
            Saved::Ends => self.server_crashes(self.server_process),
        }
        Ok(())
    }

    /// Crashes the process, perhaps with its machine. Workers and shards notice soon, late, or only
    /// by the silence.
    pub(crate) fn server_crashes(&mut self, process: u32) {
        if !self.server.is_up || self.server_process != process || self.server.outcome.is_some() {
            return;
        }
        self.network.counts.server_crashes += 1;
        self.accumulate_counts();
        self.note(|| "  the coordinator dies".into());
        self.server_process += 1;
        self.server.is_up = false;
        self.server.is_whole = false;
        self.server.era += 1;
        self.disk.end(&mut self.network);
        self.close_links_of(0);
        self.cut_all_shard_links(500);
        let delay = self.network.up_to(2500);
        self.at(self.now + 1 + delay, SimEvent::ServerStart);
    }

    /// Adds up the counters of the coordinator's process, before the process is lost.
    pub(crate) fn accumulate_counts(&mut self) {
        let status = self.server.core.status();
        self.network.counts.reassigned += status.reassigned;
        self.network.counts.audits += status.audited;
    }

    /// The coordinator has computed a node to check it.
    pub(crate) fn on_recomputed(
        &mut self,
        era: u32,
        step: u64,
        node: Node,
        digest: Digest,
    ) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.network.counts.recomputed += 1;
        self.server_steps(ServerEvent::Recomputed { step, node, digest })
    }

    /// Starts a new process, which resumes from the newest checkpoint.
    pub(crate) fn server_starts(&mut self) -> Result<(), String> {
        self.disk.start(self.now, &mut self.network)?;
        let saved = self.load()?;
        let contributors = saved.map(|saved| saved.progress.contributors).unwrap_or_default();
        // Both outlive the process. Events that were scheduled for the old one would otherwise be taken for
        // those of the new one.
        let (era, returns) = (self.server.era, self.server.returns);
        let plane = std::mem::replace(&mut self.server.plane, self.job.plane(0));
        self.server = Server { era, returns, ..Server::new(self.job, self.now, plane, &contributors) };
        self.rewound = true;
        let version = self.server.plane.version();
        self.network.counts.restores += u64::from(version > 0);
        self.note(|| format!("  the coordinator starts from step {version}"));
        self.set_server_timer();
        Ok(())
    }

    /// Loads the coordinator's part from the newest checkpoint, or resets it to the beginning of the run.
    /// Returns the whole checkpoint.
    fn load(&mut self) -> Result<Option<Snapshot>, String> {
        let snapshot = self.disk.newest(&mut self.network)?;
        self.server_restores(&snapshot);
        Ok(snapshot)
    }

    fn server_restores(&mut self, snapshot: &Option<Snapshot>) {
        let plane = &mut self.server.plane;
        match snapshot {
            Some(Snapshot { progress, weights, state }) => {
                plane.restore_whole(progress.step, weights, state, progress.control.clone());
            }
            None => plane.restart(),
        }
        self.lies.roll_back(self.server.plane.version());
    }

    /// Returns to a checkpoint, because sums of a liar may be part of the weights since step `since`.
    fn roll_back(&mut self, since: u64) -> Result<(), String> {
        let saved = self.disk.roll_back(since, &mut self.network)?;
        let version = saved.map(|snapshot| {
            self.server_restores(&snapshot);
            self.server.plane.version()
        });
        match version {
            Some(_) => self.network.counts.rollbacks += 1,
            None => {
                self.network.counts.taints += 1;
                self.lies.accept();
            }
        }
        self.server.is_whole = false;
        self.server.era += 1;
        self.server.returns += 1;
        self.at(self.now + 1, SimEvent::RolledBack { era: self.server.era, version });
        Ok(())
    }

    /// The coordinator has restored earlier weights, or found that there are none.
    pub(crate) fn on_rolled_back(&mut self, era: u32, version: Option<u64>) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.server.is_whole = true;
        self.rewound = true;
        if let Some(version) = version {
            self.coordinate(CoordinatorEvent::Loaded { version })?;
        }
        let event =
            version.map_or(ServerEvent::CannotRollBack, |version| ServerEvent::RolledBack { version });
        self.server_steps(event)
    }

    pub(crate) fn server_timer(&mut self) -> Result<(), String> {
        self.server.timer = None;
        if !self.server.is_up {
            return Ok(());
        }
        match self.server.core.deadline() {
            Some(deadline) if deadline <= self.now => self.server_steps(ServerEvent::Timeout),
            _ => {
                self.set_server_timer();
                Ok(())
            }
        }
    }

    fn server_steps(&mut self, event: ServerEvent) -> Result<(), String> {
        self.server.events.push_back(event);
        self.server_handles_events()
    }

    fn server_handles_events(&mut self) -> Result<(), String> {
        let mut stepped = false;
        loop {
            while let Some(event) = self.server.events.pop_front() {
                self.server_handles(event)?;
                stepped = true;
            }
            // As in the loop of the real driver, where recording may cause further events.
            self.coordinate(CoordinatorEvent::Idle)?;
            if self.server.events.is_empty() {
                break;
            }
        }
        match self.server.outcome {
            Some(Outcome::Done) => {
                (self.server.result, _) = self.whole(self.own_chunks(), FetchPurpose::Inspect, 1)?;
            }
            Some(_) => self.server.result = self.truth().map(|(weights, _)| weights).unwrap_or_default(),
            None => {}
        }
        if !self.server.updating && self.server.is_whole {
            checks::round(&self.server, &self.shards)?;
        }
        // A deadline that stays in the past would make a real driver spin.
        if stepped && self.server.core.deadline().is_some_and(|deadline| deadline <= self.now) {
            return Err(format!("the server's deadline stays at {:?}", self.server.core.deadline()));
        }
        self.set_server_timer();
        Ok(())
    }

    fn server_handles(&mut self, event: ServerEvent) -> Result<(), String> {
        let mut actions = Vec::new();
        self.server.core.step(self.now, event, &mut actions);
        for action in actions {
            self.note(|| format!("  server: {action:?}"));
            // Before the action is carried out, because it must fit the state that it finds.
            checks::action(&self.server, &self.shards, &self.job.plan, &action)?;
            self.server_performs(action)?;
        }
        Ok(())
    }

    fn set_server_timer(&mut self) {
        let Some(deadline) = self.server.core.deadline() else { return };
        // As for workers: a timer that fires too early sets the next.
        if self.server.timer.is_none_or(|timer| deadline < timer) {
            self.server.timer = Some(deadline);
            self.at(deadline.max(self.now), SimEvent::ServerTimer);
        }
    }

    fn server_performs(&mut self, action: ServerAction) -> Result<(), String> {
        match action {
            ServerAction::SendWeights { worker, version } => {
                let parts = current(&self.server.plane);
                self.send_to_worker(self.server.links[&worker], ToWorker::Weights { version, parts });
            }
            ServerAction::Assign { worker, step, leaves } => {
                self.send_to_worker(self.server.links[&worker], ToWorker::Work { step, leaves });
            }
            ServerAction::Recompute { step, node } => {
                let mut own = OwnGradients { job: self.job, gradients: &mut self.gradients };
                let digest = self.server.plane.recompute_digest(node, &mut own);
                let (era, delay) = (self.server.era, self.network.up_to(200));
                self.at(self.now + 1 + delay, SimEvent::Recomputed { era, step, node, digest });
            }
            ServerAction::StartOver { .. } => {
                self.network.counts.starts_over += 1;
                self.lies.start_over();
                self.server.plane.start_over();
            }
            ServerAction::Ban { worker, .. } => {
                self.network.counts.bans += 1;
                let slot = self.links[&self.server.links[&worker]].slot;
                self.lies.detect(slot);
            }
            ServerAction::RollBack { since } => self.roll_back(since)?,
            ServerAction::Update { step } => {
                self.server.updating = true;
                let pause = self.network.up_to(20);
                self.at(self.now + pause, SimEvent::UpdateDone { era: self.server.era, step });
            }
            ServerAction::RequestMissing { step } => {
                self.send_to_shards(|| ToShard::MissingWanted { step });
            }
            ServerAction::Dismiss { worker, reason } => {
                let is_silent = matches!(reason, Dismissal::Silent { .. });
                self.network.counts.expiries += u64::from(is_silent);
                self.network.counts.stuck += u64::from(matches!(reason, Dismissal::Stuck { .. }));
                let link = self.server.links[&worker];
                self.send_to_worker(link, ToWorker::Dismissed(reason));
                // What the worker still sends no longer counts.
                self.server.plane.forget(worker);
                if let Some(link) = self.links.get_mut(&link) {
                    link.server_open = false;
                }
                // The message may be lost, but a real server also closes the connection after a while.
                self.at(self.now + 2_000, SimEvent::WorkerSeesEnd { link, why: "closed by the server" });
            }
            ServerAction::Notice(_) => {}
            ServerAction::Finish(outcome) => {
                if !matches!(outcome, Outcome::Done | Outcome::Diverged { .. }) {
                    return Err(format!("the run ended early: {outcome:?}"));
                }
                self.server.outcome = Some(outcome);
                self.finished_at = Some(self.now);
            }
        }
        Ok(())
    }
}
