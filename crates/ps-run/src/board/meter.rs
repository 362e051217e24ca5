//! What a process does with its time, counted by any of its threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What a process spends its time on in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Forward and backward passes.
    Compute,
    /// Handing sums to the connection.
    Push,
    /// Folding sums, with the updates of chunks that are complete.
    Fold,
    /// What remains of an update when all sums are there.
    Update,
    /// Waiting for weights in the middle of a computation.
    Pull,
    /// Waiting for anything else.
    Wait,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 6] = [Part::Compute, Part::Push, Part::Fold, Part::Update, Part::Pull, Part::Wait];

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Part::Compute => "compute",
            Part::Push => "push",
            Part::Fold => "fold",
            Part::Update => "update",
            Part::Pull => "pull",
            Part::Wait => "wait",
        }
    }
}

/// Sums that any thread adds to.
#[derive(Debug, Default)]
pub struct Meter {
    nanos: [AtomicU64; Part::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    leaves: AtomicU64,
    steps: AtomicU64,
    planned: AtomicU64,
    /// The bits of a binary64.
    loss: AtomicU64,
    is_finished: AtomicBool,
}

impl Meter {
    /// Time went into a part.
    pub fn spend(&self, part: Part, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos[part as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    /// Tensor bytes arrived.
    pub fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Tensor bytes were handed to a connection.
    pub fn send(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A connection is tried again.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Leaves of a step, one of so many, were computed; their mean loss, if they have one.
    pub fn compute(&self, step: u64, planned: u64, leaves: usize, loss: Option<f64>) {
        self.leaves.fetch_add(leaves as u64, Ordering::Relaxed);
        self.steps.store(step + 1, Ordering::Relaxed);
        self.planned.store(planned, Ordering::Relaxed);
        if let Some(loss) = loss {
            self.loss.store(loss.to_bits(), Ordering::Relaxed);
        }
    }

    /// Steps of the run, 0 if nothing was computed yet, and the mean loss of the leaves last computed.
    pub fn of_run(&self) -> (u64, f64) {
        let [planned, loss] = [&self.planned, &self.loss].map(|value| value.load(Ordering::Relaxed));
        (planned, f64::from_bits(loss))
    }

    /// The run is done.
    pub fn finish(&self) {
        self.is_finished.store(true, Ordering::Relaxed);
    }

    /// Whether the run is done.
    pub fn is_finished(&self) -> bool {
        self.is_finished.load(Ordering::Relaxed)
    }

    /// Seconds that went into a part.
    pub fn seconds(&self, part: Part) -> f64 {
        self.nanos[part as usize].load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Tensor bytes that were received, and sent.
    pub fn bytes(&self) -> [u64; 2] {
        [&self.received, &self.sent].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Connections that were tried again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Leaves that were computed, and the step that they last belonged to, from 1.
    pub fn computed(&self) -> [u64; 2] {
        [&self.leaves, &self.steps].map(|count| count.load(Ordering::Relaxed))
    }
}
