//! Connects a job with the plane that holds its weights.

use ps_checkpoint::Snapshot;
use ps_core::{Gradients, NodeSum};
use ps_plan::{Node, Section};
use ps_plane::{Plane, Recompute};
use ps_proto::limits::chunks;
use ps_run::Job;
use std::ops::Range;

/// Creates a plane with the initial weights of `job` that keeps the elements `kept`.
pub fn new_plane(job: &Job, kept: Range<usize>) -> Plane {
    let chunks = chunks(job.model.parameters(), kept.clone());
    Plane::new(job.model.clone(), job.control(), kept, chunks)
}

/// Continues from a checkpoint.
pub fn restore(plane: &mut Plane, snapshot: &Snapshot) {
    let Snapshot { progress, weights, state } = snapshot;
    plane.restore_whole(progress.step, weights, state, progress.control.clone());
}

/// Computes gradients on the current rayon pool, for a plane that checks the data of a worker.
pub struct LocalGradients<'a> {
    /// The run, with its data.
    pub job: &'a Job,
    /// Built on first use: most servers never compute a gradient.
    pub gradients: &'a mut Option<Gradients>,
}

impl Recompute for LocalGradients<'_> {
    fn node_sum(&mut self, weights: &[f32], step: u64, node: Node) -> NodeSum {
        let gradients = self.gradients.get_or_insert_with(|| self.job.gradients());
        let tree = self.job.plan.step(step).tree();
        let leaves = tree.leaves_of(node);
        if tree.section_of(node) == Section::Training {
            return gradients.compute(weights, &self.job.data.train, step, leaves).remove(0);
        }
        let (node, metric_sums) =
            gradients.evaluate_leaves(weights, self.job.parts(), step, leaves).remove(0);
        NodeSum { node, gradient: Vec::new(), metric_sums }
    }
}
