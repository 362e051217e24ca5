//! The server's work on a chunk, on one thread, beside a copy in memory.

use crate::{Bench, Entrant, Error, Measurement, race};
use bytes::Bytes;
use ps_core::chunk::{Element, Pool};
use ps_core::{ChunkFold, Node, SgdConfig, Tree};
use ps_proto::limits::chunk_elements;

/// Elements of a model whose chunks come in turn: too many for any cache.
const ELEMENTS: usize = 8 << 20;

/// Bytes that are read or written for an element: two gradients, weight, velocity; velocity, weight.
const BYTES: usize = 24;

pub(crate) fn measure(bench: &mut Bench) -> Result<(), Error> {
    let [copy, update] = ["memory/copy", "fold-update"];
    if !(bench.wants(copy) || bench.wants(update)) {
        return Ok(());
    }
    let chunk = chunk_elements(ELEMENTS);
    let gradients = [1, 2].map(|seed| Bytes::from(bytes(seed)));
    let (old, mut velocity) = (bytes(3), vec![0.0_f32; ELEMENTS]);
    let (mut new, mut copied) = (bytes(4), bytes(5));
    let (pool, config) = (Pool::default(), SgdConfig { momentum: 0.9, ..SgdConfig::default() });
    let mut entrants = [
        Entrant::new(copy, || {
            // Each copied byte is read and written.
            for _ in 0..BYTES / 2 / size_of::<Element>() {
                copied
                    .chunks_mut(4 * chunk)
                    .zip(old.chunks(4 * chunk))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            }
        }),
        Entrant::new(update, || {
            let chunks = old.chunks(4 * chunk).zip(velocity.chunks_mut(chunk)).zip(new.chunks_mut(4 * chunk));
            for (index, ((old, velocity), new)) in chunks.enumerate() {
                let mut fold = ChunkFold::new(Tree::new(2));
                for (leaf, gradient) in (0..).zip(&gradients) {
                    let part = gradient.slice(4 * chunk * index..4 * chunk * index + old.len());
                    fold.insert(Node::leaf(leaf), part, &pool);
                }
                fold.update(&config, 64, 0.01, old.as_chunks().0, velocity, new.as_chunks_mut().0);
            }
        }),
    ];
    let times = race(&mut entrants, bench.effort());
    let [copied, updated] = [0, 1].map(|entrant| (BYTES * ELEMENTS) as f64 / times[entrant] / 1e9);
    bench.tell(Measurement::new(copy, copied, "GB/s"))?;
    bench.tell(Measurement::new(update, updated, "GB/s").against(copy, copied))
}

/// Elements that are small and differ.
fn bytes(seed: u32) -> Vec<u8> {
    let element = |at: u32| ((at.wrapping_mul(seed + 2_654_435_761) >> 8) as f32 / 1e9).to_le_bytes();
    (0..ELEMENTS as u32).flat_map(element).collect()
}
