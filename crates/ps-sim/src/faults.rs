//! What can go wrong, how often, and how often it did.

/// Probabilities and sizes of the faults. All 0 is a perfect cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Longest ordinary delay of a message; without faults every message takes 1 ms and order is kept.
    pub delay_ms: u32,
    /// Share of the messages that take up to a second.
    pub late: f32,
    /// Share that is lost.
    pub loss: f32,
    /// Share that arrives twice.
    pub duplicate: f32,
    /// Share during which the connection breaks.
    pub cut: f32,
    /// Share of the computations and of the pushes in the middle of which the worker crashes. It starts again
    /// later, with nothing.
    pub crash: f32,
    /// Chance at each step that a worker stands still for up to 3 s.
    pub stall: f32,
    /// Chance at each step that a worker joins, while there are fewer than `most_workers`.
    pub join: f32,
    /// Chance at each step that a worker is stopped; it comes back later.
    pub leave: f32,
    /// Workers at most.
    pub most_workers: u32,
    /// From this moment on nothing new goes wrong, and the run must end soon: what hangs is not rescued by the
    /// next accident.
    pub heal_ms: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Faults {
            delay_ms: 0,
            late: 0.0,
            loss: 0.0,
            duplicate: 0.0,
            cut: 0.0,
            crash: 0.0,
            stall: 0.0,
            join: 0.0,
            leave: 0.0,
            most_workers: u32::MAX,
            heal_ms: 0,
        }
    }

    /// Everything goes wrong, each often enough to happen in most runs of a dozen steps.
    pub fn mix() -> Self {
        Faults {
            delay_ms: 40,
            late: 0.03,
            loss: 0.02,
            duplicate: 0.05,
            cut: 0.005,
            crash: 0.05,
            stall: 0.15,
            join: 0.15,
            leave: 0.05,
            most_workers: 7,
            heal_ms: 8_000,
        }
    }
}

/// What happened in a run, or in many together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages sent.
    pub messages: u64,
    /// Messages lost.
    pub losses: u64,
    /// Messages that arrived twice.
    pub duplicates: u64,
    /// Messages that arrived before an earlier one of the same connection and direction.
    pub reorderings: u64,
    /// Connections cut.
    pub cuts: u64,
    /// Crashes in the middle of a computation.
    pub crashes_computing: u64,
    /// Crashes in the middle of a push.
    pub crashes_pushing: u64,
    /// Workers that stood still.
    pub stalls: u64,
    /// Workers that joined after the start.
    pub joins: u64,
    /// Workers that were stopped.
    pub leaves: u64,
    /// Admissions, first and repeated.
    pub admissions: u64,
    /// Chunks of node sums that arrived and were covered already, or were of another step.
    pub ignored: u64,
    /// Chunks of node sums that counted.
    pub counted: u64,
    /// Times that a shard was a step ahead when it sent a worker the weights that the open step is computed at.
    pub behind: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        for ((_, total), (_, more)) in self.fields().into_iter().zip(other.clone().fields()) {
            *total += *more;
        }
    }

    /// Names and values, for reports and checks.
    pub fn fields(&mut self) -> [(&'static str, &mut u64); 14] {
        [
            ("messages", &mut self.messages),
            ("losses", &mut self.losses),
            ("duplicates", &mut self.duplicates),
            ("reorderings", &mut self.reorderings),
            ("cuts", &mut self.cuts),
            ("crashes computing", &mut self.crashes_computing),
            ("crashes pushing", &mut self.crashes_pushing),
            ("stalls", &mut self.stalls),
            ("joins", &mut self.joins),
            ("leaves", &mut self.leaves),
            ("admissions", &mut self.admissions),
            ("chunks ignored", &mut self.ignored),
            ("chunks counted", &mut self.counted),
            ("weights of the step before", &mut self.behind),
        ]
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.clone().fields().into_iter().enumerate() {
            write!(f, "{}{value} {name}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
