//! What may befall a run, and how often it did.

use ps_plan::seed::{Purpose, Stream};
use std::time::Duration;

/// What may befall the hosts and what is between them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A host dies, and starts again after so long.
    Death(Duration),
    /// A process is asked to stop (SIGTERM), and started again once it has ended.
    Stop,
    /// The coordinator's power fails at one of its next writes.
    PowerFailure(u64),
    /// Between two hosts everything is lost for so long; neither is told.
    Partition(Duration),
    /// The same in one direction.
    OneWay(Duration),
    /// Between two hosts everything is held back for so long, and then arrives at once.
    Hold(Duration),
}

/// Draws what befalls a run.
pub(crate) struct Schedule(Stream);

/// Share of the moments at which something new goes wrong.
const OFTEN: f32 = 0.03;

impl Schedule {
    /// That of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Schedule(Stream::new(seed, Purpose::Simulation, 2))
    }

    /// What goes wrong at this moment, if anything.
    pub(crate) fn next(&mut self) -> Option<Fault> {
        if self.0.unit() >= OFTEN {
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

    /// One of so many.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u32) as usize
    }

    /// Up to so many milliseconds; short ones are as likely as long ones are.
    pub(crate) fn time(&mut self, most: u32) -> Duration {
        let share = self.0.unit();
        Duration::from_millis(u64::from((share * share * most as f32) as u32 + 10))
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// What happened in a run, or in many together.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counts {
            /// Adds another run's.
            pub fn add(&mut self, other: &Counts) {
                $(self.$field += other.$field;)*
            }

            /// Names and values.
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field)),*]
            }
        }
    };
}

counts! {
    /// Deaths of the coordinator's host.
    coordinator_deaths: "deaths of the coordinator",
    /// Those at a write.
    power_failures: "deaths in the middle of a save",
    /// Those at which the machine stopped, too, and forgot what was not durable.
    machine_stops: "machines that lost what was not durable",
    /// Deaths of shards' hosts.
    shard_deaths: "deaths of shards",
    /// Deaths of workers' hosts.
    worker_deaths: "deaths of workers",
    /// Coordinators that were asked to stop, and did.
    coordinator_stops: "coordinators that were asked to stop",
    /// Shards that were asked to stop.
    shard_stops: "shards that were asked to stop",
    /// Workers that were asked to stop, and did.
    worker_stops: "workers that were asked to stop",
    /// Peers that only answered and were sent away for it.
    idlers: "peers that only answered and were sent away",
    /// Processes that ended with exit code 1 and were started again.
    failures: "processes that gave up and were started again",
    /// Partitions.
    partitions: "partitions both ways",
    /// Partitions in one direction.
    one_way: "partitions one way",
    /// Links that held back what was sent.
    holds: "links that held everything back",
    /// Starts of the coordinator from a checkpoint.
    restores: "starts from a checkpoint",
    /// Starts of the coordinator from nothing after the first.
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
