//! One chunk of the weights and of the state that belongs to them.

use bytes::Bytes;
use ps_core::chunk::Pool;
use ps_core::control::Verdict;
use ps_core::optim::{Finite, ModelOptimizer, PieceSums, StepParams, UpdateNorms};
use ps_core::precision::{Element, encode_bf16};
use ps_core::{ChunkFold, Control, Precision};
use ps_plan::Tree;
use ps_plan::mutation::{ActiveMutation, Mutation};
use std::ops::Range;

/// A chunk of the weights.
pub(crate) struct Chunk {
    /// Index of the first element in the flat vector.
    pub offset: usize,
    /// The sums of the gradient that have arrived.
    pub fold: ChunkFold,
    pub weights: ServedChunk,
    /// The weights after the step, once they are computed.
    pub next: Option<ServedChunk>,
    /// The weights before the last step, while they may be needed.
    pub previous: Option<ServedChunk>,
    /// `[vectors, elements]`, see [`Control::vectors`]; belongs to `next` once that is computed.
    state: Vec<f32>,
    /// Once `next` is computed, the state that belongs to `weights`: the step may have to start over.
    state_before: Vec<f32>,
    mutation: ActiveMutation,
}

/// A chunk of weights in both forms: as it is kept, and as it travels to workers.
#[derive(Clone)]
pub(crate) struct ServedChunk {
    /// The weights that the optimizer updates, in little-endian binary32.
    pub kept: Bytes,
    /// What workers receive, in the precision of the run.
    pub sent: Bytes,
}

impl Chunk {
    /// Creates a chunk with `vectors` vectors of state, all 0.
    pub(crate) fn new(
        offset: usize,
        values: &[f32],
        vectors: usize,
        tree: Tree,
        pool: &Pool,
        precision: Precision,
    ) -> Self {
        Chunk {
            offset,
            fold: ChunkFold::new(tree),
            weights: ServedChunk::of(values, pool, precision),
            next: None,
            previous: None,
            state: vec![0.0; vectors * values.len()],
            state_before: Vec::new(),
            mutation: ActiveMutation::default(),
        }
    }

    /// Enables a mutation.
    pub(crate) fn set_mutation(&mut self, mutation: ActiveMutation, tree: Tree) {
        self.mutation = mutation;
        self.fold = ChunkFold::new(tree).with_mutation(mutation);
    }

    /// The indices of its elements in the flat vector.
    pub(crate) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.weights.elements().len()
    }

    /// Replaces weights and state, and discards the sums of the gradient.
    pub(crate) fn restore(&mut self, weights: ServedChunk, state: Vec<f32>, tree: Tree) {
        self.fold.reset(tree);
        self.weights = weights;
        (self.next, self.previous) = (None, None);
        self.state = state;
        self.state_before.clear();
    }

    /// Discards the sums of the gradient, and the next weights if they are computed.
    pub(crate) fn start_over(&mut self, tree: Tree) {
        self.fold.reset(tree);
        // The state changes only together with `next`. The other vector is overwritten by the next update, so
        // the two are exchanged instead of copied.
        if self.next.take().is_some() && !self.mutation.is(Mutation::StateNotRolledBack) {
            std::mem::swap(&mut self.state, &mut self.state_before);
        }
    }

    /// Computes the next weights from the sum over all leaves, which must be covered.
    pub(crate) fn compute_next(
        &mut self,
        control: &Control,
        verdict: &Verdict,
        pool: &Pool,
        precision: Precision,
    ) -> (ServedChunk, Finite) {
        let old = self.weights.elements();
        let mut new = pool.take(old.len());
        // Until all chunks are updated and the step is committed, it may start over or diverge.
        self.state_before.clone_from(&self.state);
        let finite = self.fold.update(control, verdict, self.offset, old, &mut self.state, &mut new);
        let next = ServedChunk::new(new.share(), precision);
        self.next = Some(next.clone());
        (next, finite)
    }

    /// Replaces the weights by the next ones.
    pub(crate) fn commit(&mut self, tree: Tree, keeps_previous: bool) {
        let next = self.next.take().expect("all chunks are made before a step is committed");
        let keeps_previous = keeps_previous && !self.mutation.is(Mutation::PreviousWeightsDropped);
        self.previous = Some(std::mem::replace(&mut self.weights, next)).filter(|_| keeps_previous);
        if self.mutation.is(Mutation::NewWeightsServedAsPrevious) && keeps_previous {
            self.previous = Some(self.weights.clone());
        }
        self.fold.reset(tree);
    }

    /// A vector of the state that belongs to the weights, or, with `is_previous`, to the weights before them.
    pub(crate) fn state(&self, vector: usize, is_previous: bool) -> &[f32] {
        let is_before = is_previous || self.next.is_some();
        let state = if is_before { &self.state_before } else { &self.state };
        let size = self.weights.elements().len();
        &state[vector * size..(vector + 1) * size]
    }

    /// Appends the sums over the chunk's pieces. All leaves must be covered.
    pub(crate) fn measure(
        &self,
        optimizer: &ModelOptimizer,
        step_params: &StepParams,
        sums: &mut Vec<PieceSums>,
    ) {
        self.fold.measure(optimizer, step_params, self.offset, self.weights.elements(), &self.state, sums);
    }

    /// Appends how far the weights move in this step, if the next ones are computed.
    pub(crate) fn measure_update(
        &self,
        optimizer: &ModelOptimizer,
        samples: usize,
        sums: &mut Vec<UpdateNorms>,
    ) {
        let Some(next) = &self.next else { return };
        let weights = [&self.weights, next].map(ServedChunk::elements);
        self.fold.measure_update(optimizer, samples, self.offset, weights, sums);
    }
}

impl ServedChunk {
    pub(crate) fn of(values: &[f32], pool: &Pool, precision: Precision) -> Self {
        let mut buffer = pool.take(values.len());
        for (element, value) in buffer.elements_mut().iter_mut().zip(values) {
            *element = value.to_le_bytes();
        }
        ServedChunk::new(buffer.share(), precision)
    }

    fn new(kept: Bytes, precision: Precision) -> Self {
        let sent = match precision {
            Precision::F32 => kept.clone(),
            Precision::Bf16 => {
                let elements: &[Element] = kept.as_chunks().0;
                let mut sent = vec![0; 2 * elements.len()];
                encode_bf16(elements, &mut sent);
                sent.into()
            }
        };
        ServedChunk { kept, sent }
    }

    /// The weights as they are kept.
    pub(crate) fn elements(&self) -> &[Element] {
        self.kept.as_chunks().0
    }
}
