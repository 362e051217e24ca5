//! How a server behaves, and how the weights are cut among servers.

use ps_net::{Security, limits};
use ps_proto::limits::part;
use std::ops::Range;
use std::time::Duration;

/// How the server behaves; nothing here changes a bit of the weights.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Workers without whom the first round does not open.
    pub min_workers: u32,
    /// Too few workers for this long end the run, and so do missing shards. A shard looks this long for its coordinator.
    pub join_timeout: Duration,
    /// A worker of whom nothing was heard for this long is lost. It is told to be heard five times as often.
    pub contact_timeout: Duration,
    /// Leaves that are not back after this long are also given to another worker.
    pub work_timeout: Duration,
    /// A wait that lasts is reported this often.
    pub notice_every: Duration,
    /// Workers at most; more are turned away and may try again.
    pub max_workers: u32,
    /// The share of nodes, 0 to 1, that are computed twice and compared. Only where one server keeps all weights.
    pub audit: f64,
    /// Who keeps which part of the weights.
    pub layout: Layout,
    /// What callers must show, and what this server shows where it calls others.
    pub security: Security,
    /// Whether each worker has a certificate or token of its own, so that a ban can be enforced. A second worker with the same
    /// one is refused while the first is there.
    pub individual_credentials: bool,
    /// A connection that brought no call that was let in for this long is closed.
    pub admission_timeout: Duration,
    /// Whether whoever is let in may ask for the description of the services.
    pub reflection: bool,
    /// In a simulation its seed, which decides what the system otherwise does: rounds have no thread of their own, and go
    /// by the clock of the caller's runtime.
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
            layout: Layout::default(),
            security: Security::default(),
            individual_credentials: false,
            admission_timeout: limits::ADMISSION_TIMEOUT,
            reflection: false,
            simulation: None,
        }
    }
}

/// How the weights are cut among processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Parts, of whole chunks, as equal as can be.
    pub parts: u32,
    /// Whether the coordinator keeps the first; otherwise shards keep all.
    pub coordinator_keeps: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { parts: 1, coordinator_keeps: true }
    }
}

impl Layout {
    /// What the coordinator keeps of `parameters` elements.
    pub fn own(self, parameters: usize) -> Range<usize> {
        if self.coordinator_keeps { part(parameters, 0, self.parts) } else { 0..0 }
    }

    /// The number of the first of the other shards, as `--shard` counts them.
    pub fn first(self) -> u32 {
        u32::from(self.coordinator_keeps)
    }

    /// What each of the other shards keeps.
    pub fn others(self, parameters: usize) -> Vec<Range<usize>> {
        (self.first()..self.parts).map(|index| part(parameters, index, self.parts)).collect()
    }
}
