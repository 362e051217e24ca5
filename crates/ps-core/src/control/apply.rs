//! Applies verdicts to weights and state. Besides the optimizer's vectors, the state holds those that
//! policies keep: the best weights, the guard's copies, and the base point of a descent with its direction.

use super::{Action, Control, ControlConfig, Event, Verdict};
use crate::metrics::MetricSums;
use crate::optim::{Finite, ModelOptimizer, StepParams, vectors_mut};
use ps_plan::mutation::Mutation;

impl Control {
    /// Names the vectors of a run's state, each `[parameters]` and initially 0: first the optimizer's, then
    /// those of the policies.
    pub fn vectors(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.optimizer.state().iter().map(|vector| vector.name).collect();
        names.extend(self.config.early_stopping.map(|_| "best"));
        if self.config.guard.is_some_and(|guard| guard.can_recover) {
            names.push("good");
            names.extend(self.optimizer.state().iter().map(|vector| vector.kept));
        }
        if self.config.descent.is_some() {
            names.extend(["base", "direction"]);
        }
        names
    }

    /// Whether this run can apply the verdict, that is, keeps every vector that the verdict needs.
    pub fn supports(&self, verdict: &Verdict) -> bool {
        let ControlConfig { early_stopping, guard, descent, .. } = &self.config;
        let recovers = guard.is_some_and(|guard| guard.can_recover);
        let can = match verdict.action {
            Action::Step | Action::Stay => true,
            Action::Recover => recovers,
            Action::Best => early_stopping.is_some(),
            Action::Accept | Action::Retry | Action::Base => descent.is_some(),
        };
        can && (!verdict.keep_best || early_stopping.is_some()) && (!verdict.keep_good || recovers)
    }

    /// Applies a verdict on the elements from `offset` on: `w` are their weights, `g` their gradient
    /// sums, and `state` their vectors, `[vectors, elements]`.
    pub(crate) fn apply(
        &self,
        verdict: &Verdict,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        state: &mut [f32],
    ) -> Finite {
        self.apply_with(verdict, offset, w, g, state, |optimizer, step_params, w, g, state| {
            let size = w.len();
            optimizer.update(step_params, offset, w, g, vectors_mut(state, size))
        })
    }

    /// Applies a verdict on all weights, on the threads of the current rayon pool.
    pub fn apply_to_all(&self, verdict: &Verdict, w: &mut [f32], g: &[f32], state: &mut [f32]) {
        self.apply_with(verdict, 0, w, g, state, |optimizer, step_params, w, g, state| {
            optimizer.update_all(step_params, w, g, state);
            // Callers check the gradient before and, in the last step, the weights after.
            Finite::ALL
        });
    }

    fn apply_with(
        &self,
        verdict: &Verdict,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        state: &mut [f32],
        update: impl FnOnce(&ModelOptimizer, &StepParams, &mut [f32], &[f32], &mut [f32]) -> Finite,
    ) -> Finite {
        let size = w.len();
        let own = self.optimizer.state().len();
        let (own_state, mut aside) = state.split_at_mut(own * size);
        let mut take = |wanted: bool, vectors: usize| {
            let size = if wanted { vectors * size } else { 0 };
            aside.split_off_mut(..size).unwrap_or_default()
        };
        // In the order of `Control::vectors`, by which checkpoints name the vectors.
        let best = take(self.config.early_stopping.is_some(), 1);
        let good = take(self.config.guard.is_some_and(|guard| guard.can_recover), 1 + own);
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
            Action::Step => {
                let finite = update(&self.optimizer, &verdict.step_params, w, g, own_state);
                if verdict.keep_good && self.mutation.is(Mutation::GuardKeepsLaterWeights) {
                    good[..size].copy_from_slice(w);
                }
                return finite;
            }
            Action::Recover => {
                w.copy_from_slice(&good[..size]);
                if !self.mutation.is(Mutation::RecoveryLeavesState) {
                    own_state.copy_from_slice(&good[size..]);
                }
            }
            Action::Stay => {}
            Action::Best => w.copy_from_slice(best),
            Action::Accept | Action::Retry => {
                let (point, direction) = base.split_at_mut(size);
                if verdict.action == Action::Accept {
                    point.copy_from_slice(w);
                    self.optimizer.direction(&verdict.step_params, offset, w, g, direction);
                }
                let rate = verdict.step_params.rate;
                for ((w, &point), &direction) in w.iter_mut().zip(&*point).zip(&*direction) {
                    *w = (-rate).mul_add(direction, point);
                }
            }
            Action::Base => w.copy_from_slice(&base[..size]),
        }
        Finite { gradient: true, weights: w.iter().all(|w| w.is_finite()) }
    }

    /// Restores the best weights after the last step unless the final weights, whose loss is `validation`,
    /// are better. `state` is `[vectors, parameters]`.
    pub fn close(
        &self,
        weights: &mut [f32],
        state: &[f32],
        validation: Option<&MetricSums>,
    ) -> Option<Event> {
        let early_stopping = self.config.early_stopping?;
        let best = self.state.best?;
        let monitor = self.config.monitor;
        let loss = monitor.minimized(monitor.value(validation?));
        if early_stopping.is_better(&best, loss) {
            return None;
        }
        // `best` is the first vector after those of the optimizer.
        let at = self.optimizer.state().len() * weights.len();
        weights.copy_from_slice(&state[at..at + weights.len()]);
        Some(Event::Restored {
            monitor,
            value: monitor.minimized(loss),
            best: monitor.minimized(best.loss),
            step: best.step,
        })
    }
}
