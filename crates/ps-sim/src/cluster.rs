//! The event loop, which processes all happenings in the order of (time, sequence).

use crate::disk::CheckpointDisk;
use crate::faults::Faults;
use crate::lies::Lies;
use crate::network::{Link, LinkId, Network, ToServer, ToWorker};
use crate::server_side::Server;
use crate::shard_links::{FromShard, ShardLink, ShardLinkId, ToShard};
use crate::shard_side::Shard;
use crate::worker_side::Slot;
use crate::{Report, SimJob, checks};
use ps_checkpoint::Snapshot;
use ps_coord::{Digest, Millis, Outcome};
use ps_core::Gradients;
use ps_core::chunk::read;
use ps_plan::Node;
use ps_plane::{OptimizerStateChunk, Plane};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Something that happens at a point in virtual time.
#[derive(Clone, Debug)]
pub(crate) enum SimEvent {
    /// A message reaches the server.
    ToServer { link: LinkId, message: ToServer },
    /// A message reaches a worker.
    ToWorker { link: LinkId, message: ToWorker },
    /// The server notices that a connection has ended.
    ServerSeesEnd { link: LinkId },
    /// The worker notices that a connection has ended, or its connection is refused.
    WorkerSeesEnd { link: LinkId, why: &'static str },
    /// The data plane has completed an update.
    UpdateDone { era: u32, step: u64 },
    /// The coordinator has computed a node itself.
    Recomputed { era: u32, step: u64, node: Node, digest: Digest },
    /// A snapshot of the run is written to disk.
    Save { process: u32, returns: u32, snapshot: Arc<Snapshot> },
    /// The coordinator has restored earlier weights, or found that there are none.
    RolledBack { era: u32, version: Option<u64> },
    /// A message from a shard reaches the coordinator.
    ToCoordinator { link: ShardLinkId, message: FromShard },
    /// A message from the coordinator reaches a shard.
    ToShard { link: ShardLinkId, message: ToShard },
    /// A shard asks the coordinator for admission.
    Attach { shard: usize, process: u32 },
    /// The connection between a shard and the coordinator breaks.
    ShardCut { shard: usize },
    /// A shard crashes.
    ShardCrash { shard: usize },
    /// A shard starts.
    ShardStart { shard: usize },
    /// The coordinator crashes.
    ServerCrash { process: u32 },
    /// The coordinator starts.
    ServerStart,
    /// A worker has completed a computation.
    ComputeDone { slot: usize, incarnation: u32, step: u64, leaves: Range<u32> },
    /// The server's deadline may have passed.
    ServerTimer,
    /// A worker's deadline may have passed.
    WorkerTimer { slot: usize, incarnation: u32 },
    /// A worker process crashes.
    Crash { slot: usize, incarnation: u32 },
    /// A worker process starts.
    Start { slot: usize },
    /// A worker is asked to stop.
    Leave { slot: usize },
}

/// Receives the lines of the trace, if there is one.
pub(crate) type Trace<'a> = Option<&'a mut dyn FnMut(String)>;

/// The state of one simulated run.
pub(crate) struct Cluster<'a> {
    pub job: &'a SimJob<'a>,
    pub now: Millis,
    pub network: Network,
    /// The coordinator and its data plane.
    pub server: Server,
    /// Number of the coordinator's current process, which grows with each restart.
    pub server_process: u32,
    /// The coordinator's disk.
    pub disk: CheckpointDisk,
    /// Whether the last event made the run resume from an earlier version.
    pub rewound: bool,
    /// The other servers, each with a part of the weights.
    pub shards: Vec<Shard>,
    pub slots: Vec<Slot>,
    pub lies: Lies,
    pub links: BTreeMap<LinkId, Link>,
    /// Connections between the coordinator and the other shards, by [`ShardLinkId`].
    pub shard_links: Vec<ShardLink>,
    pub gradients: Gradients,
    /// The elements of each chunk of the flat parameter vector.
    pub chunks: Vec<Range<usize>>,
    /// The chunks that each server holds, the coordinator first.
    pub kept: Vec<Range<usize>>,
    pub seed: u64,
    /// When the server finished, in virtual time.
    pub finished_at: Option<Millis>,
    queue: BTreeMap<(Millis, u64), SimEvent>,
    sequence: u64,
    trace: Trace<'a>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(job: &'a SimJob<'a>, faults: &Faults, seed: u64, trace: Trace<'a>) -> Self {
        let mut cluster = Cluster {
            job,
            now: 0,
            network: Network::new(faults.clone(), seed),
            server: Server::new(job, 0, job.plane(0), &BTreeMap::new()),
            server_process: 0,
            disk: CheckpointDisk::new(job),
            rewound: false,
            shards: (1..job.servers as usize)
                .map(|server| Shard::new(job.plane(server), job.mutation))
                .collect(),
            slots: Vec::new(),
            lies: Lies::default(),
            links: BTreeMap::new(),
            shard_links: Vec::new(),
            chunks: job.chunks(),
            kept: (0..job.servers as usize).map(|server| job.kept(server)).collect(),
            gradients: Gradients::new(job.model.clone(), job.plan, job.kernel),
            seed,
            finished_at: None,
            queue: BTreeMap::new(),
            sequence: 0,
            trace,
        };
        cluster.at(0, SimEvent::ServerTimer);
        for shard in 0..cluster.shards.len() {
            cluster.attach_later(shard, 50);
        }
        for _ in 0..job.workers {
            cluster.add_worker(100);
        }
        cluster
    }

    /// Runs until the server and every worker have finished.
    ///
    /// # Errors
    /// Returns a description of the invariant that was broken.
    pub(crate) fn run(mut self) -> Result<Report, String> {
        let mut events = 0;
        self.disk.start(0, &mut self.network)?;
        while let Some(((time, _), event)) = self.queue.pop_first() {
            self.now = time;
            events += 1;
            self.check_progress()?;
            if self.trace.is_some() {
                let line = describe(&event);
                self.note(|| line);
            }
            let before = self.server.core.version();
            self.handle(event)?;
            // While the servers go back to a checkpoint, their versions may differ by any number of steps.
            if self.server.is_whole {
                let before = if std::mem::take(&mut self.rewound) { None } else { Some(before) };
                checks::versions(before, &self.server, &self.shards)?;
            }
        }
        let outcome =
            self.server.outcome.take().ok_or("nothing is left to happen, but the run is not over")?;
        // Unless every node is audited, an undetected lie stays in the weights, and so does one that could
        // not be undone.
        let is_right = self.lies.committed.is_empty() && !self.lies.is_tainted;
        if !is_right && self.job.audit >= 1.0 {
            return Err(format!("lies are part of the weights: {:?}", self.lies.committed));
        }
        let expected = self.job.expected.as_deref().filter(|_| outcome == Outcome::Done && is_right);
        let hash = checks::weights(expected, &self.server.result)?;
        self.accumulate_counts();
        let (steps, counts) = (self.server.plane.version(), self.network.counts);
        let virtual_ms = self.finished_at.unwrap_or(self.now);
        Ok(Report { outcome, hash, steps, events, virtual_ms, counts })
    }

    /// The whole weights after the last step that all servers have made, and the state that belongs to them,
    /// `[vectors, parameters]`; `None` if a shard has crashed.
    pub(crate) fn truth(&self) -> Option<(Vec<f32>, Vec<f32>)> {
        let (version, parameters) = (self.server.plane.version(), self.job.model.parameters());
        if !self.shards.iter().all(|shard| shard.era == Some(self.server.era)) {
            return None;
        }
        let mut weights = vec![0.0; parameters];
        let mut state = vec![0.0; self.server.plane.control().vectors().len() * parameters];
        for plane in self.planes() {
            for (offset, bytes) in plane.chunks_at(version)? {
                let elements = bytes.as_chunks().0;
                read(elements, &mut weights[offset..offset + elements.len()]);
            }
            for OptimizerStateChunk { vector, offset, bytes } in plane.state_at(version) {
                let (elements, start) = (bytes.as_chunks().0, vector * parameters + offset);
                read(elements, &mut state[start..start + elements.len()]);
            }
        }
        Some((weights, state))
    }

    /// The data planes of all servers, the coordinator first.
    fn planes(&self) -> impl Iterator<Item = &Plane> {
        std::iter::once(&self.server.plane).chain(self.shards.iter().map(|shard| &shard.plane))
    }

    /// The run must end within a bounded time after the last fault, and the workers within a bounded time
    /// after the server.
    fn check_progress(&self) -> Result<(), String> {
        let healed = self.network.faults.heal_ms;
        let (start, longest) = match self.finished_at {
            None => (healed, checks::MAX_MS + checks::MAX_STEP_MS.saturating_mul(self.job.plan.steps)),
            Some(finished) => (finished, checks::MAX_GOODBYE_MS),
        };
        match self.now > start.saturating_add(longest) {
            false => Ok(()),
            true => Err(format!("no end {longest} ms after t={start}: {}", self.server.core.status())),
        }
    }

    fn handle(&mut self, event: SimEvent) -> Result<(), String> {
        match event {
            SimEvent::ToServer { link, message } => match self.links.get(&link).map(|link| link.server) {
                Some(0) | None => self.server_receives(link, message),
                Some(server) => self.shard_receives(server - 1, link, message),
            },
            SimEvent::ServerSeesEnd { link } => match self.links.get(&link).map(|link| link.server) {
                Some(0) | None => self.server_sees_end(link),
                Some(server) => {
                    self.shard_sees_end(server - 1, link);
                    Ok(())
                }
            },
            SimEvent::UpdateDone { era, step } => self.update_done(era, step),
            SimEvent::Recomputed { era, step, node, digest } => self.on_recomputed(era, step, node, digest),
            SimEvent::Save { process, returns, snapshot } => self.save(process, returns, &snapshot),
            SimEvent::RolledBack { era, version } => self.on_rolled_back(era, version),
            SimEvent::ToCoordinator { link, message } => self.coordinator_is_sent(link, message),
            SimEvent::ToShard { link, message } => self.shard_is_sent(link, message),
            SimEvent::Attach { shard, process } => {
                self.shard_attaches(shard, process);
                Ok(())
            }
            SimEvent::ShardCut { shard } => {
                self.shard_is_cut(shard);
                Ok(())
            }
            SimEvent::ShardCrash { shard } => {
                self.shard_crashes(shard);
                Ok(())
            }
            SimEvent::ShardStart { shard } => {
                self.shard_starts(shard);
                Ok(())
            }
            SimEvent::ServerCrash { process } => {
                self.server_crashes(process);
                Ok(())
            }
            SimEvent::ServerStart => self.server_starts(),
            SimEvent::ServerTimer => self.server_timer(),
            SimEvent::Start { slot } => self.start(slot),
            SimEvent::Leave { slot } => self.leave(slot),
            SimEvent::Crash { slot, incarnation } => self.crash(slot, incarnation),
            event => self.worker_event(event),
        }
    }

    /// Schedules an event.
    pub(crate) fn at(&mut self, time: Millis, event: SimEvent) {
        // The sequence number orders events of the same time, so that a seed always gives the same run.
        self.queue.insert((time, self.sequence), event);
        self.sequence += 1;
    }

    /// Writes a line to the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace(format!("t={:<6} {}", self.now, line()));
        }
    }

    /// Sends a message to the server.
    pub(crate) fn send_to_server(&mut self, link: LinkId, message: ToServer) {
        self.send(link, true, |link| SimEvent::ToServer { link, message: message.clone() });
    }

    /// Sends a message to a worker.
    pub(crate) fn send_to_worker(&mut self, link: LinkId, message: ToWorker) {
        self.send(link, false, |link| SimEvent::ToWorker { link, message: message.clone() });
    }

    fn send(&mut self, id: LinkId, upwards: bool, event: impl Fn(LinkId) -> SimEvent) {
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.cut) else { return };
        if self.slots[link.slot].blocked_until[usize::from(upwards)] > self.now {
            self.note(|| format!("  lost in a partition: {}", describe(&event(id))));
            return;
        }
        let delivery = self.network.delivery(self.now, link, upwards);
        if delivery.arrivals.is_empty() {
            self.note(|| format!("  lost: {}", describe(&event(id))));
        }
        // What was sent before the cut may still arrive, which is why the message is scheduled before the
        // connection is cut.
        for arrival in delivery.arrivals {
            self.at(arrival, event(id));
        }
        if delivery.cut {
            self.network.counts.cuts += 1;
            self.note(|| format!("  connection {id} is cut"));
            self.cut(id);
        }
    }

    /// Cuts a connection, so that no further message arrives. Each end notices soon, late, or only by the
    /// other's silence. A shard, which is silent most of the time, notices by the transport's own pings.
    fn cut(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.cut = true;
        let pings = link.server > 0;
        for event in [
            SimEvent::ServerSeesEnd { link: id },
            SimEvent::WorkerSeesEnd { link: id, why: "connection reset" },
        ] {
            let delay = self.network.up_to(2000);
            if pings || self.network.chance(0.7) {
                self.at(self.now + 1 + delay, event);
            }
        }
    }
}

/// Formats an event as one line.
fn describe(event: &SimEvent) -> String {
    match event {
        SimEvent::ToServer { link, message: ToServer::Sum { step, sum, chunks } } => {
            format!("server <- {link}: chunks {chunks:?} of node {} of step {step}", sum.node)
        }
        SimEvent::ToServer { link, message } => format!("server <- {link}: {message:?}"),
        SimEvent::ToWorker { link, message: ToWorker::Weights { version, .. } } => {
            format!("worker <- {link}: weights of version {version}")
        }
        SimEvent::ToWorker { link, message } => format!("worker <- {link}: {message:?}"),
        other => format!("{other:?}"),
    }
}
