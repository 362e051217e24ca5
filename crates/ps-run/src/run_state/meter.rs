//! Counters of a process: its time by activity, its bytes and its leaves. Any thread may add to them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// An activity that a process spends time on in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// The forward and backward passes.
    Compute,
    /// Handing sums to the connection.
    Push,
    /// Folding sums, including the updates of chunks that are complete.
    Fold,
    /// The rest of an update, once all sums have arrived.
    Update,
    /// Waiting for weights in the middle of a computation.
    Pull,
    /// Waiting for anything else.
    Wait,
}

impl Activity {
    /// All activities, in the order of their counters.
    pub const ALL: [Activity; 6] =
        [Activity::Compute, Activity::Push, Activity::Fold, Activity::Update, Activity::Pull, Activity::Wait];

    /// A single word, used as a label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Compute => "compute",
            Activity::Push => "push",
            Activity::Fold => "fold",
            Activity::Update => "update",
            Activity::Pull => "pull",
            Activity::Wait => "wait",
        }
    }
}

/// The counters. Each is a relaxed atomic: readers need no consistent view of several.
#[derive(Debug, Default)]
pub struct Meter {
    nanos: [AtomicU64; Activity::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    leaves: AtomicU64,
    steps: AtomicU64,
    planned: AtomicU64,
    /// Mean loss of the last leaves, as the bits of a binary64.
    loss: AtomicU64,
    is_finished: AtomicBool,
}

impl Meter {
    /// Adds time to an activity.
    pub fn spend(&self, activity: Activity, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos[activity as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    /// Counts bytes of tensors that arrived.
    pub fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of tensors that were handed to a connection.
    pub fn send(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts an attempt to connect again.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts leaves that were computed in step `step` of `planned`, with their mean loss if they have one.
    pub fn compute(&self, step: u64, planned: u64, leaves: usize, loss: Option<f64>) {
        self.leaves.fetch_add(leaves as u64, Ordering::Relaxed);
        self.steps.store(step + 1, Ordering::Relaxed);
        self.planned.store(planned, Ordering::Relaxed);
        if let Some(loss) = loss {
            self.loss.store(loss.to_bits(), Ordering::Relaxed);
        }
    }

    /// Returns the steps of the run, 0 before the first computation, and the mean loss of the last leaves.
    pub fn of_run(&self) -> (u64, f64) {
        let [planned, loss] = [&self.planned, &self.loss].map(|value| value.load(Ordering::Relaxed));
        (planned, f64::from_bits(loss))
    }

    /// Records that the run is done.
    pub fn finish(&self) {
        self.is_finished.store(true, Ordering::Relaxed);
    }

    /// Returns whether the run is done.
    pub fn is_finished(&self) -> bool {
        self.is_finished.load(Ordering::Relaxed)
    }

    /// Seconds spent on an activity.
    pub fn seconds(&self, activity: Activity) -> f64 {
        self.nanos[activity as usize].load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Bytes of tensors that were received and that were sent.
    pub fn bytes(&self) -> [u64; 2] {
        [&self.received, &self.sent].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Number of attempts to connect again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Number of leaves computed, and the step that the last ones belonged to, counted from 1.
    pub fn computed(&self) -> [u64; 2] {
        [&self.leaves, &self.steps].map(|count| count.load(Ordering::Relaxed))
    }
}
