//! What one server keeps of the weights, with the sums of the step in hand.

use crate::{SimJob, checks};
use ps_coord::WorkerId;
use ps_core::optim::{Stride, vectors_mut};
use ps_core::{Fold, NodeSum, Rules, Schedule};
use ps_plan::planted::{Defect, Planted};
use ps_plan::{BatchPlan, Tree};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Chunks that the weights are cut into: more than there can be servers, so that each has some.
const CHUNKS: usize = 8;

/// A part of the weights, of whole chunks.
pub(crate) struct Part {
    plan: BatchPlan,
    rate: Schedule,
    rules: Rules,
    /// `[vectors, kept]`.
    state: Vec<f32>,
    /// Where each of its chunks lies in the flat vector.
    chunks: Vec<Range<usize>>,
    /// The gathering of each chunk.
    folds: Vec<Fold>,
    /// Workers of whom something is in these, where that is asked for.
    counted: BTreeSet<WorkerId>,
    /// Steps applied.
    pub version: u64,
    weights: Arc<[f32]>,
    /// The weights before the last step, until the next one begins.
    previous: Option<Arc<[f32]>>,
    /// Whether the step in hand cannot be made.
    pub diverged: bool,
    planted: Planted,
}

impl Part {
    /// The initial weights, cut into one part per server.
    pub fn of_all(job: &SimJob<'_>) -> Vec<Part> {
        let weights = job.model.initial(job.plan.seed);
        let size = weights.len().div_ceil(CHUNKS);
        let chunks: Vec<Range<usize>> =
            (0..weights.len()).step_by(size).map(|start| start..weights.len().min(start + size)).collect();
        let servers = job.servers as usize;
        let part = |server: usize| {
            let chunks = &chunks[chunks.len() * server / servers..chunks.len() * (server + 1) / servers];
            let kept = &weights[chunks[0].start..chunks[chunks.len() - 1].end];
            let rules = Rules::new(job.optimizer.clone(), &job.model, job.plan.seed);
            Part {
                plan: job.plan,
                rate: job.rate.clone(),
                state: vec![0.0; rules.state().len() * kept.len()],
                rules,
                chunks: chunks.to_vec(),
                folds: folds(chunks.len(), job.plan.step(0).tree().training(), job.planted),
                counted: BTreeSet::new(),
                version: 0,
                weights: kept.into(),
                previous: None,
                diverged: false,
                planted: job.planted,
            }
        };
        assert!(servers > 0 && servers <= chunks.len(), "each server keeps a chunk");
        (0..servers).map(part).collect()
    }

    /// Goes on after `version` steps, with the whole weights and velocity of then; without them from the beginning.
    pub fn resume(&mut self, job: &SimJob<'_>, version: u64, state: Option<(&[f32], &[f32])>) {
        let kept = self.chunks[0].start..self.chunks[self.chunks.len() - 1].end;
        self.state.fill(0.0);
        self.weights = match state {
            Some((weights, _)) => weights[kept.clone()].into(),
            None => job.model.initial(job.plan.seed)[kept.clone()].into(),
        };
        if let Some((weights, state)) = state
            && !self.planted.has(Defect::VelocityNotRestored)
        {
            let vectors = state.chunks(weights.len()).map(|vector| &vector[kept.clone()]);
            self.state = vectors.collect::<Vec<_>>().concat();
        }
        self.version = version;
        self.previous = None;
        self.diverged = false;
        self.counted.clear();
        self.folds = folds(
            self.chunks.len(),
            self.plan.step(version.min(self.plan.steps - 1)).tree().training(),
            self.planted,
        );
    }

    /// The optimizer's vectors after the last step.
    pub fn state(&self) -> impl Iterator<Item = &[f32]> {
        self.state.chunks(self.weights.len())
    }

    /// How many chunks are kept here.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Whether sums of `step` are gathered now.
    pub fn gathers(&self, step: u64) -> bool {
        step == self.version || step < self.version && self.planted.has(Defect::StaleSumCounts)
    }

    /// Folds a chunk of a node's sum of the step in hand; whether it was new.
    pub fn take(&mut self, chunk: usize, sum: &NodeSum) -> bool {
        self.previous = None;
        let gradient = sum.gradient[self.chunks[chunk].clone()].to_vec();
        let part = NodeSum { node: sum.node, gradient, tally: sum.tally.clone() };
        let fold = &mut self.folds[chunk];
        // What a planted defect lets in from another step may not be in this one's tree.
        !self.diverged && fold.coverage().tree().has(part.node) && fold.insert(part)
    }

    /// The same of a worker of whom [`Part::has_of`] is to know.
    pub fn take_of(&mut self, worker: WorkerId, chunk: usize, sum: &NodeSum) -> bool {
        let is_new = self.take(chunk, sum);
        if is_new {
            self.counted.insert(worker);
        }
        is_new
    }

    /// Whether something of `worker` is in the sums of the step in hand.
    pub fn has_of(&self, worker: WorkerId) -> bool {
        self.counted.contains(&worker)
    }

    /// Forgets what was gathered of the step in hand.
    pub fn start_over(&mut self) {
        self.counted.clear();
        self.folds = folds(self.chunks.len(), self.plan.step(self.version).tree().training(), self.planted);
    }

    /// Whether all leaves of all chunks are in.
    pub fn is_gathered(&self) -> bool {
        self.folds.iter().all(Fold::is_complete)
    }

    /// The leaves that a chunk lacks.
    pub fn missing(&self) -> Vec<Range<u32>> {
        self.folds[0].coverage().missing()
    }

    /// The leaves that any chunk lacks; ranges may overlap.
    pub fn missing_anywhere(&self) -> Vec<Range<u32>> {
        self.folds.iter().flat_map(|fold| fold.coverage().missing()).collect()
    }

    /// Whether nothing of `step` is to be done here any more.
    pub fn is_through(&self, step: u64) -> bool {
        self.version > step || self.version == step && self.diverged
    }

    /// Makes the step, of which all leaves are in. If the gradient or, in the last step, a weight is not finite,
    /// the weights stay and the part has diverged.
    pub fn finish(&mut self) -> Result<(), String> {
        let step = self.plan.step(self.version);
        let mut gradient = Vec::with_capacity(self.weights.len());
        for fold in &mut self.folds {
            let root = fold.take_root().ok_or("a step is made before all its leaves are in")?;
            checks::root(&self.plan, step.step, &root)?;
            gradient.extend(root.gradient);
        }
        let mut weights = self.weights.to_vec();
        let stride = Stride::plain(step.step, step.samples, self.rate.at(step.step));
        let state = vectors_mut(&mut self.state, gradient.len());
        self.rules.update(&stride, self.chunks[0].start, &mut weights, &gradient, state);
        let is_last = self.version + 1 >= self.plan.steps;
        self.diverged |= !all_finite(&gradient) || is_last && !all_finite(&weights);
        if !self.diverged {
            self.version += 1;
            self.previous = Some(std::mem::replace(&mut self.weights, weights.into()));
        }
        self.counted.clear();
        // After the last step nothing is gathered, but the tree of some step is asked for.
        let next = self.plan.step(self.version.min(self.plan.steps - 1));
        self.folds = folds(self.chunks.len(), next.tree().training(), self.planted);
        Ok(())
    }

    /// The sum of the losses of the step in hand, of which all leaves are in.
    pub fn loss(&self) -> f64 {
        let mut fold = self.folds[0].clone();
        fold.take_root().map_or(f64::NAN, |root| root.tally.loss)
    }

    /// The weights after the last step.
    pub fn weights(&self) -> Arc<[f32]> {
        self.weights.clone()
    }

    /// The weights that a worker may need: the current ones, and those of the step before as long as that may not
    /// be made everywhere.
    pub fn served(&self) -> Vec<(u64, Arc<[f32]>)> {
        let before = self.previous.iter().map(|previous| (self.version - 1, previous.clone()));
        before.chain([(self.version, self.weights.clone())]).collect()
    }

    /// The weights at `version`, if they are still here.
    pub fn at(&self, version: u64) -> Option<&[f32]> {
        match version + 1 == self.version {
            true => self.previous.as_deref(),
            false => (version == self.version).then_some(&self.weights),
        }
    }
}

fn folds(chunks: usize, tree: Tree, planted: Planted) -> Vec<Fold> {
    vec![Fold::new(tree).planted(planted); chunks]
}

fn all_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}
