//! The reference for every holder of weights: it makes a step from the sum of all leaves, and nothing else.

use crate::control::{Control, ControlConfig, Event, NotFinite, PolicyReport, Probe};
use crate::fold::NodeSum;
use crate::metrics::MetricSums;
use crate::metrics::Observed;
use crate::model::Model;
use crate::optim::{ModelOptimizer, OptimizerConfig};
use crate::schedule::Schedule;
use ps_plan::{BatchPlan, Step};

/// Weights and state of a run, and the policies that decide about its steps.
///
/// The caller computes the gradient sum over all leaves of a step, and [`Trainer::finish`] makes the step.
/// Call it until [`Trainer::is_done`]; [`Trainer::close`] then restores the best weights if early stopping
/// asks for that.
#[derive(Clone, Debug)]
pub struct Trainer {
    plan: BatchPlan,
    control: Control,
    /// `[vectors, parameters]`; see [`Control::vectors`].
    state: Vec<f32>,
    /// Whether a policy has ended the run before its last planned step.
    is_over: bool,
    weights: Vec<f32>,
    version: u64,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 0.
    pub step: u64,
    /// The epoch that the step belongs to, from 0.
    pub epoch: u32,
    /// The learning rate of the step.
    pub rate: f32,
    /// Loss and metrics of the step's batch, before the update.
    pub metric_sums: MetricSums,
    /// Loss and metrics of the validation set before the update, if the previous step ended an epoch.
    pub validation: Option<MetricSums>,
    /// Whether the run ends after this step.
    pub is_last: bool,
    /// Unusual events, in the order of the policies.
    pub events: Vec<Event>,
    /// The outcome of the previous step, if that was probed.
    pub probe: Option<Probe>,
}

impl StepReport {
    /// The report of a step that was made.
    pub fn new(step: Step, rate: f32, observed: Observed, decided: PolicyReport) -> Self {
        let PolicyReport { is_last, events, probe } = decided;
        let Observed { train: metric_sums, validation, .. } = observed;
        StepReport {
            step: step.step,
            epoch: step.epoch,
            rate,
            metric_sums,
            validation,
            is_last,
            events,
            probe,
        }
    }
}

/// The loss or a weight is no longer finite. The weights are those before the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Diverged {
    /// Number of the step, from 0.
    pub step: u64,
    /// The learning rate of the step.
    pub rate: f32,
    /// Mean loss of the step's batch.
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
    /// Creates a run before its first step, without policies.
    pub fn new(
        model: &Model,
        plan: BatchPlan,
        optimizer: impl Into<OptimizerConfig>,
        rate: impl Into<Schedule>,
    ) -> Self {
        let optimizer = ModelOptimizer::new(optimizer, model, plan.seed);
        Trainer::controlled(model, Control::new(ControlConfig::default(), optimizer, plan, rate))
    }

    /// Creates a run before its first step, with the policies of `control`.
    pub fn controlled(model: &Model, control: Control) -> Self {
        let plan = control.plan();
        let weights = model.initial(plan.seed);
        let state = vec![0.0; control.vectors().len() * weights.len()];
        Trainer { plan, control, state, is_over: false, weights, version: 0 }
    }

    /// Restores the best weights if they are better than the final ones, whose validation is
    /// `validation`; see [`Control::close`].
    pub fn close(&mut self, validation: Option<&MetricSums>) -> Option<Event> {
        // The verdict that ended the run early has already restored the best weights.
        if self.is_over { None } else { self.control.close(&mut self.weights, &self.state, validation) }
    }

    /// The weights after [`Trainer::version`] steps, `[parameters]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Number of steps made.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the run has ended.
    pub fn is_done(&self) -> bool {
        self.is_over || self.version >= self.plan.steps
    }

    /// How the run is divided into steps.
    pub(crate) fn plan(&self) -> BatchPlan {
        self.plan
    }

    /// Makes the next step from the sum of all its leaves, whose metric sums go into the report.
    ///
    /// # Errors
    /// Returns an error, and leaves the weights unchanged, if the loss or a weight is not finite.
    pub fn finish(&mut self, root: &mut NodeSum) -> Result<StepReport, Diverged> {
        self.finish_with_evaluations(root, None, None)
    }

    /// Like [`Trainer::finish`], but also with evaluations of the previous step's batch and of
    /// the validation set.
    pub(crate) fn finish_with_evaluations(
        &mut self,
        root: &mut NodeSum,
        last_batch: Option<MetricSums>,
        validation: Option<MetricSums>,
    ) -> Result<StepReport, Diverged> {
        let step = self.plan.step(self.version);
        assert_eq!(
            root.metric_sums.samples, step.samples as u64,
            "the root sums every sample of step {}",
            step.step
        );
        let rate = self.control.rate(step.step);
        let diverged = Diverged { step: step.step, rate, loss: root.metric_sums.mean_loss() };
        let observed = Observed { train: std::mem::take(&mut root.metric_sums), last_batch, validation };
        let gradient = &root.gradient[..];
        let (verdict, decided) = if self.control.holds(step.step) {
            let step_params = self.control.plain(step).step_params;
            let optimizer = self.control.optimizer();
            let norms =
                optimizer.norms(&optimizer.measure_all(&step_params, &self.weights, gradient, &self.state));
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
        // A weight that overflows shows in the next step's loss, but after the last step there is no next
        // one to check.
        let is_last = self.version + 1 >= self.plan.steps || decided.is_last;
        let before = (is_last || verdict.measures).then(|| self.weights.clone());
        self.control.apply_to_all(&verdict, &mut self.weights, gradient, &mut self.state);
        if let Some(before) = before {
            if is_last && !all_finite(&self.weights) {
                self.weights = before;
                return Err(diverged);
            }
            if verdict.measures {
                let mut sums = Vec::new();
                let optimizer = self.control.optimizer();
                optimizer.measure_update(step.samples, 0, [&before, &self.weights], gradient, &mut sums);
                self.control.measured(&sums);
            }
        }
        self.version += 1;
        self.is_over = decided.is_last;
        Ok(StepReport::new(step, verdict.step_params.rate, observed, decided))
    }
}

/// Whether no element is NaN or infinite. Each run of elements is checked without early exit, so that
/// it is vectorised.
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
        let metric_sums = MetricSums { samples: 1, ..MetricSums::default() };
        let mut root = NodeSum { node: Node::leaf(0), gradient: vec![1e30, 1.0], metric_sums };
        assert_eq!(trainer.finish(&mut root).unwrap_err().step, 0);
        assert_eq!((trainer.weights(), trainer.version()), (&[0.0, 0.0][..], 0));
    }
}
