//! The coordinator's driver and data plane in the simulator.

use crate::cluster::{Cluster, Happening};
use crate::network::{Down, LinkId, Sum, Up};
use crate::saving::Saved;
use crate::shard_side::{Shard, current};
use crate::{OwnGradients, SimJob, checks};
use ps_checkpoint::{Progress, Snapshot};
use ps_coord::{
    Contributor, Departure, Digest, Dismissal, Millis, Outcome, ServerAction, ServerConfig, ServerCore,
    ServerEvent, WorkerId,
};
use ps_core::optim::{Moved, PieceSums};
use ps_core::{StepReport, Tally};
use ps_plan::planted::Defect;
use ps_plan::{Node, Section};
use ps_plane::{GradientChunk, NodeDone, NodeMetrics, Plane, Rejected};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The process that runs the round logic and keeps the first part of the weights. It may die and start again.
pub(crate) struct Server {
    pub core: ServerCore,
    pub plane: Plane,
    /// What the shards have measured of the step that waits for a decision.
    measured: BTreeMap<usize, (u64, Vec<PieceSums>)>,
    /// How far their weights went in the step that they have applied.
    pub moved: BTreeMap<usize, Vec<Moved>>,
    pub outcome: Option<Outcome>,
    pub is_up: bool,
    /// Whether it and all shards hold weights of one version.
    pub is_whole: bool,
    /// Grows when that ends. What was on its way between servers then means nothing any more.
    pub era: u32,
    /// The process of each shard that is attached.
    pub seats: Vec<Option<u32>>,
    /// Shards that have not taken what they are given yet.
    pub restoring: BTreeSet<usize>,
    /// Counts the times that it went back because of a liar: what was to be saved before is not.
    returns: u32,
    /// Whether the data plane is at an update.
    updating: bool,
    links: BTreeMap<WorkerId, LinkId>,
    next_worker: u32,
    /// The earliest timer in the queue.
    timer: Option<Millis>,
}

impl Server {
    pub fn new(job: &SimJob<'_>, mut plane: Plane) -> Self {
        if job.audit > 0.0 {
            plane.audit();
        }
        Server {
            core: Server::core(0, job, plane.version(), &BTreeMap::new()),
            plane,
            measured: BTreeMap::new(),
            moved: BTreeMap::new(),
            outcome: None,
            is_up: true,
            is_whole: job.servers == 1,
            era: 0,
            seats: vec![None; job.servers as usize - 1],
            restoring: BTreeSet::new(),
            returns: 0,
            updating: false,
            links: BTreeMap::new(),
            next_worker: 0,
            timer: Some(0),
        }
    }

    /// What begun this process knows is gone with it, but for its part, which is what was saved.
    fn begin_again(&mut self, now: Millis, job: &SimJob<'_>, contributors: &BTreeMap<String, u64>) {
        self.core = Server::core(now, job, self.plane.version(), contributors);
        self.is_up = true;
        self.is_whole = job.servers == 1;
        self.seats.fill(None);
        self.restoring.clear();
        self.updating = false;
        self.links.clear();
        self.next_worker = 0;
        self.timer = None;
    }

    /// Whether a step is being made.
    pub fn is_updating(&self) -> bool {
        self.updating
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
            join_timeout_ms: 50_000,
            contact_timeout_ms: 1_500,
            work_timeout_ms: 1_000,
            notice_every_ms: 5_000,
            shards: job.servers - 1,
            first_shard: 0,
            audit: job.audit,
            audit_seed: now,
        };
        let known = |(slot, since): (&String, &u64)| Some((Contributor(slot.parse().ok()?), *since));
        ServerCore::new(now, config).planted(job.planted).remembering(contributors.iter().filter_map(known))
    }
}

impl Cluster<'_> {
    pub fn server_receives(&mut self, id: LinkId, message: Up) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        if !self.server.is_up {
            return Ok(());
        }
        if let Up::Hello = message {
            if link.worker.is_some() || self.server.outcome.is_some() {
                return Ok(());
            }
            let worker = WorkerId(self.server.next_worker);
            link.worker = Some(worker);
            self.server.next_worker += 1;
            self.server.links.insert(worker, id);
            self.network.counts.admissions += 1;
            let contributor = Contributor(self.links[&id].slot as u32);
            self.send_down(id, Down::Welcome);
            self.server_steps(ServerEvent::Identified { worker, contributor })?;
            return self.server_steps(ServerEvent::Joined { worker });
        }
        // Whatever overtakes the greeting is dropped, as a stream that is not open yet carries nothing.
        let Some(worker) = link.worker else { return Ok(()) };
        match message {
            Up::Hello => Ok(()),
            Up::Heartbeat => {
                self.send_down(id, Down::HeartbeatSeen);
                self.server_steps(ServerEvent::Heard { worker })
            }
            Up::Dropped => self.server_steps(ServerEvent::Dropped { worker }),
            Up::AskWeights => self.server_steps(ServerEvent::WeightsWanted { worker }),
            Up::Sum { step, sum, chunks } => self.server_gathers(worker, step, &sum, chunks),
            Up::Breaking { step, sum, chunks } => {
                self.server_closes(worker);
                self.server_breaks_off(worker, step, &sum, chunks)
            }
            Up::Goodbye => {
                link.server_open = false;
                self.server_steps(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
        }
    }

    /// The whole of what the coordinator keeps of a node's sum, which ends with it.
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
                self.server_steps(ServerEvent::Contributed { worker, step, node: sum.node, digest })?;
                // Shards apply a step before the round logic hears that it is made.
                if self.shards.is_empty() { Ok(()) } else { self.decide() }
            }
            Err(rejected) if sum.is_lie => {
                self.server_closes(worker);
                self.server_refuses(worker, rejected.to_string())
            }
            Err(rejected) => Err(format!("an honest worker is refused: {rejected}")),
        }
    }

    /// The metric sums of a node and some of its chunks.
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
        plane.take_metrics(worker, NodeMetrics { step, node, tally: sum.tally.clone() }, &mut own)?;
        for (offset, bytes) in sum.chunks.get(chunks).unwrap_or_default() {
            let chunk = GradientChunk { step, node, offset: *offset, bytes: bytes.clone() };
            plane.take(worker, chunk, &mut own)?;
        }
        Ok(())
    }

    /// Wrong chunks came, and then something that is refused. Where nodes are audited, chunks of a node that has not ended
    /// are not in the sums yet.
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
        let counted = self.server.plane.counts_on(worker);
        self.server.plane.forget(worker);
        self.network.counts.refused += 1;
        self.network.counts.refused_counted += u64::from(counted);
        self.server_steps(ServerEvent::Refused { worker, why, counted })
    }

    /// The coordinator ends the connection to a worker.
    fn server_closes(&mut self, worker: WorkerId) {
        let id = self.server.links[&worker];
        if let Some(link) = self.links.get_mut(&id) {
            link.server_open = false;
        }
        self.at(self.now + 1, Happening::WorkerSeesEnd { link: id, why: "refused" });
    }

    pub fn server_sees_end(&mut self, id: LinkId) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        link.server_open = false;
        let Some(worker) = link.worker else { return Ok(()) };
        self.server.plane.forget(worker);
        let reason = Departure::Disconnected("connection reset".into());
        self.server_steps(ServerEvent::Left { worker, reason })
    }

    pub fn update_done(&mut self, era: u32, step: u64) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.decide()?;
        let expected = self.expected_sections(step)?;
        let plane = &mut self.server.plane;
        plane.release();
        let moved =
            std::iter::once(plane.measure_way()).chain(std::mem::take(&mut self.server.moved).into_values());
        let committed = plane.commit(&moved.collect::<Vec<_>>().concat());
        self.server.measured.clear();
        self.server.updating = false;
        self.strike();
        let Ok(report) = committed else { return self.server_steps(ServerEvent::Diverged { step }) };
        self.lies.commit(step)?;
        checks::samples(&self.job.plan, step, &report.tally)?;
        self.look_at_sections(&report, expected)?;
        let version = self.server.plane.version();
        let is_last = version >= self.job.plan.steps;
        let is_due = self.saving.is_due(version);
        if !self.shards.is_empty() && (is_due || is_last) {
            // The step is not over before the shards have given what is to be saved.
            self.server.updating = true;
            let arrival = self.network.arrival(self.now);
            self.at(arrival, Happening::Fetched { era, step });
            return Ok(());
        }
        if is_due {
            self.save_later()?;
        }
        self.server_steps(ServerEvent::Updated { step })
    }

    /// Decides about the step that waits for it, once all is seen, here and by the shards.
    fn decide(&mut self) -> Result<(), String> {
        let plane = &mut self.server.plane;
        let (version, shards) = (plane.version(), self.shards.len());
        let is_measured =
            self.server.measured.values().filter(|(step, _)| *step == version).count() == shards;
        if !(plane.is_held() && plane.is_seen() && plane.is_gathered() && is_measured) {
            return Ok(());
        }
        let mut sums = plane.measure();
        self.server.measured.values().for_each(|(_, measured)| sums.extend(measured));
        match plane.decide(&sums).cloned() {
            Some(verdict) => {
                let verdict = Arc::new(verdict);
                for shard in 0..shards {
                    let (arrival, verdict) = (self.network.arrival(self.now), verdict.clone());
                    self.at(arrival, Happening::Decided { era: self.server.era, shard, verdict });
                }
            }
            // Nobody makes this step.
            None => {
                for shard in 0..shards as u32 {
                    self.server_steps(ServerEvent::Applied { shard, step: version })?;
                }
            }
        }
        Ok(())
    }

    /// The sums over the pieces of a shard are there.
    pub fn measured(
        &mut self,
        era: u32,
        shard: usize,
        step: u64,
        sums: Vec<PieceSums>,
    ) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.server.measured.insert(shard, (step, sums));
        self.decide()
    }

    /// Loss and metrics of the sections that are only evaluated, where all weights are here.
    fn expected_sections(&mut self, step: u64) -> Result<[Option<Tally>; 2], String> {
        let (job, tree) = (self.job, self.job.plan.step(step).tree());
        if !self.shards.is_empty() || tree.all_leaves() == tree.leaves() {
            return Ok([None, None]);
        }
        let weights = self.weights()?;
        Ok([Section::LastBatch, Section::Validation].map(|section| {
            let leaves = tree.section(section);
            (!leaves.is_empty())
                .then(|| job.sums(&mut self.gradients, &weights, step, leaves).remove(0).tally)
        }))
    }

    /// What is seen besides the batch has come whole, and, where all weights are here, with the bits that it must have.
    fn look_at_sections(&mut self, report: &StepReport, expected: [Option<Tally>; 2]) -> Result<(), String> {
        let step = report.step;
        let place = self.job.plan.step(step);
        let [last_batch, validation] = expected;
        if place.validation > 0 {
            self.network.counts.sections += 1;
            let samples = report.validation.as_ref().map(|tally| tally.samples);
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
                return Err(format!("step {step} tells nothing of the step before it, which was probed"));
            };
            let actual = last_batch.map(|tally| probe.loss - tally.mean_loss());
            if actual.is_some_and(|actual| actual != probe.actual) {
                return Err(format!(
                    "step {} lowered the loss by {actual:?}, not by {}",
                    probe.step, probe.actual
                ));
            }
        }
        Ok(())
    }

    /// The weights of all shards are with the coordinator.
    pub fn fetched(&mut self, era: u32, step: u64) -> Result<(), String> {
        let answer = |shard: &Shard| shard.is_up && shard.era == Some(era);
        if !self.server.is_up || self.server.era != era || !self.shards.iter().all(answer) {
            return Ok(());
        }
        self.server.updating = false;
        self.save_later()?;
        self.server_steps(ServerEvent::Updated { step })
    }

    /// Takes a copy, which is saved while training goes on.
    fn save_later(&mut self) -> Result<(), String> {
        let version = self.server.plane.version();
        let (weights, state) = (self.weights()?, self.state());
        let contributors = self.server.core.contributors();
        let contributors = contributors.map(|(Contributor(slot), since)| (slot.to_string(), since)).collect();
        let control = self.server.plane.control().state().clone();
        let progress =
            Progress { step: version, tally: Tally::new(2), contributors, control, ..Progress::default() };
        let snapshot = Arc::new(Snapshot { progress, weights, state });
        let delay = self.network.up_to(50);
        self.at(
            self.now + 1 + delay,
            Happening::Save { process: self.server_process, returns: self.server.returns, snapshot },
        );
        Ok(())
    }

    pub fn save(&mut self, process: u32, returns: u32, snapshot: &Snapshot) -> Result<(), String> {
        let is_same = self.server_process == process && self.server.returns == returns;
        if !self.server.is_up || !is_same || self.server.outcome.is_some() {
            return Ok(());
        }
        match self.saving.save(self.now, snapshot, &mut self.network)? {
            Saved::On => {}
            Saved::Ended => self.server_crashes(self.server_process),
        }
        Ok(())
    }

    /// The process dies, perhaps with the machine. Workers and shards hear of it soon, late, or only by silence.
    pub fn server_crashes(&mut self, process: u32) {
        if !self.server.is_up || self.server_process != process || self.server.outcome.is_some() {
            return;
        }
        self.network.counts.server_crashes += 1;
        self.add_up();
        self.note(|| "  the coordinator dies".into());
        self.server_process += 1;
        self.server.is_up = false;
        self.server.is_whole = false;
        self.server.era += 1;
        self.saving.end(&mut self.network);
        self.close_links_of(0);
        for shard in 0..self.shards.len() {
            self.attach_later(shard, 500);
        }
        let delay = self.network.up_to(2500);
        self.at(self.now + 1 + delay, Happening::ServerStart);
    }

    /// Counts what the coordinator's process has counted.
    pub fn add_up(&mut self) {
        let status = self.server.core.status();
        self.network.counts.rescued += status.rescued;
        self.network.counts.audits += status.audited;
    }

    /// The coordinator has computed a node.
    pub fn judged(&mut self, era: u32, step: u64, node: Node, digest: Digest) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.network.counts.judged += 1;
        self.server_steps(ServerEvent::Judged { step, node, digest })
    }

    /// A new process goes on from what is saved.
    pub fn server_starts(&mut self) -> Result<(), String> {
        self.saving.start(self.now, &mut self.network)?;
        let saved = self.load()?;
        let contributors = saved.iter().map(|saved| &saved.progress.contributors).next();
        self.server.begin_again(self.now, self.job, contributors.unwrap_or(&BTreeMap::new()));
        self.rewound = true;
        let version = self.server.plane.version();
        self.network.counts.restores += u64::from(version > 0);
        self.note(|| format!("  the coordinator starts from step {version}"));
        self.set_server_timer();
        Ok(())
    }

    /// The coordinator's own part becomes what is saved, or what it was at the beginning. Gives it all.
    fn load(&mut self) -> Result<Arc<Option<Snapshot>>, String> {
        let snapshot = self.saving.newest(&mut self.network)?;
        self.server_restores(&snapshot);
        Ok(Arc::new(snapshot))
    }

    fn server_restores(&mut self, snapshot: &Option<Snapshot>) {
        let plane = &mut self.server.plane;
        match snapshot {
            Some(Snapshot { progress, weights, state }) => {
                plane.restore_whole(progress.step, weights, state, progress.control.clone());
            }
            None => plane.restart(),
        }
        self.server.measured.clear();
        self.server.moved.clear();
        self.lies.go_back(self.server.plane.version());
    }

    /// Sums of a liar may be part of the weights since this step.
    fn go_back(&mut self, since: u64) -> Result<(), String> {
        let saved = self.saving.go_back(since, &mut self.network)?;
        let version = saved.map(|snapshot| {
            self.server_restores(&snapshot);
            self.server.plane.version()
        });
        match version {
            Some(_) => self.network.counts.returns += 1,
            None => {
                self.network.counts.taints += 1;
                self.lies.accept();
            }
        }
        self.server.is_whole = false;
        self.server.era += 1;
        self.server.returns += 1;
        self.at(self.now + 1, Happening::WentBack { era: self.server.era, version });
        Ok(())
    }

    /// The coordinator hears that its weights are earlier ones, or that there are none.
    pub fn went_back(&mut self, era: u32, version: Option<u64>) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.server.is_whole = true;
        self.rewound = true;
        let event = version.map_or(ServerEvent::CannotGoBack, |version| ServerEvent::WentBack { version });
        self.server_steps(event)
    }

    /// A shard asks to take part. Once all are there, all are given what is saved.
    pub fn shard_attaches(&mut self, index: usize, process: u32) -> Result<(), String> {
        let shard = &self.shards[index];
        if !shard.is_up || shard.process != process || self.server.outcome.is_some() {
            return Ok(());
        }
        if !self.server.is_up || self.server.seats[index].is_some_and(|seated| seated != process) {
            self.attach_later(index, 300);
            return Ok(());
        }
        if self.server.seats[index].replace(process).is_some() || self.server.seats.contains(&None) {
            return Ok(());
        }
        self.network.counts.rewinds += 1;
        let version = self.server.core.version();
        let snapshot = self.load()?;
        self.network.counts.rewinds_back += u64::from(self.server.plane.version() < version);
        self.server.restoring = (0..self.shards.len()).collect();
        let (era, count) = (self.server.era, self.server.plane.control().count());
        for shard in 0..self.shards.len() {
            let (arrival, process) = (self.network.arrival(self.now), self.shards[shard].process);
            let snapshot = snapshot.clone();
            self.at(arrival, Happening::Restore { shard, process, era, count, snapshot });
        }
        Ok(())
    }

    /// A shard holds what it was given.
    pub fn shard_is_restored(&mut self, shard: usize, era: u32) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era || !self.server.restoring.remove(&shard) {
            return Ok(());
        }
        if !self.server.restoring.is_empty() {
            return Ok(());
        }
        self.server.is_whole = true;
        self.rewound = true;
        let version = self.server.plane.version();
        self.server_steps(ServerEvent::Restored { version })
    }

    /// The coordinator notices that a shard, or the connection to it, is gone.
    pub fn shard_is_lost(&mut self, shard: usize, process: u32) -> Result<(), String> {
        if !self.server.is_up || self.server.seats[shard] != Some(process) || self.server.outcome.is_some() {
            return Ok(());
        }
        self.server.seats[shard] = None;
        self.server.restoring.clear();
        self.server.is_whole = false;
        self.server.era += u32::from(!self.job.planted.has(Defect::OrderNumberUsedTwice));
        self.server.updating = false;
        self.server.measured.clear();
        self.server.moved.clear();
        self.server_steps(ServerEvent::ShardLost { shard: shard as u32 })
    }

    pub fn server_timer(&mut self) -> Result<(), String> {
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

    pub fn server_steps(&mut self, event: ServerEvent) -> Result<(), String> {
        let mut actions = Vec::new();
        self.server.core.step(self.now, event, &mut actions);
        for action in actions {
            self.note(|| format!("  server: {action:?}"));
            checks::action(&self.server, &self.shards, &self.job.plan, &action)?;
            self.server_performs(action)?;
        }
        if !self.server.updating && self.server.is_whole {
            checks::round(&self.server, &self.shards)?;
        }
        if self.server.core.deadline().is_some_and(|deadline| deadline <= self.now) {
            return Err(format!("the server's deadline stays at {:?}", self.server.core.deadline()));
        }
        self.set_server_timer();
        Ok(())
    }

    fn set_server_timer(&mut self) {
        let Some(deadline) = self.server.core.deadline() else { return };
        if self.server.timer.is_none_or(|timer| deadline < timer) {
            self.server.timer = Some(deadline);
            self.at(deadline.max(self.now), Happening::ServerTimer);
        }
    }

    fn server_performs(&mut self, action: ServerAction) -> Result<(), String> {
        match action {
            ServerAction::SendWeights { worker, version } => {
                let parts = current(&self.server.plane);
                self.send_down(self.server.links[&worker], Down::Weights { version, parts });
            }
            ServerAction::Assign { worker, step, leaves } => {
                self.send_down(self.server.links[&worker], Down::Work { step, leaves });
            }
            ServerAction::Judge { step, node } => {
                let mut own = OwnGradients { job: self.job, gradients: &mut self.gradients };
                let digest = self.server.plane.judge(node, &mut own);
                let (era, delay) = (self.server.era, self.network.up_to(200));
                self.at(self.now + 1 + delay, Happening::Judged { era, step, node, digest });
            }
            ServerAction::StartOver { .. } => {
                self.network.counts.starts_over += 1;
                self.lies.start_over();
                self.server.plane.start_over();
            }
            ServerAction::Ban { worker, .. } => {
                self.network.counts.bans += 1;
                let slot = self.links[&self.server.links[&worker]].slot;
                self.lies.find_out(slot);
            }
            ServerAction::GoBack { since } => self.go_back(since)?,
            ServerAction::Update { step } => {
                self.server.updating = true;
                let pause = self.network.up_to(20);
                self.at(self.now + pause, Happening::UpdateDone { era: self.server.era, step });
            }
            ServerAction::AskMissing { step } => {
                for shard in 0..self.shards.len() {
                    let arrival = self.network.arrival(self.now);
                    self.at(arrival, Happening::Missing { era: self.server.era, shard, step });
                }
            }
            ServerAction::Dismiss { worker, reason } => {
                let is_silent = matches!(reason, Dismissal::Silent { .. });
                self.network.counts.expiries += u64::from(is_silent);
                self.network.counts.stuck += u64::from(matches!(reason, Dismissal::Stuck { .. }));
                let link = self.server.links[&worker];
                self.send_down(link, Down::Dismissed(reason));
                // What it still sends does not count.
                self.server.plane.forget(worker);
                if let Some(link) = self.links.get_mut(&link) {
                    link.server_open = false;
                }
                self.at(self.now + 2_000, Happening::WorkerSeesEnd { link, why: "closed by the server" });
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
