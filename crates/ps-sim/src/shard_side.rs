//! The shell of a shard, which carries out the decisions of [`ShardCore`].

use crate::OwnGradients;
use crate::cluster::{Cluster, SimEvent};
use crate::network::{Link, LinkId, Sum, ToServer, ToWorker};
use crate::shard_links::{FromShard, ShardLinkId, ToShard};
use bytes::Bytes;
use ps_coord::{ChunkId, ShardAction, ShardCore, ShardEvent, ShardReport, WorkerId};
use ps_core::control::Verdict;
use ps_core::optim::UpdateNorms;
use ps_plan::mutation::ActiveMutation;
use ps_plane::{GradientChunk, NodeMetrics, OptimizerStateChunk, Plane, Rejected};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// A shard: a process that may crash and restart without its state.
pub(crate) struct Shard {
    pub core: ShardCore,
    pub plane: Plane,
    pub is_up: bool,
    /// Number of the shard's current process, which grows with each restart.
    pub process: u32,
    /// The era of the shard's weights, if the coordinator has sent any.
    pub era: Option<u32>,
    /// The current connection to the coordinator.
    pub link: Option<ShardLinkId>,
    arriving: Option<Arriving>,
    verdict: Option<Arc<Verdict>>,
    /// How far the shard's weights moved in the last step.
    update_norms: Vec<UpdateNorms>,
    /// Open connections of workers.
    links: BTreeSet<LinkId>,
}

/// The weights from which the shard is to resume, while they arrive.
struct Arriving {
    era: u32,
    /// Number of steps that the optimizer's state has seen.
    count: u64,
    /// The shard's part of the weights, `[kept]`.
    weights: Vec<f32>,
    /// The shard's part of the state, `[vectors, kept]`.
    state: Vec<f32>,
}

impl Shard {
    pub(crate) fn new(plane: Plane, mutation: ActiveMutation) -> Self {
        Shard {
            core: ShardCore::new(plane.kept()).with_mutation(mutation),
            plane,
            is_up: true,
            process: 0,
            era: None,
            link: None,
            arriving: None,
            verdict: None,
            update_norms: Vec::new(),
            links: BTreeSet::new(),
        }
    }
}

impl Cluster<'_> {
    pub(crate) fn shard_receives(
        &mut self,
        index: usize,
        id: LinkId,
        message: ToServer,
    ) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        if !self.shards[index].is_up {
            return Ok(());
        }
        // A shard numbers its connections itself; the numbers have no meaning outside of it.
        let worker = WorkerId(id as u32);
        if let ToServer::Hello = message {
            if link.worker.replace(worker).is_none() {
                self.shards[index].links.insert(id);
                self.shard_steps(index, [ShardEvent::Joined { worker }])?;
                // A shard without weights has answered `Joined` by turning the worker away.
                if self.shards[index].links.contains(&id) {
                    self.send_to_worker(id, ToWorker::Welcome);
                }
            }
            return Ok(());
        }
        if link.worker.is_none() {
            return Ok(());
        }
        match message {
            ToServer::Sum { step, sum, chunks } => {
                let taken = self.shard_takes(index, worker, step, &sum, chunks);
                taken.map_err(|rejected| format!("shard {index} refuses an honest worker: {rejected}"))?;
                let progress = self.progress(index);
                self.shard_steps(index, progress)
            }
            ToServer::Breaking { step, sum, chunks } => {
                let taken = self.shard_takes(index, worker, step, &sum, chunks);
                let invalid = || "a message that cannot be right".into();
                self.shard_refuses(
                    index,
                    id,
                    taken.err().map_or_else(invalid, |rejected| rejected.to_string()),
                )
            }
            ToServer::RequestWeights => self.shard_steps(index, [ShardEvent::WeightsWanted { worker }]),
            ToServer::Goodbye => {
                self.shard_sees_end(index, id);
                Ok(())
            }
            ToServer::Hello | ToServer::Heartbeat | ToServer::Dropped => Ok(()),
        }
    }

    /// Receives the metric sums of a node and some of its chunks.
    fn shard_takes(
        &mut self,
        index: usize,
        worker: WorkerId,
        step: u64,
        sum: &Sum,
        chunks: Range<usize>,
    ) -> Result<(), Rejected> {
        let Shard { plane, core, .. } = &mut self.shards[index];
        let (version, node) = (plane.version(), sum.node);
        self.network.counts.stale_sums += u64::from(step < version);
        let mut own = OwnGradients { job: self.job, gradients: &mut self.gradients };
        plane.take_metrics(
            worker,
            NodeMetrics { step, node, metric_sums: sum.metric_sums.clone() },
            &mut own,
        )?;
        for (offset, bytes) in sum.chunks.get(chunks).unwrap_or_default() {
            let is_new = step == version && !core.has_completed(step) && !plane.covers(*offset, node);
            match is_new {
                true => self.network.counts.counted += 1,
                false => self.network.counts.ignored += 1,
            }
            let chunk = GradientChunk { step, node, offset: *offset, bytes: bytes.clone() };
            plane.take(worker, chunk, &mut own)?;
        }
        Ok(())
    }

    /// Closes the connection of a worker that has sent something invalid.
    fn shard_refuses(&mut self, index: usize, id: LinkId, why: String) -> Result<(), String> {
        let plane = &mut self.shards[index].plane;
        // Read before `forget`, as the real driver does: the report must include sums of the last step.
        let (worker, counted) = (WorkerId(id as u32), plane.counted_at(WorkerId(id as u32)));
        plane.forget(worker);
        self.network.counts.refused += 1;
        self.network.counts.refused_counted += u64::from(counted.is_some());
        self.shard_sees_end(index, id);
        self.at(self.now + 1, SimEvent::WorkerSeesEnd { link: id, why: "refused" });
        let refused = ShardEvent::Refused { counted, why };
        let progress = self.progress(index);
        self.shard_steps(index, std::iter::once(refused).chain(progress))
    }

    /// The progress of the current step, as an event for the core.
    fn progress(&self, index: usize) -> Option<ShardEvent> {
        let plane = &self.shards[index].plane;
        let step = plane.version();
        match plane.awaits_decision() {
            true => plane.is_gathered().then_some(ShardEvent::Gathered { step }),
            false => plane.is_complete().then_some(ShardEvent::Completed { step }),
        }
    }

    /// Handles a message from the coordinator on the current connection.
    pub(crate) fn shard_is_sent(&mut self, link: ShardLinkId, message: ToShard) -> Result<(), String> {
        let index = self.shard_links[link].shard;
        let shard = &mut self.shards[index];
        if !shard.is_up || shard.link != Some(link) {
            return Ok(());
        }
        let kept = shard.plane.kept();
        let event = match message {
            ToShard::Admitted => ShardEvent::Attached { kept },
            ToShard::Restore { era, version, number, count } => {
                let (weights, vectors) = (vec![0.0; kept.len()], shard.plane.control().vectors().len());
                let state = vec![0.0; vectors * kept.len()];
                let elements = weights.len() + state.len();
                shard.arriving = Some(Arriving { era, count, weights, state });
                // Between two sets of weights, the shard is exempt from the invariants about versions.
                shard.era = None;
                ShardEvent::Restore { version, number, elements }
            }
            ToShard::Chunk { chunk: ChunkId { version, vector, offset }, values } => {
                let Some(arriving) = &mut shard.arriving else { return Ok(()) };
                let (elements, at) = (values.len(), offset - kept.start);
                let vector = match vector.checked_sub(1) {
                    None => &mut arriving.weights,
                    Some(vector) => &mut arriving.state[vector * kept.len()..],
                };
                vector[at..at + elements].copy_from_slice(&values);
                ShardEvent::Arrived { version, elements }
            }
            ToShard::Decided { verdict } => {
                let step = verdict.step_params.step;
                shard.verdict = Some(verdict);
                ShardEvent::Decided { step }
            }
            ToShard::WeightsWanted { version, with_state } => {
                ShardEvent::WeightsRequested { version, with_state }
            }
            ToShard::MissingWanted { step } => ShardEvent::MissingRequested { step },
            ToShard::Ended => {
                shard.link = None;
                self.attach_later(index, 300);
                ShardEvent::CoordinatorLost
            }
        };
        self.shard_steps(index, [event])
    }

    fn shard_steps(
        &mut self,
        index: usize,
        events: impl IntoIterator<Item = ShardEvent>,
    ) -> Result<(), String> {
        let (mut events, mut actions) = (VecDeque::from_iter(events), Vec::new());
        while let Some(event) = events.pop_front() {
            self.shards[index].core.step(event, &mut actions);
            for action in actions.drain(..) {
                self.note(|| format!("  shard {index}: {action:?}"));
                let resumes = matches!(action, ShardAction::Begin | ShardAction::Resume { .. });
                // Checked here, because whether such a worker does harm depends on what is on its way, and so
                // on the seed.
                if resumes && !self.shards[index].links.is_empty() {
                    return Err(format!("shard {index} resumes, and workers of before are still connected"));
                }
                events.extend(self.shard_performs(index, action));
            }
        }
        let Shard { core, plane, era, .. } = &self.shards[index];
        match era.is_some() && core.version() != plane.version() {
            true => {
                Err(format!("shard {index} is at {}, its weights at {}", core.version(), plane.version()))
            }
            false => Ok(()),
        }
    }

    fn shard_performs(&mut self, index: usize, action: ShardAction) -> Option<ShardEvent> {
        let shard = &mut self.shards[index];
        match action {
            ShardAction::SendAllAway => {
                let links = std::mem::take(&mut shard.links);
                links.iter().for_each(|&id| shard.plane.forget(WorkerId(id as u32)));
                self.close_links_of(index + 1);
            }
            ShardAction::Serve { worker } => self.shard_serves(index, LinkId::from(worker.0)),
            ShardAction::ServeAll => {
                let (version, parts) = (shard.plane.version(), current(&shard.plane));
                for id in shard.links.clone() {
                    self.send_to_worker(id, ToWorker::Weights { version, parts: parts.clone() });
                }
            }
            ShardAction::TurnAway { worker } => {
                let id = LinkId::from(worker.0);
                self.shard_sees_end(index, id);
                self.at(self.now + 1, SimEvent::WorkerSeesEnd { link: id, why: "not ready" });
            }
            ShardAction::Begin => {
                shard.plane.restart();
                shard.era = shard.arriving.take().map(|arriving| arriving.era);
            }
            ShardAction::Resume { version } => {
                let Arriving { era, count, weights, state } = shard.arriving.take()?;
                shard.plane.restore(version, &weights, &state);
                shard.plane.control_mut().follow(count);
                shard.era = Some(era);
            }
            ShardAction::Measure { step } => {
                let sums = shard.plane.measure();
                self.shard_reports(index, FromShard::Measured { step, sums });
            }
            ShardAction::Follow { .. } => {
                let verdict = shard.verdict.take()?;
                shard.plane.follow(Verdict::clone(&verdict));
                shard.plane.release();
                return self.progress(index);
            }
            ShardAction::Commit { step } => {
                shard.update_norms = shard.plane.measure_update();
                return Some(match shard.plane.commit(&[]) {
                    Ok(_) => ShardEvent::Committed { step },
                    Err(_) => ShardEvent::Diverged { step },
                });
            }
            ShardAction::Report(report) => {
                let message = match report {
                    ShardReport::Restored { number } => FromShard::Restored { number },
                    ShardReport::Applied { step } => {
                        FromShard::Applied { step, update_norms: std::mem::take(&mut shard.update_norms) }
                    }
                    ShardReport::Diverged { step } => FromShard::Diverged { step },
                    ShardReport::Tainted { step, why } => FromShard::Tainted { step, why },
                    ShardReport::Missing { step } => {
                        FromShard::Missing { step, leaves: shard.plane.missing() }
                    }
                };
                // Breaks right after these reports. What is on its way before a rewind otherwise hardly ever
                // arrives after it, and too few seeds would notice a restore number that is used twice.
                let cut = match &message {
                    FromShard::Applied { .. } => self.network.faults.shard_cut,
                    FromShard::Restored { .. } => self.network.faults.restore_cut,
                    _ => 0.0,
                };
                self.shard_reports(index, message);
                if self.network.occurs(self.now, cut) {
                    self.shard_is_cut(index);
                }
            }
            ShardAction::SendWeights { version, with_state } => {
                let weights = shard.plane.chunks_at(version)?.into_iter();
                let mut chunks: Vec<(ChunkId, Bytes)> =
                    weights.map(|(offset, bytes)| (ChunkId { version, vector: 0, offset }, bytes)).collect();
                if with_state {
                    let part = |OptimizerStateChunk { vector, offset, bytes }| {
                        (ChunkId { version, vector: 1 + vector, offset }, bytes)
                    };
                    chunks.extend(shard.plane.state_at(version).into_iter().map(part));
                }
                for (chunk, bytes) in chunks {
                    self.shard_reports(index, FromShard::Chunk { chunk, bytes });
                }
            }
            // Every shard keeps the same part in all eras, and no shard is dismissed before the end.
            ShardAction::Keep { .. } | ShardAction::WarnUselessVerdict { .. } | ShardAction::Finish(_) => {}
        }
        None
    }

    fn shard_reports(&mut self, index: usize, message: FromShard) {
        if let Some(link) = self.shards[index].link {
            self.send_to_coordinator(link, message);
        }
    }

    /// Crashes the process, which loses its state.
    pub(crate) fn shard_crashes(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        if !shard.is_up || self.server.outcome.is_some() {
            return;
        }
        self.network.counts.shard_crashes += 1;
        shard.is_up = false;
        shard.process += 1;
        shard.era = None;
        shard.links.clear();
        let link = shard.link.take();
        self.note(|| format!("  shard {index} dies"));
        self.close_links_of(index + 1);
        link.into_iter().for_each(|link| self.cut_shard_link(link, 500));
        let delay = self.network.up_to(2500);
        self.at(self.now + 1 + delay, SimEvent::ShardStart { shard: index });
    }

    pub(crate) fn shard_starts(&mut self, index: usize) {
        let process = self.shards[index].process;
        self.shards[index] = Shard { process, ..Shard::new(self.job.plane(index + 1), self.job.mutation) };
        self.attach_later(index, 50);
    }

    /// Breaks the connection to the coordinator, which both ends notice.
    pub(crate) fn shard_is_cut(&mut self, index: usize) {
        if self.shards[index].is_up
            && self.server.outcome.is_none()
            && let Some(link) = self.shards[index].link
        {
            self.network.counts.shard_cuts += 1;
            self.cut_shard_link(link, 500);
        }
    }

    /// The shard asks the coordinator for admission within `within` ms.
    pub(crate) fn attach_later(&mut self, shard: usize, within: u32) {
        let process = self.shards[shard].process;
        let delay = self.network.up_to(within);
        self.at(self.now + 1 + delay, SimEvent::Attach { shard, process });
    }

    pub(crate) fn shard_attaches(&mut self, index: usize, process: u32) {
        let shard = &self.shards[index];
        if !shard.is_up || shard.process != process || shard.link.is_some() || self.server.outcome.is_some() {
            return;
        }
        let link = self.add_shard_link(index);
        self.shards[index].link = Some(link);
        self.send_to_coordinator(link, FromShard::Attach);
    }

    /// A server closes all its connections to workers, most of which are notified.
    pub(crate) fn close_links_of(&mut self, server: usize) {
        let open = |(&id, link): (&LinkId, &mut Link)| {
            let is_its = link.server == server && link.server_open;
            is_its.then(|| {
                link.server_open = false;
                id
            })
        };
        let closed: Vec<LinkId> = self.links.iter_mut().filter_map(open).collect();
        for link in closed {
            // A shard is silent most of the time, so the transport's own pings detect that it is gone.
            if server > 0 || self.network.chance(0.7) {
                let delay = self.network.up_to(500);
                self.at(self.now + 1 + delay, SimEvent::WorkerSeesEnd { link, why: "connection reset" });
            }
        }
    }

    /// Sends everything that a worker may need that has just joined or lacks weights.
    fn shard_serves(&mut self, index: usize, id: LinkId) {
        let plane = &self.shards[index].plane;
        let (version, oldest) = (plane.version(), plane.oldest());
        let is_ahead = version > self.server.plane.version();
        self.network.counts.behind += u64::from(is_ahead && oldest < version);
        let mut served: BTreeMap<u64, Vec<(usize, Bytes)>> = BTreeMap::new();
        for part in plane.weights_chunks().filter(|part| part.version <= version) {
            served.entry(part.version).or_default().push((part.offset, part.bytes));
        }
        for (version, parts) in served {
            self.send_to_worker(id, ToWorker::Weights { version, parts });
        }
    }

    pub(crate) fn shard_sees_end(&mut self, index: usize, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.server_open = false;
        }
        self.shards[index].links.remove(&id);
    }
}

/// The chunks of the current weights, each with the index of its first element.
pub(crate) fn current(plane: &Plane) -> Vec<(usize, Bytes)> {
    let parts = plane.weights_chunks().filter(|part| part.version == plane.version());
    parts.map(|part| (part.offset, part.bytes)).collect()
}
