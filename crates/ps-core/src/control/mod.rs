//! Policies that decide about steps: when validation lowers the learning rate, when a run ends before its
//! last step, when a step is undone, and how a descent that checks its steps continues.
//!
//! Each policy has one file with its settings, the state that it keeps between steps, and a decision,
//! which is a pure function of settings, state and observations. [`Control`] asks every policy once per
//! step and combines the answers into a [`Verdict`], which the holder of the weights carries out on every
//! part of them.

mod apply;
mod armijo;
mod early_stopping;
mod guard;
mod monitor;
mod plateau;
mod probe;
#[cfg(test)]
mod tests;
mod verdict;

pub use armijo::{Convergence, ConvergenceCriterion, Descent};
pub use early_stopping::EarlyStopping;
pub use guard::{Explosion, Guard};
pub use monitor::Monitor;
pub use probe::Probe;
pub use verdict::{Action, Event, NotFinite, PolicyReport, Stop, Verdict};

use crate::metrics::{MetricSums, Observed};
use crate::optim::{ModelOptimizer, Norms, StepParams, UpdateNorms};
use crate::schedule::{Schedule, ScheduleKind};
use armijo::{Base, Point};
use early_stopping::{Best, Validated};
use guard::{Candidate, Decision, GuardState};
use plateau::Plateau;
use probe::Pending;
use ps_plan::mutation::{ActiveMutation, Mutation};
use ps_plan::{BatchPlan, Step};
use serde::{Deserialize, Serialize};

/// Which policies a run uses. The default is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlConfig {
    /// The metric that early stopping and `plateau` follow.
    pub monitor: Monitor,
    /// Ends the run when the monitored metric stops improving.
    pub early_stopping: Option<EarlyStopping>,
    /// Reacts to a loss that explodes.
    pub guard: Option<Guard>,
    /// Accepts or rejects each step by its decrease of the loss.
    pub descent: Option<Descent>,
}

/// The policies of a run: the one place that decides about steps, rates and the end of the run.
///
/// Each step, the holder of the weights calls [`Control::decide`] with what it observed at the current
/// weights and carries out the returned [`Verdict`]. If [`Control::holds`] is `false` for the step, it may
/// use [`Control::plain`] instead and update parts of the weights before the whole gradient is known.
#[derive(Clone, Debug)]
pub struct Control {
    config: ControlConfig,
    plan: BatchPlan,
    schedule: Schedule,
    optimizer: ModelOptimizer,
    state: State,
    mutation: ActiveMutation,
}

/// What the policies remember between steps. It is part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Number of steps that the optimizer's state has seen.
    count: u64,
    plateau: Option<Plateau>,
    best: Option<Best>,
    guard: GuardState,
    descent: Option<Base>,
    probe: Option<Pending>,
}

impl State {
    /// The state of a run without policies after `count` steps.
    pub(crate) fn plain(count: u64) -> Self {
        State { count, ..State::default() }
    }
}

impl Control {
    /// The policies of a run before its first step.
    pub fn new(
        config: ControlConfig,
        optimizer: ModelOptimizer,
        plan: BatchPlan,
        schedule: impl Into<Schedule>,
    ) -> Self {
        let mutation = ActiveMutation::default();
        Control { config, optimizer, plan, schedule: schedule.into(), state: State::default(), mutation }
    }

    /// Injects mutations, for tests that must detect them.
    pub fn with_mutation(self, mutation: ActiveMutation) -> Self {
        Control { mutation, ..self }
    }

    /// How the run is divided into steps.
    pub fn plan(&self) -> BatchPlan {
        self.plan
    }

    /// The optimizer, which carries out verdicts.
    pub fn optimizer(&self) -> &ModelOptimizer {
        &self.optimizer
    }

    /// The state to save in a checkpoint, for [`Control::resume`].
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Continues from the state of a checkpoint of the same run.
    pub fn resume(&mut self, state: State) {
        let forgets = self.mutation.is(Mutation::PolicyStateLostOnResume);
        self.state = if forgets { State::plain(state.count) } else { state };
    }

    /// Whether any policy decides about steps. If so, a step waits until its whole batch and, after an epoch,
    /// the validation set have been evaluated.
    pub fn watches(&self) -> bool {
        let ControlConfig { early_stopping, guard, descent, .. } = &self.config;
        early_stopping.is_some() || guard.is_some() || descent.is_some() || self.schedule.watches()
    }

    /// Whether a step must know the whole gradient before any part of the weights is updated.
    pub fn holds(&self, step: u64) -> bool {
        self.watches() || self.optimizer.config().needs_norms() || self.probes(step)
    }

    /// Whether step `step` is probed.
    pub(crate) fn probes(&self, step: u64) -> bool {
        self.plan.probes(step)
    }

    /// The learning rate of a step, before any policy has decided about it.
    pub fn rate(&self, step: u64) -> f32 {
        (self.exact_rate(step) * self.state.guard.factor()) as f32
    }

    fn exact_rate(&self, step: u64) -> f64 {
        let (begin, rate) = self.schedule.phase(step);
        match &self.state.plateau {
            // Before the first validation of a phase, the state is still that of an earlier one.
            Some(plateau) if rate.is_watching(step - begin) && plateau.begin() == begin => plateau.rate(),
            _ => rate.exact(step - begin),
        }
    }

    /// The verdict on a step that no policy decides about.
    pub fn plain(&self, step: Step) -> Verdict {
        let step_params = StepParams {
            count: self.state.count + 1,
            ..StepParams::plain(step.step, step.samples, self.rate(step.step))
        };
        let count = step_params.count;
        Verdict {
            step_params,
            action: Action::Step,
            keep_best: false,
            keep_good: false,
            measures: false,
            count,
        }
    }

    /// The number of steps that the optimizer's state has seen. A recovery reduces it.
    pub fn count(&self) -> u64 {
        self.state.count
    }

    /// Sets the number of steps that the optimizer's state has seen. A shard calls this with the
    /// coordinator's number, because it makes no decisions itself.
    pub fn follow(&mut self, count: u64) {
        let counts = self.mutation.is(Mutation::ShardCountsSteps);
        self.state.count = if counts { self.state.count + 1 } else { count };
    }

    /// Records a step made with [`Control::plain`].
    pub fn made_plain(&mut self, verdict: &Verdict, observed: &Observed) -> PolicyReport {
        self.state.count = verdict.count;
        PolicyReport { probe: self.take_probe(observed), ..PolicyReport::default() }
    }

    /// Decides about a step from the observations at the weights before it.
    ///
    /// # Errors
    /// Returns an error if the loss or the gradient is not finite and no policy can recover.
    pub fn decide(
        &mut self,
        step: Step,
        observed: &Observed,
        norms: &Norms,
    ) -> Result<(Verdict, PolicyReport), NotFinite> {
        let mut decided = PolicyReport { probe: self.take_probe(observed), ..PolicyReport::default() };
        let loss = observed.train.mean_loss();
        // The squares of binary32 numbers cannot overflow a sum in f64, so this sum is finite exactly if
        // every element is.
        let is_finite = observed.train.loss.is_finite() && norms.gradient_squared().is_finite();
        let mut verdict = self.plain(step);
        verdict.step_params.scale = self.optimizer.scale(norms);
        if let Some(validation) = &observed.validation {
            verdict.keep_best = self.validated(step, validation, &mut decided);
        }
        // No step is made from these weights, so neither a descent nor the guard looks at them.
        if decided.is_last {
            verdict.action = Action::Best;
            verdict.count = self.state.count;
            return Ok((verdict, decided));
        }
        if let Some(descent) = self.config.descent {
            verdict.action = self.descend(descent, step, loss, is_finite, norms, &mut decided)?;
        } else {
            let (action, keep_good) = self.guard_step(step, loss, is_finite, &mut decided)?;
            (verdict.action, verdict.keep_good) = (action, keep_good);
        }
        // Only now, because a descent has just chosen the rate of this step.
        verdict.step_params.rate = match &self.state.descent {
            Some(base) => base.rate() as f32,
            None => self.rate(step.step),
        };
        verdict.step_params.trust = self.optimizer.trust(norms, verdict.step_params.scale);
        match verdict.action {
            Action::Step => self.state.count += 1,
            Action::Recover if !self.mutation.is(Mutation::RecoveryLeavesStepCount) => {
                self.state.count = self.state.guard.kept_count();
            }
            _ => {}
        }
        verdict.count = self.state.count;
        if verdict.action == Action::Step && self.probes(step.step) {
            verdict.measures = true;
            self.state.probe = Some(Pending {
                step: step.step,
                rate: verdict.step_params.rate,
                loss,
                norm: norms.gradient(),
                predicted: 0.0,
                ratios: Vec::new(),
            });
        }
        Ok((verdict, decided))
    }

    /// Records how far a probed step moved the weights; `sums` are those of all pieces, in order.
    pub fn measured(&mut self, sums: &[UpdateNorms]) {
        let (predicted, ratios) = self.optimizer.update_norms(sums);
        if let Some(probe) = &mut self.state.probe {
            (probe.predicted, probe.ratios) = (predicted, ratios);
        }
    }

    /// The effect of the previous step on the loss of its batch, if that step was probed.
    fn take_probe(&mut self, observed: &Observed) -> Option<Probe> {
        let pending = self.state.probe.take()?;
        Some(pending.finish(observed.last_batch.as_ref()?.mean_loss()))
    }

    /// Records a validation. Returns whether the weights are the best so far.
    fn validated(&mut self, step: Step, validation: &MetricSums, decided: &mut PolicyReport) -> bool {
        let monitor = self.config.monitor;
        let loss = monitor.minimized(monitor.value(validation));
        decided.events.extend(self.lower(step, loss));
        let Some(early_stopping) = self.config.early_stopping else { return false };
        match early_stopping.observe(&mut self.state.best, step.step, loss) {
            Validated::Best => true,
            Validated::NotBetter => false,
            Validated::Exhausted(Best { loss, step, waited }) => {
                let best = monitor.minimized(loss);
                decided.stop(Stop::NoImprovement { monitor, best, validations: waited, step });
                false
            }
        }
    }

    /// Passes a monitored value, which falls as it improves, to the current schedule if it is `plateau`.
    fn lower(&mut self, step: Step, loss: f64) -> Option<Event> {
        let (begin, rate) = self.schedule.phase(step.step);
        if rate.schedule != ScheduleKind::Plateau {
            self.state.plateau = None;
            return None;
        }
        let fresh = Plateau::new(begin, rate.initial);
        let plateau = self.state.plateau.get_or_insert(fresh);
        // Two plateaus may follow each other, and each starts afresh.
        if plateau.begin() != begin {
            *plateau = fresh;
        }
        let rates = plateau.observe(rate, loss)?;
        // The reported rates include the guard's factor.
        let guarded = self.state.guard.factor();
        let monitor = self.config.monitor;
        Some(Event::Lowered {
            monitor,
            value: monitor.minimized(loss),
            best: monitor.minimized(plateau.best().unwrap_or(loss)),
            patience: rate.patience,
            rates: rates.map(|rate| (rate * guarded) as f32),
        })
    }

    /// Asks the guard about the step. Returns what happens to the weights, and whether the current
    /// ones are kept.
    fn guard_step(
        &mut self,
        step: Step,
        loss: f64,
        is_finite: bool,
        decided: &mut PolicyReport,
    ) -> Result<(Action, bool), NotFinite> {
        let Some(guard) = self.config.guard else {
            return if is_finite { Ok((Action::Step, false)) } else { Err(NotFinite) };
        };
        let candidate = Candidate {
            step: step.step,
            count: self.state.count,
            loss: is_finite.then_some(loss),
            rate: self.exact_rate(step.step),
        };
        let (decision, event) = self.state.guard.decide(&guard, candidate)?;
        decided.events.extend(event);
        Ok(match decision {
            Decision::Step => (Action::Step, false),
            Decision::Keep => (Action::Step, true),
            Decision::Recover => (Action::Recover, false),
        })
    }

    /// Lets a descent accept or reject the point and decide how to continue.
    fn descend(
        &mut self,
        descent: Descent,
        step: Step,
        loss: f64,
        is_finite: bool,
        norms: &Norms,
        decided: &mut PolicyReport,
    ) -> Result<Action, NotFinite> {
        let point = Point {
            loss: loss + self.optimizer.penalty(norms),
            squared: norms.tensors.iter().fold(0.0, |sum, tensor| sum + tensor.step),
            is_finite,
            is_last: step.step + 1 >= self.plan.steps,
        };
        let initial = self.exact_rate(step.step);
        let (action, arrival) = descent.decide(&mut self.state.descent, point, initial)?;
        if let Some(arrival) = arrival {
            decided.stop(Stop::Converged(arrival));
        }
        Ok(action)
    }
}
