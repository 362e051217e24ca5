//! The workers' shell and data plane in the simulator, and the faults of workers.

use crate::cluster::{Cluster, SimEvent};
use crate::network::{Link, LinkId, Sum, ToServer, ToWorker};
use bytes::Bytes;
use ps_coord::{Millis, WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerOutcome};
use ps_core::NodeSum;
use ps_core::chunk::{read, share};
use ps_plan::mutation::Mutation;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Virtual time per leaf, by slot and seed: some workers are slower, even if there is only one.
const LEAF_MS: [u32; 4] = [5, 10, 20, 60];

/// Maximum virtual time of a computation of any number of leaves. It is below the timeout after which the
/// server gives up on a worker.
const MAX_COMPUTE_MS: u32 = 400;

/// A place for a worker process, which may crash and restart.
#[derive(Default)]
pub(crate) struct Slot {
    incarnation: u32,
    process: Option<Process>,
    /// Whether the process sometimes lies.
    lies: bool,
    /// When the worker's suspension ends.
    stalled_until: Millis,
    /// Whether the worker was asked to stop.
    leaving: bool,
    /// When the partition ends that loses the messages to the worker (0) and from it (1).
    pub(crate) blocked_until: [Millis; 2],
}

/// A worker process while it runs.
struct Process {
    core: WorkerCore,
    /// The connections to all servers, the coordinator first. Empty before the worker first connects.
    links: Vec<LinkId>,
    held: Held,
    computing: bool,
    /// Sums that were computed but neither pushed nor discarded, each with the coordinator connection on
    /// which its task arrived.
    sums: BTreeMap<(u64, u32, u32), (LinkId, Vec<NodeSum>)>,
    /// The earliest timer in the queue.
    timer: Option<Millis>,
}

/// The weights that a worker holds, complete or still arriving: for two versions, chunks by first element.
/// The older version is needed because leaves of the current step may be requested again after some shards
/// have completed the step.
#[derive(Default)]
struct Held(BTreeMap<u64, BTreeMap<usize, Bytes>>);

impl Held {
    /// Adds chunks. Returns whether this completes the newest version, of `chunks` chunks.
    fn take(&mut self, version: u64, parts: Vec<(usize, Bytes)>, chunks: usize) -> bool {
        self.0.entry(version).or_default().extend(parts);
        while self.0.len() > 2 {
            self.0.pop_first();
        }
        self.newest(chunks) == Some(version)
    }

    /// The newest version that is complete.
    fn newest(&self, chunks: usize) -> Option<u64> {
        self.0.iter().rev().find(|(_, parts)| parts.len() == chunks).map(|(&version, _)| version)
    }

    /// Assembles the weights of a version, if it is complete.
    fn whole(&self, version: u64, chunks: usize) -> Option<Vec<f32>> {
        let parts = self.0.get(&version).filter(|parts| parts.len() == chunks)?;
        let mut weights = Vec::new();
        for bytes in parts.values() {
            let start = weights.len();
            weights.resize(start + bytes.len() / 4, 0.0);
            read(bytes.as_chunks().0, &mut weights[start..]);
        }
        Some(weights)
    }
}

impl Cluster<'_> {
    /// Adds a worker that starts within `within` ms.
    pub(crate) fn add_worker(&mut self, within: u32) {
        self.slots.push(Slot::default());
        let delay = self.network.up_to(within);
        self.at(self.now + delay, SimEvent::Start { slot: self.slots.len() - 1 });
    }

    /// Draws the faults of whole workers. Called once per step.
    pub(crate) fn inject_faults(&mut self) {
        let faults = self.network.faults.clone();
        let slot = self.network.below(self.slots.len() as u32) as usize;
        if self.network.occurs(self.now, faults.stall) {
            self.slots[slot].stalled_until = self.now + Millis::from(50 + self.network.below(3000));
            self.network.counts.stalls += 1;
            self.note(|| format!("  worker in slot {slot} stands still"));
        }
        if (self.slots.len() as u32) < faults.max_workers && self.network.occurs(self.now, faults.join) {
            self.network.counts.joins += 1;
            self.add_worker(200);
        }
        if self.network.occurs(self.now, faults.leave) {
            self.leave_later();
        }
        if self.network.occurs(self.now, faults.storm) {
            self.network.counts.storms += 1;
            for _ in 0..3 {
                self.leave_later();
                if (self.slots.len() as u32) < faults.max_workers {
                    self.add_worker(200);
                }
            }
        }
        if self.network.occurs(self.now, faults.partition) {
            self.partition();
        }
        self.inject_server_faults();
    }

    fn leave_later(&mut self) {
        let delay = self.network.up_to(200);
        let slot = self.network.below(self.slots.len() as u32) as usize;
        self.at(self.now + delay, SimEvent::Leave { slot });
    }

    /// Starts a partition, which loses the messages to or from a worker for a while.
    fn partition(&mut self) {
        let slot = self.network.below(self.slots.len() as u32) as usize;
        let until = self.now + 50 + Millis::from(self.network.below(4000));
        let directions = self.network.below(3);
        let blocked = &mut self.slots[slot].blocked_until;
        if directions != 1 {
            blocked[0] = until;
        }
        if directions != 0 {
            blocked[1] = until;
        }
        let counts = &mut self.network.counts;
        let count = [&mut counts.partitions_down, &mut counts.partitions_up, &mut counts.partitions_both];
        *count.into_iter().nth(directions as usize).expect("there are three kinds") += 1;
        self.note(|| format!("  worker in slot {slot} is cut off, kind {directions}"));
    }

    /// Draws the faults of the servers.
    fn inject_server_faults(&mut self) {
        let faults = self.network.faults.clone();
        if self.network.occurs(self.now, faults.server_crash) {
            let delay = self.network.up_to(300);
            self.at(self.now + delay, SimEvent::ServerCrash { process: self.server_process });
        }
        if self.shards.is_empty() {
            return;
        }
        let shard = self.network.below(self.shards.len() as u32) as usize;
        let delay = self.network.up_to(300);
        if self.network.occurs(self.now, faults.shard_crash) {
            self.at(self.now + delay, SimEvent::ShardCrash { shard });
        }
        if self.network.occurs(self.now, faults.shard_cut) {
            self.at(self.now + delay, SimEvent::ShardCut { shard });
        }
    }

    pub(crate) fn start(&mut self, index: usize) -> Result<(), String> {
        let slot = &mut self.slots[index];
        if slot.process.is_some() {
            return Ok(());
        }
        slot.incarnation += 1;
        slot.stalled_until = 0;
        slot.leaving = false;
        // Without audits, nothing would reveal a lie, and the final weights would be wrong without a fault of
        // the code.
        slot.lies = self.job.audit > 0.0 && self.network.occurs(self.now, self.network.faults.lie);
        let config = WorkerConfig {
            heartbeat_ms: 200,
            server_timeout_ms: 1_500,
            weights_timeout_ms: 300,
            reconnect_min_ms: 100,
            reconnect_max_ms: 2_000,
            give_up_ms: 30_000,
            jitter_seed: self.seed ^ (u64::from(slot.incarnation) << 32 | index as u64),
        };
        let core = WorkerCore::new(self.now, config).with_mutation(self.job.mutation);
        let (links, held, sums) = (Vec::new(), Held::default(), BTreeMap::new());
        slot.process = Some(Process { core, links, held, computing: false, sums, timer: None });
        self.set_worker_timer(index);
        Ok(())
    }

    pub(crate) fn leave(&mut self, slot: usize) -> Result<(), String> {
        if self.slots[slot].process.is_some() {
            self.network.counts.leaves += 1;
            self.slots[slot].leaving = true;
            self.worker_steps(slot, WorkerEvent::Stop)?;
        }
        Ok(())
    }

    /// Crashes the process, which loses its state. The servers notice soon, late, or only by the silence.
    pub(crate) fn crash(&mut self, slot: usize, incarnation: u32) -> Result<(), String> {
        if self.slots[slot].incarnation != incarnation {
            return Ok(());
        }
        let Some(process) = self.slots[slot].process.take() else { return Ok(()) };
        for link in process.links {
            self.close(link);
            if self.network.chance(0.7) {
                let delay = self.network.up_to(500);
                self.at(self.now + 1 + delay, SimEvent::ServerSeesEnd { link });
            }
        }
        self.restart(slot);
        Ok(())
    }

    fn restart(&mut self, slot: usize) {
        if self.server.outcome.is_none() {
            let delay = self.network.up_to(3000);
            self.at(self.now + 1 + delay, SimEvent::Start { slot });
        }
    }

    /// The worker drops its connections, and each server notices after some time.
    fn close_links(&mut self, links: &[LinkId], within: u32) {
        for &link in links {
            self.close(link);
            let delay = self.network.up_to(within);
            self.at(self.now + 1 + delay, SimEvent::ServerSeesEnd { link });
        }
    }

    /// Closes the worker's end of a connection.
    fn close(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.worker_open = false;
        }
    }

    /// Handles what happens to one worker. If the worker is suspended, this waits until the suspension ends.
    pub(crate) fn worker_event(&mut self, event: SimEvent) -> Result<(), String> {
        let (slot, incarnation) = match &event {
            SimEvent::ToWorker { link, .. } | SimEvent::WorkerSeesEnd { link, .. } => {
                match self.links.get(link).filter(|link| link.worker_open) {
                    Some(link) => (link.slot, link.incarnation),
                    None => return Ok(()),
                }
            }
            SimEvent::ComputeDone { slot, incarnation, .. } | SimEvent::WorkerTimer { slot, incarnation } => {
                (*slot, *incarnation)
            }
            _ => return Ok(()),
        };
        let (now, place) = (self.now, &mut self.slots[slot]);
        let Some(process) = place.process.as_mut().filter(|_| place.incarnation == incarnation) else {
            return Ok(());
        };
        // A suspended process loses nothing that arrives; it handles everything late.
        if place.stalled_until > now {
            let until = place.stalled_until;
            self.at(until, event);
            return Ok(());
        }
        let event = match event {
            SimEvent::ToWorker { link, message } => match message {
                ToWorker::Welcome => match self.on_welcome(slot, link) {
                    true => WorkerEvent::Connected,
                    false => return Ok(()),
                },
                ToWorker::HeartbeatSeen => WorkerEvent::MessageReceived,
                ToWorker::Weights { version, parts } => {
                    match process.held.take(version, parts, self.chunks.len()) {
                        true => WorkerEvent::Weights { version },
                        false => WorkerEvent::MessageReceived,
                    }
                }
                ToWorker::Work { step, leaves } => WorkerEvent::Assigned { step, leaves },
                ToWorker::Dismissed(reason) => WorkerEvent::Dismissed(reason),
            },
            SimEvent::WorkerSeesEnd { link, why } => {
                // A worker needs the connections to all servers, so it closes the others as well.
                let others: Vec<LinkId> = process.links.iter().copied().filter(|&id| id != link).collect();
                self.close(link);
                self.close_links(&others, 500);
                WorkerEvent::Disconnected(why.into())
            }
            SimEvent::ComputeDone { step, leaves, .. } => {
                process.computing = false;
                WorkerEvent::Computed { step, leaves }
            }
            _ => {
                process.timer = None;
                if process.core.deadline().is_none_or(|deadline| deadline > now) {
                    self.set_worker_timer(slot);
                    return Ok(());
                }
                WorkerEvent::Timeout
            }
        };
        self.worker_steps(slot, event)
    }

    fn worker_steps(&mut self, slot: usize, event: WorkerEvent) -> Result<(), String> {
        let mut actions = Vec::new();
        if let Some(process) = &mut self.slots[slot].process {
            process.core.step(self.now, event, &mut actions);
        }
        for action in actions {
            self.note(|| format!("  slot {slot}: {action:?}"));
            self.worker_performs(slot, action)?;
        }
        self.set_worker_timer(slot);
        Ok(())
    }

    fn set_worker_timer(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let incarnation = slot.incarnation;
        let Some(process) = &mut slot.process else { return };
        let Some(deadline) = process.core.deadline() else { return };
        // A deadline that moves to a later time needs no new timer: the one that fires too early sets the
        // next.
        if process.timer.is_none_or(|timer| deadline < timer) {
            process.timer = Some(deadline);
            self.at(deadline.max(self.now), SimEvent::WorkerTimer { slot: index, incarnation });
        }
    }

    fn worker_performs(&mut self, slot: usize, action: WorkerAction) -> Result<(), String> {
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        match action {
            WorkerAction::Connect => self.connect(slot),
            WorkerAction::Compute { step, leaves } => return self.compute(slot, step, leaves),
            WorkerAction::Discard { step, leaves } => {
                process.sums.remove(&(step, leaves.start, leaves.end));
            }
            WorkerAction::Notice(_) => {}
            WorkerAction::Finish(WorkerOutcome::Done) if self.server.outcome.is_none() => {
                return Err(format!("slot {slot} is done before the run is"));
            }
            WorkerAction::Finish(outcome) => self.worker_ends(slot, outcome),
            action if process.links.is_empty() => {
                return Err(format!("slot {slot}: {action:?} without a connection"));
            }
            WorkerAction::Push { step, leaves } => return self.push(slot, step, leaves),
            WorkerAction::RequestWeights => {
                for link in process.links.clone() {
                    self.send_to_server(link, ToServer::RequestWeights);
                }
            }
            WorkerAction::ReportDropped { .. } => {
                let coordinator = process.links[0];
                self.send_to_server(coordinator, ToServer::Dropped);
            }
            // Shards need no heartbeats, because they do not track membership.
            WorkerAction::Heartbeat => {
                let coordinator = process.links[0];
                self.send_to_server(coordinator, ToServer::Heartbeat);
            }
        }
        Ok(())
    }

    /// Connects to the shards first, and to the coordinator, which assigns work, once all shards have
    /// admitted the worker.
    fn connect(&mut self, slot: usize) {
        let incarnation = self.slots[slot].incarnation;
        let first = self.links.len() as LinkId;
        let links: Vec<LinkId> = (first..).take(self.job.servers as usize).collect();
        for (server, &id) in links.iter().enumerate() {
            self.links.insert(id, Link::new(slot, incarnation, server));
        }
        let Some(process) = &mut self.slots[slot].process else { return };
        process.held = Held::default();
        let old = std::mem::replace(&mut process.links, links.clone());
        self.close_links(&old, 500);
        match &links[1..] {
            [] if self.server.is_up && self.server.outcome.is_none() => {
                self.send_to_server(first, ToServer::Hello)
            }
            shards if self.are_ready() && self.server.outcome.is_none() => {
                shards.iter().for_each(|&id| self.send_to_server(id, ToServer::Hello));
            }
            // The coordinator is not running, or not all shards are attached.
            _ => {
                self.at(self.now + 1, SimEvent::WorkerSeesEnd { link: first, why: "connection refused" });
            }
        }
    }

    /// Whether the coordinator knows the addresses of all shards.
    fn are_ready(&self) -> bool {
        let mut shards = 0..self.shards.len() as u32;
        self.server.is_up && shards.all(|shard| self.server.coordinator.is_ready(shard))
    }

    /// Records that a server has admitted the worker. Returns whether that was the coordinator, which is
    /// the last one.
    fn on_welcome(&mut self, slot: usize, id: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        if link.server == 0 {
            return true;
        }
        // A welcome may arrive twice, but the coordinator must be greeted once.
        let is_new = !std::mem::replace(&mut link.on_welcome, true);
        let Some(process) = &self.slots[slot].process else { return false };
        if is_new && process.links[1..].iter().all(|id| self.links[id].on_welcome) {
            let coordinator = process.links[0];
            self.send_to_server(coordinator, ToServer::Hello);
        }
        false
    }

    fn compute(&mut self, slot: usize, step: u64, leaves: Range<u32>) -> Result<(), String> {
        let incarnation = self.slots[slot].incarnation;
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        let chunks = self.chunks.len();
        let version = match self.job.mutation.is(Mutation::WeightsOfWrongStepUsed) {
            true => process.held.newest(chunks).unwrap_or(step),
            false => step,
        };
        let Some(weights) = process.held.whole(version, chunks) else {
            return self.cannot_compute(slot, step, leaves);
        };
        if std::mem::replace(&mut process.computing, true) {
            return Err(format!("slot {slot} computes two things at once"));
        }
        let sums = self.job.sums(&mut self.gradients, &weights, step, leaves.clone());
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        process.sums.insert((step, leaves.start, leaves.end), (process.links[0], sums));
        let longest = LEAF_MS[(slot + self.seed as usize) % LEAF_MS.len()]
            .saturating_mul(leaves.len() as u32)
            .min(MAX_COMPUTE_MS);
        let coordinator = process.links[0];
        let mut time = 1 + self.network.up_to(longest);
        if self.network.occurs(self.now, self.network.faults.interrupt) {
            self.network.counts.interruptions += 1;
            let moment = self.now + self.network.up_to(time as u32);
            // Computes for so long that the worker is connected again before it is done. Only then could it
            // push over one connection what it began on another.
            time += self.network.up_to(1000);
            self.at(moment, SimEvent::WorkerSeesEnd { link: coordinator, why: "connection reset" });
            self.at(moment + 1, SimEvent::ServerSeesEnd { link: coordinator });
        }
        if self.network.occurs(self.now, self.network.faults.hang) {
            self.network.counts.hangs += 1;
            time += self.network.faults.heal_ms.saturating_sub(self.now);
        }
        if self.network.occurs(self.now, self.network.faults.crash) {
            self.network.counts.crashes_computing += 1;
            let moment = self.network.up_to(time as u32);
            self.at(self.now + moment.min(time - 1), SimEvent::Crash { slot, incarnation });
        }
        self.at(self.now + time, SimEvent::ComputeDone { slot, incarnation, step, leaves });
        Ok(())
    }

    /// The task is for weights older than any that the worker holds, because it was delayed.
    fn cannot_compute(&mut self, slot: usize, step: u64, leaves: Range<u32>) -> Result<(), String> {
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        let held: Vec<u64> = process.held.0.keys().copied().collect();
        if held.first().is_none_or(|&oldest| oldest <= step) {
            return Err(format!("slot {slot} computes step {step}; it holds weights of {held:?}"));
        }
        self.worker_steps(slot, WorkerEvent::Superseded { step, leaves })
    }

    fn push(&mut self, slot: usize, step: u64, leaves: Range<u32>) -> Result<(), String> {
        let incarnation = self.slots[slot].incarnation;
        let (leaves_now, lies) = (self.slots[slot].leaving, self.slots[slot].lies);
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        let Some((begun_on, sums)) = process.sums.remove(&(step, leaves.start, leaves.end)) else {
            return Err(format!(
                "slot {slot} pushes leaves {leaves:?} of step {step}, which it has not computed"
            ));
        };
        // On a real server, some chunks would have gone with the old connection, and the node would never be
        // complete.
        if begun_on != process.links[0] {
            let now = process.links[0];
            return Err(format!(
                "slot {slot} pushes over connection {now} what it began to compute on {begun_on}"
            ));
        }
        self.network.counts.drains += u64::from(leaves_now);
        if let Some(sum) = sums.iter().find(|sum| !sum.gradient.is_empty())
            && self.network.occurs(self.now, self.network.faults.break_off)
        {
            let mut sum = sum.clone();
            let server = self.network.below(self.job.servers) as usize;
            let kept = self.kept[server].clone();
            // A prefix of the server's chunks, the last one of which is wrong; possibly none.
            let count = self.network.below(kept.len() as u32 + 1) as usize;
            let chunks = kept.start..kept.start + count;
            if let Some(wrong) = self.chunks[chunks.clone()].last() {
                let at = wrong.start + self.network.below(wrong.len() as u32) as usize;
                // The highest bit of the mantissa, which no rounding hides.
                sum.gradient[at] = f32::from_bits(sum.gradient[at].to_bits() ^ 1 << 22);
            }
            let link = process.links[server];
            let sum = split_into_chunks(sum, true, &self.chunks);
            self.send_to_server(link, ToServer::Breaking { step, sum, chunks });
            return Ok(());
        }
        let mut messages = Vec::new();
        for mut sum in sums {
            // Nodes that are only evaluated are reported truthfully.
            let is_lie = lies && !sum.gradient.is_empty() && self.network.chance(0.3);
            if is_lie {
                self.network.counts.lies += 1;
                // Where only some nodes are audited, a lie may remain; it must not make the run diverge.
                let bit = self.network.below(if self.job.audit < 1.0 { 20 } else { 32 });
                if self.network.chance(0.6) {
                    let at = self.network.below(sum.gradient.len() as u32) as usize;
                    sum.gradient[at] = f32::from_bits(sum.gradient[at].to_bits() ^ 1 << bit);
                } else {
                    sum.metric_sums.loss = f64::from_bits(sum.metric_sums.loss.to_bits() ^ 1 << bit);
                }
            }
            let is_evaluated = sum.gradient.is_empty();
            let sum = split_into_chunks(sum, is_lie, &self.chunks);
            let sum = |chunks| ToServer::Sum { step, sum: sum.clone(), chunks };
            let own = self.kept[0].clone();
            messages.push((process.links[0], sum(if is_evaluated { 0..0 } else { own })));
            if !is_evaluated {
                for (kept, &link) in self.kept[1..].iter().zip(&process.links[1..]) {
                    messages.extend(kept.clone().map(|chunk| (link, sum(chunk..chunk + 1))));
                }
            }
        }
        let crashes = self.network.occurs(self.now, self.network.faults.crash);
        if crashes {
            // Each connection may lose a different part, so what reaches one server may not reach the others.
            self.network.counts.crashes_pushing += 1;
            messages.retain(|_| self.network.chance(0.5));
        }
        for (link, message) in messages {
            self.send_to_server(link, message);
        }
        match crashes {
            true => self.crash(slot, incarnation),
            false => Ok(()),
        }
    }

    fn worker_ends(&mut self, slot: usize, outcome: WorkerOutcome) {
        let process = self.slots[slot].process.take();
        let links = process.map_or(Vec::new(), |process| process.links);
        if outcome == WorkerOutcome::Stopped {
            for &link in &links {
                self.send_to_server(link, ToServer::Goodbye);
            }
        }
        self.close_links(&links, 1500);
        self.restart(slot);
    }
}

/// Divides a node's sum into chunks.
fn split_into_chunks(sum: NodeSum, is_lie: bool, chunks: &[Range<usize>]) -> Arc<Sum> {
    let NodeSum { node, gradient, metric_sums } = sum;
    let chunks = if gradient.is_empty() { &[] } else { chunks };
    let bytes = share(gradient);
    let chunk = |range: &Range<usize>| (range.start, bytes.slice(4 * range.start..4 * range.end));
    Arc::new(Sum { node, metric_sums, chunks: chunks.iter().map(chunk).collect(), is_lie })
}
