//! The shards that are not the coordinator: each folds, updates and sends out its part, and tells the coordinator.

use crate::cluster::{Cluster, Happening};
use crate::network::{Down, Link, LinkId, Up};
use crate::part::Part;
use ps_checkpoint::Snapshot;
use ps_coord::{ServerEvent, WorkerId};
use std::collections::BTreeSet;

/// A shard: a process that may die and start again with nothing.
pub(crate) struct Shard {
    pub part: Part,
    pub is_up: bool,
    /// Counts its processes.
    pub process: u32,
    /// The era of what it holds, if the coordinator has given it anything.
    pub era: Option<u32>,
    /// Connections that are open.
    links: BTreeSet<LinkId>,
}

impl Shard {
    pub fn new(part: Part) -> Self {
        Shard { part, is_up: true, process: 0, era: None, links: BTreeSet::new() }
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
            Up::Sum { step, sum, chunks } => {
                let shard = &mut self.shards[index];
                let version = shard.part.version;
                if step > version {
                    return Err(format!("shard {index} at version {version} is sent a sum of step {step}"));
                }
                self.network.counts.stale_sums += u64::from(step < version);
                for chunk in chunks {
                    match shard.part.gathers(step) && shard.part.take(chunk, &sum) {
                        true => self.network.counts.counted += 1,
                        false => self.network.counts.ignored += 1,
                    }
                }
                self.shard_applies(index)?;
            }
            Up::AskWeights => self.shard_serves(index, id),
            Up::Goodbye => self.shard_sees_end(index, id),
            Up::Hello | Up::Heartbeat | Up::Dropped | Up::Breaking { .. } => {}
        }
        Ok(())
    }

    /// Makes the step once all leaves are in, whatever the coordinator knows.
    fn shard_applies(&mut self, index: usize) -> Result<(), String> {
        let part = &mut self.shards[index].part;
        let step = part.version;
        if part.is_through(step) || !part.is_gathered() {
            return Ok(());
        }
        part.finish()?;
        let (version, diverged, weights) = (part.version, part.diverged, part.weights());
        self.note(|| format!("  shard {index} has applied step {step}"));
        for id in self.shards[index].links.clone() {
            self.send_down(id, Down::Weights { version, part: weights.clone() });
        }
        // Nothing is lost between the servers: what was given to a shard does not outlive that connection.
        if let Some(era) = self.shards[index].era {
            let mut arrival = self.network.arrival(self.now);
            if self.network.strikes(self.now, self.network.faults.shard_cut) {
                // It may come when all have gone back already.
                arrival += self.network.up_to(1000);
                self.shard_is_cut(index);
            }
            self.at(arrival, Happening::Applied { era, shard: index, step, diverged });
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
        shard.part.resume(self.job, 0, None);
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
        snapshot: &Option<Snapshot>,
    ) -> Result<(), String> {
        let shard = &mut self.shards[index];
        if !shard.is_up || shard.process != process || shard.era.is_some_and(|held| held > era) {
            return Ok(());
        }
        let state = snapshot.as_ref().map(|found| (&found.weights[..], &found.state[..]));
        let version = snapshot.as_ref().map_or(0, |found| found.progress.step);
        shard.part.resume(self.job, version, state);
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
        let served = self.shards[index].part.served();
        let is_ahead = self.shards[index].part.version > self.server.part.version;
        self.network.counts.behind += u64::from(is_ahead && served.len() > 1);
        for (version, part) in served {
            self.send_down(id, Down::Weights { version, part });
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
            || shard.part.version != step
        {
            return Ok(());
        }
        let leaves = shard.part.missing_anywhere();
        self.server_steps(ServerEvent::Missing { shard: index as u32, step, leaves })
    }

    /// The coordinator hears that a shard is through with a step.
    pub fn applied(&mut self, era: u32, shard: usize, step: u64, diverged: bool) -> Result<(), String> {
        if !self.server.is_up || self.server.era != era {
            return Ok(());
        }
        let sender = &self.shards[shard];
        if sender.era == Some(era) && !sender.part.is_through(step) {
            return Err(format!("that shard {shard} applied step {step} counts, though it went back since"));
        }
        self.server.part.diverged |= diverged;
        self.server_steps(ServerEvent::Applied { shard: shard as u32, step })
    }
}
