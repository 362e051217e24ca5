//! The coordinator's half of the shard logic: which shards are present, what they resume from, what they
//! report about the open step, and when a step is complete.
//!
//! [`crate::ServerCore`] handles workers; about shards it only knows whether they hold the weights of its
//! version and have applied its step, which this machine reports to it. If one server keeps all weights,
//! there is no other shard, and this machine only determines the order in which a step is made, recorded and
//! saved.

use crate::event::{Millis, ServerEvent};
use crate::fetch::Fetch;
use crate::notice::RewindCause;
use crate::shard_event::{
    AttachRefusal, ChunkId, CoordinatorAction, CoordinatorEvent, FetchPurpose, FollowUp, Unfetched,
};
use ps_plan::mutation::{ActiveMutation, Mutation};

/// The layout of the weights among the other shards.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// The first elements of the chunks that each of the other shards keeps, ascending. A shard may keep
    /// none: it must be present before the run begins, but it is never restored and its loss does no harm.
    pub chunks: Vec<Vec<usize>>,
    /// Number of vectors of the optimizer's state, each as long as the weights.
    pub state_vectors: usize,
    /// The number by which users know the first of these shards.
    pub first_shard: u32,
    /// The version that the run starts from.
    pub start_version: u64,
    /// How long shards may take to send their weights at the end of the run.
    pub answer_timeout_ms: Millis,
}

/// Admits shards, restores them, and makes, records and saves steps together with them.
///
/// A driver runs it beside a [`crate::ServerCore`]: it passes events to [`CoordinatorCore::step`], carries
/// out the returned actions in order, and hands each [`CoordinatorAction::Report`] on to the round logic.
/// Whenever its inbox is empty, it passes [`CoordinatorEvent::Idle`].
#[derive(Clone, Debug)]
pub struct CoordinatorCore {
    config: CoordinatorConfig,
    /// In the order of the shards' numbers.
    shards: Vec<ShardState>,
    /// The number of the last [`CoordinatorAction::Restore`].
    number: u64,
    version: u64,
    /// The step that waits for a decision and whose leaves are all in here.
    gathered: Option<u64>,
    /// The last step that was decided.
    decided: Option<u64>,
    /// A step that was made but not recorded.
    made: Option<MadeStep>,
    /// The weights that the next step, or the end of the run, waits for.
    fetch: Option<Fetch>,
    /// The checkpoint that is being assembled while training continues.
    saving: Option<Saving>,
    closing: Closing,
    mutation: ActiveMutation,
}

/// The state of the process that keeps a part of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShardState {
    /// No process is attached.
    Absent,
    /// The process does not hold the weights from which the run resumes; reports from it refer to obsolete
    /// weights and are ignored.
    Attached,
    /// The process holds these weights, or has made steps from them.
    Restored {
        /// The last step for which it has sent its sums.
        measured: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug)]
struct MadeStep {
    step: u64,
    is_last: bool,
    follow_up: FollowUp,
    /// Whether the next step may begin.
    is_over: bool,
}

#[derive(Clone, Debug)]
struct Saving {
    fetch: Fetch,
    /// Whether this process has copied its own contribution.
    is_captured: bool,
}

#[derive(Clone, Copy, Debug)]
enum Closing {
    /// The run continues.
    No,
    /// The complete weights are awaited.
    Since { begun: Millis },
    /// The weights are here, or will not come.
    Done,
}

impl CoordinatorCore {
    /// Creates a coordinator without attached shards.
    pub fn new(config: CoordinatorConfig) -> Self {
        CoordinatorCore {
            shards: vec![ShardState::Absent; config.chunks.len()],
            number: 0,
            version: config.start_version,
            gathered: None,
            decided: None,
            made: None,
            fetch: None,
            saving: None,
            closing: Closing::No,
            mutation: ActiveMutation::default(),
            config,
        }
    }

    /// Adds deliberate faults, for tests of the tests.
    pub fn with_mutation(self, mutation: ActiveMutation) -> Self {
        CoordinatorCore { mutation, ..self }
    }

    /// Handles an event and appends the actions that follow from it.
    pub fn step(&mut self, now: Millis, event: CoordinatorEvent, actions: &mut Vec<CoordinatorAction>) {
        match event {
            CoordinatorEvent::AttachRequested { shard } => self.attach(shard, actions),
            CoordinatorEvent::Lost { shard } => self.on_shard_lost(shard, actions),
            CoordinatorEvent::Loaded { version } => self.loaded(version),
            CoordinatorEvent::Restored { shard, number } => self.restored(shard, number, actions),
            CoordinatorEvent::Gathered { step } => {
                self.gathered = Some(step);
                self.decide(actions);
            }
            CoordinatorEvent::Measured { shard, step } => {
                // A shard may be one step ahead and send the sums of the next step early. `decide` compares
                // the step.
                if let Some(ShardState::Restored { measured }) = self.shards.get_mut(shard as usize) {
                    *measured = Some(step);
                    self.decide(actions);
                }
            }
            // No shard gets a verdict, so none will report the step. The round must close nevertheless,
            // because only the update reports that training diverges.
            CoordinatorEvent::NotFinite { step } => {
                let applied = |shard| CoordinatorAction::Report(ServerEvent::Applied { shard, step });
                actions.extend(self.keepers().map(applied));
            }
            CoordinatorEvent::Applied { shard, step } if self.is_restored(shard) => {
                actions.push(CoordinatorAction::Report(ServerEvent::Applied { shard, step }));
            }
            CoordinatorEvent::Diverged { shard, step } if self.is_restored(shard) => {
                // The round ends as if the step were made: no server waits for anything else of it.
                actions.push(CoordinatorAction::Diverge { step });
                actions.push(CoordinatorAction::Report(ServerEvent::Applied { shard, step }));
            }
            CoordinatorEvent::Tainted { shard, step, why } if self.is_restored(shard) => {
                // A step that is made stays, as it does when the coordinator itself refuses a worker.
                if step >= self.version && !self.mutation.is(Mutation::TaintIgnored) {
                    self.rewind(RewindCause::Tainted { shard: self.number_of(shard), why }, actions);
                }
            }
            CoordinatorEvent::Refused { worker, why } => {
                self.rewind(RewindCause::WorkerRefused { worker, why }, actions);
            }
            CoordinatorEvent::Missing { shard, step, leaves } if self.is_restored(shard) => {
                actions.push(CoordinatorAction::Report(ServerEvent::Missing { shard, step, leaves }));
            }
            CoordinatorEvent::Arrived { shard, chunk } if self.is_restored(shard) => {
                self.arrived(chunk, actions);
            }
            CoordinatorEvent::Made { step, is_last, follow_up } => {
                self.made(step, is_last, follow_up, actions)
            }
            CoordinatorEvent::Idle => self.idle(actions),
            CoordinatorEvent::Closing { with_state } => self.close(now, with_state, actions),
            // Reports of a shard that is not restored are about abandoned weights. Its sums, or a divergence,
            // from before a rewind could be taken for those of the repeated step.
            CoordinatorEvent::Applied { .. }
            | CoordinatorEvent::Diverged { .. }
            | CoordinatorEvent::Tainted { .. }
            | CoordinatorEvent::Missing { .. }
            | CoordinatorEvent::Arrived { .. }
            | CoordinatorEvent::Timeout => {}
        }
        if let Closing::Since { begun } = self.closing
            && self.deadline().is_some_and(|deadline| deadline <= now)
        {
            self.closed(Err(Unfetched::Late { waited_ms: now.saturating_sub(begun) }), actions);
        }
    }

    /// Returns the time at which the driver must pass `Timeout` unless another event comes first.
    pub fn deadline(&self) -> Option<Millis> {
        match self.closing {
            Closing::Since { begun } => Some(begun.saturating_add(self.config.answer_timeout_ms)),
            Closing::No | Closing::Done => None,
        }
    }

    /// Whether a shard is present and either holds its weights or keeps none, so that workers may
    /// connect to it.
    pub fn is_ready(&self, shard: u32) -> bool {
        match self.shards.get(shard as usize) {
            None | Some(ShardState::Absent) => false,
            Some(ShardState::Attached) => !self.keeps(shard),
            Some(ShardState::Restored { .. }) => true,
        }
    }

    fn attach(&mut self, wanted: Option<u32>, actions: &mut Vec<CoordinatorAction>) {
        let shards = self.shards.len() as u32;
        let shard = match wanted {
            Some(shard) if shard >= shards => {
                return actions.push(CoordinatorAction::Refuse(AttachRefusal::Unknown { shard, shards }));
            }
            Some(shard) => Some(shard).filter(|&shard| self.shards[shard as usize] == ShardState::Absent),
            None => (0..shards).find(|&shard| self.shards[shard as usize] == ShardState::Absent),
        };
        let Some(shard) = shard else { return actions.push(CoordinatorAction::Refuse(AttachRefusal::Taken)) };
        self.shards[shard as usize] = ShardState::Attached;
        actions.push(CoordinatorAction::Admit { shard });
        self.restore_if_present(actions);
    }

    fn on_shard_lost(&mut self, shard: u32, actions: &mut Vec<CoordinatorAction>) {
        let Some(state) = self.shards.get_mut(shard as usize) else { return };
        if std::mem::replace(state, ShardState::Absent) == ShardState::Absent || !self.keeps(shard) {
            return;
        }
        match self.closing {
            Closing::No => {
                self.abandon(actions);
                actions.push(CoordinatorAction::Report(ServerEvent::ShardLost { shard }));
            }
            Closing::Since { .. } => {
                self.closed(Err(Unfetched::Lost { shard: self.number_of(shard) }), actions);
            }
            Closing::Done => {}
        }
    }

    /// Makes all servers return to the last saved state, although no shard is lost.
    fn rewind(&mut self, cause: RewindCause, actions: &mut Vec<CoordinatorAction>) {
        match self.closing {
            Closing::No => {
                self.abandon(actions);
                actions.push(CoordinatorAction::Report(ServerEvent::Rewind(cause)));
                self.restore_if_present(actions);
            }
            Closing::Since { .. } => self.closed(Err(Unfetched::Tainted), actions),
            Closing::Done => {}
        }
    }

    /// Abandons the open step, which is made again from older weights: discards everything that was fetched
    /// or made for it, and ignores reports from shards until they are restored.
    fn abandon(&mut self, actions: &mut Vec<CoordinatorAction>) {
        for state in &mut self.shards {
            if matches!(state, ShardState::Restored { .. }) {
                *state = ShardState::Attached;
            }
        }
        self.gathered = None;
        if self.made.take().is_some() {
            // The step is made again and must not be recorded twice.
            actions.push(CoordinatorAction::DiscardStep);
        }
        if self.fetch.take().is_some() {
            actions.push(CoordinatorAction::Forget { purpose: FetchPurpose::Inspect });
        }
        if self.saving.take().is_some() {
            actions.push(CoordinatorAction::Forget { purpose: FetchPurpose::Save });
        }
    }

    /// Once all shards are present, sends the last saved weights to those that keep a part.
    fn restore_if_present(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let is_present = self.shards.iter().all(|&state| state != ShardState::Absent);
        let is_restored = self.keepers().all(|shard| self.is_restored(shard));
        // If all keepers are restored, the shard that has just attached keeps nothing, and training goes on
        // undisturbed.
        if !is_present || is_restored || !matches!(self.closing, Closing::No) {
            return;
        }
        // The new number distinguishes the answers from those to an earlier restore.
        self.number += u64::from(!self.mutation.is(Mutation::RestoreNumberReused) || self.number == 0);
        // Shards with newer weights go back as well, so that all servers hold one version.
        self.shards.fill(ShardState::Attached);
        actions.push(CoordinatorAction::Restore { number: self.number });
    }

    fn loaded(&mut self, version: u64) {
        self.version = version;
        (self.gathered, self.decided, self.made) = (None, None, None);
    }

    fn restored(&mut self, shard: u32, number: u64, actions: &mut Vec<CoordinatorAction>) {
        let Some(state @ ShardState::Attached) = self.shards.get_mut(shard as usize) else { return };
        // The shard answers an earlier restore, and other weights are on their way to it.
        if number != self.number {
            return;
        }
        *state = ShardState::Restored { measured: None };
        let is_enough = self.mutation.is(Mutation::ResumesAfterFirstShard);
        if is_enough || self.keepers().all(|shard| self.is_restored(shard)) {
            actions.push(CoordinatorAction::Report(ServerEvent::Restored { version: self.version }));
        }
    }

    /// Decides once all leaves are in here and at all shards, and the sums over all pieces are known.
    fn decide(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let step = self.version;
        let has_measured = |shard: u32| {
            let state = self.shards[shard as usize];
            matches!(state, ShardState::Restored { measured } if measured == Some(step))
        };
        // `Gathered` may be reported after every message, but a step is decided only once.
        if self.gathered == Some(step) && self.decided != Some(step) && self.keepers().all(has_measured) {
            self.decided = Some(step);
            actions.push(CoordinatorAction::Decide { step });
        }
    }

    fn made(&mut self, step: u64, is_last: bool, follow_up: FollowUp, actions: &mut Vec<CoordinatorAction>) {
        self.version = step + 1;
        // Only one checkpoint is assembled at a time.
        let follow_up = FollowUp { save: follow_up.save && self.saving.is_none(), ..follow_up };
        self.made = Some(MadeStep { step, is_last, follow_up, is_over: false });
        if self.keepers().next().is_some() {
            let with_state = follow_up.save || is_last && follow_up.state;
            // The weights to inspect are also those to save, so one fetch serves both.
            if is_last || follow_up.inspect {
                self.fetch(FetchPurpose::Inspect, with_state, actions);
            } else if follow_up.save {
                self.fetch(FetchPurpose::Save, with_state, actions);
            }
        }
        self.end_step(actions);
    }

    fn fetch(&mut self, purpose: FetchPurpose, with_state: bool, actions: &mut Vec<CoordinatorAction>) {
        let version = self.version;
        let CoordinatorConfig { chunks, state_vectors, .. } = &self.config;
        let fetch = Fetch::new(chunks, version, *state_vectors, with_state);
        match purpose {
            FetchPurpose::Inspect => self.fetch = Some(fetch),
            FetchPurpose::Save => self.saving = Some(Saving { fetch, is_captured: false }),
        }
        actions.push(CoordinatorAction::Fetch { purpose, version, with_state });
    }

    fn arrived(&mut self, chunk: ChunkId, actions: &mut Vec<CoordinatorAction>) {
        if self.fetch.as_mut().is_some_and(|fetch| fetch.take(chunk)) {
            actions.push(CoordinatorAction::Keep { purpose: FetchPurpose::Inspect });
        }
        if self.saving.as_mut().is_some_and(|saving| saving.fetch.take(chunk)) {
            actions.push(CoordinatorAction::Keep { purpose: FetchPurpose::Save });
        }
        self.end_step(actions);
        self.save_if_complete(actions);
        self.close_if_complete(actions);
    }

    /// The next step may begin once the shards have sent the weights that it waits for. For a checkpoint, it
    /// is enough that they have copied them.
    fn end_step(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let is_inspected = self.fetch.as_ref().is_none_or(Fetch::is_complete);
        let is_copied = self.saving.as_ref().is_none_or(|saving| saving.fetch.is_begun());
        let may_begin = is_inspected && is_copied || self.mutation.is(Mutation::FetchNotAwaited);
        let Some(made) = self.made.as_mut().filter(|made| !made.is_over && may_begin) else { return };
        made.is_over = true;
        let step = made.step;
        actions.push(CoordinatorAction::Report(match made.is_last {
            true => ServerEvent::Concluded { step },
            false => ServerEvent::Updated { step },
        }));
    }

    /// A completed step is recorded while workers compute the next one.
    fn idle(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let Some(MadeStep { step, is_last, follow_up, .. }) = self.made.take_if(|made| made.is_over) else {
            return;
        };
        let version = step + 1;
        // Recording precedes capturing, because a checkpoint contains the progress including this step.
        actions.push(CoordinatorAction::Record { step });
        if follow_up.inspect {
            actions.push(CoordinatorAction::Inspect { version });
        }
        if follow_up.save {
            actions.push(CoordinatorAction::Capture { version });
            match &mut self.saving {
                Some(saving) => saving.is_captured = true,
                // What was fetched to be inspected is already complete.
                None => actions.push(CoordinatorAction::Save { purpose: FetchPurpose::Inspect }),
            }
        }
        self.save_if_complete(actions);
        // The last weights are kept as the run's result.
        if !is_last && self.fetch.take().is_some() {
            actions.push(CoordinatorAction::Forget { purpose: FetchPurpose::Inspect });
        }
    }

    fn save_if_complete(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let is_whole = |saving: &mut Saving| {
            let is_here = saving.fetch.is_complete() || self.mutation.is(Mutation::CheckpointSavedIncomplete);
            saving.is_captured && is_here
        };
        if self.saving.take_if(is_whole).is_some() {
            actions.push(CoordinatorAction::Save { purpose: FetchPurpose::Save });
        }
    }

    fn close(&mut self, now: Millis, with_state: bool, actions: &mut Vec<CoordinatorAction>) {
        // Recording the last step needs the chunks fetched for it, which the new fetch replaces.
        self.idle(actions);
        if !self.keepers().all(|shard| self.is_restored(shard)) {
            return self.closed(Err(Unfetched::Absent), actions);
        }
        self.closing = Closing::Since { begun: now };
        // What the last step fetched is used again if it is of this version and includes the state.
        let is_enough = |fetch: &Fetch| fetch.version == self.version && (fetch.with_state || !with_state);
        if self.keepers().next().is_some() && !self.fetch.as_ref().is_some_and(is_enough) {
            self.fetch(FetchPurpose::Inspect, with_state, actions);
        }
        self.close_if_complete(actions);
    }

    fn close_if_complete(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let is_complete = self.fetch.as_ref().is_none_or(Fetch::is_complete);
        if matches!(self.closing, Closing::Since { .. }) && is_complete {
            self.closed(Ok(()), actions);
        }
    }

    fn closed(&mut self, result: Result<(), Unfetched>, actions: &mut Vec<CoordinatorAction>) {
        self.closing = Closing::Done;
        actions.push(CoordinatorAction::Closed(result));
    }

    /// The shards that keep a part of the weights.
    fn keepers(&self) -> impl Iterator<Item = u32> + use<'_> {
        (0..self.shards.len() as u32).filter(|&shard| self.keeps(shard))
    }

    fn keeps(&self, shard: u32) -> bool {
        self.config.chunks.get(shard as usize).is_some_and(|chunks| !chunks.is_empty())
    }

    fn is_restored(&self, shard: u32) -> bool {
        matches!(self.shards.get(shard as usize), Some(ShardState::Restored { .. }))
    }

    /// The shard's number as users know it.
    fn number_of(&self, shard: u32) -> u32 {
        shard + self.config.first_shard
    }
}
