//! The simulated cluster: processes, and the links between them.

/// The workers, the processes that hold the weights, and their cores and links.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Number of worker processes.
    pub workers: usize,
    /// Number of threads on which each worker computes.
    pub threads: usize,
    /// Which processes hold the weights.
    pub holders: WeightHolders,
    /// The chunks of each shard, as bytes of their gradient. If the workers hold the weights, there are at
    /// most as many shards as workers.
    pub parts: Vec<Vec<u32>>,
    /// Size of a transmitted weight relative to its gradient: 0.5 for half precision.
    pub weight_share: f64,
    /// Number of leaves of a step.
    pub leaves: u32,
    /// Which processes share a host and its cores.
    pub placement: Placement,
    /// Number of cores of each host.
    pub cores: usize,
    /// The link of each process to all others.
    pub link: Link,
    /// How often workers are slow, if they ever are.
    pub stragglers: Option<Stragglers>,
    /// Seed that determines which workers are slow in which step.
    pub seed: u64,
}

/// Which processes hold the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightHolders {
    /// One server per shard. The first one is also the coordinator.
    Servers,
    /// The workers, with one shard each; if there are fewer shards, the last workers hold none. The
    /// coordinator is a separate process.
    Workers,
}

/// Which processes share a host and its cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Each process has its own host.
    SeparateHosts,
    /// All processes run on one host.
    SharedHost,
}

/// The link between a process and all others. It is full duplex.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes of payload per second; infinite for processes on one host, which only cost CPU time.
    pub bandwidth: f64,
    /// Latency of a message in seconds, without the time to send it and to wake the receiver.
    pub latency: f64,
    /// Spread of the rates of processes that send to the same receiver. The fastest exceed the mean rate by
    /// this share of it, and the slowest fall short by as much.
    pub unevenness: f64,
}

impl Link {
    /// The unevenness of TCP connections, fitted to measurements; see docs/scaling.md.
    pub const TCP: f64 = 0.6;
}

/// In each step, each worker is slowed down by `factor` with probability `share`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stragglers {
    /// Probability, from 0 to 1.
    pub share: f64,
    /// Factor on the duration of its computation, above 1.
    pub factor: f64,
}
