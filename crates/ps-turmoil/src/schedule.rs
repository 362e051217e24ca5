//! The faults of a run, and how often each occurred.

use ps_plan::seed::{Purpose, Stream};
use std::time::Duration;

/// A fault of hosts or of the links between them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A host crashes and restarts after this time.
    Death(Duration),
    /// A process is asked to stop (SIGTERM) and is restarted after it has ended.
    Stop,
    /// The coordinator's power fails after this number of disk operations.
    PowerFailure(u64),
    /// Two hosts lose all messages between them for this time, without being notified.
    Partition(Duration),
    /// Like [`Fault::Partition`], but in one direction only.
    OneWay(Duration),
    /// All messages between two hosts are held back for this time and then arrive at once.
    Hold(Duration),
}

/// Draws the faults of a run.
pub(crate) struct Schedule(Stream);

/// Probability of a new fault at each point in time.
const FAULT_PROBABILITY: f32 = 0.03;

impl Schedule {
    /// Creates the schedule of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Schedule(Stream::new(seed, Purpose::Simulation, 2))
    }

    /// Draws the fault for the current point in time, if any.
    pub(crate) fn next(&mut self) -> Option<Fault> {
        if self.0.unit() >= FAULT_PROBABILITY {
            return None;
        }
        Some(match self.0.below(12) {
            0..3 => Fault::Death(self.time(2000)),
            3 => Fault::Stop,
            4 => Fault::PowerFailure(u64::from(self.0.below(16))),
            5..7 => Fault::Partition(self.time(4000)),
            7..9 => Fault::OneWay(self.time(4000)),
            _ => Fault::Hold(self.time(1500)),
        })
    }

    /// Draws uniformly from `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u32) as usize
    }

    /// Draws a time of up to `max_ms` milliseconds, with a bias towards short ones.
    pub(crate) fn time(&mut self, max_ms: u32) -> Duration {
        let share = self.0.unit();
        Duration::from_millis(u64::from((share * share * max_ms as f32) as u32 + 10))
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// How often each fault and each reaction occurred in one run, or in several.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counts {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Counts) {
                $(self.$field += other.$field;)*
            }

            /// Names and values, in a fixed order.
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field)),*]
            }
        }
    };
}

counts! {
    /// Crashes of the coordinator's host.
    coordinator_deaths: "deaths of the coordinator",
    /// Crashes of the coordinator's host during a disk operation.
    power_failures: "deaths in the middle of a save",
    /// Crashes of the coordinator's machine, which lost what was not durable.
    machine_stops: "machines that lost what was not durable",
    /// Crashes of shards' hosts.
    shard_deaths: "deaths of shards",
    /// Crashes of workers' hosts.
    worker_deaths: "deaths of workers",
    /// Coordinators that stopped because they were asked to.
    coordinator_stops: "coordinators that were asked to stop",
    /// Shards that were asked to stop.
    shard_stops: "shards that were asked to stop",
    /// Workers that stopped because they were asked to.
    worker_stops: "workers that were asked to stop",
    /// Peers that only sent heartbeats and were dismissed for it.
    idlers: "peers that only answered and were sent away",
    /// Processes that ended with exit code 1 and were restarted.
    failures: "processes that gave up and were started again",
    /// Partitions in both directions.
    partitions: "partitions both ways",
    /// Partitions in one direction.
    one_way: "partitions one way",
    /// Links that held messages back.
    holds: "links that held everything back",
    /// Starts of the coordinator from a checkpoint.
    restores: "starts from a checkpoint",
    /// Starts of the coordinator without a checkpoint, apart from the first start.
    fresh: "later starts from nothing",
    /// Checkpoints that were made durable.
    saves: "checkpoints saved",
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.fields().into_iter().enumerate() {
            write!(f, "{}{value} {name}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
