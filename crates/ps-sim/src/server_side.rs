//! The coordinator's driver and data plane in the simulator.

use crate::cluster::{Cluster, Happening};
use crate::network::{Down, LinkId, Up};
use crate::part::Part;
use crate::saving::Saved;
use crate::shard_side::Shard;
use crate::{SimJob, checks};
use ps_checkpoint::{Progress, Snapshot};
use ps_coord::{
    Contributor, Departure, Digest, Dismissal, Millis, Outcome, ServerAction, ServerConfig, ServerCore,
    ServerEvent, WorkerId,
};
use ps_core::{Fold, NodeSum, Tally};
use ps_plan::Section;
use ps_plan::planted::Defect;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The process that runs the round logic and keeps the first part of the weights. It may die and start again.
pub(crate) struct Server {
    pub core: ServerCore,
    pub part: Part,
    /// Tallies of the step in hand, of all sections of its leaves.
    pub seen: Fold,
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
    pub fn new(job: &SimJob<'_>, part: Part) -> Self {
        Server {
            core: Server::core(0, job, part.version, &BTreeMap::new()),
            seen: seen(job, part.version),
            part,
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
        self.core = Server::core(now, job, self.part.version, contributors);
        self.seen = seen(job, self.part.version);
        self.is_up = true;
        self.is_whole = job.servers == 1;
        self.seats.fill(None);
        self.restoring.clear();
        self.updating = false;
        self.links.clear();
        self.next_worker = 0;
        self.timer = None;
    }

    /// The leaves that are not in yet.
    pub fn missing(&self) -> Vec<Range<u32>> {
        self.seen.coverage().missing()
    }

    /// Whether all leaves are in, and those with gradients in all chunks that are kept here.
    pub fn is_gathered(&self) -> bool {
        self.seen.is_complete() && self.part.is_gathered()
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
            Up::Sum { step, sum, chunks } => self.server_folds(worker, step, &sum, chunks),
            Up::Breaking { step, sum, chunks } => {
                link.server_open = false;
                self.at(self.now + 1, Happening::WorkerSeesEnd { link: id, why: "refused" });
                self.server_refuses(worker, step, &sum, chunks)
            }
            Up::Goodbye => {
                link.server_open = false;
                self.server_steps(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
        }
    }

    /// All chunks of a node's sum that are kept here: what follows the last of them says that the node is done.
    fn server_folds(
        &mut self,
        worker: WorkerId,
        step: u64,
        sum: &NodeSum,
        chunks: Range<usize>,
    ) -> Result<(), String> {
        let is_open = self.server.part.gathers(step) && !self.server.updating;
        self.network.counts.stale_sums += u64::from(step < self.server.part.version);
        if is_open && self.server.seen.coverage().tree().has(sum.node) {
            let tally = sum.tally.clone();
            self.server.seen.insert(NodeSum { node: sum.node, gradient: Vec::new(), tally });
        }
        let digest = (self.job.audit > 0.0).then(|| digest(sum));
        for chunk in chunks {
            match is_open && self.server.part.take_of(worker, chunk, sum) {
                true => {
                    self.network.counts.counted += 1;
                    let slot = self.links[&self.server.links[&worker]].slot;
                    digest.iter().for_each(|&digest| self.lies.count(slot, digest));
                }
                false => self.network.counts.ignored += 1,
            }
        }
        self.server_steps(ServerEvent::Contributed { worker, step, node: sum.node, digest })
    }

    /// Wrong chunks came, and then something that is refused. Where nodes are audited, chunks of a node that has not ended
    /// are not in the sums yet.
    fn server_refuses(
        &mut self,
        worker: WorkerId,
        step: u64,
        sum: &NodeSum,
        chunks: Range<usize>,
    ) -> Result<(), String> {
        let is_open = step == self.server.part.version && !self.server.updating && self.job.audit == 0.0;
        let mut counted = self.server.part.has_of(worker);
        for chunk in chunks {
            counted |= is_open && self.server.part.take_of(worker, chunk, sum);
        }
        self.network.counts.refused += 1;
        self.network.counts.refused_counted += u64::from(counted);
        self.server_steps(ServerEvent::Refused {
            worker,
            why: "a message that cannot be right".into(),
            counted,
        })
    }

    pub fn server_sees_end(&mut self, id: LinkId) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        link.server_open = false;
        let Some(worker) = link.worker else { return Ok(()) };
        let reason = Departure::Disconnected("connection reset".into());
        self.server_steps(ServerEvent::Left { worker, reason })
    }

    pub fn update_done(&mut self, era: u32, step: u64) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        let part = &mut self.server.part;
        part.diverged |= !part.loss().is_finite();
        self.look_at_sections(step)?;
        let part = &mut self.server.part;
        part.finish()?;
        let (version, diverged) = (part.version, part.diverged);
        if !diverged {
            self.lies.commit(step)?;
        }
        self.server.updating = diverged;
        self.server.seen = seen(self.job, version);
        self.strike();
        if diverged {
            self.server.updating = false;
            return self.server_steps(ServerEvent::Diverged { step });
        }
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

    /// What is seen besides the batch has come whole, and, where all weights are here, with the bits that it must have.
    fn look_at_sections(&mut self, step: u64) -> Result<(), String> {
        let place = self.job.plan.step(step);
        for section in [Section::LastBatch, Section::Validation] {
            let leaves = place.tree().section(section);
            if leaves.is_empty() {
                continue;
            }
            let tally = self.server.seen.take_tally(section);
            let tally =
                tally.ok_or_else(|| format!("step {step} is made before all of {section:?} is in"))?;
            let samples = if section == Section::Validation { place.validation } else { place.last_batch };
            if tally.samples != samples as u64 {
                return Err(format!(
                    "{section:?} of step {step} sums {} samples of {samples}",
                    tally.samples
                ));
            }
            self.network.counts.sections += 1;
            if self.shards.is_empty() {
                let weights = self.server.part.weights();
                let expected = self.evaluate(&weights, step, leaves);
                if expected.iter().all(|sum| sum.tally != tally) {
                    return Err(format!("{section:?} of step {step} sums to {tally:?}, not to {expected:?}"));
                }
            }
        }
        Ok(())
    }

    /// The sums of the nodes that cover `leaves`, with gradients or without.
    pub fn evaluate(&mut self, weights: &[f32], step: u64, leaves: Range<u32>) -> Vec<NodeSum> {
        let job = self.job;
        if Section::of(leaves.start) == Section::Training {
            return self.gradients.compute(weights, job.samples, step, leaves);
        }
        let tallies = self.gradients.evaluate_leaves(weights, [job.samples, job.validation], step, leaves);
        let sum = |(node, tally)| NodeSum { node, gradient: Vec::new(), tally };
        tallies.into_iter().map(sum).collect()
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
        let version = self.server.part.version;
        let weights = self.weights()?;
        let mut vectors: Vec<Vec<f32>> = self.server.part.state().map(<[f32]>::to_vec).collect();
        for (index, Shard { part, .. }) in self.shards.iter().enumerate() {
            if part.version != version {
                return Err(format!("shard {index} gives its state of {}, not {version}", part.version));
            }
            vectors.iter_mut().zip(part.state()).for_each(|(vector, part)| vector.extend(part));
        }
        let state = vectors.concat();
        let contributors = self.server.core.contributors();
        let contributors = contributors.map(|(Contributor(slot), since)| (slot.to_string(), since)).collect();
        let progress = Progress { step: version, tally: Tally::new(2), contributors, ..Progress::default() };
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
    pub fn judged(&mut self, era: u32, step: u64, sum: &NodeSum) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        self.network.counts.judged += 1;
        self.server_steps(ServerEvent::Judged { step, node: sum.node, digest: digest(sum) })
    }

    /// A new process goes on from what is saved.
    pub fn server_starts(&mut self) -> Result<(), String> {
        self.saving.start(self.now, &mut self.network)?;
        let saved = self.load()?;
        let contributors = saved.iter().map(|saved| &saved.progress.contributors).next();
        self.server.begin_again(self.now, self.job, contributors.unwrap_or(&BTreeMap::new()));
        self.rewound = true;
        self.network.counts.restores += u64::from(self.server.part.version > 0);
        let version = self.server.part.version;
        self.note(|| format!("  the coordinator starts from step {version}"));
        self.set_server_timer();
        Ok(())
    }

    /// The coordinator's own part becomes what is saved, or what it was at the beginning. Gives it all.
    fn load(&mut self) -> Result<Arc<Option<Snapshot>>, String> {
        let snapshot = self.saving.newest(&mut self.network)?;
        let state = snapshot.as_ref().map(|found| (&found.weights[..], &found.state[..]));
        let version = snapshot.as_ref().map_or(0, |found| found.progress.step);
        self.server.part.resume(self.job, version, state);
        self.server.seen = seen(self.job, version);
        self.lies.go_back(version);
        Ok(Arc::new(snapshot))
    }

    /// Sums of a liar may be part of the weights since this step.
    fn go_back(&mut self, since: u64) -> Result<(), String> {
        let saved = self.saving.go_back(since, &mut self.network)?;
        let version = saved.map(|snapshot| {
            let state = snapshot.as_ref().map(|found| (&found.weights[..], &found.state[..]));
            let version = snapshot.as_ref().map_or(0, |found| found.progress.step);
            self.server.part.resume(self.job, version, state);
            self.server.seen = seen(self.job, version);
            self.lies.go_back(version);
            version
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
        self.network.counts.rewinds_back += u64::from(self.server.part.version < version);
        self.server.restoring = (0..self.shards.len()).collect();
        let era = self.server.era;
        for shard in 0..self.shards.len() {
            let (arrival, process) = (self.network.arrival(self.now), self.shards[shard].process);
            self.at(arrival, Happening::Restore { shard, process, era, snapshot: snapshot.clone() });
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
        let version = self.server.part.version;
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
                let part = self.server.part.weights();
                self.send_down(self.server.links[&worker], Down::Weights { version, part });
            }
            ServerAction::Assign { worker, step, leaves } => {
                self.send_down(self.server.links[&worker], Down::Work { step, leaves });
            }
            ServerAction::Judge { step, node } => {
                let leaves = self.job.plan.step(step).tree().leaves_of(node);
                let weights = self.server.part.weights();
                let sum = self.evaluate(&weights, step, leaves).remove(0);
                let (era, delay) = (self.server.era, self.network.up_to(200));
                self.at(self.now + 1 + delay, Happening::Judged { era, step, sum: Arc::new(sum) });
            }
            ServerAction::StartOver { .. } => {
                self.network.counts.starts_over += 1;
                self.lies.start_over();
                self.server.part.start_over();
                self.server.seen = seen(self.job, self.server.part.version);
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
                self.at(self.now + 1, Happening::ServerSeesEnd { link });
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

/// Nothing is seen yet of the step after `version` others.
fn seen(job: &SimJob<'_>, version: u64) -> Fold {
    Fold::new(job.plan.step(version.min(job.plan.steps - 1)).tree()).planted(job.planted)
}

/// Stands for a hash of all bits of a sum.
pub(crate) fn digest(sum: &NodeSum) -> Digest {
    let mut values = sum.gradient.clone();
    values.extend([sum.tally.loss as f32, sum.tally.correct as f32]);
    let hash = ps_core::weights_hash(&values);
    let mut digest = [0; 32];
    digest.copy_from_slice(&hash.as_bytes()[..32]);
    Digest(digest)
}
