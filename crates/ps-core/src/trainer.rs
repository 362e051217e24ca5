//! The reference for every holder of weights: it makes a step from the sum of all its leaves, and nothing else.

use crate::control::{Control, ControlConfig, Decided, Event, NotFinite, Probe};
use crate::fold::NodeSum;
use crate::metrics::Observed;
use crate::metrics::Tally;
use crate::model::Model;
use crate::optim::{OptimizerConfig, Rules};
use crate::schedule::Schedule;
use ps_plan::{BatchPlan, Step};

/// Weights and state of a run, and what decides about its steps.
#[derive(Clone, Debug)]
pub struct Trainer {
    plan: BatchPlan,
    control: Control,
    /// `[vectors, parameters]`, see [`Control::vectors`].
    state: Vec<f32>,
    /// Whether the run is over, whatever the plan says.
    is_over: bool,
    weights: Vec<f32>,
    version: u64,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step.
    pub step: u64,
    /// Its epoch.
    pub epoch: u32,
    /// The learning rate it was made at.
    pub rate: f32,
    /// Loss and metrics of its batch, before the update.
    pub tally: Tally,
    /// Loss and metrics of the validation part, before the update, where the step before ended an epoch.
    pub validation: Option<Tally>,
    /// Whether the run is over after it.
    pub is_last: bool,
    /// What was out of the ordinary.
    pub events: Vec<Event>,
    /// What came of the step before, if that was looked at closely.
    pub probe: Option<Probe>,
}

impl StepReport {
    /// Of a step that was made.
    pub fn new(step: Step, rate: f32, observed: Observed, decided: Decided) -> Self {
        let Decided { is_last, events, probe } = decided;
        let Observed { train: tally, validation, .. } = observed;
        StepReport { step: step.step, epoch: step.epoch, rate, tally, validation, is_last, events, probe }
    }
}

/// The loss or a weight is no longer finite; the weights are those before the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Diverged {
    /// The step.
    pub step: u64,
    /// The learning rate of the step.
    pub rate: f32,
    /// The mean loss of its batch.
    pub loss: f64,
}

impl std::fmt::Display for Diverged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Diverged { step, rate, loss } = self;
        let smaller = rate / 10.0;
        write!(
            f,
            "training diverged at step {step}: loss {loss}, learning rate {rate}; \
             try a smaller one, such as --set learning_rate.initial={smaller}"
        )
    }
}

impl std::error::Error for Diverged {}

impl Trainer {
    /// A run before its first step, in which nothing is watched.
    pub fn new(
        model: &Model,
        plan: BatchPlan,
        optimizer: impl Into<OptimizerConfig>,
        rate: impl Into<Schedule>,
    ) -> Self {
        let rules = Rules::new(optimizer, model, plan.seed);
        Trainer::controlled(model, Control::new(ControlConfig::default(), rules, plan, rate))
    }

    /// A run before its first step.
    pub fn controlled(model: &Model, control: Control) -> Self {
        let plan = control.plan();
        let weights = model.initial(plan.seed);
        let state = vec![0.0; control.vectors().len() * weights.len()];
        Trainer { plan, control, state, is_over: false, weights, version: 0 }
    }

    /// The weights that the run gives, if `validation` is that of [`Trainer::weights`]: see [`Control::close`].
    pub fn close(&mut self, validation: Option<&Tally>) -> Option<Event> {
        if self.is_over { None } else { self.control.close(&mut self.weights, &self.state, validation) }
    }

    /// The weights after [`Trainer::version`] steps, `[parameters]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Steps made.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.is_over || self.version >= self.plan.steps
    }

    /// How the run is cut into steps.
    pub(crate) fn plan(&self) -> BatchPlan {
        self.plan
    }

    /// Makes the next step from the sum of all its leaves, whose tally goes into the report. On divergence nothing
    /// changes.
    pub fn finish(&mut self, root: &mut NodeSum) -> Result<StepReport, Diverged> {
        self.finish_seeing(root, None, None)
    }

    /// The same where more was seen than the batch: the batch of the step before, and the validation part.
    pub(crate) fn finish_seeing(
        &mut self,
        root: &mut NodeSum,
        last_batch: Option<Tally>,
        validation: Option<Tally>,
    ) -> Result<StepReport, Diverged> {
        let step = self.plan.step(self.version);
        assert_eq!(
            root.tally.samples, step.samples as u64,
            "the root sums every sample of step {}",
            step.step
        );
        let rate = self.control.rate(step.step);
        let diverged = Diverged { step: step.step, rate, loss: root.tally.mean_loss() };
        let observed = Observed { train: std::mem::take(&mut root.tally), last_batch, validation };
        let gradient = &root.gradient[..];
        let (verdict, decided) = if self.control.holds(step.step) {
            let stride = self.control.plain(step).stride;
            let rules = self.control.rules();
            let norms = rules.norms(&rules.measure_all(&stride, &self.weights, gradient, &self.state));
            let decided = self.control.decide(step, &observed, &norms);
            decided.map_err(|NotFinite| diverged.clone())?
        } else {
            if !observed.train.loss.is_finite() || !all_finite(gradient) {
                return Err(diverged);
            }
            let verdict = self.control.plain(step);
            let decided = self.control.made_plain(&verdict, &observed);
            (verdict, decided)
        };
        // A weight that overflows shows in the next step's loss; after the last step nobody would look.
        let is_last = self.version + 1 >= self.plan.steps || decided.is_last;
        let before = (is_last || verdict.measures).then(|| self.weights.clone());
        self.control.carry_out_all(&verdict, &mut self.weights, gradient, &mut self.state);
        if let Some(before) = before {
            if is_last && !all_finite(&self.weights) {
                self.weights = before;
                return Err(diverged);
            }
            if verdict.measures {
                let mut sums = Vec::new();
                let rules = self.control.rules();
                rules.measure_way(step.samples, 0, [&before, &self.weights], gradient, &mut sums);
                self.control.measured(&sums);
            }
        }
        self.version += 1;
        self.is_over = decided.is_last;
        Ok(StepReport::new(step, verdict.stride.rate, observed, decided))
    }
}

/// Whether no element is NaN or infinite: looked at in runs without a way out, which are vectorised.
fn all_finite(values: &[f32]) -> bool {
    values.chunks(4096).all(|run| run.iter().fold(true, |finite, value| finite & value.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LearningRate;
    use crate::layer::Activation;
    use crate::model::Head;
    use crate::optim::Sgd;
    use ps_plan::Node;

    #[test]
    fn a_last_step_that_overflows_is_no_result() {
        let model = Model::new(1, &[], Activation::Relu, Head::SquaredError, 1);
        let plan = BatchPlan::new(1, 1, 1, 1, 1, None);
        let mut trainer = Trainer::new(&model, plan, Sgd::default(), LearningRate::constant(1e30));
        let tally = Tally { samples: 1, ..Tally::default() };
        let mut root = NodeSum { node: Node::leaf(0), gradient: vec![1e30, 1.0], tally };
        assert_eq!(trainer.finish(&mut root).unwrap_err().step, 0);
        assert_eq!((trainer.weights(), trainer.version()), (&[0.0, 0.0][..], 0));
    }
}
