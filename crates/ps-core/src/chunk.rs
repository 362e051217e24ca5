//! A chunk of the flat parameter vector on its way through a step: what came of the nodes is folded in the tree as
//! it arrives, and the last addition, the division and the update are one pass.
//!
//! Elements stay in the form in which they travel, little-endian binary32, so that nothing is converted or copied
//! between the wire and the sum.

use crate::kernel::{Buffer, Kernel};
use crate::optim::{Finite, SgdConfig};
use crate::tree::{Coverage, Gathered, Node, Tree};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One element as it travels: binary32, little-endian.
pub type Element = [u8; 4];

/// A node's part of a chunk, `[elements]`.
#[derive(Debug)]
enum Sum {
    /// As it arrived.
    Received(Bytes),
    /// The sum of two others.
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

/// The gathering of one chunk's sum over all leaves of a step.
///
/// It follows [`Coverage`] as [`crate::Fold`] does, but keeps the last two nodes apart: [`ChunkFold::update`] adds
/// them while it updates.
#[derive(Debug)]
pub struct ChunkFold {
    coverage: Coverage,
    sums: BTreeMap<Node, Sum>,
    /// The two children of the root, once all leaves are covered, or the root alone.
    root: Option<(Sum, Option<Sum>)>,
}

impl ChunkFold {
    /// Nothing gathered yet.
    pub fn new(tree: Tree) -> Self {
        ChunkFold { coverage: Coverage::new(tree), sums: BTreeMap::new(), root: None }
    }

    /// Whether a sum of `node` would be of no use.
    pub fn covers(&self, node: Node) -> bool {
        self.coverage.covers(node)
    }

    /// Whether all leaves are covered.
    pub fn is_complete(&self) -> bool {
        self.coverage.is_complete()
    }

    /// Takes a node's part of the chunk (4 bytes an element), which must exist in the tree. One that is covered
    /// already is ignored.
    pub fn insert(&mut self, node: Node, part: Bytes, pool: &Pool) {
        let tree = self.coverage.tree();
        let Gathered::New { dropped, merged } = self.coverage.gather(node) else { return };
        for node in dropped {
            self.sums.remove(&node);
        }
        let mut node = tree.canonical(node);
        let mut sum = Sum::Received(part);
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

    /// Updates the chunk's weights and velocity by the sum of all leaves, which must be covered, over `samples`
    /// samples: from `old` to `new`, all `[elements]` (`velocity` is empty without momentum). Returns whether the
    /// sum and all new weights are finite. Nothing is left gathered.
    pub fn update(
        &mut self,
        optimizer: &SgdConfig,
        samples: usize,
        rate: f32,
        old: &[Element],
        velocity: &mut [f32],
        new: &mut [Element],
    ) -> Finite {
        let (left, right) = self.root.take().expect("all leaves are covered");
        let right = right.as_ref().map(Sum::elements);
        Update { config: *optimizer, samples: samples as f32, rate }.chunk(
            left.elements(),
            right,
            old,
            velocity,
            new,
        )
    }
}

/// `left + right`, in a buffer that one of them has, if any.
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

/// One step's settings.
#[derive(Clone, Copy)]
struct Update {
    config: SgdConfig,
    samples: f32,
    rate: f32,
}

impl Update {
    /// Which operations there are is decided here, once, so that the loop has no branches and is vectorised.
    fn chunk(
        self,
        left: &[Element],
        right: Option<&[Element]>,
        old: &[Element],
        velocity: &mut [f32],
        new: &mut [Element],
    ) -> Finite {
        match right {
            None => self.with_sum(|i| f32::from_le_bytes(left[i]), left.len(), old, velocity, new),
            Some(right) => {
                let right = &right[..left.len()];
                let sum = |i: usize| f32::from_le_bytes(left[i]) + f32::from_le_bytes(right[i]);
                self.with_sum(sum, left.len(), old, velocity, new)
            }
        }
    }

    #[inline(always)]
    fn with_sum(
        self,
        sum: impl Fn(usize) -> f32 + Copy,
        elements: usize,
        old: &[Element],
        velocity: &mut [f32],
        new: &mut [Element],
    ) -> Finite {
        let config = &self.config;
        let plain = config.clip.is_none() && config.weight_decay == 0.0 && config.l1 == 0.0;
        match (plain, velocity.is_empty(), config.nesterov) {
            (true, false, false) => self.run::<true, true, false>(sum, elements, old, velocity, new),
            (true, false, true) => self.run::<true, true, true>(sum, elements, old, velocity, new),
            (true, true, _) => self.run::<true, false, false>(sum, elements, old, velocity, new),
            (false, false, false) => self.run::<false, true, false>(sum, elements, old, velocity, new),
            (false, false, true) => self.run::<false, true, true>(sum, elements, old, velocity, new),
            (false, true, _) => self.run::<false, false, false>(sum, elements, old, velocity, new),
        }
    }

    #[inline(always)]
    fn run<const PLAIN: bool, const MOMENTUM: bool, const NESTEROV: bool>(
        self,
        sum: impl Fn(usize) -> f32 + Copy,
        elements: usize,
        old: &[Element],
        velocity: &mut [f32],
        new: &mut [Element],
    ) -> Finite {
        let Update { config, samples, rate } = self;
        let (old, new) = (&old[..elements], &mut new[..elements]);
        let velocity = if MOMENTUM { &mut velocity[..elements] } else { velocity };
        Kernel::detect().vectorize(
            #[inline(always)]
            || {
                let (mut gradient, mut weights) = (true, true);
                for i in 0..elements {
                    let total = sum(i);
                    let w = f32::from_le_bytes(old[i]);
                    let mean = total / samples;
                    let g = if PLAIN { mean } else { config.transform(mean, w) };
                    let step = if !MOMENTUM {
                        g
                    } else {
                        velocity[i] = config.momentum.mul_add(velocity[i], g);
                        if NESTEROV { config.momentum.mul_add(velocity[i], g) } else { velocity[i] }
                    };
                    let w = (-rate).mul_add(step, w);
                    new[i] = w.to_le_bytes();
                    gradient &= total.is_finite();
                    weights &= w.is_finite();
                }
                Finite { gradient, weights }
            },
        )
    }
}

/// Buffers that come back when they are dropped: after the first steps no memory is asked of the system.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    free: Arc<Mutex<Vec<Buffer>>>,
}

impl Pool {
    /// A buffer of `elements` elements; what they hold is unspecified.
    pub fn take(&self, elements: usize) -> Pooled {
        let mut buffer = self.free().pop().unwrap_or_default();
        buffer.resize(elements);
        Pooled { buffer, elements, pool: self.clone() }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Buffer>> {
        // Each push and pop leaves the list whole, whatever panics elsewhere.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Elements in a buffer of a [`Pool`], aligned to cache lines.
#[derive(Debug)]
pub struct Pooled {
    buffer: Buffer,
    elements: usize,
    pool: Pool,
}

impl Pooled {
    /// The elements.
    pub fn elements(&self) -> &[Element] {
        bytemuck::cast_slice(&self.buffer.as_slice()[..self.elements])
    }

    /// The elements.
    pub fn elements_mut(&mut self) -> &mut [Element] {
        bytemuck::cast_slice_mut(self.buffer.resize(self.elements))
    }

    /// Their bytes, to be shared and sent; the buffer comes back when the last of them goes.
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
    use crate::fold::{Fold, NodeSum};
    use crate::metrics::Tally;
    use crate::optim::Optimizer;

    fn bytes(values: &[f32]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn number(state: &mut u64) -> f32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 40) as f32 / 8_388_608.0 - 1.0
    }

    #[test]
    fn a_chunk_has_the_bits_of_the_whole_fold_and_update_in_any_order() {
        let every = [
            SgdConfig::default(),
            SgdConfig { momentum: 0.9, ..SgdConfig::default() },
            SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 0.01, ..SgdConfig::default() },
            SgdConfig { l1: 0.1, clip: Some(0.2), ..SgdConfig::default() },
        ];
        for (seed, leaves) in (1..14_u32).flat_map(|leaves| (0..4).map(move |seed| (seed, leaves))) {
            let config = every[seed];
            let elements = 37;
            let tree = Tree::new(leaves);
            let mut state = seed as u64 + 17;
            let mut weights: Vec<f32> = (0..elements).map(|_| number(&mut state)).collect();
            let mut optimizer = Optimizer::new(config, elements);
            let mut old: Vec<Element> = weights.iter().map(|w| w.to_le_bytes()).collect();
            let mut velocity = vec![0.0; if config.momentum == 0.0 { 0 } else { elements }];
            let pool = Pool::default();
            for _ in 0..3 {
                let mut nodes: Vec<Node> = (0..leaves).map(Node::leaf).collect();
                for i in (1..nodes.len()).rev() {
                    nodes.swap(i, (number(&mut state).to_bits() >> 3) as usize % (i + 1));
                }
                let mut whole = Fold::new(tree);
                let mut chunk = ChunkFold::new(tree);
                for node in nodes {
                    let gradient: Vec<f32> = (0..elements).map(|_| number(&mut state)).collect();
                    chunk.insert(node, bytes(&gradient), &pool);
                    // A copy that comes again changes nothing.
                    chunk.insert(node, bytes(&[f32::NAN; 37]), &pool);
                    whole.insert(NodeSum { node, gradient, tally: Tally::default() });
                }
                assert!(chunk.is_complete());
                optimizer.apply(&mut weights, &whole.take_root().unwrap().gradient, 5, 0.1);
                let mut new = pool.take(elements);
                let finite = chunk.update(&config, 5, 0.1, &old, &mut velocity, new.elements_mut());
                assert_eq!(finite, Finite { gradient: true, weights: true });
                old.copy_from_slice(new.elements());
                let same = weights.iter().zip(&old).all(|(w, o)| w.to_le_bytes() == *o);
                assert!(same, "{leaves} leaves, {config:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_seen() {
        let run = |gradient: f32, rate: f32| {
            let mut chunk = ChunkFold::new(Tree::new(1));
            chunk.insert(Node::leaf(0), bytes(&[1.0, gradient, 2.0]), &Pool::default());
            let (old, mut new) = ([[0; 4]; 3], [[0; 4]; 3]);
            chunk.update(&SgdConfig::default(), 1, rate, &old, &mut [], &mut new)
        };
        assert_eq!(run(1e30, 1e30), Finite { gradient: true, weights: false });
        assert_eq!(run(f32::NAN, 0.1), Finite { gradient: false, weights: false });
    }

    #[test]
    fn a_buffer_is_used_again_once_its_last_slice_is_gone() {
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
