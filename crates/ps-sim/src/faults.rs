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
    /// Share of the computations that take up to a second longer and in the middle of which the worker's connections
    /// break, which both ends notice.
    pub interrupt: f32,
    /// Share of the computations that do not end before all faults do, while the worker goes on to send heartbeats.
    pub hang: f32,
    /// Chance at each step that a worker stands still for up to 3 s.
    pub stall: f32,
    /// Chance at each step that a worker joins, while there are fewer than `most_workers`.
    pub join: f32,
    /// Chance at each step that a worker is stopped; it comes back later.
    pub leave: f32,
    /// Chance at each step that several workers at once join or leave.
    pub storm: f32,
    /// Chance at each step that nothing passes between a worker and the servers for up to 4 s, in one direction or both,
    /// and neither end is told.
    pub partition: f32,
    /// Chance at each step that the coordinator dies; it starts again later, from what is saved.
    pub server_crash: f32,
    /// Chance at each step that another shard dies; it starts again later, with nothing.
    pub shard_crash: f32,
    /// Chance at each step that the connection between a shard and the coordinator breaks: of one of them at any moment,
    /// and of each when it says that it has applied the step.
    pub shard_cut: f32,
    /// Share of the shards' reports that they hold the weights they were given after which the connection breaks.
    pub restore_cut: f32,
    /// Share of the connections between a shard and the coordinator on which every message takes up to a second.
    pub slow_tie: f32,
    /// Share of the saves in the middle of which the machine stops.
    pub save_crash: f32,
    /// Share of the saves in the middle of which the disk is full, and of those in which it flips a bit.
    pub save_error: f32,
    /// Share of the coordinator's starts at which the newest checkpoint has been damaged.
    pub rot: f32,
    /// Share of the workers that lie from time to time, where nodes are audited.
    pub lie: f32,
    /// Share of the pushes that send one server a wrong chunk and then a message that is refused.
    pub break_off: f32,
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
            slow_tie: 0.0,
            save_crash: 0.0,
            save_error: 0.0,
            rot: 0.0,
            lie: 0.0,
            break_off: 0.0,
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
            slow_tie: 0.1,
            save_crash: 0.05,
            save_error: 0.03,
            rot: 0.2,
            lie: 0.2,
            break_off: 0.03,
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
    /// Connections that broke in the middle of a computation.
    pub interruptions: u64,
    /// Computations that did not end.
    pub hangs: u64,
    /// Workers that were sent away because they delivered nothing.
    pub stuck: u64,
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
    /// Storms of workers that join and leave.
    pub storms: u64,
    /// Partitions of which only what the worker sends is lost.
    pub partitions_up: u64,
    /// Partitions of which only what the worker is sent is lost.
    pub partitions_down: u64,
    /// Partitions of which both are lost.
    pub partitions_both: u64,
    /// Workers that were given up because of their silence.
    pub expiries: u64,
    /// Deaths of the coordinator.
    pub server_crashes: u64,
    /// Of these, in the middle of a save.
    pub crashes_saving: u64,
    /// Of these, with the machine.
    pub machine_crashes: u64,
    /// Starts of the coordinator that went on from a checkpoint.
    pub restores: u64,
    /// Checkpoints saved.
    pub saves: u64,
    /// Saves that failed.
    pub saves_failed: u64,
    /// Checkpoints that were damaged after they were saved.
    pub rots: u64,
    /// Loads for which a damaged checkpoint was passed over.
    pub fallbacks: u64,
    /// Deaths of other shards.
    pub shard_crashes: u64,
    /// Connections of shards that broke.
    pub shard_cuts: u64,
    /// Connections of shards that were slow.
    pub slow_ties: u64,
    /// Times that all servers went back to what was saved.
    pub rewinds: u64,
    /// Of these, to an earlier step than the open one.
    pub rewinds_back: u64,
    /// Of these, because a worker was refused that was part of the open step.
    pub rewinds_refused: u64,
    /// Sums of a step that is past.
    pub stale_sums: u64,
    /// Sums that are not what their leaves give.
    pub lies: u64,
    /// Workers that were banned.
    pub bans: u64,
    /// Times that the run went back because of what a banned worker had contributed to earlier steps.
    pub returns: u64,
    /// Times that it could not.
    pub taints: u64,
    /// Workers that were refused for a message that cannot be right.
    pub refused: u64,
    /// Of these, those of whom a wrong chunk had entered the open step's sums.
    pub refused_counted: u64,
    /// Sections of a step that were looked at beside its batch.
    pub sections: u64,
    /// Nodes that were audited.
    pub audits: u64,
    /// Nodes that the coordinator computed itself to decide.
    pub judged: u64,
    /// Steps that were gathered again because something that counted was wrong.
    pub starts_over: u64,
    /// Leaves that came in from another than their first holder.
    pub rescued: u64,
    /// Workers that left with what they computed.
    pub drains: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        for ((_, total), (_, more)) in self.fields().into_iter().zip(other.clone().fields()) {
            *total += *more;
        }
    }

    /// Names and values, for reports and checks.
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
            ("checkpoints damaged later", &mut self.rots),
            ("damaged checkpoints passed over", &mut self.fallbacks),
            ("deaths of shards", &mut self.shard_crashes),
            ("connections of shards cut", &mut self.shard_cuts),
            ("slow connections of shards", &mut self.slow_ties),
            ("rewinds", &mut self.rewinds),
            ("rewinds to an earlier step", &mut self.rewinds_back),
            ("rewinds because a worker was refused", &mut self.rewinds_refused),
            ("sums of a step that is past", &mut self.stale_sums),
            ("lies", &mut self.lies),
            ("workers banned", &mut self.bans),
            ("returns to before a liar's first contribution", &mut self.returns),
            ("lies that could not be undone", &mut self.taints),
            ("workers refused", &mut self.refused),
            ("workers refused of whom a wrong chunk counted", &mut self.refused_counted),
            ("sections looked at", &mut self.sections),
            ("nodes audited", &mut self.audits),
            ("nodes computed by the coordinator", &mut self.judged),
            ("steps gathered again", &mut self.starts_over),
            ("leaves from another than their first holder", &mut self.rescued),
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
