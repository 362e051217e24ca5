//! Connections and messages: what is delayed, lost, repeated or cut is decided here.

use crate::faults::{Counts, Faults};
use bytes::Bytes;
use ps_coord::{Dismissal, Millis, WorkerId};
use ps_core::Tally;
use ps_plan::Node;
use ps_plan::seed::{Purpose, Stream};
use std::ops::Range;
use std::sync::Arc;

/// One connection to one server; a worker that reconnects gets others.
pub(crate) type LinkId = u64;

/// The sum of a node as it travels.
#[derive(Debug)]
pub(crate) struct Sum {
    pub node: Node,
    pub tally: Tally,
    /// Each chunk with its first element; none if the node is only evaluated.
    pub chunks: Vec<(usize, Bytes)>,
    /// Whether it is not what its leaves give.
    pub is_lie: bool,
}

/// From worker to server.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello,
    Heartbeat,
    /// The metric sums of a node, some of its chunks and, for the coordinator, which is sent all that it keeps, the end of
    /// the node.
    Sum {
        step: u64,
        sum: Arc<Sum>,
        chunks: Range<usize>,
    },
    /// The metric sums of a node and some of its chunks, which are wrong, and a message after them that cannot be right.
    Breaking {
        step: u64,
        sum: Arc<Sum>,
        chunks: Range<usize>,
    },
    AskWeights,
    Dropped,
    Goodbye,
}

/// From server to worker.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome,
    HeartbeatSeen,
    /// All chunks that the sender keeps, each with its first element.
    Weights {
        version: u64,
        parts: Vec<(usize, Bytes)>,
    },
    Work {
        step: u64,
        leaves: Range<u32>,
    },
    Dismissed(Dismissal),
}

/// A connection, with both its ends.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub slot: usize,
    pub incarnation: u32,
    /// Which server: 0 is the coordinator, then the shards.
    pub server: usize,
    /// Whether the worker knows that it is admitted.
    pub welcomed: bool,
    /// The id it was admitted under.
    pub worker: Option<WorkerId>,
    /// Whether the server still listens to it and speaks on it.
    pub server_open: bool,
    /// Whether the worker does.
    pub worker_open: bool,
    /// Whether it is cut: what was sent before may still arrive, nothing else does.
    pub cut: bool,
    /// When the message that was sent last arrives, up and down; only to count reorderings.
    last_arrival: [Millis; 2],
}

impl Link {
    pub(crate) fn new(slot: usize, incarnation: u32, server: usize) -> Self {
        Link {
            slot,
            incarnation,
            server,
            welcomed: false,
            worker: None,
            server_open: true,
            worker_open: true,
            cut: false,
            last_arrival: [0; 2],
        }
    }
}

/// What becomes of one message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// When it arrives: not at all, once or twice.
    pub arrivals: Vec<Millis>,
    /// Whether the connection breaks on it.
    pub cut: bool,
}

/// The source of all chance of a run.
#[derive(Debug)]
pub(crate) struct Network {
    pub faults: Faults,
    pub counts: Counts,
    random: Stream,
}

impl Network {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Network { faults, counts: Counts::default(), random: Stream::new(seed, Purpose::Simulation, 0) }
    }

    /// Whether a fault of this probability happens at this moment.
    pub(crate) fn strikes(&mut self, now: Millis, probability: f32) -> bool {
        now < self.faults.heal_ms && self.chance(probability)
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        probability > 0.0 && self.random.unit() < probability
    }

    /// Uniform in `0..bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.random.below(bound)
    }

    /// A delay of up to `most` ms; the longest without faults, so that they all are the same.
    pub(crate) fn up_to(&mut self, most: u32) -> Millis {
        match self.faults.delay_ms {
            0 => Millis::from(most),
            _ => Millis::from(self.random.below(most + 1)),
        }
    }

    /// Decides about a message that is sent `now` on `link`.
    pub(crate) fn fate(&mut self, now: Millis, link: &mut Link, upwards: bool) -> Fate {
        self.counts.messages += 1;
        let mut fate = Fate { arrivals: Vec::new(), cut: self.strikes(now, self.faults.cut) };
        if self.strikes(now, self.faults.loss) {
            self.counts.losses += 1;
            return fate;
        }
        let arrival = self.arrival(now);
        let last = &mut link.last_arrival[usize::from(upwards)];
        self.counts.reorderings += u64::from(arrival < *last);
        *last = arrival;
        fate.arrivals.push(arrival);
        if self.strikes(now, self.faults.duplicate) {
            self.counts.duplicates += 1;
            fate.arrivals.push(self.arrival(now));
        }
        fate
    }

    /// When something that is sent now arrives if it does.
    pub(crate) fn arrival(&mut self, now: Millis) -> Millis {
        let most = if self.strikes(now, self.faults.late) { 1000 } else { self.faults.delay_ms };
        now + 1 + Millis::from(self.random.below(most + 1))
    }
}
