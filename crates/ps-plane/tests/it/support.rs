//! A small job, and functions that feed a plane.

use ps_coord::WorkerId;
use ps_core::chunk::{read, share};
use ps_core::optim::{OptimizerConfig, Sgd};
use ps_core::{
    Activation, Control, ControlConfig, Gradients, Head, Kernel, LearningRate, Model, ModelOptimizer,
    NodeSum, Samples,
};
use ps_plan::{BatchPlan, Node, Section};
use ps_plane::{GradientChunk, NodeDone, NodeMetrics, Plane, Recompute, Rejected, WeightsChunk};
use std::ops::Range;

pub(crate) const WORKER: WorkerId = WorkerId(7);

/// Points with three features and two classes.
pub(crate) struct Points;

impl Samples for Points {
    fn len(&self) -> usize {
        40
    }

    fn features(&self) -> usize {
        3
    }

    fn write_row(&self, index: usize, row: &mut [f32]) {
        row.iter_mut().enumerate().for_each(|(at, x)| *x = ((index * 31 + at * 7) % 17) as f32 / 8.0 - 1.0);
    }

    fn target(&self, index: usize) -> f32 {
        (index % 2) as f32
    }
}

pub(crate) struct Job {
    pub model: Model,
    pub plan: BatchPlan,
    pub control: ControlConfig,
}

impl Job {
    /// Six steps of four leaves, with momentum.
    pub(crate) fn new() -> Self {
        let model = Model::new(3, &[4], Activation::Tanh, Head::Softmax, 2);
        Job { model, plan: BatchPlan::new(5, 40, 20, 5, 3, None), control: ControlConfig::default() }
    }

    pub(crate) fn optimizer(&self) -> OptimizerConfig {
        Sgd { momentum: 0.9, ..Sgd::default() }.into()
    }

    pub(crate) fn rate(&self) -> LearningRate {
        LearningRate::constant(0.1)
    }

    pub(crate) fn control(&self) -> Control {
        let optimizer = ModelOptimizer::new(self.optimizer(), &self.model, self.plan.seed);
        Control::new(self.control.clone(), optimizer, self.plan, self.rate())
    }

    /// A plane of all weights, in chunks of eight elements.
    pub(crate) fn plane(&self) -> Plane {
        self.part(0..self.model.parameters())
    }

    /// A plane of some of the weights, in chunks of eight elements.
    pub(crate) fn part(&self, kept: Range<usize>) -> Plane {
        let chunks = kept.clone().step_by(8).map(|start| start..kept.end.min(start + 8));
        Plane::new(self.model.clone(), self.control(), kept.clone(), chunks)
    }

    pub(crate) fn gradients(&self) -> Gradients {
        Gradients::new(self.model.clone(), self.plan, Kernel::detect())
    }

    /// The sums of the nodes that cover these leaves of the plane's open step.
    pub(crate) fn sums(&self, plane: &Plane, leaves: Range<u32>) -> Vec<NodeSum> {
        let (step, weights) = (plane.version(), weights(plane, self.model.parameters()));
        self.gradients().compute(&weights, &Points, step, leaves)
    }

    /// All leaves of the plane's open step.
    pub(crate) fn leaves(&self, plane: &Plane) -> Range<u32> {
        self.plan.step(plane.version()).tree().section(Section::Training)
    }

    /// Makes one step of the plane from one worker's sums.
    pub(crate) fn step(&self, plane: &mut Plane) {
        for sum in self.sums(plane, self.leaves(plane)) {
            push(plane, WORKER, plane.version(), &sum).unwrap();
        }
        assert!(plane.is_gathered() && plane.has_all_metrics());
        plane.release();
        plane.commit(&[]).unwrap();
    }
}

/// Recomputes gradients from the job's samples.
pub(crate) struct Own<'a>(pub &'a Job);

impl Recompute for Own<'_> {
    fn node_sum(&mut self, weights: &[f32], step: u64, node: Node) -> NodeSum {
        let leaves = self.0.plan.step(step).tree().leaves_of(node);
        self.0.gradients().compute(weights, &Points, step, leaves).remove(0)
    }
}

/// Panics if it is asked.
pub(crate) struct Never;

impl Recompute for Never {
    fn node_sum(&mut self, _: &[f32], _: u64, node: Node) -> NodeSum {
        panic!("node {node} is doubted")
    }
}

/// Sends a whole node.
pub(crate) fn push(
    plane: &mut Plane,
    worker: WorkerId,
    step: u64,
    sum: &NodeSum,
) -> Result<Vec<WeightsChunk>, Rejected> {
    begin(plane, worker, step, sum)?;
    let made = send(plane, worker, step, sum, 0..usize::MAX)?;
    plane.take_end(worker, NodeDone { step, node: sum.node })?;
    Ok(made)
}

/// Sends a node's metric sums.
pub(crate) fn begin(plane: &mut Plane, worker: WorkerId, step: u64, sum: &NodeSum) -> Result<(), Rejected> {
    let metrics = NodeMetrics { step, node: sum.node, metric_sums: sum.metric_sums.clone() };
    plane.take_metrics(worker, metrics, &mut Never)
}

/// Sends the chunks of a node whose first elements are in `elements`.
pub(crate) fn send(
    plane: &mut Plane,
    worker: WorkerId,
    step: u64,
    sum: &NodeSum,
    elements: Range<usize>,
) -> Result<Vec<WeightsChunk>, Rejected> {
    let (bytes, kept) = (share(sum.gradient.clone()), plane.kept());
    let mut made = Vec::new();
    for offset in kept.clone().step_by(8).filter(|offset| elements.contains(offset)) {
        let bytes = bytes.slice(4 * offset..4 * kept.end.min(offset + 8));
        made.extend(plane.take(worker, GradientChunk { step, node: sum.node, offset, bytes }, &mut Never)?);
    }
    Ok(made)
}

/// The weights that a plane keeps; 0 elsewhere.
pub(crate) fn weights(plane: &Plane, parameters: usize) -> Vec<f32> {
    let mut weights = vec![0.0; parameters];
    for (offset, bytes) in plane.kept_chunks() {
        let elements = bytes.as_chunks().0;
        read(elements, &mut weights[offset..offset + elements.len()]);
    }
    weights
}
