//! Connections between the coordinator and the other shards.
//!
//! Messages on a connection arrive in the order in which they were sent. They are lost only if the connection
//! is cut, which both ends notice after they have received what was sent before.

use crate::cluster::{Cluster, SimEvent};
use bytes::Bytes;
use ps_coord::{ChunkId, Millis};
use ps_core::control::Verdict;
use ps_core::optim::{PieceSums, UpdateNorms};
use std::ops::Range;
use std::sync::Arc;

/// Index of a connection. A shard that attaches again gets a new one.
pub(crate) type ShardLinkId = usize;

/// A connection, as seen from both ends.
pub(crate) struct ShardLink {
    pub shard: usize,
    /// The coordinator's process at the other end.
    server_process: u32,
    /// Whether the connection is cut, so that no message passes.
    is_cut: bool,
    /// Whether every message takes up to a second while there are faults.
    is_slow: bool,
    /// When the latest message arrives, at the shard and at the coordinator.
    last_arrival: [Millis; 2],
}

/// A message from a shard to the coordinator.
#[derive(Clone, Debug)]
pub(crate) enum FromShard {
    Attach,
    Restored { number: u64 },
    Measured { step: u64, sums: Vec<PieceSums> },
    Applied { step: u64, update_norms: Vec<UpdateNorms> },
    Diverged { step: u64 },
    Tainted { step: u64, why: String },
    Missing { step: u64, leaves: Vec<Range<u32>> },
    Chunk { chunk: ChunkId, bytes: Bytes },
    Ended,
}

/// A message from the coordinator to a shard.
#[derive(Clone, Debug)]
pub(crate) enum ToShard {
    Admitted,
    /// The era exists only in the simulator; the state machines know only the number.
    Restore {
        era: u32,
        version: u64,
        number: u64,
        count: u64,
    },
    Chunk {
        chunk: ChunkId,
        values: Arc<[f32]>,
    },
    Decided {
        verdict: Arc<Verdict>,
    },
    WeightsWanted {
        version: u64,
        with_state: bool,
    },
    MissingWanted {
        step: u64,
    },
    Ended,
}

impl Cluster<'_> {
    /// Opens a connection to the coordinator, which is cut at once if the coordinator is not running.
    pub(crate) fn add_shard_link(&mut self, shard: usize) -> ShardLinkId {
        let is_cut = !self.server.is_up || self.server.outcome.is_some();
        let server_process = self.server_process;
        let is_slow = self.network.occurs(self.now, self.network.faults.slow_shard_link);
        self.network.counts.slow_shard_links += u64::from(is_slow);
        self.shard_links.push(ShardLink { shard, server_process, is_cut, is_slow, last_arrival: [0; 2] });
        let id = self.shard_links.len() - 1;
        if is_cut {
            self.at(self.now + 1, SimEvent::ToShard { link: id, message: ToShard::Ended });
        }
        id
    }

    pub(crate) fn send_to_coordinator(&mut self, link: ShardLinkId, message: FromShard) {
        if let Some(arrival) = self.arrival_on(link, 1, 0) {
            self.at(arrival, SimEvent::ToCoordinator { link, message });
        }
    }

    pub(crate) fn send_to_shard(&mut self, link: ShardLinkId, message: ToShard) {
        if let Some(arrival) = self.arrival_on(link, 0, 0) {
            self.at(arrival, SimEvent::ToShard { link, message });
        }
    }

    /// Cuts a connection, so that no message sent from now on arrives. Both ends notice within `within` ms.
    pub(crate) fn cut_shard_link(&mut self, link: ShardLinkId, within: u32) {
        for direction in 0..2 {
            let Some(arrival) = self.arrival_on(link, direction, within) else { return };
            self.at(
                arrival,
                match direction {
                    0 => SimEvent::ToShard { link, message: ToShard::Ended },
                    _ => SimEvent::ToCoordinator { link, message: FromShard::Ended },
                },
            );
        }
        self.shard_links[link].is_cut = true;
    }

    /// Cuts all connections, because the coordinator is gone.
    pub(crate) fn cut_all_shard_links(&mut self, within: u32) {
        (0..self.shard_links.len()).for_each(|link| self.cut_shard_link(link, within));
    }

    /// Whether the coordinator's process at the other end is still running.
    pub(crate) fn reaches_coordinator(&self, link: ShardLinkId) -> bool {
        self.server.is_up && self.shard_links[link].server_process == self.server_process
    }

    /// When a message sent now arrives: up to `more` ms later than its ordinary delay. `None` if the
    /// connection is cut.
    fn arrival_on(&mut self, link: ShardLinkId, direction: usize, more: u32) -> Option<Millis> {
        if self.shard_links[link].is_cut {
            return None;
        }
        let mut arrival = self.network.arrival(self.now) + self.network.up_to(more);
        if self.shard_links[link].is_slow && self.now < self.network.faults.heal_ms {
            arrival += self.network.up_to(1000);
        }
        let last = &mut self.shard_links[link].last_arrival[direction];
        // TCP keeps the order of a connection, and the state machines of the shards rely on it.
        *last = arrival.max(*last);
        Some(*last)
    }
}
