//! The shards that are not the coordinator: each folds, updates and sends out its part, and tells the coordinator.

use crate::cluster::{Cluster, Happening};
use crate::network::{Down, LinkId, Up};
use crate::part::Part;
use ps_coord::{ServerEvent, WorkerId};
use std::collections::BTreeSet;

/// A shard. It never dies: that would end the run.
pub(crate) struct Shard {
    pub part: Part,
    /// Connections that are open.
    links: BTreeSet<LinkId>,
}

impl Shard {
    pub fn new(part: Part) -> Self {
        Shard { part, links: BTreeSet::new() }
    }
}

impl Cluster<'_> {
    pub fn shard_receives(&mut self, index: usize, id: LinkId, message: Up) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        if let Up::Hello = message {
            if link.worker.is_none() {
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
                for chunk in chunks {
                    match step == version && shard.part.take(chunk, &sum) {
                        true => self.network.counts.counted += 1,
                        false => self.network.counts.ignored += 1,
                    }
                }
                self.shard_applies(index)?;
            }
            Up::AskWeights => self.shard_serves(index, id),
            Up::Goodbye => self.shard_sees_end(index, id),
            Up::Hello | Up::Heartbeat => {}
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
        // Nothing is lost between the servers: a run does not outlive that connection.
        let arrival = self.network.arrival(self.now);
        self.at(arrival, Happening::Applied { shard: index, step, diverged });
        Ok(())
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

    /// The coordinator hears that a shard is through with a step.
    pub fn applied(&mut self, shard: usize, step: u64, diverged: bool) -> Result<(), String> {
        self.server.part.diverged |= diverged;
        self.server_steps(ServerEvent::Applied { shard: shard as u32, step })
    }
}
