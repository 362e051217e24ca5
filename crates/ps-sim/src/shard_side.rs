//! The shards that are not the coordinator: each folds, updates and sends out its part, and tells the coordinator.

use crate::OwnGradients;
use crate::cluster::{Cluster, Happening};
use crate::network::{Down, Link, LinkId, Sum, Up};
use bytes::Bytes;
use ps_checkpoint::Snapshot;
use ps_coord::{ServerEvent, WorkerId};
use ps_core::control::{State, Verdict};
use ps_core::optim::Moved;
use ps_plane::{GradientChunk, NodeMetrics, Plane, Rejected};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A shard: a process that may die and start again with nothing.
pub(crate) struct Shard {
    pub plane: Plane,
    /// Whether it cannot make the step in hand.
    has_diverged: bool,
    /// Whether the coordinator has been sent what it decides that step by.
    is_measured: bool,
    pub is_up: bool,
    /// Counts its processes.
    pub process: u32,
    /// The era of what it holds, if the coordinator has given it anything.
    pub era: Option<u32>,
    /// Connections that are open.
    links: BTreeSet<LinkId>,
}

impl Shard {
    pub fn new(plane: Plane) -> Self {
        let (has_diverged, is_measured) = (false, false);
        Shard { plane, has_diverged, is_measured, is_up: true, process: 0, era: None, links: BTreeSet::new() }
    }

    /// Whether nothing of `step` is to be done here any more.
    pub fn is_through(&self, step: u64) -> bool {
        let version = self.plane.version();
        version > step || version == step && self.has_diverged
    }

    fn restore(&mut self, count: u64, snapshot: &Option<Snapshot>) {
        match snapshot {
            Some(Snapshot { progress, weights, state }) => {
                self.plane.restore_whole(progress.step, weights, state, State::plain(count));
            }
            None => self.plane.restart(),
        }
        (self.has_diverged, self.is_measured) = (false, false);
    }
}

impl Cluster<'_> {
    pub fn shard_receives(&mut self, index: usize, id: LinkId, message: Up) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        if !self.shards[index].is_up {
            return Ok(());
        }
        if let Up::Hello = message {
            if self.shards[index].era.is_none() {
                // It does not know yet what it goes on from.
                link.server_open = false;
                self.at(self.now + 1, Happening::WorkerSeesEnd { link: id, why: "not ready" });
            } else if link.worker.is_none() {
                // A shard counts its connections for itself; the numbers mean nothing to anybody else.
                link.worker = Some(WorkerId(id as u32));
                self.shards[index].links.insert(id);
                self.send_down(id, Down::Welcome);
                self.shard_serves(index, id);
            }
            return Ok(());
        }
        if link.worker.is_none() {
            return Ok(());
        }
        match message {
            Up::Sum { step, sum, chunks } => self.shard_gathers(index, id, step, &sum, chunks)?,
            Up::AskWeights => self.shard_serves(index, id),
            Up::Goodbye => self.shard_sees_end(index, id),
            Up::Hello | Up::Heartbeat | Up::Dropped | Up::Breaking { .. } => {}
        }
        Ok(())
    }

    /// The metric sums of a node and some of its chunks.
    fn shard_gathers(
        &mut self,
        index: usize,
        id: LinkId,
        step: u64,
        sum: &Sum,
        chunks: Range<usize>,
    ) -> Result<(), String> {
        let Shard { plane, has_diverged, .. } = &mut self.shards[index];
        let (version, worker, node) = (plane.version(), WorkerId(id as u32), sum.node);
        self.network.counts.stale_sums += u64::from(step < version);
        let mut own = OwnGradients { job: self.job, gradients: &mut self.gradients };
        let metrics = NodeMetrics { step, node, tally: sum.tally.clone() };
        let take = || {
            plane.take_metrics(worker, metrics, &mut own)?;
            for (offset, bytes) in sum.chunks.get(chunks).unwrap_or_default() {
                let is_new = step == version && !*has_diverged && !plane.covers(*offset, node);
                match is_new {
                    true => self.network.counts.counted += 1,
                    false => self.network.counts.ignored += 1,
                }
                let chunk = GradientChunk { step, node, offset: *offset, bytes: bytes.clone() };
                plane.take(worker, chunk, &mut own)?;
            }
            Ok(())
        };
        take().map_err(|rejected: Rejected| format!("shard {index} refuses an honest worker: {rejected}"))?;
        self.shard_measures(index);
        self.shard_applies(index)
    }

    /// Sends the coordinator what it decides the step by, if it does.
    fn shard_measures(&mut self, index: usize) {
        let Shard { plane, has_diverged, is_measured, era, .. } = &mut self.shards[index];
        let Some(era) = *era else { return };
        if !plane.is_held() || !plane.is_gathered() || *has_diverged || std::mem::replace(is_measured, true) {
            return;
        }
        let (step, sums) = (plane.version(), plane.measure());
        let arrival = self.network.arrival(self.now);
        self.at(arrival, Happening::Measured { era, shard: index, step, sums });
    }

    /// The step that waited is decided about.
    pub fn shard_follows(&mut self, era: u32, index: usize, verdict: &Verdict) -> Result<(), String> {
        let Shard { plane, era: held, .. } = &mut self.shards[index];
        if *held != Some(era) || !plane.is_held() || !plane.is_gathered() {
            return Ok(());
        }
        plane.follow(verdict.clone());
        plane.release();
        self.shard_applies(index)
    }

    /// Makes the step once all its chunks are updated, whatever the coordinator knows.
    fn shard_applies(&mut self, index: usize) -> Result<(), String> {
        let Shard { plane, has_diverged, is_measured, .. } = &mut self.shards[index];
        if *has_diverged || !plane.is_complete() {
            return Ok(());
        }
        let (step, moved) = (plane.version(), plane.measure_way());
        *is_measured = false;
        *has_diverged = plane.commit(&[]).is_err();
        let moved = (!*has_diverged).then_some(moved);
        let (version, parts) = (plane.version(), current(plane));
        self.note(|| format!("  shard {index} has applied step {step}"));
        for id in self.shards[index].links.clone() {
            self.send_down(id, Down::Weights { version, parts: parts.clone() });
        }
        // Nothing is lost between the servers: what was given to a shard does not outlive that connection.
        if let Some(era) = self.shards[index].era {
            let mut arrival = self.network.arrival(self.now);
            if self.network.strikes(self.now, self.network.faults.shard_cut) {
                // It may come when all have gone back already.
                arrival += self.network.up_to(1000);
                self.shard_is_cut(index);
            }
            self.at(arrival, Happening::Applied { era, shard: index, step, moved });
        }
        Ok(())
    }

    /// The process dies with all it had.
    pub fn shard_crashes(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        if !shard.is_up || self.server.outcome.is_some() {
            return;
        }
        self.network.counts.shard_crashes += 1;
        let process = shard.process;
        shard.is_up = false;
        shard.process += 1;
        shard.era = None;
        shard.links.clear();
        self.note(|| format!("  shard {index} dies"));
        self.close_links_of(index + 1);
        let delay = self.network.up_to(500);
        self.at(self.now + 1 + delay, Happening::ShardLost { shard: index, process });
        let delay = self.network.up_to(2500);
        self.at(self.now + 1 + delay, Happening::ShardStart { shard: index });
    }

    pub fn shard_starts(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        shard.is_up = true;
        shard.restore(0, &None);
        self.attach_later(index, 50);
    }

    /// The connection to the coordinator breaks, which both notice.
    pub fn shard_is_cut(&mut self, shard: usize) {
        if self.shards[shard].is_up && self.server.outcome.is_none() {
            self.network.counts.shard_cuts += 1;
            let process = self.shards[shard].process;
            let delay = self.network.up_to(500);
            self.at(self.now + 1 + delay, Happening::ShardLost { shard, process });
            self.at(self.now + 2 + delay, Happening::Attach { shard, process });
        }
    }

    /// The shard asks the coordinator to take it.
    pub fn attach_later(&mut self, shard: usize, within: u32) {
        let process = self.shards[shard].process;
        let delay = self.network.up_to(within);
        self.at(self.now + 1 + delay, Happening::Attach { shard, process });
    }

    /// The coordinator has given the shard what it is to go on from. Whoever is connected is to begin anew.
    pub fn shard_restores(
        &mut self,
        index: usize,
        process: u32,
        era: u32,
        count: u64,
        snapshot: &Option<Snapshot>,
    ) -> Result<(), String> {
        let shard = &mut self.shards[index];
        if !shard.is_up || shard.process != process || shard.era.is_some_and(|held| held > era) {
            return Ok(());
        }
        shard.restore(count, snapshot);
        shard.era = Some(era);
        shard.links.clear();
        self.close_links_of(index + 1);
        let arrival = self.network.arrival(self.now);
        self.at(arrival, Happening::Restored { shard: index, era });
        Ok(())
    }

    /// A server closes all its connections to workers, who mostly hear of it.
    pub fn close_links_of(&mut self, server: usize) {
        let open = |(&id, link): (&LinkId, &mut Link)| {
            let is_its = link.server == server && link.server_open;
            is_its.then(|| {
                link.server_open = false;
                id
            })
        };
        let closed: Vec<LinkId> = self.links.iter_mut().filter_map(open).collect();
        for link in closed {
            // A shard, which is silent most of the time, is found by the transport's own pings.
            if server > 0 || self.network.chance(0.7) {
                let delay = self.network.up_to(500);
                self.at(self.now + 1 + delay, Happening::WorkerSeesEnd { link, why: "connection reset" });
            }
        }
    }

    /// Sends all that a worker that has just come, or lacks weights, may need.
    fn shard_serves(&mut self, index: usize, id: LinkId) {
        let plane = &self.shards[index].plane;
        let (version, oldest) = (plane.version(), plane.oldest());
        let is_ahead = version > self.server.plane.version();
        self.network.counts.behind += u64::from(is_ahead && oldest < version);
        let mut served: BTreeMap<u64, Vec<(usize, Bytes)>> = BTreeMap::new();
        for part in plane.parts().filter(|part| part.version <= version) {
            served.entry(part.version).or_default().push((part.offset, part.bytes));
        }
        for (version, parts) in served {
            self.send_down(id, Down::Weights { version, parts });
        }
    }

    pub fn shard_sees_end(&mut self, index: usize, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.server_open = false;
        }
        self.shards[index].links.remove(&id);
    }

    /// The coordinator hears which leaves of a step a shard lacks, if it has not applied it.
    pub fn shard_lacks(&mut self, era: u32, index: usize, step: u64) -> Result<(), String> {
        let shard = &self.shards[index];
        if !self.server.is_up
            || self.server.era != era
            || shard.era != Some(era)
            || shard.plane.version() != step
        {
            return Ok(());
        }
        let leaves = shard.plane.missing();
        self.server_steps(ServerEvent::Missing { shard: index as u32, step, leaves })
    }

    /// The coordinator hears that a shard is through with a step.
    pub fn applied(
        &mut self,
        era: u32,
        shard: usize,
        step: u64,
        moved: Option<Vec<Moved>>,
    ) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        let sender = &self.shards[shard];
        if sender.era == Some(era) && !sender.is_through(step) {
            return Err(format!("that shard {shard} applied step {step} counts, though it went back since"));
        }
        match moved {
            Some(moved) => drop(self.server.moved.insert(shard, moved)),
            None => self.server.plane.diverge(step),
        }
        self.server_steps(ServerEvent::Applied { shard: shard as u32, step })
    }
}

/// The chunks of the current weights.
pub(crate) fn current(plane: &Plane) -> Vec<(usize, Bytes)> {
    let parts = plane.parts().filter(|part| part.version == plane.version());
    parts.map(|part| (part.offset, part.bytes)).collect()
}
