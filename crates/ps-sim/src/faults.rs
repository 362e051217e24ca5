//! The faults of a run: their probabilities, and how often each occurred.

/// Probabilities and sizes of the faults. If all are 0, nothing goes wrong.
///
/// Fractions and probabilities are from 0 to 1. [`Faults::none`] and [`Faults::mix`] are the two sets that
/// the tests use.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Maximum ordinary delay of a message, in ms. If 0, every message takes 1 ms and order is kept.
    pub delay_ms: u32,
    /// Fraction of the messages that take up to a second.
    pub late: f32,
    /// Fraction of the messages that are lost.
    pub loss: f32,
    /// Fraction of the messages that arrive twice.
    pub duplicate: f32,
    /// Fraction of the messages during which the connection breaks.
    pub cut: f32,
    /// Fraction of the computations, and of the pushes, during which the worker crashes. It restarts later
    /// without its state.
    pub crash: f32,
    /// Fraction of the computations that take up to a second longer and during which the worker's connections
    /// break, which both ends notice.
    pub interrupt: f32,
    /// Fraction of the computations that do not end before `heal_ms`, while the worker continues
    /// to send heartbeats.
    pub hang: f32,
    /// Probability in each step that a worker is suspended for up to 3 s.
    pub stall: f32,
    /// Probability in each step that a worker joins, while there are fewer than `max_workers`.
    pub join: f32,
    /// Probability in each step that a worker is asked to stop; it comes back later.
    pub leave: f32,
    /// Probability in each step that several workers join or leave at once.
    pub storm: f32,
    /// Probability in each step that no message passes between a worker and the servers for up to 4 s, in one
    /// direction or both, without either end being notified.
    pub partition: f32,
    /// Probability in each step that the coordinator crashes; it restarts later from its checkpoints.
    pub server_crash: f32,
    /// Probability in each step that another shard crashes; it restarts later without its state.
    pub shard_crash: f32,
    /// Probability in each step that the connection between a shard and the coordinator breaks: for one of
    /// them at any time, and for each when it reports that it has applied the step.
    pub shard_cut: f32,
    /// Fraction of the shards' reports that they hold the restored weights after which the connection breaks.
    pub restore_cut: f32,
    /// Fraction of the connections between a shard and the coordinator on which every message takes up
    /// to a second.
    pub slow_shard_link: f32,
    /// Fraction of the saves during which the machine crashes.
    pub save_crash: f32,
    /// Fraction of the saves during which the disk is full, and also of those in which the disk flips a bit.
    pub save_error: f32,
    /// Fraction of the coordinator's starts at which the newest checkpoint has been damaged.
    pub corruption: f32,
    /// Fraction of the workers that sometimes lie, if nodes are audited.
    pub lie: f32,
    /// Fraction of the pushes that send one server a wrong chunk, followed by a message that is refused.
    pub break_off: f32,
    /// Maximum number of workers.
    pub max_workers: u32,
    /// Virtual time after which no new fault occurs. The run must then end soon, so that a run that hangs is
    /// not freed by the next fault.
    pub heal_ms: u64,
}

impl Faults {
    /// A network without delays, on which nothing fails.
    pub fn none() -> Self {
        Faults {
            delay_ms: 0,
            late: 0.0,
            loss: 0.0,
            duplicate: 0.0,
            cut: 0.0,
            crash: 0.0,
            interrupt: 0.0,
            hang: 0.0,
            stall: 0.0,
            join: 0.0,
            leave: 0.0,
            storm: 0.0,
            partition: 0.0,
            server_crash: 0.0,
            shard_crash: 0.0,
            shard_cut: 0.0,
            restore_cut: 0.0,
            slow_shard_link: 0.0,
            save_crash: 0.0,
            save_error: 0.0,
            corruption: 0.0,
            lie: 0.0,
            break_off: 0.0,
            max_workers: u32::MAX,
            heal_ms: 0,
        }
    }

    /// All faults, each frequent enough to occur in most runs of a dozen steps.
    pub fn mix() -> Self {
        Faults {
            delay_ms: 40,
            late: 0.03,
            loss: 0.02,
            duplicate: 0.05,
            cut: 0.005,
            crash: 0.05,
            interrupt: 0.05,
            hang: 0.01,
            stall: 0.15,
            join: 0.15,
            leave: 0.05,
            storm: 0.02,
            partition: 0.05,
            server_crash: 0.04,
            shard_crash: 0.03,
            shard_cut: 0.02,
            restore_cut: 0.2,
            slow_shard_link: 0.1,
            save_crash: 0.05,
            save_error: 0.03,
            corruption: 0.2,
            lie: 0.2,
            break_off: 0.03,
            max_workers: 7,
            heal_ms: 8_000,
        }
    }
}

/// How often each fault and each reaction to it occurred in one run, or in several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages sent between workers and servers, including those that were lost.
    pub messages: u64,
    /// Messages that were lost.
    pub losses: u64,
    /// Messages that arrived twice.
    pub duplicates: u64,
    /// Messages that arrived before an earlier one in the same direction on the same connection.
    pub reorderings: u64,
    /// Connections between workers and servers that broke.
    pub cuts: u64,
    /// Crashes of workers during a computation.
    pub crashes_computing: u64,
    /// Crashes of workers during a push.
    pub crashes_pushing: u64,
    /// Connections that broke during a computation.
    pub interruptions: u64,
    /// Computations that did not end before the faults did.
    pub hangs: u64,
    /// Workers that were removed because they delivered nothing.
    pub stuck: u64,
    /// Workers that were suspended.
    pub stalls: u64,
    /// Workers that joined after the start.
    pub joins: u64,
    /// Workers that were asked to stop.
    pub leaves: u64,
    /// Admissions of workers, including repeated ones.
    pub admissions: u64,
    /// Chunks of node sums that were ignored because they were already covered or belonged to another step.
    pub ignored: u64,
    /// Chunks of node sums that were added to a step.
    pub counted: u64,
    /// How often a shard was a step ahead when it sent a worker the weights of the open step.
    pub behind: u64,
    /// Storms, in which several workers joined or left.
    pub storms: u64,
    /// Partitions that lost only messages from the worker.
    pub partitions_up: u64,
    /// Partitions that lost only messages to the worker.
    pub partitions_down: u64,
    /// Partitions that lost messages in both directions.
    pub partitions_both: u64,
    /// Workers that were removed because of their silence.
    pub expiries: u64,
    /// Crashes of the coordinator.
    pub server_crashes: u64,
    /// Crashes of the coordinator during a save.
    pub crashes_saving: u64,
    /// Crashes of the coordinator together with its machine.
    pub machine_crashes: u64,
    /// Starts of the coordinator that resumed from a checkpoint.
    pub restores: u64,
    /// Checkpoints that were saved.
    pub saves: u64,
    /// Saves that failed.
    pub saves_failed: u64,
    /// Checkpoints that were damaged after they were saved.
    pub corruptions: u64,
    /// Loads that skipped a damaged checkpoint.
    pub fallbacks: u64,
    /// Crashes of other shards.
    pub shard_crashes: u64,
    /// Connections between a shard and the coordinator that broke.
    pub shard_cuts: u64,
    /// Connections between a shard and the coordinator that were slow.
    pub slow_shard_links: u64,
    /// How often all servers returned to a checkpoint.
    pub rewinds: u64,
    /// How often all servers returned to a step before the open one.
    pub rewinds_back: u64,
    /// How often all servers returned to a checkpoint because a worker that contributed to the open
    /// step was refused.
    pub rewinds_refused: u64,
    /// Sums that arrived for an earlier step.
    pub stale_sums: u64,
    /// Sums that differ from those of their leaves.
    pub lies: u64,
    /// Workers that were banned.
    pub bans: u64,
    /// How often the run returned to a checkpoint because of a banned worker's contributions
    /// to earlier steps.
    pub rollbacks: u64,
    /// How often it could not return, because no checkpoint without these contributions was left.
    pub taints: u64,
    /// Workers that were refused because of an invalid message.
    pub refused: u64,
    /// Refused workers whose wrong chunks had already entered the open step's sums.
    pub refused_counted: u64,
    /// Sections other than the batch that were evaluated in a step.
    pub sections: u64,
    /// Nodes that were audited.
    pub audits: u64,
    /// Nodes that the coordinator computed itself to decide between different results.
    pub recomputed: u64,
    /// Steps that were gathered again because a wrong sum had been added.
    pub starts_over: u64,
    /// Leaves that came from another worker than the first one to hold them.
    pub reassigned: u64,
    /// Workers that left after delivering what they had computed.
    pub drains: u64,
}

impl Counts {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Counts) {
        for ((_, total), (_, more)) in self.fields().into_iter().zip(other.clone().fields()) {
            *total += *more;
        }
    }

    /// Names and values, in a fixed order, for reports and checks.
    pub fn fields(&mut self) -> [(&'static str, &mut u64); 49] {
        [
            ("messages", &mut self.messages),
            ("losses", &mut self.losses),
            ("duplicates", &mut self.duplicates),
            ("reorderings", &mut self.reorderings),
            ("cuts", &mut self.cuts),
            ("crashes computing", &mut self.crashes_computing),
            ("crashes pushing", &mut self.crashes_pushing),
            ("connections cut in the middle of a computation", &mut self.interruptions),
            ("computations that did not end", &mut self.hangs),
            ("workers sent away because they delivered nothing", &mut self.stuck),
            ("stalls", &mut self.stalls),
            ("joins", &mut self.joins),
            ("leaves", &mut self.leaves),
            ("admissions", &mut self.admissions),
            ("chunks ignored", &mut self.ignored),
            ("chunks counted", &mut self.counted),
            ("weights of the step before", &mut self.behind),
            ("storms", &mut self.storms),
            ("partitions upwards", &mut self.partitions_up),
            ("partitions downwards", &mut self.partitions_down),
            ("partitions both ways", &mut self.partitions_both),
            ("workers given up for silence", &mut self.expiries),
            ("deaths of the coordinator", &mut self.server_crashes),
            ("deaths in the middle of a save", &mut self.crashes_saving),
            ("machines that lost what was not durable", &mut self.machine_crashes),
            ("starts from a checkpoint", &mut self.restores),
            ("checkpoints saved", &mut self.saves),
            ("saves that failed", &mut self.saves_failed),
            ("checkpoints damaged later", &mut self.corruptions),
            ("damaged checkpoints passed over", &mut self.fallbacks),
            ("deaths of shards", &mut self.shard_crashes),
            ("connections of shards cut", &mut self.shard_cuts),
            ("slow connections of shards", &mut self.slow_shard_links),
            ("rewinds", &mut self.rewinds),
            ("rewinds to an earlier step", &mut self.rewinds_back),
            ("rewinds because a worker was refused", &mut self.rewinds_refused),
            ("sums of a step that is past", &mut self.stale_sums),
            ("lies", &mut self.lies),
            ("workers banned", &mut self.bans),
            ("returns to before a liar's first contribution", &mut self.rollbacks),
            ("lies that could not be undone", &mut self.taints),
            ("workers refused", &mut self.refused),
            ("workers refused of whom a wrong chunk counted", &mut self.refused_counted),
            ("sections looked at", &mut self.sections),
            ("nodes audited", &mut self.audits),
            ("nodes computed by the coordinator", &mut self.recomputed),
            ("steps gathered again", &mut self.starts_over),
            ("leaves from another than their first holder", &mut self.reassigned),
            ("workers that left after their last sums", &mut self.drains),
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
