//! From the sums of a step to the next weights.

use crate::message::WeightsChunk;
use crate::plane::Plane;
use crate::whole::Checks;
use ps_core::control::{NotFinite, Verdict};
use ps_core::optim::{PieceSums, UpdateNorms};
use ps_core::trainer::Diverged;
use ps_core::{Fold, Observed, StepReport};
use ps_plan::Section;
use ps_plan::mutation::Mutation;
use std::collections::BTreeSet;

impl Plane {
    /// Whether the open step waits for a decision.
    pub fn awaits_decision(&self) -> bool {
        self.verdict.is_none() && self.control.holds(self.version)
    }

    /// The sums over the pieces that are kept here. All leaves must be in.
    pub fn measure(&self) -> Vec<PieceSums> {
        let step = self.plan.step(self.version);
        if let Some(whole) = &self.whole {
            return whole.measure(&self.control, step);
        }
        let (step_params, mut sums) = (self.control.plain(step).step_params, Vec::new());
        for chunk in &self.chunks {
            chunk.measure(self.control.optimizer(), &step_params, &mut sums);
        }
        sums
    }

    /// Decides about the open step, all of whose metrics must be in, from the sums over the pieces of all
    /// servers, in order. Returns `None` if a sum is not finite.
    pub fn decide(&mut self, sums: &[PieceSums]) -> Option<&Verdict> {
        let step = self.plan.step(self.version);
        let norms = self.control.optimizer().norms(sums);
        let observed = self.observe();
        let decision = self.control.decide(step, &observed, &norms);
        self.observed = Some(observed);
        match decision {
            Ok((verdict, decided)) => {
                self.decided = Some(decided);
                Some(self.verdict.insert(verdict))
            }
            Err(NotFinite) => {
                self.diverged = true;
                // With a verdict, the step no longer waits for a decision, and `commit` fails.
                self.verdict = Some(self.control.plain(step));
                None
            }
        }
    }

    /// Adopts another server's decision about the open step.
    pub fn follow(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    /// Updates all chunks that are not updated yet. All leaves must be covered.
    pub fn release(&mut self) -> Vec<WeightsChunk> {
        self.update_whole();
        (0..self.chunks.len()).filter_map(|index| self.advance(index)).collect()
    }

    /// Updates weights that are not split into chunks. This cannot be undone, so it is skipped if the step is
    /// bound to fail.
    fn update_whole(&mut self) {
        if self.whole.is_none() {
            return;
        }
        let observed = self.observe();
        let is_decided = self.decided.is_some();
        self.diverged |= !is_decided && !observed.train.loss.is_finite();
        self.observed = Some(observed);
        let checks = Checks { gradient: !is_decided, weights: self.is_last() };
        if let Some(whole) = self.whole.as_mut().filter(|_| !self.diverged) {
            let step = self.plan.step(self.version);
            let verdict = self.verdict.get_or_insert_with(|| self.control.plain(step));
            let is_last = checks.weights;
            let finite = whole.update(&self.control, verdict, step, checks);
            self.diverged |= !finite.gradient || is_last && !finite.weights;
        }
    }

    /// Whether the run ends with the open step, as far as that is decided.
    fn is_last(&self) -> bool {
        self.version + 1 >= self.plan.steps || self.decided.as_ref().is_some_and(|decided| decided.is_last)
    }

    /// Updates a chunk if all leaves are covered and it is not updated yet.
    pub(crate) fn advance(&mut self, index: usize) -> Option<WeightsChunk> {
        let chunk = &mut self.chunks[index];
        if chunk.next.is_some() || !chunk.fold.is_complete() {
            return None;
        }
        let step = self.plan.step(self.version);
        // The first chunk fixes the verdict for all chunks of the step.
        let verdict = self.verdict.get_or_insert_with(|| self.control.plain(step));
        let (served, finite) = chunk.compute_next(&self.control, verdict, &self.pool, self.model.precision());
        self.updated += 1;
        let part = WeightsChunk { version: self.version + 1, offset: chunk.offset, bytes: served.sent };
        // A weight that overflows shows in the next step's loss; after the last step nothing else would check
        // it.
        self.diverged |= !finite.gradient || self.is_last() && !finite.weights;
        (!self.diverged).then_some(part)
    }

    /// Whether the next weights of all chunks are computed.
    pub fn is_complete(&self) -> bool {
        self.updated == self.chunks.len()
    }

    /// How far the weights that are kept here move in the open step, all of whose chunks must be updated.
    /// Empty if the step is not probed.
    pub fn measure_update(&mut self) -> Vec<UpdateNorms> {
        let mut sums = Vec::new();
        if self.verdict.as_ref().is_some_and(|verdict| verdict.measures) {
            let samples = self.plan.step(self.version).samples;
            if let Some(whole) = &mut self.whole {
                return whole.measure_update(self.control.optimizer(), samples);
            }
            for chunk in &self.chunks {
                chunk.measure_update(self.control.optimizer(), samples, &mut sums);
            }
        }
        sums
    }

    /// Notes that another shard cannot make `step`.
    pub fn diverge(&mut self, step: u64) {
        self.diverged |= step == self.version;
    }

    /// Discards everything gathered for the open step, and reverts the chunks that were updated.
    pub fn start_over(&mut self) {
        let tree = self.tree_of(self.version);
        self.chunks.iter_mut().for_each(|chunk| chunk.start_over(tree.training()));
        self.open_step(tree);
    }

    /// Makes the step: the next weights, all of which must be computed, become the weights. `moved`
    /// is [`Plane::measure_update`] of all servers, in order. A shard receives no metric sums, so its
    /// report contains none.
    ///
    /// # Errors
    /// The loss or an element is not finite; the weights stay as they are.
    pub fn commit(&mut self, update_norms: &[UpdateNorms]) -> Result<StepReport, Diverged> {
        let observed = self.observe();
        let step = self.plan.step(self.version);
        let verdict = self.verdict.take().unwrap_or_else(|| self.control.plain(step));
        let rate = verdict.step_params.rate;
        let decided = self.decided.take();
        // A policy that has decided may accept a loss that is not finite: the guard recovers from it.
        if self.diverged || decided.is_none() && !observed.train.loss.is_finite() {
            return Err(Diverged { step: step.step, rate, loss: observed.train.mean_loss() });
        }
        if verdict.measures && !update_norms.is_empty() {
            self.control.measured(update_norms);
        }
        // If another server has decided, only the count is known here.
        self.control.follow(verdict.count);
        let decided = decided.unwrap_or_else(|| self.control.made_plain(&verdict, &observed));
        self.version += 1;
        let tree = self.tree_of(self.version);
        let keeps_previous = self.keeps_previous;
        self.chunks.iter_mut().for_each(|chunk| chunk.commit(tree.training(), keeps_previous));
        self.has_previous = keeps_previous;
        let counted = std::mem::take(&mut self.counted);
        self.counted_before = if keeps_previous { counted } else { BTreeSet::new() };
        let stays = self.mutation.is(Mutation::MetricsNotReset).then(|| self.metrics.clone());
        self.open_step(tree);
        self.metrics = stays.unwrap_or_else(|| Fold::new(tree));
        Ok(StepReport::new(step, rate, observed, decided))
    }

    /// The totals of the metric sums of the open step. If the weights are not split into chunks, this also
    /// takes the gradient.
    pub(crate) fn observe(&mut self) -> Observed {
        if let Some(observed) = self.observed.take() {
            return observed;
        }
        let root = self.metrics.take_root().map(|root| (root.metric_sums, root.gradient));
        let (train, gradient) = root.unwrap_or_default();
        if let Some(whole) = &mut self.whole {
            whole.take_gradient(gradient);
        }
        let [last_batch, validation] =
            [Section::LastBatch, Section::Validation].map(|section| self.metrics.take_metric_sums(section));
        Observed { train, last_batch, validation }
    }
}
