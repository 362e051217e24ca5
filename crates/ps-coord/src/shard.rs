//! The logic of a shard other than the coordinator: when it serves workers, makes a step, and reports.
//!
//! A shard does not need to know the members of the run: it makes its part of a step as soon as all leaves
//! are in. It outlives the coordinator's process, but its weights do not: whenever the coordinator attaches
//! it again or loses a server, the shard is sent saved weights to resume from.

use crate::event::Dismissal;
use crate::shard_event::{ShardAction, ShardEvent, ShardReport};
use ps_plan::mutation::{ActiveMutation, Mutation};
use std::ops::Range;

/// Serves workers, applies steps and reports to the coordinator.
///
/// A driver passes everything that happens to [`ShardCore::step`] and carries out the returned actions in
/// order; no deadline is involved. [`ShardAction::Finish`] is the last action.
#[derive(Clone, Debug)]
pub struct ShardCore {
    kept: Range<usize>,
    version: u64,
    phase: Phase,
    /// Whether reports reach the coordinator.
    is_attached: bool,
    mutation: ActiveMutation,
}

#[derive(Clone, Debug)]
enum Phase {
    /// It holds no weights from which the run can resume.
    Empty,
    /// Weights are arriving; `missing` elements are still to come.
    Restoring { version: u64, number: u64, missing: usize },
    /// Gathering the step that `version` names.
    Gathering,
    /// All leaves are in, and the coordinator must decide about the step.
    Measured,
    /// The coordinator has decided; the data plane computes the chunks.
    Following,
    /// The data plane commits the step.
    Committing,
    /// The result of the step is not finite. The coordinator ends the run, or makes all servers return to the
    /// last saved state.
    Diverged,
    /// The run is over for this shard.
    Finished,
}

impl ShardCore {
    /// Creates a shard that keeps these elements and holds no weights yet.
    pub fn new(kept: Range<usize>) -> Self {
        ShardCore {
            kept,
            version: 0,
            phase: Phase::Empty,
            is_attached: true,
            mutation: ActiveMutation::default(),
        }
    }

    /// Adds deliberate faults, for tests of the tests.
    pub fn with_mutation(self, mutation: ActiveMutation) -> Self {
        ShardCore { mutation, ..self }
    }

    /// Returns the number of steps applied to the weights of this shard.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether this shard has nothing left to do for a step, either because it has applied it or
    /// because it cannot.
    pub fn has_completed(&self, step: u64) -> bool {
        self.version > step || self.version == step && matches!(self.phase, Phase::Diverged)
    }

    /// Handles an event and appends the actions that follow from it.
    pub fn step(&mut self, event: ShardEvent, actions: &mut Vec<ShardAction>) {
        if matches!(self.phase, Phase::Finished) {
            return;
        }
        match event {
            ShardEvent::Attached { kept } => self.attached(kept, actions),
            ShardEvent::CoordinatorLost => self.coordinator_lost(),
            ShardEvent::Dismissed(reason) => self.finish(reason, actions),
            ShardEvent::Restore { version, number, elements } => {
                self.restore(version, number, elements, actions);
            }
            ShardEvent::Arrived { version, elements } => self.arrived(version, elements, actions),
            ShardEvent::Joined { worker } => actions.push(match self.holds_weights() {
                true => ShardAction::Serve { worker },
                // The run may not resume from the weights kept here, so they would be of no use to the
                // worker.
                false => ShardAction::TurnAway { worker },
            }),
            ShardEvent::WeightsWanted { worker } if self.holds_weights() => {
                actions.push(ShardAction::Serve { worker });
            }
            ShardEvent::Refused { counted, why } => {
                if let Some(step) = counted
                    && !self.mutation.is(Mutation::TaintNotReported)
                {
                    self.report(ShardReport::Tainted { step, why }, actions);
                }
            }
            ShardEvent::Gathered { step } => self.gathered(step, actions),
            ShardEvent::Decided { step } => self.decided(step, actions),
            ShardEvent::Completed { step } => self.completed(step, actions),
            ShardEvent::Committed { step } => self.committed(step, actions),
            ShardEvent::Diverged { step } => self.diverged(step, actions),
            ShardEvent::WeightsRequested { version, with_state } if self.keeps(version) => {
                actions.push(ShardAction::SendWeights { version, with_state });
            }
            // A shard that has applied the step lacks nothing and does not answer.
            ShardEvent::MissingRequested { step } if self.is_at(step) => {
                self.report(ShardReport::Missing { step }, actions);
            }
            ShardEvent::WeightsWanted { .. }
            | ShardEvent::WeightsRequested { .. }
            | ShardEvent::MissingRequested { .. } => {}
        }
    }

    /// The weights of another part are of no use.
    fn attached(&mut self, kept: Range<usize>, actions: &mut Vec<ShardAction>) {
        self.is_attached = true;
        if kept != self.kept {
            self.kept = kept.clone();
            self.phase = Phase::Empty;
            actions.extend([ShardAction::SendAllAway, ShardAction::Keep { kept }]);
        }
    }

    /// The remaining weights of a restore will not arrive. Workers are still served: they may finish their
    /// work until the next coordinator sends them away.
    fn coordinator_lost(&mut self) {
        self.is_attached = false;
        if matches!(self.phase, Phase::Restoring { .. }) {
            self.phase = Phase::Empty;
        }
    }

    fn restore(&mut self, version: u64, number: u64, elements: usize, actions: &mut Vec<ShardAction>) {
        // Sums that workers send from now on may belong to a step that is made differently the next time.
        if !self.mutation.is(Mutation::WorkersKeptOnRestore) {
            actions.push(ShardAction::SendAllAway);
        }
        if version == 0 {
            actions.push(ShardAction::Begin);
            self.restored(version, number, actions);
        } else {
            self.phase = Phase::Restoring { version, number, missing: elements };
        }
    }

    fn arrived(&mut self, version: u64, elements: usize, actions: &mut Vec<ShardAction>) {
        let Phase::Restoring { version: expected, number, missing } = &mut self.phase else { return };
        // Chunks of an earlier restore may still be on their way.
        if version != *expected {
            return;
        }
        *missing = missing.saturating_sub(elements);
        let number = *number;
        if *missing == 0 || self.mutation.is(Mutation::ResumesAfterFirstChunk) {
            actions.push(ShardAction::Resume { version });
            self.restored(version, number, actions);
        }
    }

    fn restored(&mut self, version: u64, number: u64, actions: &mut Vec<ShardAction>) {
        self.version = version;
        self.phase = Phase::Gathering;
        self.report(ShardReport::Restored { number }, actions);
    }

    fn gathered(&mut self, step: u64, actions: &mut Vec<ShardAction>) {
        if matches!(self.phase, Phase::Gathering) && step == self.version {
            self.phase = Phase::Measured;
            actions.push(ShardAction::Measure { step });
        }
    }

    fn decided(&mut self, step: u64, actions: &mut Vec<ShardAction>) {
        if matches!(self.phase, Phase::Measured) && step == self.version {
            self.phase = Phase::Following;
            actions.push(ShardAction::Follow { step });
        } else {
            actions.push(ShardAction::WarnUselessVerdict { step });
        }
    }

    fn completed(&mut self, step: u64, actions: &mut Vec<ShardAction>) {
        // Unless a policy is active, chunks are updated as they arrive, and no verdict comes in between.
        if matches!(self.phase, Phase::Gathering | Phase::Following) && step == self.version {
            self.phase = Phase::Committing;
            actions.push(ShardAction::Commit { step });
        }
    }

    fn committed(&mut self, step: u64, actions: &mut Vec<ShardAction>) {
        if matches!(self.phase, Phase::Committing) && step == self.version {
            self.version += 1;
            self.phase = Phase::Gathering;
            actions.push(ShardAction::ServeAll);
            self.report(ShardReport::Applied { step }, actions);
        }
    }

    fn diverged(&mut self, step: u64, actions: &mut Vec<ShardAction>) {
        if matches!(self.phase, Phase::Committing) && step == self.version {
            self.phase = Phase::Diverged;
            actions.push(ShardAction::ServeAll);
            self.report(ShardReport::Diverged { step }, actions);
        }
    }

    fn finish(&mut self, reason: Dismissal, actions: &mut Vec<ShardAction>) {
        self.phase = Phase::Finished;
        actions.push(ShardAction::Finish(reason));
    }

    fn report(&self, report: ShardReport, actions: &mut Vec<ShardAction>) {
        // Nothing is kept for the next coordinator, because it restores this shard before it accepts any
        // report.
        if self.is_attached {
            actions.push(ShardAction::Report(report));
        }
    }

    fn holds_weights(&self) -> bool {
        !matches!(self.phase, Phase::Empty | Phase::Restoring { .. } | Phase::Finished)
    }

    fn is_at(&self, step: u64) -> bool {
        self.holds_weights() && step == self.version
    }

    /// The previous weights stay until the next step begins, because the other servers may not have made
    /// the last one.
    fn keeps(&self, version: u64) -> bool {
        self.holds_weights() && (version == self.version || version + 1 == self.version)
    }
}
