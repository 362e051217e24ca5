//! What other programs see of the run: its status, the run state, and log lines with the workers' names.

use super::{ServerDriver, millis};
use ps_coord::{WorkerId, WorkerStatus};
use ps_proto::v1;
use ps_run::{WorkerRow, WorkerStanding};
use ps_shard::peers::Peer;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::Instant;

/// The summary does not mention workers that were waited for less than this.
const MIN_REPORTED_WAIT: Duration = Duration::from_secs(1);
/// Maximum number of workers to name after a log line, so that it stays one line.
const MAX_NAMED: usize = 4;

/// Names and addresses of all workers that were ever admitted.
#[derive(Default)]
pub(super) struct Roster(BTreeMap<WorkerId, (String, String)>);

impl Roster {
    pub(super) fn note(&mut self, worker: WorkerId, peer: &Peer) {
        self.0.insert(worker, (peer.name.clone(), peer.address.clone()));
    }

    /// A worker's name and address.
    pub(super) fn find(&self, worker: WorkerId) -> Option<(String, String)> {
        self.0.get(&worker).cloned()
    }

    /// A worker's id and name.
    pub(super) fn lane(&self, worker: WorkerId) -> String {
        self.0.get(&worker).map_or_else(|| worker.to_string(), |(name, _)| format!("{worker} {name}"))
    }

    /// Appends names and addresses to a line of the round logic, which identifies workers by id.
    pub(super) fn named(&self, line: &impl Display, workers: &[WorkerId]) -> String {
        let known = workers.iter().filter_map(|id| Some((id, self.0.get(id)?))).take(MAX_NAMED);
        let names: Vec<String> =
            known.map(|(id, (name, address))| format!("{id}: {name} at {address}")).collect();
        if names.is_empty() { line.to_string() } else { format!("{line} [{}]", names.join(", ")) }
    }
}

/// State that is shown in addition to that of the round logic.
pub(super) struct StatusBoard {
    fingerprints: v1::Fingerprints,
    /// Mean loss per sample of the last step's batch.
    pub loss: f64,
    /// When the run state was last updated.
    shown: Option<Instant>,
}

impl StatusBoard {
    /// Interval at which the run state is updated while it is watched.
    pub(super) const INTERVAL: Duration = Duration::from_millis(250);

    pub(super) fn new(fingerprints: v1::Fingerprints) -> Self {
        StatusBoard { fingerprints, loss: f64::NAN, shown: None }
    }
}

impl ServerDriver {
    /// Updates the run state, including its workers, if it is watched and an update is due.
    pub(super) fn show(&mut self) {
        let is_recent = self.status_board.shown.is_some_and(|shown| shown.elapsed() < StatusBoard::INTERVAL);
        if self.recorder.run_state().is_watched() && !is_recent {
            self.show_now();
        }
    }

    pub(super) fn show_now(&mut self) {
        self.status_board.shown = Some(Instant::now());
        let (status, now) = (self.core.status(), self.now());
        let activity = self.roster.named(&status.waits_for, &status.waits_for.workers());
        let row = |worker: WorkerStatus| {
            let peer = self.peers.get(worker.worker)?;
            Some(WorkerRow {
                id: worker.worker.0,
                name: peer.name.clone(),
                address: peer.address.clone(),
                standing: WorkerStanding::Known(worker.state),
                leaves: worker.leaves,
                sums: worker.contributions,
                speed: worker.speed.unwrap_or(0.0),
                silent_ms: now.saturating_sub(worker.last_heard),
                held_up_ms: worker.held_up_ms,
            })
        };
        let run_state = self.recorder.run_state();
        run_state.update(|snapshot| {
            (snapshot.reassigned, snapshot.audited) = (status.reassigned, status.audited);
            snapshot.activity = activity;
            snapshot.waited = Duration::from_millis(now.saturating_sub(status.since));
            snapshot.workers = status.workers.into_iter().filter_map(row).collect();
        });
        run_state.checkpoint(self.recorder.durable());
    }

    pub(super) fn status(&self) -> v1::StatusReply {
        let (status, now) = (self.core.status(), self.now());
        let workers = status.workers.iter().filter_map(|worker| {
            let peer = self.peers.get(worker.worker)?;
            Some(v1::WorkerStatus {
                worker_id: worker.worker.0,
                name: peer.name.clone(),
                address: peer.address.clone(),
                nodes: worker.contributions,
                state: worker.state.to_string(),
                leaves: worker.leaves,
                silent_ms: now.saturating_sub(worker.last_heard),
                leaves_per_second: worker.speed.unwrap_or(0.0),
                held_up_ms: worker.held_up_ms,
            })
        });
        let (checkpoint, age) = self.recorder.durable().unwrap_or_default();
        v1::StatusReply {
            version: status.version,
            steps: status.steps,
            state: self.roster.named(&status.waits_for, &status.waits_for.workers()),
            workers: workers.collect(),
            loss: self.status_board.loss,
            fingerprints: Some(self.status_board.fingerprints.clone()),
            waited_ms: now.saturating_sub(status.since),
            checkpoint,
            checkpoint_age_ms: millis(age),
            rescued_leaves: status.reassigned,
            audited_nodes: status.audited,
        }
    }

    /// Records the worker that the run waited for longest, if that time was significant.
    pub(super) fn report_slowest_worker(&mut self) {
        let slowest = self.core.status().workers.into_iter().max_by_key(|worker| worker.held_up_ms);
        let Some(slowest) = slowest else { return };
        let waited = Duration::from_millis(slowest.held_up_ms);
        // A worker is worth mentioning if it cost a twentieth of the time, as docs/reliability.md states.
        if waited >= MIN_REPORTED_WAIT && 20 * waited >= Duration::from_millis(self.now()) {
            let unknown = || (slowest.worker.to_string(), "an unknown address".to_owned());
            let (name, address) = self.roster.find(slowest.worker).unwrap_or_else(unknown);
            self.recorder.attribute_wait(format!("{name} at {address}"), waited);
        }
    }
}
