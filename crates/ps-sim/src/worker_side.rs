//! The workers' driver and data plane in the simulator, and what befalls them.

use crate::cluster::{Cluster, Happening};
use crate::network::{Down, Link, LinkId, Up};
use ps_coord::{Millis, WorkerAction, WorkerConfig, WorkerCore, WorkerEvent, WorkerOutcome};
use ps_core::NodeSum;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Virtual time that a worker spends on a leaf, by slot: some are slower.
const LEAF_MS: [u32; 4] = [5, 10, 20, 60];

/// Virtual time of a computation at most, however many leaves: within the server's patience.
const LONGEST_COMPUTE_MS: u32 = 400;

/// A place for a worker process, which may die and start again.
#[derive(Default)]
pub(crate) struct Slot {
    incarnation: u32,
    process: Option<Process>,
    /// It stands still until then.
    stalled_until: Millis,
}

/// A worker process.
struct Process {
    core: WorkerCore,
    link: Option<LinkId>,
    weights: Option<(u64, Arc<[f32]>)>,
    computing: bool,
    /// Computed and neither pushed nor discarded.
    sums: BTreeMap<(u64, u32, u32), Vec<NodeSum>>,
    /// The earliest timer in the queue.
    timer: Option<Millis>,
}

impl Cluster<'_> {
    /// Adds a worker that starts within `within` ms.
    pub fn add_worker(&mut self, within: u32) {
        self.slots.push(Slot::default());
        let delay = self.network.up_to(within);
        self.at(self.now + delay, Happening::Start { slot: self.slots.len() - 1 });
    }

    /// Once per step: what befalls whole workers.
    pub fn strike(&mut self) {
        let faults = self.network.faults.clone();
        let slot = self.network.below(self.slots.len() as u32) as usize;
        if self.network.strikes(self.now, faults.stall) {
            self.slots[slot].stalled_until = self.now + Millis::from(50 + self.network.below(3000));
            self.network.counts.stalls += 1;
            self.note(|| format!("  worker in slot {slot} stands still"));
        }
        if (self.slots.len() as u32) < faults.most_workers && self.network.strikes(self.now, faults.join) {
            self.network.counts.joins += 1;
            self.add_worker(200);
        }
        if self.network.strikes(self.now, faults.leave) {
            let delay = self.network.up_to(200);
            let slot = self.network.below(self.slots.len() as u32) as usize;
            self.at(self.now + delay, Happening::Leave { slot });
        }
    }

    pub fn start(&mut self, index: usize) -> Result<(), String> {
        let slot = &mut self.slots[index];
        if slot.process.is_some() {
            return Ok(());
        }
        slot.incarnation += 1;
        slot.stalled_until = 0;
        let config = WorkerConfig {
            heartbeat_ms: 200,
            server_timeout_ms: 1_500,
            weights_timeout_ms: 300,
            reconnect_min_ms: 100,
            reconnect_max_ms: 2_000,
            give_up_ms: 30_000,
            jitter_seed: self.seed ^ (u64::from(slot.incarnation) << 32 | index as u64),
        };
        let core = WorkerCore::new(self.now, config);
        let sums = BTreeMap::new();
        slot.process = Some(Process { core, link: None, weights: None, computing: false, sums, timer: None });
        self.set_worker_timer(index);
        Ok(())
    }

    pub fn leave(&mut self, slot: usize) -> Result<(), String> {
        if self.slots[slot].process.is_some() {
            self.network.counts.leaves += 1;
            self.worker_steps(slot, WorkerEvent::Stop)?;
        }
        Ok(())
    }

    /// The process is gone with all it had. The server hears of it soon, late, or only by silence.
    pub fn crash(&mut self, slot: usize, incarnation: u32) -> Result<(), String> {
        if self.slots[slot].incarnation != incarnation {
            return Ok(());
        }
        let Some(process) = self.slots[slot].process.take() else { return Ok(()) };
        if let Some(link) = process.link {
            self.close(link);
            if self.network.chance(0.7) {
                let delay = self.network.up_to(500);
                self.at(self.now + 1 + delay, Happening::ServerSeesEnd { link });
            }
        }
        self.start_again(slot);
        Ok(())
    }

    fn start_again(&mut self, slot: usize) {
        if self.server.outcome.is_none() {
            let delay = self.network.up_to(3000);
            self.at(self.now + 1 + delay, Happening::Start { slot });
        }
    }

    /// The worker's end of a connection closes.
    fn close(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.worker_open = false;
        }
    }

    /// What happens to one worker; one that stands still finds it when it goes on.
    pub fn worker_happening(&mut self, happening: Happening) -> Result<(), String> {
        let (slot, incarnation) = match &happening {
            Happening::ToWorker { link, .. } | Happening::WorkerSeesEnd { link, .. } => {
                match self.links.get(link).filter(|link| link.worker_open) {
                    Some(link) => (link.slot, link.incarnation),
                    None => return Ok(()),
                }
            }
            Happening::ComputeDone { slot, incarnation, .. }
            | Happening::WorkerTimer { slot, incarnation } => (*slot, *incarnation),
            _ => return Ok(()),
        };
        let (now, place) = (self.now, &mut self.slots[slot]);
        let Some(process) = place.process.as_mut().filter(|_| place.incarnation == incarnation) else {
            return Ok(());
        };
        if place.stalled_until > now {
            let until = place.stalled_until;
            self.at(until, happening);
            return Ok(());
        }
        let event = match happening {
            Happening::ToWorker { message, .. } => match message {
                Down::Welcome => WorkerEvent::Connected,
                Down::HeartbeatSeen => WorkerEvent::Heard,
                Down::Weights { version, weights } => {
                    process.weights = Some((version, weights));
                    WorkerEvent::Weights { version }
                }
                Down::Work { step, leaves } => WorkerEvent::Assigned { step, leaves },
                Down::Dismissed(reason) => WorkerEvent::Dismissed(reason),
            },
            Happening::WorkerSeesEnd { link, why } => {
                self.close(link);
                WorkerEvent::Disconnected(why.into())
            }
            Happening::ComputeDone { step, leaves, .. } => {
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
        if process.timer.is_none_or(|timer| deadline < timer) {
            process.timer = Some(deadline);
            self.at(deadline.max(self.now), Happening::WorkerTimer { slot: index, incarnation });
        }
    }

    fn worker_performs(&mut self, slot: usize, action: WorkerAction) -> Result<(), String> {
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        let link = process.link;
        match (action, link) {
            (WorkerAction::Connect, _) => self.connect(slot),
            (WorkerAction::Compute { step, leaves }, _) => return self.compute(slot, step, leaves),
            (WorkerAction::Push { step, leaves }, Some(link)) => return self.push(slot, link, step, leaves),
            (WorkerAction::Discard { step, leaves }, _) => {
                process.sums.remove(&(step, leaves.start, leaves.end));
            }
            (WorkerAction::AskWeights, Some(link)) => self.send_up(link, Up::AskWeights),
            (WorkerAction::Heartbeat, Some(link)) => self.send_up(link, Up::Heartbeat),
            (WorkerAction::Notice(_), _) => {}
            (WorkerAction::Finish(WorkerOutcome::Done), _) if self.server.outcome.is_none() => {
                return Err(format!("slot {slot} is done before the run is"));
            }
            (WorkerAction::Finish(outcome), _) => self.worker_ends(slot, link, outcome),
            (action, None) => return Err(format!("slot {slot}: {action:?} without a connection")),
        }
        Ok(())
    }

    fn connect(&mut self, slot: usize) {
        let incarnation = self.slots[slot].incarnation;
        let id = self.links.len() as LinkId;
        self.links.insert(id, Link::new(slot, incarnation));
        let Some(process) = &mut self.slots[slot].process else { return };
        process.weights = None;
        if let Some(old) = process.link.replace(id) {
            self.close(old);
            let delay = self.network.up_to(500);
            self.at(self.now + 1 + delay, Happening::ServerSeesEnd { link: old });
        }
        match self.server.outcome {
            None => self.send_up(id, Up::Hello),
            Some(_) => {
                self.at(self.now + 1, Happening::WorkerSeesEnd { link: id, why: "connection refused" })
            }
        }
    }

    fn compute(&mut self, slot: usize, step: u64, leaves: Range<u32>) -> Result<(), String> {
        let incarnation = self.slots[slot].incarnation;
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        let weights = match &process.weights {
            Some((version, weights)) if *version == step => weights.clone(),
            other => {
                let held = other.as_ref().map(|(version, _)| version);
                return Err(format!("slot {slot} computes step {step} at the weights of version {held:?}"));
            }
        };
        if std::mem::replace(&mut process.computing, true) {
            return Err(format!("slot {slot} computes two things at once"));
        }
        let sums = self.gradients.compute(&weights, self.job.samples, step, leaves.clone());
        process.sums.insert((step, leaves.start, leaves.end), sums);
        let longest =
            LEAF_MS[slot % LEAF_MS.len()].saturating_mul(leaves.len() as u32).min(LONGEST_COMPUTE_MS);
        let time = 1 + self.network.up_to(longest);
        if self.network.strikes(self.now, self.network.faults.crash) {
            self.network.counts.crashes_computing += 1;
            let moment = self.network.up_to(time as u32);
            self.at(self.now + moment.min(time - 1), Happening::Crash { slot, incarnation });
        }
        self.at(self.now + time, Happening::ComputeDone { slot, incarnation, step, leaves });
        Ok(())
    }

    fn push(&mut self, slot: usize, link: LinkId, step: u64, leaves: Range<u32>) -> Result<(), String> {
        let incarnation = self.slots[slot].incarnation;
        let Some(process) = &mut self.slots[slot].process else { return Ok(()) };
        let Some(mut sums) = process.sums.remove(&(step, leaves.start, leaves.end)) else {
            return Err(format!(
                "slot {slot} pushes leaves {leaves:?} of step {step}, which it has not computed"
            ));
        };
        let crashes = self.network.strikes(self.now, self.network.faults.crash);
        if crashes {
            self.network.counts.crashes_pushing += 1;
            sums.truncate(self.network.below(sums.len() as u32 + 1) as usize);
        }
        for sum in sums {
            self.send_up(link, Up::Sum { step, sum: Arc::new(sum) });
        }
        match crashes {
            true => self.crash(slot, incarnation),
            false => Ok(()),
        }
    }

    fn worker_ends(&mut self, slot: usize, link: Option<LinkId>, outcome: WorkerOutcome) {
        self.slots[slot].process = None;
        if let Some(link) = link {
            if let WorkerOutcome::Ended(_) = outcome {
                self.send_up(link, Up::Goodbye);
            }
            self.close(link);
            let delay = self.network.up_to(1500);
            self.at(self.now + 50 + delay, Happening::ServerSeesEnd { link });
        }
        self.start_again(slot);
    }
}
