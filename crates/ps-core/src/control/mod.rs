//! What is decided from what was seen: the rate after validation has stopped getting better, when a run is over before its
//! last step, when a step is taken back, and how a descent that checks itself goes on.
//!
//! [`Control`] is a pure function of the run file and of the tallies and norms of the steps so far: whoever holds the
//! weights asks it once a step, and carries out its [`Verdict`] on every part of them.

mod guard;
mod plateau;
#[cfg(test)]
mod tests;

pub use guard::Guard;

use crate::metrics::{Observed, Tally};
use crate::optim::{Finite, Moved, Norms, Rules, Stride, vectors_mut};
use crate::schedule::{Schedule, ScheduleKind};
use guard::{Candidate, Decision, GuardState};
use plateau::Plateau;
use ps_plan::{BatchPlan, Step};
use serde::{Deserialize, Serialize};

/// Share of a mean loss below which its changes are the rounding of the samples' losses to binary32: a descent that went by
/// them would come to a halt before its gradient says so (Hager and Zhang 2005, section 2).
const LOSS_NOISE: f64 = 1.0 / 268_435_456.0;

/// What a run watches. The default watches nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlConfig {
    /// When the run is over early.
    pub early_stopping: Option<EarlyStopping>,
    /// What happens when the loss explodes.
    pub guard: Option<Guard>,
    /// Whether each step is checked, and how.
    pub descent: Option<Descent>,
}

/// Stops when the validation loss gets no better, and gives the best weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Validations in a row that are no better than the best before the run is over; at least 1.
    pub patience: u64,
    /// By how much a loss must be below the best to be better.
    pub least: f64,
}

/// Full-batch descent that takes a step only if the loss falls enough (Armijo 1966).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// The share of the first-order prediction by which the loss must fall.
    pub sufficient: f64,
    /// What the rate is multiplied by after a step that was not taken.
    pub shrink: f64,
    /// And after one that was.
    pub grow: f64,
    /// The run is over when the predicted or the actual decrease is not above this…
    pub tolerance: f64,
    /// … or the norm of the gradient is not above this.
    pub gradient_tolerance: f64,
}

/// Decides about each step.
#[derive(Clone, Debug)]
pub struct Control {
    config: ControlConfig,
    plan: BatchPlan,
    schedule: Schedule,
    rules: Rules,
    state: State,
}

/// What has been seen and decided so far: a part of the run's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps that the optimizer's state has seen.
    count: u64,
    plateau: Option<Plateau>,
    best: Option<Best>,
    guard: GuardState,
    descent: Option<Base>,
    probe: Option<Pending>,
}

impl State {
    /// Of a run that watches nothing, after so many steps.
    pub fn plain(count: u64) -> Self {
        State { count, ..State::default() }
    }
}

/// The best validation loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    loss: f64,
    /// Steps made then.
    step: u64,
    /// Validations since.
    waited: u64,
}

/// The last point that a descent has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Base {
    loss: f64,
    /// The squared norm of its gradient.
    squared: f64,
    /// The rate of the step from there that is tried.
    rate: f64,
}

/// A step that was looked at, of which it is not known yet what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pending {
    step: u64,
    rate: f32,
    loss: f64,
    norm: f64,
    predicted: f64,
    ratios: Vec<f64>,
}

/// What happens to the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The optimizer's step.
    Step,
    /// Back to the good state.
    Recover,
    /// Nothing.
    Stay,
    /// The best weights.
    Best,
    /// The point is accepted: a step along its gradient.
    Accept,
    /// The point is not: a shorter step from the one before.
    Retry,
    /// Back to the last accepted point.
    Base,
}

/// What a step does to every part of the weights and the state.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What the optimizer goes by.
    pub stride: Stride,
    /// What happens to the weights.
    pub action: Action,
    /// Whether the weights before that are the best.
    pub keep_best: bool,
    /// Whether they and the optimizer's state are good.
    pub keep_good: bool,
    /// Whether it is looked at how far the weights go.
    pub measures: bool,
    /// Steps that the optimizer's state has seen then.
    pub count: u64,
}

impl Verdict {
    /// Whether it is an optimizer's step and nothing else.
    pub fn is_plain(&self) -> bool {
        self.action == Action::Step && !self.keep_best && !self.keep_good
    }
}

/// What is told of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decided {
    /// Whether the run is over after it.
    pub is_last: bool,
    /// What was out of the ordinary.
    pub events: Vec<Event>,
    /// A step before it that was looked at closely.
    pub probe: Option<Probe>,
}

/// Something out of the ordinary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What, in one word.
    pub kind: EventKind,
    /// The same for people.
    pub text: String,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The rate was lowered, because validation got no better.
    Lowered,
    /// The loss exploded, and the run went back.
    Recovered,
    /// The loss exploded.
    Warned,
    /// The run is over before its last step.
    Stopped,
    /// The best weights were taken.
    Restored,
}

/// What a step was expected to do, and what it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The step.
    pub step: u64,
    /// Its learning rate.
    pub rate: f32,
    /// The mean loss of its batch before it.
    pub loss: f64,
    /// The norm of the mean gradient.
    pub gradient_norm: f64,
    /// By how much the loss of the batch should fall to first order: the product of the gradient and the way that the
    /// weights went.
    pub predicted: f64,
    /// By how much it fell.
    pub actual: f64,
    /// Of each layer, the norm of the change of its weight by the norm of its weight.
    pub ratios: Vec<f64>,
}

/// The loss or the gradient is not finite, and nothing can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

impl Control {
    /// Of a run before its first step.
    pub fn new(config: ControlConfig, rules: Rules, plan: BatchPlan, schedule: impl Into<Schedule>) -> Self {
        Control { config, rules, plan, schedule: schedule.into(), state: State::default() }
    }

    /// How the run is cut into steps.
    pub fn plan(&self) -> BatchPlan {
        self.plan
    }

    /// What it watches.
    pub fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// The rules that its verdicts are carried out by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What has been seen and decided so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Goes on from a state of the same run.
    pub fn resume(&mut self, state: State) {
        self.state = state;
    }

    /// The vectors of a run's state, each `[parameters]` and 0 at first: the optimizer's, and what is kept aside.
    pub fn vectors(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.rules.state().iter().map(|vector| vector.name).collect();
        names.extend(self.config.early_stopping.map(|_| "best"));
        if self.config.guard.is_some_and(|guard| guard.recovers) {
            names.push("good");
            names.extend(self.rules.state().iter().map(|vector| vector.kept));
        }
        if self.config.descent.is_some() {
            names.extend(["base", "direction"]);
        }
        names
    }

    /// Whether anything is decided from what is seen, so that a step waits for all of it.
    pub fn watches(&self) -> bool {
        let ControlConfig { early_stopping, guard, descent, .. } = &self.config;
        early_stopping.is_some() || guard.is_some() || descent.is_some() || self.schedule.watches()
    }

    /// Whether no part of the weights may be updated before the sum over all of the gradient is known.
    pub fn holds(&self, step: u64) -> bool {
        self.watches() || self.rules.config().needs_norms() || self.probes(step)
    }

    /// Whether the step is looked at closely.
    pub fn probes(&self, step: u64) -> bool {
        self.plan.probes(step)
    }

    /// The rate of a step, before anything is decided from it.
    pub fn rate(&self, step: u64) -> f32 {
        (self.exact_rate(step) * self.state.guard.factor()) as f32
    }

    fn exact_rate(&self, step: u64) -> f64 {
        let (begin, rate) = self.schedule.phase(step);
        match &self.state.plateau {
            Some(plateau) if rate.is_watching(step - begin) && plateau.begin() == begin => plateau.rate(),
            _ => rate.exact(step - begin),
        }
    }

    /// What a step goes by of which nothing is decided.
    pub fn plain(&self, step: Step) -> Verdict {
        let stride = Stride {
            count: self.state.count + 1,
            ..Stride::plain(step.step, step.samples, self.rate(step.step))
        };
        let count = stride.count;
        Verdict { stride, action: Action::Step, keep_best: false, keep_good: false, measures: false, count }
    }

    /// How many steps the optimizer's state has seen.
    pub fn count(&self) -> u64 {
        self.state.count
    }

    /// Goes on where only the optimizer's count is known, for a part of the weights about which another decides.
    pub fn follow(&mut self, count: u64) {
        self.state.count = count;
    }

    /// Whether a verdict can be carried out here: it needs nothing that this run does not keep.
    pub fn can(&self, verdict: &Verdict) -> bool {
        let ControlConfig { early_stopping, guard, descent, .. } = &self.config;
        let recovers = guard.is_some_and(|guard| guard.recovers);
        let can = match verdict.action {
            Action::Step | Action::Stay => true,
            Action::Recover => recovers,
            Action::Best => early_stopping.is_some(),
            Action::Accept | Action::Retry | Action::Base => descent.is_some(),
        };
        can && (!verdict.keep_best || early_stopping.is_some()) && (!verdict.keep_good || recovers)
    }

    /// Takes note of a step that was made by [`Control::plain`].
    pub fn made_plain(&mut self, verdict: &Verdict, observed: &Observed) -> Decided {
        self.state.count = verdict.count;
        Decided { probe: self.take_probe(observed), ..Decided::default() }
    }

    /// Decides about a step from what was seen at the weights before it.
    ///
    /// # Errors
    /// The loss or the gradient is not finite.
    pub fn decide(
        &mut self,
        step: Step,
        observed: &Observed,
        norms: &Norms,
    ) -> Result<(Verdict, Decided), NotFinite> {
        let mut decided = Decided { probe: self.take_probe(observed), ..Decided::default() };
        let loss = observed.train.mean_loss();
        let is_finite = observed.train.loss.is_finite() && norms.gradient_squared().is_finite();
        let mut verdict = self.plain(step);
        verdict.stride.scale = self.rules.scale(norms);
        if let Some(validation) = &observed.validation {
            verdict.keep_best = self.validated(step, validation, &mut decided);
        }
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
        verdict.stride.rate = match &self.state.descent {
            Some(base) => base.rate as f32,
            None => self.rate(step.step),
        };
        verdict.stride.trust = self.rules.trust(norms, verdict.stride.scale);
        match verdict.action {
            Action::Step => self.state.count += 1,
            Action::Recover => self.state.count = self.state.guard.kept_count(),
            _ => {}
        }
        verdict.count = self.state.count;
        if verdict.action == Action::Step && self.probes(step.step) {
            verdict.measures = true;
            self.state.probe = Some(Pending {
                step: step.step,
                rate: verdict.stride.rate,
                loss,
                norm: norms.gradient(),
                predicted: 0.0,
                ratios: Vec::new(),
            });
        }
        Ok((verdict, decided))
    }

    /// Takes note of how far the weights went in a step that is looked at: the sums over all pieces, in order.
    pub fn measured(&mut self, sums: &[Moved]) {
        let (predicted, ratios) = self.rules.moved(sums);
        if let Some(probe) = &mut self.state.probe {
            (probe.predicted, probe.ratios) = (predicted, ratios);
        }
    }

    /// What the step before did to the loss of its batch, if it was looked at.
    fn take_probe(&mut self, observed: &Observed) -> Option<Probe> {
        let Pending { step, rate, loss, norm, predicted, ratios } = self.state.probe.take()?;
        let actual = loss - observed.last_batch.as_ref()?.mean_loss();
        Some(Probe { step, rate, loss, gradient_norm: norm, predicted, actual, ratios })
    }

    /// Takes a validation in, and says whether the weights are the best.
    fn validated(&mut self, step: Step, validation: &Tally, decided: &mut Decided) -> bool {
        let loss = validation.mean_loss();
        self.lower(step, loss, decided);
        let Some(EarlyStopping { patience, least }) = self.config.early_stopping else { return false };
        if loss.is_finite() && self.state.best.is_none_or(|best| loss < best.loss - least) {
            self.state.best = Some(Best { loss, step: step.step, waited: 0 });
            return true;
        }
        if let Some(best) = &mut self.state.best {
            best.waited += 1;
            if best.waited >= patience {
                let Best { loss, step, waited } = *best;
                decided.is_last = true;
                decided.events.push(Event {
                    kind: EventKind::Stopped,
                    text: format!(
                        "stopped early: the validation loss was not below {loss:.6} in {waited} validations; \
                         the weights after step {step} are restored"
                    ),
                });
            }
        }
        false
    }

    /// Lowers the rate of a `plateau` schedule when it is time.
    fn lower(&mut self, step: Step, loss: f64, decided: &mut Decided) {
        let (begin, rate) = self.schedule.phase(step.step);
        if rate.schedule != ScheduleKind::Plateau {
            self.state.plateau = None;
            return;
        }
        let fresh = Plateau::new(begin, rate.initial);
        let plateau = self.state.plateau.get_or_insert(fresh);
        if plateau.begin() != begin {
            *plateau = fresh;
        }
        let Some(rates) = plateau.observe(rate, loss) else { return };
        // The guard's factor is part of the rate.
        let guarded = self.state.guard.factor();
        let [from, to] = rates.map(|rate| (rate * guarded) as f32);
        decided.events.push(Event {
            kind: EventKind::Lowered,
            text: format!(
                "the validation loss is {loss:.6}, and its best, {:.6}, was not beaten by enough in {}: learning rate \
                 {from} lowered to {to}",
                plateau.best().unwrap_or(loss),
                match rate.patience {
                    0 => "this one".into(),
                    patience => format!("{} validations in a row", patience + 1),
                }
            ),
        });
    }

    /// Has the guard decide about the step: what happens to the weights, and whether those before it are kept.
    fn guard_step(
        &mut self,
        step: Step,
        loss: f64,
        is_finite: bool,
        decided: &mut Decided,
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
        Ok(match self.state.guard.decide(&guard, candidate, &mut decided.events)? {
            Decision::Step => (Action::Step, false),
            Decision::Keep => (Action::Step, true),
            Decision::Recover => (Action::Recover, false),
        })
    }

    /// Accepts the point or not, and says how to go on.
    fn descend(
        &mut self,
        descent: Descent,
        step: Step,
        loss: f64,
        is_finite: bool,
        norms: &Norms,
        decided: &mut Decided,
    ) -> Result<Action, NotFinite> {
        let penalty = self.rules.penalty(norms);
        let (loss, squared) =
            (loss + penalty, norms.tensors.iter().fold(0.0, |sum, tensor| sum + tensor.step));
        let is_last_step = step.step + 1 >= self.plan.steps;
        let initial = self.exact_rate(step.step);
        let mut stop = |why: String| {
            decided.is_last = true;
            decided.events.push(Event { kind: EventKind::Stopped, text: why });
        };
        let Some(base) = self.state.descent else {
            if !is_finite {
                return Err(NotFinite);
            }
            self.state.descent = Some(Base { loss, squared, rate: initial });
            return Ok(if is_last_step { Action::Stay } else { Action::Accept });
        };
        let predicted = base.rate * base.squared;
        let noise = LOSS_NOISE * base.loss.abs();
        if is_finite && loss <= base.loss - descent.sufficient * predicted + noise {
            let actual = base.loss - loss;
            self.state.descent = Some(Base { loss, squared, rate: base.rate * descent.grow });
            let norm = squared.sqrt();
            let why = if norm <= descent.gradient_tolerance {
                format!(
                    "the norm of the gradient is {norm:.3e}, not above {:.3e}",
                    descent.gradient_tolerance
                )
            } else if predicted <= descent.tolerance {
                format!("the predicted decrease was {predicted:.3e}, not above {:.3e}", descent.tolerance)
            } else if actual <= descent.tolerance && descent.tolerance >= noise {
                format!("the loss fell by {actual:.3e}, not above {:.3e}", descent.tolerance)
            } else {
                return Ok(if is_last_step { Action::Stay } else { Action::Accept });
            };
            stop(format!("the descent has arrived at loss {loss:.9}: {why}"));
            return Ok(Action::Stay);
        }
        let rate = base.rate * descent.shrink;
        self.state.descent = Some(Base { rate, ..base });
        let predicted = rate * base.squared;
        if predicted <= descent.tolerance {
            stop(format!(
                "the descent has arrived at loss {:.9}: no step lowers it, and of the next one only {predicted:.3e} is \
                 predicted, not above {:.3e}",
                base.loss, descent.tolerance
            ));
            return Ok(Action::Base);
        }
        Ok(if is_last_step { Action::Base } else { Action::Retry })
    }

    /// Carries a verdict out on the elements from `offset` on: `w` are their weights, `g` their gradients' sums, `state`
    /// their vectors, `[vectors, elements]`.
    pub fn carry_out(
        &self,
        verdict: &Verdict,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        state: &mut [f32],
    ) -> Finite {
        self.carry_out_by(verdict, offset, w, g, state, |rules, stride, w, g, state| {
            let size = w.len();
            rules.update(stride, offset, w, g, vectors_mut(state, size))
        })
    }

    /// The same on all weights, on the threads of the current rayon pool.
    pub fn carry_out_all(&self, verdict: &Verdict, w: &mut [f32], g: &[f32], state: &mut [f32]) {
        self.carry_out_by(verdict, 0, w, g, state, |rules, stride, w, g, state| {
            rules.update_all(stride, w, g, state);
            Finite::ALL
        });
    }

    fn carry_out_by(
        &self,
        verdict: &Verdict,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        update: impl FnOnce(&Rules, &Stride, &mut [f32], &[f32], &mut [f32]) -> Finite,
    ) -> Finite {
        let size = w.len();
        let own = self.rules.state().len();
        let (own_state, mut aside) = state.split_at_mut(own * size);
        let mut take = |wanted: bool, vectors: usize| {
            let size = if wanted { vectors * size } else { 0 };
            aside.split_off_mut(..size).unwrap_or_default()
        };
        let best = take(self.config.early_stopping.is_some(), 1);
        let good = take(self.config.guard.is_some_and(|guard| guard.recovers), 1 + own);
        let base = take(self.config.descent.is_some(), 2);
        if verdict.keep_best {
            best.copy_from_slice(w);
        }
        if verdict.keep_good {
            let (weights, rest) = good.split_at_mut(size);
            weights.copy_from_slice(w);
            rest.copy_from_slice(own_state);
        }
        match verdict.action {
            Action::Step => return update(&self.rules, &verdict.stride, w, g, own_state),
            Action::Recover => {
                w.copy_from_slice(&good[..size]);
                own_state.copy_from_slice(&good[size..]);
            }
            Action::Stay => {}
            Action::Best => w.copy_from_slice(best),
            Action::Accept | Action::Retry => {
                let (point, direction) = base.split_at_mut(size);
                if verdict.action == Action::Accept {
                    point.copy_from_slice(w);
                    self.rules.direction(&verdict.stride, offset, w, g, direction);
                }
                let rate = verdict.stride.rate;
                for ((w, &point), &direction) in w.iter_mut().zip(&*point).zip(&*direction) {
                    *w = (-rate).mul_add(direction, point);
                }
            }
            Action::Base => w.copy_from_slice(&base[..size]),
        }
        Finite { gradient: true, weights: w.iter().all(|w| w.is_finite()) }
    }

    /// The weights that a run gives whose last step is made: the best, if those of the last step are not better.
    /// `validation` is of these; `state` is `[vectors, parameters]`.
    pub fn close(&self, weights: &mut [f32], state: &[f32], validation: Option<&Tally>) -> Option<Event> {
        let EarlyStopping { least, .. } = self.config.early_stopping?;
        let best = self.state.best?;
        let loss = validation?.mean_loss();
        if loss < best.loss - least {
            return None;
        }
        let at = self.rules.state().len() * weights.len();
        weights.copy_from_slice(&state[at..at + weights.len()]);
        let text = format!(
            "the validation loss is {loss:.6}, not below the best, {:.6}: the weights after step {} are restored",
            best.loss, best.step
        );
        Some(Event { kind: EventKind::Restored, text })
    }
}
