//! All weights in the process that computes the gradients: nothing is split into chunks, nothing is copied,
//! and no step is reverted.

use crate::plane::Plane;
use ps_core::control::Verdict;
use ps_core::gradient::InPlace;
use ps_core::optim::{Finite, ModelOptimizer, PieceSums, UpdateNorms};
use ps_core::trainer::Diverged;
use ps_core::{Control, Kernel, Model, NodeSum, Samples, StepReport};
use ps_plan::Step;
use std::sync::Arc;

/// How a plane without chunks holds its weights.
pub(crate) enum UnchunkedWeights {
    /// As one vector that the threads of the process share.
    Shared(Shared),
    /// In the layout that the matrix products read; each weight is updated as soon as its gradient is known.
    Fused(Box<InPlace>),
}

/// What an update checks for non-finite values; each check costs a pass over the vector.
pub(crate) struct Checks {
    pub gradient: bool,
    pub weights: bool,
}

/// One vector of weights.
pub(crate) struct Shared {
    /// The update copies them only if a thread still holds a reference.
    weights: Arc<Vec<f32>>,
    /// `[vectors, parameters]`.
    state: Vec<f32>,
    /// The sum of all leaves, once the step is decided or updated.
    gradient: Vec<f32>,
    /// The weights before an update that may have to be reverted, or that is measured.
    before: Option<Arc<Vec<f32>>>,
}

impl Plane {
    /// Creates a plane that keeps all weights as one vector, shared by the threads of this process.
    pub fn shared(model: Model, control: Control) -> Self {
        let weights = model.initial(control.plan().seed);
        let state = vec![0.0; control.vectors().len() * weights.len()];
        let shared = Shared { weights: Arc::new(weights), state, gradient: Vec::new(), before: None };
        Plane::whole(model, control, UnchunkedWeights::Shared(shared))
    }

    /// Creates a plane that keeps all weights in the layout that the matrix products read and updates each as
    /// soon as its gradient is known. The model and the optimizer must be suitable, see [`InPlace::suits`].
    /// After a divergence the weights are undefined.
    ///
    /// # Panics
    /// If `control` watches anything: an update in place cannot wait for a decision.
    pub fn fused(model: Model, control: Control, kernel: Kernel) -> Self {
        assert!(!control.watches(), "an update in place waits for nothing");
        let params = control.optimizer().config().params;
        let in_place = InPlace::new(&model, control.plan(), params, kernel);
        Plane::whole(model, control, UnchunkedWeights::Fused(Box::new(in_place)))
    }

    fn whole(model: Model, control: Control, whole: UnchunkedWeights) -> Self {
        let kept = 0..model.parameters();
        Plane { kept, whole: Some(whole), ..Plane::new(model, control, 0..0, []) }
    }

    /// The weights to compute with; `None` if [`Plane::compute`] does the computation. An update copies them
    /// unless all references are dropped before.
    pub fn shared_weights(&self) -> Option<Arc<Vec<f32>>> {
        match &self.whole {
            Some(UnchunkedWeights::Shared(shared)) => Some(Arc::clone(&shared.weights)),
            _ => None,
        }
    }

    /// All weights, `[parameters]`, of a plane that keeps them whole.
    pub fn weights(&mut self) -> &[f32] {
        match &mut self.whole {
            Some(UnchunkedWeights::Shared(shared)) => &shared.weights,
            Some(UnchunkedWeights::Fused(in_place)) => in_place.weights(),
            None => &[],
        }
    }

    /// The state, `[vectors, parameters]`, of a plane that keeps the weights whole.
    pub fn state(&mut self) -> &[f32] {
        match &mut self.whole {
            Some(UnchunkedWeights::Shared(shared)) => &shared.state,
            Some(UnchunkedWeights::Fused(in_place)) => in_place.velocity(),
            None => &[],
        }
    }

    /// Takes the sum of a node of the open step from a thread of this process, or, without a gradient,
    /// its metric sums.
    pub fn take_sum(&mut self, sum: NodeSum) {
        self.metrics.insert(sum);
    }

    /// Computes all training leaves of the open step for an update in place.
    pub fn compute(&mut self, samples: &dyn Samples) {
        let Some(UnchunkedWeights::Fused(in_place)) = &mut self.whole else { return };
        let step = self.plan.step(self.version);
        let metric_sums = in_place.compute(samples, step).clone();
        self.metrics.insert(NodeSum { node: step.tree().root(), gradient: Vec::new(), metric_sums });
    }

    /// Makes the open step, all of whose sums must be in: decides about it if necessary, updates and commits.
    ///
    /// # Errors
    /// The loss or an element is not finite; unless the plane is [`Plane::fused`], the weights stay
    /// as they are.
    pub fn finish(&mut self) -> Result<StepReport, Diverged> {
        if self.awaits_decision() {
            // This also takes the gradient out of the sums, where `measure` reads it.
            self.observed = Some(self.observe());
            let sums = self.measure();
            self.decide(&sums);
        }
        self.release();
        let update_norms = self.measure_update();
        self.commit(&update_norms)
    }

    /// Returns the gradient of the last step, so that its memory can be reused for the next.
    pub fn take_gradient(&mut self) -> Vec<f32> {
        match &mut self.whole {
            Some(UnchunkedWeights::Shared(shared)) => std::mem::take(&mut shared.gradient),
            _ => Vec::new(),
        }
    }
}

impl UnchunkedWeights {
    /// Takes the sum of all leaves.
    pub(crate) fn take_gradient(&mut self, gradient: Vec<f32>) {
        if let UnchunkedWeights::Shared(shared) = self {
            shared.gradient = gradient;
        }
    }

    pub(crate) fn restore(&mut self, weights: &[f32], state: &[f32]) {
        match self {
            UnchunkedWeights::Shared(shared) => {
                (shared.weights, shared.state) = (Arc::new(weights.to_vec()), state.to_vec());
            }
            UnchunkedWeights::Fused(in_place) => in_place.restore(weights.to_vec(), state.to_vec()),
        }
    }

    /// The sums over all pieces.
    pub(crate) fn measure(&self, control: &Control, step: Step) -> Vec<PieceSums> {
        match self {
            UnchunkedWeights::Shared(Shared { weights, state, gradient, .. }) => {
                control.optimizer().measure_all(&control.plain(step).step_params, weights, gradient, state)
            }
            UnchunkedWeights::Fused(_) => Vec::new(),
        }
    }

    /// Applies the verdict to all weights. Shared weights stay as they are if a checked value is not finite.
    pub(crate) fn update(
        &mut self,
        control: &Control,
        verdict: &Verdict,
        step: Step,
        checks: Checks,
    ) -> Finite {
        let Shared { weights, state, gradient, before } = match self {
            UnchunkedWeights::Shared(shared) => shared,
            UnchunkedWeights::Fused(in_place) => return in_place.update(step, verdict.step_params.rate),
        };
        if checks.gradient && !all_finite(gradient) {
            return Finite { gradient: false, weights: true };
        }
        // A second reference makes `make_mut` copy the weights, so it is taken only if needed.
        *before = (checks.weights || verdict.measures).then(|| Arc::clone(weights));
        control.apply_to_all(verdict, Arc::make_mut(weights).as_mut_slice(), gradient, state);
        let is_finite = !checks.weights || all_finite(weights);
        if let Some(before) = before.take_if(|_| !is_finite) {
            *weights = before;
        }
        Finite { gradient: true, weights: is_finite }
    }

    /// Returns how far the weights moved.
    pub(crate) fn measure_update(&mut self, optimizer: &ModelOptimizer, samples: usize) -> Vec<UpdateNorms> {
        let mut sums = Vec::new();
        if let UnchunkedWeights::Shared(Shared { weights, gradient, before, .. }) = self
            && let Some(before) = before.take()
        {
            optimizer.measure_update(samples, 0, [&before, weights], gradient, &mut sums);
        }
        sums
    }
}

/// Whether no element is NaN or infinite. Works on blocks without an early exit, which
/// the compiler vectorises.
fn all_finite(values: &[f32]) -> bool {
    values.chunks(4096).all(|run| run.iter().fold(true, |finite, value| finite & value.is_finite()))
}
