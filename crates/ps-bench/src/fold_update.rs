//! The server's work on a chunk, on one thread, compared with a copy in memory.

use crate::{Bench, Entrant, Error, Measurement, race};
use bytes::Bytes;
use ps_core::chunk::{Pool, Pooled};
use ps_core::optim::Sgd;
use ps_core::precision::Element;
use ps_core::{
    Activation, ChunkFold, Control, ControlConfig, Head, LearningRate, Model, ModelOptimizer, OptimizerParams,
};
use ps_plan::{BatchPlan, Node, Tree};
use ps_proto::limits::chunk_elements;
use std::ops::Range;

/// Number of elements of the model, whose chunks are processed in turn: too many for any cache.
const ELEMENTS: usize = 8 << 20;

/// Bytes moved per element: reading two gradients, weight and velocity; writing velocity and weight.
const BYTES: usize = 24;

pub(crate) fn measure(bench: &mut Bench) -> Result<(), Error> {
    let [copy, update] = ["memory/copy", "fold-update"];
    if !(bench.is_selected(copy) || bench.is_selected(update)) {
        return Ok(());
    }
    let gradients = [1, 2].map(|seed| Bytes::from(bytes(ELEMENTS, seed)));
    let mut kept = FoldBench::new(ELEMENTS, Sgd { momentum: 0.9, ..Sgd::default() });
    let (old, mut copied) = (bytes(ELEMENTS, 3), bytes(ELEMENTS, 5));
    let chunk = 4 * chunk_elements(ELEMENTS);
    let mut entrants = [
        Entrant::new(copy, || {
            // Each copied byte is read once and written once.
            for _ in 0..BYTES / 2 / size_of::<Element>() {
                copied
                    .chunks_mut(chunk)
                    .zip(old.chunks(chunk))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            }
        }),
        Entrant::new(update, || kept.step(&gradients)),
    ];
    let times = race(&mut entrants, bench.effort());
    let [copied, updated] = [0, 1].map(|entrant| (BYTES * ELEMENTS) as f64 / times[entrant] / 1e9);
    bench.report(Measurement::new(copy, copied, "GB/s"))?;
    bench.report(Measurement::new(update, updated, "GB/s").against(copy, copied))
}

/// Returns elements that are small and different from each other.
fn bytes(elements: usize, seed: u32) -> Vec<u8> {
    let element = |at: u32| ((at.wrapping_mul(seed + 2_654_435_761) >> 8) as f32 / 1e9).to_le_bytes();
    (0..elements as u32).flat_map(element).collect()
}

/// Weights, as a server keeps them.
pub(crate) struct FoldBench {
    control: Control,
    pool: Pool,
    chunks: Vec<Chunk>,
}

struct Chunk {
    bytes: Range<usize>,
    old: Bytes,
    new: Pooled,
    state: Vec<f32>,
}

impl FoldBench {
    /// Creates weights with this number of elements.
    pub(crate) fn new(elements: usize, optimizer: impl Into<OptimizerParams>) -> Self {
        let optimizer = optimizer.into();
        let old = Bytes::from(bytes(elements, 3));
        let size = chunk_elements(elements);
        let pool = Pool::default();
        let chunk = |first| {
            let elements = size.min(elements - first);
            let bytes = 4 * first..4 * (first + elements);
            let state = vec![0.0; optimizer.optimizer.vectors().len() * elements];
            Chunk { old: old.slice(bytes.clone()), bytes, new: pool.take(elements), state }
        };
        let chunks = (0..elements).step_by(size).map(chunk).collect();
        let model = Model::new(elements - 1, &[], Activation::Relu, Head::SquaredError, 1);
        let plan = BatchPlan::new(1, 64, 64, 32, 1, None);
        let optimizer = ModelOptimizer::new(optimizer, &model, 1);
        let control = Control::new(ControlConfig::default(), optimizer, plan, LearningRate::constant(0.01));
        FoldBench { control, pool, chunks }
    }

    /// Folds the gradients of any number of leaves and updates the weights, chunk by chunk. The previous
    /// weights are kept.
    pub(crate) fn step(&mut self, gradients: &[Bytes]) {
        let verdict = self.control.plain(self.control.plan().step(0));
        for Chunk { bytes, old, new, state } in &mut self.chunks {
            let mut fold = ChunkFold::new(Tree::new(gradients.len() as u32));
            for (leaf, gradient) in (0..).zip(gradients) {
                fold.insert(Node::leaf(leaf), gradient.slice(bytes.clone()), &self.pool);
            }
            fold.update(&self.control, &verdict, bytes.start / 4, old.as_chunks().0, state, new);
        }
    }
}
