//! What is simulated: processes, and what connects them.

/// Workers, the processes that keep the weights, their cores and links.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Worker processes.
    pub workers: usize,
    /// Threads on which each of them computes.
    pub threads: usize,
    /// Who keeps the weights.
    pub keepers: Keepers,
    /// The chunks of each part of the weights that is kept, in bytes of their gradient. Where workers keep them, there
    /// are no more parts than workers.
    pub parts: Vec<Vec<u32>>,
    /// Bytes of a weight as it travels for each byte of its gradient: 0.5 for halves.
    pub weight_share: f64,
    /// Leaves of a step.
    pub leaves: u32,
    /// Which processes share cores.
    pub placement: Placement,
    /// Cores of each host.
    pub cores: usize,
    /// What connects each process with the others.
    pub link: Link,
    /// Workers that are slow at times, if any.
    pub stragglers: Option<Stragglers>,
    /// Decides who straggles when.
    pub seed: u64,
}

/// Who keeps the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keepers {
    /// One server for each part; the first one hands out the work, too.
    Servers,
    /// The workers, each one part, the last ones none if there are fewer parts; another process hands out the work.
    Workers,
}

/// Which processes share cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Each process has a host to itself.
    Apart,
    /// All of them run on one host.
    Together,
}

/// The way between a process and all others. Both directions have the bandwidth to themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes of payload a second; infinite where processes only pay with time of their cores.
    pub bandwidth: f64,
    /// Seconds that a message is under way, sending and waking the receiver not counted.
    pub latency: f64,
    /// Of those who send to one process through such links, the fastest have so much more than the mean rate, and the
    /// slowest as much less.
    pub unevenness: f64,
}

impl Link {
    /// The unevenness of TCP connections, as it fits what was measured; docs/scaling.md has the figures.
    pub const TCP: f64 = 0.6;
}

/// In each step each worker is with probability `share` slower by `factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stragglers {
    /// From 0 to 1.
    pub share: f64,
    /// How many times as long its computation takes.
    pub factor: f64,
}
