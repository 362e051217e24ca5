//! How a server behaves, and how the weights are split among servers.

use ps_net::{Security, limits};
use ps_proto::limits::shard_range;
use std::ops::Range;
use std::time::Duration;

/// The behaviour of a server. No option changes a bit of the weights.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Number of workers required to open the first round.
    pub min_workers: u32,
    /// The run ends after this time with too few workers or shards. A shard tries to reach its coordinator
    /// for this long.
    pub join_timeout: Duration,
    /// A worker that has sent nothing for this long is lost. Workers send a heartbeat five times as often.
    pub contact_timeout: Duration,
    /// Leaves that are not back after this time are also assigned to another worker.
    pub work_timeout: Duration,
    /// Interval at which an ongoing wait is logged.
    pub notice_every: Duration,
    /// Maximum number of workers; more are turned away and may try again.
    pub max_workers: u32,
    /// Fraction of nodes, from 0 to 1, that are computed twice and compared. Requires that one server
    /// keeps all weights.
    pub audit: f64,
    /// How the weights are split among processes.
    pub layout: ShardLayout,
    /// What callers must present, and what this server presents in its own calls.
    pub security: Security,
    /// Whether each worker has a separate certificate or token, so that a ban can be enforced. A second
    /// worker with the same one is refused while the first is connected.
    pub individual_credentials: bool,
    /// A connection is closed if none of its calls was admitted within this time.
    pub admission_timeout: Duration,
    /// Whether admitted callers may use gRPC reflection.
    pub reflection: bool,
    /// Seed of a simulation, which replaces the system's randomness. Rounds then have no separate thread and
    /// follow the clock of the caller's runtime.
    pub simulation: Option<u64>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            min_workers: 1,
            join_timeout: Duration::from_secs(600),
            contact_timeout: Duration::from_secs(10),
            work_timeout: Duration::from_secs(30),
            notice_every: Duration::from_secs(10),
            max_workers: limits::MAX_WORKERS as u32,
            audit: 0.0,
            layout: ShardLayout::default(),
            security: Security::default(),
            individual_credentials: false,
            admission_timeout: limits::ADMISSION_TIMEOUT,
            reflection: false,
            simulation: None,
        }
    }
}

/// How the weights are split among processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    /// Number of ranges, including the coordinator's. Each consists of whole chunks, and their sizes differ
    /// as little as possible.
    pub shards: u32,
    /// Whether the coordinator keeps the first range; otherwise the other shards keep all.
    pub coordinator_keeps: bool,
}

impl Default for ShardLayout {
    fn default() -> Self {
        ShardLayout { shards: 1, coordinator_keeps: true }
    }
}

impl ShardLayout {
    /// The range of `parameters` elements that the coordinator keeps; may be empty.
    pub fn coordinator_range(self, parameters: usize) -> Range<usize> {
        if self.coordinator_keeps { shard_range(parameters, 0, self.shards) } else { 0..0 }
    }

    /// The number of the first of the other shards, as `--shard` counts them.
    pub fn first_shard(self) -> u32 {
        u32::from(self.coordinator_keeps)
    }

    /// The ranges that the other shards keep.
    pub fn shard_ranges(self, parameters: usize) -> Vec<Range<usize>> {
        (self.first_shard()..self.shards).map(|index| shard_range(parameters, index, self.shards)).collect()
    }
}
