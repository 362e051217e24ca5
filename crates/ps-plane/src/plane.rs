//! The state of a plane between two messages.

use crate::chunk::{Chunk, Served};
use crate::whole::Whole;
use bytes::Bytes;
use ps_coord::WorkerId;
use ps_core::chunk::Pool;
use ps_core::control::{Decided, State, Verdict};
use ps_core::{Control, Fold, Model, Observed, Tally};
use ps_plan::planted::{Defect, Planted};
use ps_plan::{BatchPlan, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The weights that one server keeps, and the sums of the open step.
pub struct Plane {
    pub(crate) model: Model,
    pub(crate) plan: BatchPlan,
    /// Decides about the steps, where this is the only server or the coordinator.
    pub(crate) control: Control,
    /// The elements of the flat vector that are kept here.
    pub(crate) kept: Range<usize>,
    /// Steps applied to the weights.
    pub(crate) version: u64,
    /// By ascending offset; they cover `kept`.
    pub(crate) chunks: Vec<Chunk>,
    /// All weights, of a plane that has no chunks.
    pub(crate) whole: Option<Whole>,
    /// Buffers of chunks, which come back when the last message that holds a slice of one is gone.
    pub(crate) pool: Pool,

    /// Whether nodes are hashed, enter the sums only when they end, and weights are made only when the whole step is
    /// released.
    pub(crate) audits: bool,
    /// Whether the weights before the last step are kept until a chunk of the open one comes.
    pub(crate) keeps_previous: bool,
    /// Whether they are there.
    pub(crate) has_previous: bool,

    /// Metric sums of the nodes of the open step: sums without gradients.
    pub(crate) metrics: Fold,
    /// What each worker has sent of a node of this step that it has not ended.
    pub(crate) pushed: BTreeMap<(WorkerId, Node), Pushed>,
    /// Workers of which something is part of this step's sums.
    pub(crate) counted: BTreeSet<WorkerId>,
    /// Likewise of the last step, while its weights before are kept: it may not be applied everywhere yet.
    pub(crate) counted_before: BTreeSet<WorkerId>,
    /// The step of which a worker's claim that a value is not finite was found to be true.
    pub(crate) confirmed: Option<u64>,

    /// What the metric sums came to, once the step was decided about.
    pub(crate) observed: Option<Observed>,
    /// What was decided about the open step.
    pub(crate) verdict: Option<Verdict>,
    /// What the report of the step says about that.
    pub(crate) decided: Option<Decided>,
    /// Chunks of which the next weights are made.
    pub(crate) made: usize,
    /// Whether an element of this step's gradient is not finite, or one of the last step's weights.
    pub(crate) diverged: bool,
    pub(crate) planted: Planted,
}

/// A node that a worker is sending: no chunk of it is taken before its metric sums.
pub(crate) struct Pushed {
    pub tally: Tally,
    /// Of each chunk kept here whether it has come.
    pub chunks: Vec<Option<Arrived>>,
}

/// A chunk of a node.
pub(crate) struct Arrived {
    /// Only with audits.
    pub hash: [u8; 32],
    /// What waits for the node's end to enter the sums; empty where it has entered them.
    pub bytes: Bytes,
}

impl Plane {
    /// The initial weights of `model`, of which `kept` is kept here, cut into `chunks`. All steps are those of the plan of
    /// `control`.
    pub fn new(
        model: Model,
        control: Control,
        kept: Range<usize>,
        chunks: impl IntoIterator<Item = Range<usize>>,
    ) -> Self {
        let plan = control.plan();
        let tree = plan.step(0).tree();
        let vectors = control.vectors().len();
        let (pool, initial) = (Pool::default(), model.initial(plan.seed));
        let chunk = |range: Range<usize>| {
            let (offset, precision) = (range.start, model.precision());
            Chunk::new(offset, &initial[range], vectors, tree.training(), &pool, precision)
        };
        let chunks: Vec<Chunk> = chunks.into_iter().map(chunk).collect();
        assert_eq!(
            chunks.iter().map(|chunk| chunk.range().len()).sum::<usize>(),
            kept.len(),
            "chunks cover all"
        );
        Plane {
            plan,
            control,
            kept,
            version: 0,
            chunks,
            whole: None,
            pool,
            model,
            audits: false,
            keeps_previous: false,
            has_previous: false,
            metrics: Fold::new(tree),
            pushed: BTreeMap::new(),
            counted: BTreeSet::new(),
            counted_before: BTreeSet::new(),
            confirmed: None,
            observed: None,
            verdict: None,
            decided: None,
            made: 0,
            diverged: false,
            planted: Planted::default(),
        }
    }

    /// Plants a defect.
    pub fn planted(mut self, planted: Planted) -> Self {
        let tree = self.tree_of(0).training();
        self.chunks.iter_mut().for_each(|chunk| chunk.plant(planted, tree));
        Plane { planted, ..self }
    }

    /// Also keeps the weights before the last step, until a chunk of the next one comes: its sender was told that the last
    /// step is applied everywhere. Until then a shard may be a step ahead of the others, and of a run that is stopped.
    pub fn keep_previous(mut self) -> Self {
        self.keeps_previous = true;
        self
    }

    /// Hashes what comes, and updates no chunk before [`Plane::release`].
    pub fn audit(&mut self) {
        self.audits = true;
    }

    /// Continues after `version` steps with the weights and the state of then, `[kept]` and `[vectors, kept]`, of the
    /// elements that are kept here. Discards what was gathered.
    pub fn restore(&mut self, version: u64, weights: &[f32], state: &[f32]) {
        let tree = self.tree_of(version);
        for chunk in &mut self.chunks {
            let Range { start, end } = chunk.range();
            let at = start - self.kept.start..end - self.kept.start;
            let served = Served::of(&weights[at.clone()], &self.pool, self.model.precision());
            let vectors = state.chunks(weights.len().max(1)).map(|vector| &vector[at.clone()]);
            let mut state = vectors.collect::<Vec<_>>().concat();
            if self.planted.has(Defect::VelocityNotRestored) {
                state.fill(0.0);
            }
            chunk.restore(served, state, tree.training());
        }
        if let Some(whole) = &mut self.whole {
            whole.restore(weights, state);
        }
        self.version = version;
        self.has_previous = false;
        self.counted_before.clear();
        self.confirmed = None;
        self.open_step(tree);
    }

    /// Like [`Plane::restore`] with all weights and state, `[parameters]` and `[vectors, parameters]`, and what the control
    /// remembers.
    pub fn restore_whole(&mut self, version: u64, weights: &[f32], state: &[f32], decided: State) {
        let vectors = state.chunks(weights.len()).map(|vector| &vector[self.kept.clone()]);
        let state = vectors.collect::<Vec<_>>().concat();
        self.restore(version, &weights[self.kept.clone()], &state);
        self.control.resume(decided);
    }

    /// Continues from the initial weights.
    pub fn restart(&mut self) {
        let initial = self.model.initial(self.plan.seed);
        let at_rest = vec![0.0; self.control.vectors().len() * self.kept.len()];
        self.restore(0, &initial[self.kept.clone()], &at_rest);
        self.control.resume(State::default());
    }

    /// The elements that are kept here.
    pub fn kept(&self) -> Range<usize> {
        self.kept.clone()
    }

    /// Steps applied to the weights.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What decides about the steps.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What decides about the steps, to follow what another server has decided.
    pub fn control_mut(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Nothing has come of the open step, which has this tree.
    pub(crate) fn open_step(&mut self, tree: Tree) {
        self.metrics = Fold::new(tree);
        self.pushed.clear();
        self.counted.clear();
        (self.observed, self.verdict, self.decided) = (None, None, None);
        self.made = 0;
        self.diverged = false;
    }

    /// The tree of a step. After the last step nothing is gathered, and any tree will do.
    pub(crate) fn tree_of(&self, step: u64) -> Tree {
        self.plan.step(step.min(self.plan.steps - 1)).tree()
    }
}
