//! The coordinator's driver and data plane in the simulator.

use crate::cluster::{Cluster, Happening};
use crate::network::{Down, LinkId, Up};
use crate::part::Part;
use crate::{SimJob, checks};
use ps_coord::{Departure, Millis, Outcome, ServerAction, ServerConfig, ServerCore, ServerEvent, WorkerId};
use ps_core::NodeSum;
use std::collections::BTreeMap;
use std::ops::Range;

/// The process that runs the round logic and keeps the first part of the weights.
pub(crate) struct Server {
    pub core: ServerCore,
    pub part: Part,
    pub outcome: Option<Outcome>,
    /// Whether the data plane is at an update.
    updating: bool,
    links: BTreeMap<WorkerId, LinkId>,
    next_worker: u32,
    /// The earliest timer in the queue.
    timer: Option<Millis>,
}

impl Server {
    pub fn new(job: &SimJob<'_>, part: Part) -> Self {
        let config = ServerConfig {
            plan: job.plan,
            start_version: 0,
            min_workers: job.workers,
            join_timeout_ms: 50_000,
            contact_timeout_ms: 1_500,
            work_timeout_ms: 1_000,
            notice_every_ms: 5_000,
            shards: job.servers - 1,
        };
        Server {
            core: ServerCore::new(0, config),
            part,
            outcome: None,
            updating: false,
            links: BTreeMap::new(),
            next_worker: 0,
            timer: Some(0),
        }
    }
}

impl Cluster<'_> {
    pub fn server_receives(&mut self, id: LinkId, message: Up) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        if let Up::Hello = message {
            if link.worker.is_some() || self.server.outcome.is_some() {
                return Ok(());
            }
            let worker = WorkerId(self.server.next_worker);
            link.worker = Some(worker);
            self.server.next_worker += 1;
            self.server.links.insert(worker, id);
            self.network.counts.admissions += 1;
            self.send_down(id, Down::Welcome);
            return self.server_steps(ServerEvent::Joined { worker });
        }
        // Whatever overtakes the greeting is dropped, as a stream that is not open yet carries nothing.
        let Some(worker) = link.worker else { return Ok(()) };
        match message {
            Up::Hello => Ok(()),
            Up::Heartbeat => {
                self.send_down(id, Down::HeartbeatSeen);
                self.server_steps(ServerEvent::Heard { worker })
            }
            Up::AskWeights => self.server_steps(ServerEvent::WeightsWanted { worker }),
            Up::Sum { step, sum, chunks } => self.server_folds(worker, step, &sum, chunks),
            Up::Goodbye => {
                link.server_open = false;
                self.server_steps(ServerEvent::Left { worker, reason: Departure::Leaving })
            }
        }
    }

    /// All chunks of a node's sum that are kept here: what follows the last of them says that the node is done.
    fn server_folds(
        &mut self,
        worker: WorkerId,
        step: u64,
        sum: &NodeSum,
        chunks: Range<usize>,
    ) -> Result<(), String> {
        let is_open = step == self.server.part.version && !self.server.updating;
        for chunk in chunks {
            match is_open && self.server.part.take(chunk, sum) {
                true => self.network.counts.counted += 1,
                false => self.network.counts.ignored += 1,
            }
        }
        self.server_steps(ServerEvent::Contributed { worker, step, node: sum.node })
    }

    pub fn server_sees_end(&mut self, id: LinkId) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.server_open) else { return Ok(()) };
        link.server_open = false;
        let Some(worker) = link.worker else { return Ok(()) };
        let reason = Departure::Disconnected("connection reset".into());
        self.server_steps(ServerEvent::Left { worker, reason })
    }

    pub fn update_done(&mut self, step: u64) -> Result<(), String> {
        let part = &mut self.server.part;
        part.diverged |= !part.loss().is_finite();
        part.finish()?;
        let event = match part.diverged {
            false => ServerEvent::Updated { step },
            true => ServerEvent::Diverged { step },
        };
        self.server.updating = false;
        self.strike();
        self.server_steps(event)
    }

    pub fn server_timer(&mut self) -> Result<(), String> {
        self.server.timer = None;
        match self.server.core.deadline() {
            Some(deadline) if deadline <= self.now => self.server_steps(ServerEvent::Timeout),
            _ => {
                self.set_server_timer();
                Ok(())
            }
        }
    }

    pub fn server_steps(&mut self, event: ServerEvent) -> Result<(), String> {
        let mut actions = Vec::new();
        self.server.core.step(self.now, event, &mut actions);
        for action in actions {
            self.note(|| format!("  server: {action:?}"));
            checks::action(&self.server, &self.shards, &self.job.plan, &action)?;
            self.server_performs(action)?;
        }
        if !self.server.updating {
            checks::round(&self.server, &self.shards)?;
        }
        if self.server.core.deadline().is_some_and(|deadline| deadline <= self.now) {
            return Err(format!("the server's deadline stays at {:?}", self.server.core.deadline()));
        }
        self.set_server_timer();
        Ok(())
    }

    fn set_server_timer(&mut self) {
        let Some(deadline) = self.server.core.deadline() else { return };
        if self.server.timer.is_none_or(|timer| deadline < timer) {
            self.server.timer = Some(deadline);
            self.at(deadline.max(self.now), Happening::ServerTimer);
        }
    }

    fn server_performs(&mut self, action: ServerAction) -> Result<(), String> {
        match action {
            ServerAction::SendWeights { worker, version } => {
                let part = self.server.part.weights();
                self.send_down(self.server.links[&worker], Down::Weights { version, part });
            }
            ServerAction::Assign { worker, step, leaves } => {
                self.send_down(self.server.links[&worker], Down::Work { step, leaves });
            }
            ServerAction::Update { step } => {
                self.server.updating = true;
                let pause = self.network.up_to(20);
                self.at(self.now + pause, Happening::UpdateDone { step });
            }
            ServerAction::Dismiss { worker, reason } => {
                let link = self.server.links[&worker];
                self.send_down(link, Down::Dismissed(reason));
                self.at(self.now + 1, Happening::ServerSeesEnd { link });
                self.at(self.now + 2_000, Happening::WorkerSeesEnd { link, why: "closed by the server" });
            }
            ServerAction::Notice(_) => {}
            ServerAction::Finish(outcome) => {
                if !matches!(outcome, Outcome::Done | Outcome::Diverged { .. }) {
                    return Err(format!("the run ended early: {outcome:?}"));
                }
                self.server.outcome = Some(outcome);
                self.finished_at = Some(self.now);
            }
        }
        Ok(())
    }
}
