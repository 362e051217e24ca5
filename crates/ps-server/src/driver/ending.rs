//! The end of a run: fetching and saving the weights, the result, and the messages to all peers.

use super::{Incoming, ServerDriver, reach};
use crate::assembly::assemble;
use crate::shards::Shards;
use crate::{Finish, Finished, ServerError};
use ps_coord::{CoordinatorEvent, Dismissal, FetchPurpose, Outcome, ServerAction, Unfetched};
use ps_net::limits::SHARD_ANSWER_TIMEOUT;
use ps_proto::{Refusal, convert};
use ps_run::FolderError;
use ps_shard::peers::Peers;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

impl ServerDriver {
    /// Records the last step. If the run can be resumed, also fetches all weights and saves them.
    ///
    /// # Errors
    /// The run can no longer be saved or loaded.
    pub(super) async fn close(
        &mut self,
        outcome: &Outcome,
        inbox: &mut mpsc::Receiver<Incoming>,
    ) -> Result<(), FolderError> {
        self.report_slowest_worker();
        // Must precede the fetch: recording a step drops the chunks that were fetched for inspection.
        self.idle()?;
        let is_resumable = match outcome {
            Outcome::Stopped { .. } | Outcome::Ended { .. } | Outcome::TooFewWorkers { .. } => true,
            // The last step ended only after its weights were here.
            Outcome::Done => false,
            // Weights that diverged must not replace the last checkpoint, and shards that are missing cannot
            // send theirs.
            Outcome::Diverged { .. } | Outcome::ShardsMissing { .. } => false,
        };
        if !is_resumable {
            return Ok(());
        }
        let with_state = self.recorder.has_checkpoints();
        self.coordinate(CoordinatorEvent::Closing { with_state });
        while self.closed.is_none() {
            let deadline = self.coordinator.deadline();
            let incoming = tokio::select! {
                // Chunks that have arrived count even if the deadline passes while they are in the inbox.
                biased;
                incoming = inbox.recv() => incoming,
                () = reach(self.started, deadline) => {
                    self.coordinate(CoordinatorEvent::Timeout);
                    continue;
                }
            };
            match incoming {
                // The round logic has ended, so the event is dropped.
                Some(incoming) => drop(self.handle(incoming)),
                None => break,
            }
        }
        match self.closed {
            Some(Ok(())) if self.recorder.has_checkpoints() => {
                let own = self.own_chunks();
                let (progress, weights, state) =
                    own.assemble(&self.job, self.fetched.get(&FetchPurpose::Inspect));
                self.recorder.checkpoint(progress, weights, state)
            }
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => self.use_last_saved(&unfetched(why)),
            None => self.use_last_saved("the service has ended"),
        }
    }

    /// Uses the last saved weights as the result, because those of the shards are not available.
    fn use_last_saved(&mut self, why: &str) -> Result<(), FolderError> {
        warn!("the last weights are not available: {why}; going back to the last checkpoint");
        self.made = None;
        self.last_saved = Some(match self.load_last_saved()? {
            Some(found) => (found.progress.step, found.weights),
            None => (0, self.job.model.initial(self.job.plan.seed)),
        });
        Ok(())
    }

    /// All weights, `[parameters]`: those of this server, and those fetched from the other shards.
    pub(super) fn weights(&self) -> Vec<f32> {
        let parameters = self.job.model.parameters();
        assemble(parameters, &self.plane.kept_chunks(), self.fetched.get(&FetchPurpose::Inspect), 0)
    }

    /// The weights that are the run's result. The last step must be made.
    fn result(&mut self) -> Vec<f32> {
        let mut weights = self.weights();
        // Kept before the best weights replace the last ones: a run that is made longer continues from the
        // last step.
        if self.recorder.keeps_end() {
            let (_, _, state) =
                self.own_chunks().assemble(&self.job, self.fetched.get(&FetchPurpose::Inspect));
            let control = self.plane.control().state().clone();
            self.recorder.keep_end(self.plane.version(), control, weights.clone(), state);
        }
        let validation = self.recorder.validate(&self.job, &weights);
        if self.job.control.early_stopping.is_some() && !self.recorder.is_concluded() {
            let (_, _, state) =
                self.own_chunks().assemble(&self.job, self.fetched.get(&FetchPurpose::Inspect));
            if let Some(event) = self.plane.control().close(&mut weights, &state, validation.as_ref()) {
                self.recorder.event(self.plane.version(), &event);
            }
        }
        weights
    }

    /// Writes the results, and then informs all workers, shards and administrators.
    pub(super) fn end(
        mut self,
        outcome: Outcome,
        farewells: Vec<ServerAction>,
        finish: Finish,
    ) -> Result<(), ServerError> {
        let is_done = outcome == Outcome::Done;
        let is_ended = matches!(outcome, Outcome::Ended { .. });
        let reason = dismissal(&outcome);
        // This also shows the contributions of each worker to the last steps.
        if self.recorder.run_state().is_watched() {
            self.show_now();
        }
        let result = match outcome {
            Outcome::Done => Ok((self.plane.version(), self.result())),
            Outcome::Stopped { .. } | Outcome::Ended { .. } => {
                Ok(self.last_saved.take().unwrap_or_else(|| (self.plane.version(), self.weights())))
            }
            Outcome::TooFewWorkers { present, needed, waited_ms } => {
                let waited = Duration::from_millis(waited_ms);
                Err(ServerError::TooFewWorkers { present, needed, waited })
            }
            Outcome::ShardsMissing { shards, waited_ms } => {
                Err(ServerError::ShardsMissing { shards, waited: Duration::from_millis(waited_ms) })
            }
            Outcome::Diverged { .. } => Err(ServerError::Diverged(
                self.diverged.take().expect("the data plane reported that it diverged"),
            )),
        };
        let ServerDriver { job, recorder, mut peers, shards, end_replies, .. } = self;
        let mut saved = None;
        let ended = match result {
            Ok((version, weights)) => {
                match finish(Finished { job, recorder, weights, version, is_done, is_ended }) {
                    Ok(()) => {
                        saved = Some(version);
                        Ok(())
                    }
                    // The farewells do not mention this failure, so they are not sent.
                    Err(error) => return Err(report_unsaved(&shards, &mut peers, end_replies, error)),
                }
            }
            Err(error) => {
                recorder.abandon(&error);
                Err(error)
            }
        };
        // Only now, because a worker that learns that the run is done exits. If the coordinator crashed between
        // that message and writing the results, its restart would find no workers to make the last steps again.
        for farewell in farewells {
            if let ServerAction::Dismiss { worker, reason } = farewell {
                debug!(%worker, %reason, "worker dismissed");
                peers.message(worker, convert::dismissed(&reason));
                peers.disconnect(worker, None);
            }
        }
        shards.dismiss(&reason);
        // An administrator whose request came too late receives the error that the server is ending.
        if let Some(version) = saved.filter(|_| is_done || is_ended) {
            end_replies.into_iter().for_each(|reply| drop(reply.send(Ok(version))));
        }
        ended
    }

    pub(super) fn unsaved(mut self, error: FolderError) -> ServerError {
        self.recorder.abandon(&error);
        report_unsaved(&self.shards, &mut self.peers, self.end_replies, error)
    }
}

/// The message to the other shards.
fn dismissal(outcome: &Outcome) -> Dismissal {
    match outcome {
        Outcome::Done => Dismissal::Done,
        Outcome::Stopped { .. } => Dismissal::Stopped("the coordinator was stopped".into()),
        Outcome::Ended { .. } => Dismissal::Ended("the run was ended on request".into()),
        Outcome::Diverged { .. } => Dismissal::Failed("training diverged".into()),
        Outcome::TooFewWorkers { .. } => Dismissal::Failed("too few workers".into()),
        Outcome::ShardsMissing { .. } => Dismissal::Failed("shards are missing".into()),
    }
}

fn unfetched(why: Unfetched) -> String {
    match why {
        Unfetched::Absent => "not all shards are present".into(),
        Unfetched::Lost { shard } => format!("shard {shard} is gone"),
        Unfetched::Tainted => "a refused worker's sums may be part of some shards".into(),
        Unfetched::Late { .. } => {
            format!("the shards did not send their weights within {} s", SHARD_ANSWER_TIMEOUT.as_secs())
        }
    }
}

/// Reports to all peers why the run cannot be saved; they fail with it.
fn report_unsaved(
    shards: &Shards,
    peers: &mut Peers,
    end_replies: Vec<oneshot::Sender<Result<u64, Refusal>>>,
    error: FolderError,
) -> ServerError {
    let reason = Dismissal::Failed(format!("cannot save the run: {error}"));
    for worker in peers.ids().collect::<Vec<_>>() {
        peers.message(worker, convert::dismissed(&reason));
        peers.disconnect(worker, None);
    }
    shards.dismiss(&reason);
    for reply in end_replies {
        let _ = reply.send(Err(Refusal::Unsaved(format!("cannot save the run: {error}"))));
    }
    ServerError::Unsaved(error)
}
