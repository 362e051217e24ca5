//! Connections and messages. This file decides which messages are delayed, lost, duplicated or cut.

use crate::faults::{Counts, Faults};
use bytes::Bytes;
use ps_coord::{Dismissal, Millis, WorkerId};
use ps_core::MetricSums;
use ps_plan::Node;
use ps_plan::seed::{Purpose, Stream};
use std::ops::Range;
use std::sync::Arc;

/// One connection to one server. A worker that reconnects gets new ones.
pub(crate) type LinkId = u64;

/// The sum of a node in transit.
#[derive(Debug)]
pub(crate) struct Sum {
    pub node: Node,
    pub metric_sums: MetricSums,
    /// Each chunk with the index of its first element; empty if the node is only evaluated.
    pub chunks: Vec<(usize, Bytes)>,
    /// Whether the sum differs from that of its leaves on purpose.
    pub is_lie: bool,
}

/// A message from worker to server.
#[derive(Clone, Debug)]
pub(crate) enum ToServer {
    Hello,
    Heartbeat,
    /// The metric sums of a node and some of its chunks. For the coordinator, these are all chunks that it
    /// holds, and the message also ends the node.
    Sum {
        step: u64,
        sum: Arc<Sum>,
        chunks: Range<usize>,
    },
    /// The metric sums of a node and some wrong chunks of it, followed by an invalid message.
    Breaking {
        step: u64,
        sum: Arc<Sum>,
        chunks: Range<usize>,
    },
    RequestWeights,
    Dropped,
    Goodbye,
}

/// A message from server to worker.
#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Welcome,
    HeartbeatSeen,
    /// All chunks that the sender holds, each with the index of its first element.
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

/// A connection, as seen from both ends.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub slot: usize,
    pub incarnation: u32,
    /// Index of the server: 0 is the coordinator.
    pub server: usize,
    /// Whether the worker knows that it has been admitted.
    pub on_welcome: bool,
    /// The id under which the worker was admitted.
    pub worker: Option<WorkerId>,
    /// Whether the server's end is open.
    pub server_open: bool,
    /// Whether the worker's end is open.
    pub worker_open: bool,
    /// Whether the connection is cut: messages sent before may still arrive, later ones do not.
    pub cut: bool,
    /// When the latest message arrives, up and down. Only needed to count reorderings.
    last_arrival: [Millis; 2],
}

impl Link {
    pub(crate) fn new(slot: usize, incarnation: u32, server: usize) -> Self {
        Link {
            slot,
            incarnation,
            server,
            on_welcome: false,
            worker: None,
            server_open: true,
            worker_open: true,
            cut: false,
            last_arrival: [0; 2],
        }
    }
}

/// What happens to one message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    /// Arrival times: none, one or two.
    pub arrivals: Vec<Millis>,
    /// Whether this message breaks the connection.
    pub cut: bool,
}

/// The source of all randomness in a run.
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

    /// Whether a fault of this probability occurs now.
    pub(crate) fn occurs(&mut self, now: Millis, probability: f32) -> bool {
        now < self.faults.heal_ms && self.chance(probability)
    }

    /// Returns `true` with this probability.
    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        probability > 0.0 && self.random.unit() < probability
    }

    /// Draws uniformly from `0..bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.random.below(bound)
    }

    /// Draws a delay of up to `most` ms. Without faults, it is always `most`.
    pub(crate) fn up_to(&mut self, max: u32) -> Millis {
        match self.faults.delay_ms {
            0 => Millis::from(max),
            _ => Millis::from(self.random.below(max + 1)),
        }
    }

    /// Decides what happens to a message sent at time `now` on `link`.
    pub(crate) fn delivery(&mut self, now: Millis, link: &mut Link, upwards: bool) -> Delivery {
        self.counts.messages += 1;
        let mut delivery = Delivery { arrivals: Vec::new(), cut: self.occurs(now, self.faults.cut) };
        if self.occurs(now, self.faults.loss) {
            self.counts.losses += 1;
            return delivery;
        }
        let arrival = self.arrival(now);
        let last = &mut link.last_arrival[usize::from(upwards)];
        self.counts.reorderings += u64::from(arrival < *last);
        *last = arrival;
        delivery.arrivals.push(arrival);
        if self.occurs(now, self.faults.duplicate) {
            self.counts.duplicates += 1;
            delivery.arrivals.push(self.arrival(now));
        }
        delivery
    }

    /// When a message sent at time `now` arrives, if it does.
    pub(crate) fn arrival(&mut self, now: Millis) -> Millis {
        let max = if self.occurs(now, self.faults.late) { 1000 } else { self.faults.delay_ms };
        now + 1 + Millis::from(self.random.below(max + 1))
    }
}
