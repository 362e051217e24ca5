//! A chunk of the flat parameter vector during a step: the sums of tree nodes are folded as they arrive, and
//! the last addition, the division and the update happen in one pass.
//!
//! Elements keep the form in which they travel, little-endian binary32, so that nothing is converted or
//! copied between the wire and the sum.

use crate::control::{Control, Verdict};
use crate::kernel::{Buffer, Kernel};
use crate::optim::{
    Finite, GRID, ModelOptimizer, PieceSums, StepParams, UpdateNorms, split_front, vectors, vectors_mut,
};
use crate::precision::Element;
use bytes::Bytes;
use ps_plan::mutation::{ActiveMutation, Mutation};
use ps_plan::{Coverage, Gathered, Node, Tree};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The part of a node's gradient sum that belongs to a chunk, `[elements]`.
#[derive(Debug)]
enum Sum {
    /// The bytes as they arrived.
    Received(Bytes),
    /// The sum of two other nodes.
    Folded(Pooled),
}

impl Sum {
    fn elements(&self) -> &[Element] {
        match self {
            Sum::Received(bytes) => bytes.as_chunks().0,
            Sum::Folded(buffer) => buffer.elements(),
        }
    }
}

/// Gathers the gradient sum of one chunk over all leaves of a step.
///
/// Nodes are merged by [`Coverage`], as in [`crate::Fold`], but the last two stay separate:
/// [`ChunkFold::update`] adds them during the update, which saves a pass over memory.
#[derive(Debug)]
pub struct ChunkFold {
    coverage: Coverage,
    sums: BTreeMap<Node, Sum>,
    /// The two children of the root, once all leaves are covered, or the root alone.
    root: Option<(Sum, Option<Sum>)>,
    mutation: ActiveMutation,
}

impl ChunkFold {
    /// Creates a fold that covers no leaves yet.
    pub fn new(tree: Tree) -> Self {
        ChunkFold {
            coverage: Coverage::new(tree),
            sums: BTreeMap::new(),
            root: None,
            mutation: ActiveMutation::default(),
        }
    }

    /// Injects mutations, for tests that must detect them.
    pub fn with_mutation(self, mutation: ActiveMutation) -> Self {
        ChunkFold { mutation, ..self }
    }

    /// Discards all sums and starts a step with this tree.
    pub fn reset(&mut self, tree: Tree) {
        *self = ChunkFold::new(tree).with_mutation(self.mutation);
    }

    /// Whether all leaves of `node` are covered, so that another sum of it would be ignored.
    pub fn covers(&self, node: Node) -> bool {
        self.coverage.covers(node)
    }

    /// Whether all leaves are covered.
    pub fn is_complete(&self) -> bool {
        self.coverage.is_complete()
    }

    /// The leaves that are not covered yet, in ascending order.
    pub fn missing(&self) -> Vec<Range<u32>> {
        self.coverage.missing()
    }

    /// Adds a node's part of the chunk (4 bytes per element). The node must exist in the tree. If it is
    /// already covered, the call has no effect, so a repeated push is harmless.
    pub fn insert(&mut self, node: Node, part: Bytes, pool: &Pool) {
        let tree = self.coverage.tree();
        let mut sum = Sum::Received(part);
        let Gathered::New { dropped, merged } = self.coverage.gather(node) else {
            if self.mutation.is(Mutation::DuplicateCountsTwice)
                && let Some(&kept) = self.sums.keys().find(|kept| kept.contains(node))
                && let Some(other) = self.sums.remove(&kept)
            {
                self.sums.insert(kept, add(other, sum, pool));
            }
            return;
        };
        for node in dropped {
            let smaller = self.sums.remove(&node);
            if let Some(smaller) = smaller.filter(|_| self.mutation.is(Mutation::SmallerNodesNotReplaced)) {
                sum = add(sum, smaller, pool);
            }
        }
        if self.mutation.is(Mutation::SumsAddedInArrivalOrder) {
            let total = match self.sums.remove(&tree.root()) {
                Some(total) => add(total, sum, pool),
                None => sum,
            };
            if self.coverage.is_complete() {
                self.root = Some((total, None));
            } else {
                self.sums.insert(tree.root(), total);
            }
            return;
        }
        let mut node = tree.canonical(node);
        for parent in merged {
            let [left, right] = [0, 1]
                .map(|side| tree.canonical(Node { level: parent.level - 1, index: 2 * parent.index + side }));
            let is_left = node == left;
            let sibling = if is_left { right } else { left };
            let sibling = self.sums.remove(&sibling).expect("coverage keeps the same nodes as the sums");
            let (left, right) = if is_left { (sum, sibling) } else { (sibling, sum) };
            if parent == tree.root() {
                self.root = Some((left, Some(right)));
                return;
            }
            sum = add(left, right, pool);
            node = tree.canonical(parent);
        }
        if self.coverage.is_complete() {
            self.root = Some((sum, None));
        } else {
            self.sums.insert(node, sum);
        }
    }

    /// Updates the chunk by the sum of all leaves, which must be covered. The chunk's first element is
    /// element `offset` of the flat vector; its weights, `[elements]`, are read from `old` and written to
    /// `new`, and its state, `[vectors, elements]`, is updated in place. Returns whether the sum and all new
    /// weights are finite.
    pub fn update(
        &self,
        control: &Control,
        verdict: &Verdict,
        offset: usize,
        old: &[Element],
        state: &mut [f32],
        new: &mut Pooled,
    ) -> Finite {
        let new = new.values_mut();
        if !verdict.is_plain() {
            // A verdict may copy whole vectors of state, so the chunk is not divided into runs here.
            let mut total = vec![0.0; new.len()];
            read(old, new);
            self.read_root(0..total.len(), &mut total);
            let finite = control.apply(verdict, offset, new, &total, state);
            make_little_endian(new);
            return finite;
        }
        let (mut finite, mut total) = (Finite::ALL, [0.0; RUN]);
        let mut state = vectors_mut(state, new.len());
        for start in (0..new.len()).step_by(RUN) {
            let run = start..new.len().min(start + RUN);
            let (new, total) = (&mut new[run.clone()], &mut total[..run.len()]);
            let state = split_front(&mut state, run.len());
            read(&old[run.clone()], new);
            self.read_root(run, total);
            finite = finite.and(control.optimizer().update(
                &verdict.step_params,
                offset + start,
                new,
                total,
                state,
            ));
            make_little_endian(new);
        }
        finite
    }

    /// Appends the sums over the chunk's pieces, as they are before the update, to `sums`.
    pub fn measure(
        &self,
        optimizer: &ModelOptimizer,
        step_params: &StepParams,
        offset: usize,
        old: &[Element],
        state: &[f32],
        sums: &mut Vec<PieceSums>,
    ) {
        let (mut weights, mut total) = ([0.0; RUN], [0.0; RUN]);
        let state = vectors(state, old.len());
        for start in (0..old.len()).step_by(RUN) {
            let run = start..old.len().min(start + RUN);
            let (weights, total) = (&mut weights[..run.len()], &mut total[..run.len()]);
            read(&old[run.clone()], weights);
            self.read_root(run.clone(), total);
            let state = state.map(|state| state.get(run.clone()).unwrap_or_default());
            optimizer.measure(step_params, offset + start, weights, total, state, sums);
        }
    }

    /// Appends how far the update moved the chunk's weights, piece by piece, to `sums`.
    pub fn measure_update(
        &self,
        optimizer: &ModelOptimizer,
        samples: usize,
        offset: usize,
        [old, new]: [&[Element]; 2],
        sums: &mut Vec<UpdateNorms>,
    ) {
        let [mut before, mut after, mut total] = [[0.0; RUN]; 3];
        for start in (0..old.len()).step_by(RUN) {
            let run = start..old.len().min(start + RUN);
            let [before, after, total] =
                [&mut before, &mut after, &mut total].map(|all| &mut all[..run.len()]);
            read(&old[run.clone()], before);
            read(&new[run.clone()], after);
            self.read_root(run, total);
            optimizer.measure_update(samples, offset + start, [before, after], total, sums);
        }
    }

    /// Writes the sum of all leaves for the elements `run` to `total`.
    fn read_root(&self, run: Range<usize>, total: &mut [f32]) {
        let (left, right) = self.root.as_ref().expect("all leaves are covered");
        match right {
            None => read(&left.elements()[run], total),
            Some(right) => read_sum(&left.elements()[run.clone()], &right.elements()[run], total),
        }
    }
}

/// Number of elements that are summed, updated and written at a time: all of them stay in
/// the first-level cache.
const RUN: usize = GRID;

/// Decodes elements into `values`, up to the length of the shorter of the two.
pub fn read(elements: &[Element], values: &mut [f32]) {
    let read = |(value, element): (&mut f32, &Element)| *value = f32::from_le_bytes(*element);
    values.iter_mut().zip(elements).for_each(read);
}

fn read_sum(left: &[Element], right: &[Element], sums: &mut [f32]) {
    Kernel::detect().vectorize(
        #[inline(always)]
        || {
            for ((sum, &l), &r) in sums.iter_mut().zip(left).zip(right) {
                *sum = f32::from_le_bytes(l) + f32::from_le_bytes(r);
            }
        },
    );
}

/// Reorders the bytes of each value to little-endian, in place. A no-op on little-endian machines.
pub fn make_little_endian(values: &mut [f32]) {
    if cfg!(target_endian = "big") {
        values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
    }
}

/// Converts `values` to their wire format without copying them. The memory is freed when the last slice of
/// it is dropped.
pub fn share(mut values: Vec<f32>) -> Bytes {
    make_little_endian(&mut values);
    Bytes::from_owner(Shared(values))
}

struct Shared(Vec<f32>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Computes `left + right`, in the buffer of one of them if either has one.
fn add(left: Sum, right: Sum, pool: &Pool) -> Sum {
    let sum = |a: Element, b: Element| (f32::from_le_bytes(a) + f32::from_le_bytes(b)).to_le_bytes();
    let kernel = Kernel::detect();
    Sum::Folded(match (left, right) {
        (Sum::Folded(mut left), right) => {
            kernel.vectorize(
                #[inline(always)]
                || left.elements_mut().iter_mut().zip(right.elements()).for_each(|(l, &r)| *l = sum(*l, r)),
            );
            left
        }
        (left, Sum::Folded(mut right)) => {
            kernel.vectorize(
                #[inline(always)]
                || right.elements_mut().iter_mut().zip(left.elements()).for_each(|(r, &l)| *r = sum(l, *r)),
            );
            right
        }
        (left, right) => {
            let (left, right) = (left.elements(), right.elements());
            let mut out = pool.take(left.len());
            kernel.vectorize(
                #[inline(always)]
                || {
                    for ((out, &l), &r) in out.elements_mut().iter_mut().zip(left).zip(right) {
                        *out = sum(l, r);
                    }
                },
            );
            out
        }
    })
}

/// A pool of buffers. A [`Pooled`] buffer returns to it on drop, so that after the first steps no memory is
/// allocated. Clones share the buffers.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    free: Arc<Mutex<Vec<Buffer>>>,
}

impl Pool {
    /// Takes a buffer of `elements` elements, whose contents are unspecified.
    pub fn take(&self, elements: usize) -> Pooled {
        // Almost all chunks have the same size, so any free buffer will do.
        let mut buffer = self.free().pop().unwrap_or_default();
        buffer.resize(elements);
        Pooled { buffer, elements, pool: self.clone() }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Buffer>> {
        // Every push and pop leaves the list consistent, so a poisoned lock is safe to use.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer of a [`Pool`], aligned to cache lines.
#[derive(Debug)]
pub struct Pooled {
    buffer: Buffer,
    elements: usize,
    pool: Pool,
}

impl Pooled {
    /// The elements as they travel, little-endian.
    pub(crate) fn elements(&self) -> &[Element] {
        bytemuck::cast_slice(&self.buffer.as_slice()[..self.elements])
    }

    /// The elements as they travel, little-endian.
    pub fn elements_mut(&mut self) -> &mut [Element] {
        bytemuck::cast_slice_mut(self.buffer.resize(self.elements))
    }

    /// The same memory as native floats.
    fn values_mut(&mut self) -> &mut [f32] {
        self.buffer.resize(self.elements)
    }

    /// Turns the buffer into bytes that can be shared and sent. It returns to the pool when the last clone of
    /// them is dropped.
    pub fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.elements().as_flattened()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.free().push(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlConfig;
    use crate::fold::{Fold, NodeSum};
    use crate::layer::Activation;
    use crate::metrics::MetricSums;
    use crate::model::{Head, Model};
    use crate::optim::{OptimizerParams, Sgd};
    use crate::schedule::LearningRate;
    use ps_plan::BatchPlan;

    fn bytes(values: &[f32]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn number(state: &mut u64) -> f32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 40) as f32 / 8_388_608.0 - 1.0
    }

    fn control(optimizer: impl Into<OptimizerParams>, features: usize, rate: f64) -> Control {
        let model = Model::new(features, &[], Activation::Relu, Head::SquaredError, 1);
        let plan = BatchPlan::new(1, 5, 5, 1, 9, None);
        let optimizer = ModelOptimizer::new(optimizer.into(), &model, 1);
        Control::new(ControlConfig::default(), optimizer, plan, LearningRate::constant(rate))
    }

    #[test]
    fn a_chunk_has_the_bits_of_the_whole_fold_and_update_in_any_order() {
        let sgd = |momentum, nesterov| OptimizerParams::from(Sgd { momentum, nesterov });
        let every = [
            sgd(0.0, false),
            sgd(0.9, false),
            OptimizerParams { weight_decay: 0.01, ..sgd(0.9, true) },
            OptimizerParams { l1: 0.1, clip: Some(0.2), ..sgd(0.0, false) },
        ];
        for (seed, leaves) in (1..14_u32).flat_map(|leaves| (0..4).map(move |seed| (seed, leaves))) {
            let params = every[seed];
            let elements = 37;
            let tree = Tree::new(leaves);
            let mut random = seed as u64 + 17;
            let mut weights: Vec<f32> = (0..elements).map(|_| number(&mut random)).collect();
            let control = control(params, elements - 1, 0.1);
            let mut old: Vec<Element> = weights.iter().map(|w| w.to_le_bytes()).collect();
            let mut state = [(); 2].map(|()| vec![0.0; control.vectors().len() * elements]);
            let pool = Pool::default();
            for step in 0..3 {
                let mut nodes: Vec<Node> = (0..leaves).map(Node::leaf).collect();
                for i in (1..nodes.len()).rev() {
                    nodes.swap(i, (number(&mut random).to_bits() >> 3) as usize % (i + 1));
                }
                let mut whole = Fold::new(tree);
                let mut chunk = ChunkFold::new(tree);
                for node in nodes {
                    let gradient: Vec<f32> = (0..elements).map(|_| number(&mut random)).collect();
                    chunk.insert(node, bytes(&gradient), &pool);
                    // A duplicate changes nothing.
                    chunk.insert(node, bytes(&[f32::NAN; 37]), &pool);
                    whole.insert(NodeSum { node, gradient, metric_sums: MetricSums::default() });
                }
                assert!(chunk.is_complete());
                let verdict = control.plain(control.plan().step(step));
                let gradient = whole.take_root().unwrap().gradient;
                control.apply_to_all(&verdict, &mut weights, &gradient, &mut state[0]);
                let mut new = pool.take(elements);
                let finite = chunk.update(&control, &verdict, 0, &old, &mut state[1], &mut new);
                assert_eq!(finite, Finite { gradient: true, weights: true });
                old.copy_from_slice(new.elements());
                let same = weights.iter().zip(&old).all(|(w, o)| w.to_le_bytes() == *o);
                assert!(same && state[0] == state[1], "{leaves} leaves, {params:?}");
            }
        }
    }

    #[test]
    fn non_finite_values_are_detected() {
        let run = |gradient: f32, rate: f64| {
            let mut chunk = ChunkFold::new(Tree::new(1));
            chunk.insert(Node::leaf(0), bytes(&[1.0, gradient, 2.0]), &Pool::default());
            let mut new = Pool::default().take(3);
            let control = control(Sgd::default(), 2, rate);
            let verdict = control.plain(control.plan().step(0));
            chunk.update(&control, &verdict, 0, &[[0; 4]; 3], &mut [], &mut new)
        };
        assert_eq!(run(1e30, 1e30), Finite { gradient: true, weights: false });
        assert_eq!(run(f32::NAN, 0.1), Finite { gradient: false, weights: false });
    }

    #[test]
    fn a_buffer_is_reused_once_its_last_slice_is_dropped() {
        let pool = Pool::default();
        let mut first = pool.take(100);
        first.elements_mut().fill(1.0_f32.to_le_bytes());
        let address = first.elements().as_ptr();
        let bytes = first.share();
        assert_eq!(bytes[..4], [0, 0, 0x80, 0x3f]);
        let slice = bytes.slice(4..8);
        drop(bytes);
        assert_ne!(pool.take(100).elements().as_ptr(), address);
        drop(slice);
        assert_eq!(pool.take(50).elements().as_ptr(), address);
    }
}
