//! The state of a plane between two messages.

use crate::chunk::{Chunk, ServedChunk};
use crate::whole::UnchunkedWeights;
use bytes::Bytes;
use ps_coord::WorkerId;
use ps_core::chunk::Pool;
use ps_core::control::{PolicyReport, State, Verdict};
use ps_core::{Control, Fold, MetricSums, Model, Observed};
use ps_plan::mutation::{ActiveMutation, Mutation};
use ps_plan::{BatchPlan, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The weights that one server keeps, and the sums of the open step.
///
/// Metric sums and chunks of nodes go in ([`Plane::take_metrics`], [`Plane::take`], [`Plane::take_end`]);
/// once all leaves are covered, every chunk has been updated, and [`Plane::commit`] makes the step. A plane
/// that [awaits a decision](Plane::awaits_decision) about its step needs [`Plane::decide`] or
/// [`Plane::follow`] first.
pub struct Plane {
    pub(crate) model: Model,
    pub(crate) plan: BatchPlan,
    /// Decides about the steps, if this is the only server or the coordinator.
    pub(crate) control: Control,
    /// The elements of the flat vector that are kept here.
    pub(crate) kept: Range<usize>,
    /// Steps applied to the weights.
    pub(crate) version: u64,
    /// By ascending offset; they cover `kept`.
    pub(crate) chunks: Vec<Chunk>,
    /// All weights, of a plane that has no chunks.
    pub(crate) whole: Option<UnchunkedWeights>,
    /// Buffers of chunks, which return to the pool when the last message that holds a slice of
    /// one is dropped.
    pub(crate) pool: Pool,

    /// Whether nodes are hashed. They then enter the sums only when they end, and weights are updated only
    /// when the whole step is released.
    pub(crate) audits: bool,
    /// Whether the weights before the last step are kept until a chunk of the open one arrives.
    pub(crate) keeps_previous: bool,
    /// Whether the chunks hold these weights at the moment.
    pub(crate) has_previous: bool,

    /// Metric sums of the nodes of the open step: sums without gradients.
    pub(crate) metrics: Fold,
    /// Nodes of this step that a worker has begun and not ended.
    pub(crate) incoming: BTreeMap<(WorkerId, Node), IncomingNode>,
    /// Workers whose data is part of this step's sums.
    pub(crate) counted: BTreeSet<WorkerId>,
    /// Workers whose data is part of the last step's sums. Kept as long as the weights before that step,
    /// because some server may not have applied it.
    pub(crate) counted_before: BTreeSet<WorkerId>,
    /// The step for which recomputation confirmed that a worker's value is not finite.
    pub(crate) confirmed: Option<u64>,

    /// The totals of the metric sums, once the step is decided.
    pub(crate) observed: Option<Observed>,
    /// The decision about the open step.
    pub(crate) verdict: Option<Verdict>,
    /// The part of the decision that the step's report contains.
    pub(crate) decided: Option<PolicyReport>,
    /// Number of chunks whose next weights are computed.
    pub(crate) updated: usize,
    /// Whether an element of this step's gradient, or of the last step's weights, is not finite.
    pub(crate) diverged: bool,
    pub(crate) mutation: ActiveMutation,
}

/// A node that a worker is sending. Its chunks are accepted only after its metric sums.
pub(crate) struct IncomingNode {
    pub metric_sums: MetricSums,
    /// For each chunk kept here, whether it has arrived.
    pub chunks: Vec<Option<ReceivedChunk>>,
}

/// A chunk of a node.
pub(crate) struct ReceivedChunk {
    /// Only computed with audits.
    pub hash: [u8; 32],
    /// The data that waits for the node's end to enter the sums; empty if it has entered them.
    pub bytes: Bytes,
}

impl Plane {
    /// Creates a plane with the initial weights of `model`. It keeps the range `kept`, split into `chunks`,
    /// and follows the plan of `control`.
    ///
    /// # Panics
    /// If the chunks do not cover `kept`.
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
            incoming: BTreeMap::new(),
            counted: BTreeSet::new(),
            counted_before: BTreeSet::new(),
            confirmed: None,
            observed: None,
            verdict: None,
            decided: None,
            updated: 0,
            diverged: false,
            mutation: ActiveMutation::default(),
        }
    }

    /// Enables a mutation.
    pub fn with_mutation(mut self, mutation: ActiveMutation) -> Self {
        let tree = self.tree_of(0).training();
        self.chunks.iter_mut().for_each(|chunk| chunk.set_mutation(mutation, tree));
        Plane { mutation, ..self }
    }

    /// Also keeps the weights before the last step until a chunk of the next one arrives: its sender knows
    /// that every server has applied the last step. Until then a shard may be one step ahead of the others,
    /// and of the step from which a stopped run resumes.
    pub fn keep_previous(mut self) -> Self {
        self.keeps_previous = true;
        self
    }

    /// Turns on hashing: no chunk is updated before [`Plane::release`].
    pub fn audit(&mut self) {
        self.audits = true;
    }

    /// Continues after `version` steps with the given weights and state, `[kept]` and `[vectors, kept]`, of
    /// the elements that are kept here. Discards everything gathered.
    pub fn restore(&mut self, version: u64, weights: &[f32], state: &[f32]) {
        let tree = self.tree_of(version);
        for chunk in &mut self.chunks {
            let Range { start, end } = chunk.range();
            let at = start - self.kept.start..end - self.kept.start;
            let served = ServedChunk::of(&weights[at.clone()], &self.pool, self.model.precision());
            // A coordinator may keep no weights, and chunks of length 0 would panic.
            let vectors = state.chunks(weights.len().max(1)).map(|vector| &vector[at.clone()]);
            let mut state = vectors.collect::<Vec<_>>().concat();
            if self.mutation.is(Mutation::VelocityNotRestored) {
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

    /// Like [`Plane::restore`], but takes all weights and state, `[parameters]` and `[vectors, parameters]`,
    /// and the state of the control.
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

    /// The component that decides about the steps.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Mutable access to the control, to follow another server's decision.
    pub fn control_mut(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Resets the sums for the open step, whose tree is `tree`.
    pub(crate) fn open_step(&mut self, tree: Tree) {
        self.metrics = Fold::new(tree);
        self.incoming.clear();
        self.counted.clear();
        (self.observed, self.verdict, self.decided) = (None, None, None);
        self.updated = 0;
        self.diverged = false;
    }

    /// The tree of a step. After the last step nothing is gathered, and any tree will do.
    pub(crate) fn tree_of(&self, step: u64) -> Tree {
        self.plan.step(step.min(self.plan.steps - 1)).tree()
    }
}
