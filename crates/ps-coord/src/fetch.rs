//! Chunks that were requested from the other shards and have not arrived yet.

use crate::shard_event::ChunkId;
use std::collections::BTreeSet;

/// One request to all shards for their chunks of a version.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub version: u64,
    pub with_state: bool,
    /// Vector and first element of each chunk that is still missing.
    missing: BTreeSet<(usize, usize)>,
    /// First element of the chunk that each shard sends first.
    first: Vec<usize>,
}

impl Fetch {
    /// Requests the weights, and the optimizer's `state_vectors` vectors if `with_state`. `chunks` holds the
    /// first elements of each shard's chunks.
    pub(crate) fn new(chunks: &[Vec<usize>], version: u64, state_vectors: usize, with_state: bool) -> Self {
        let offsets = || chunks.iter().flatten();
        let of_vector = |vector| offsets().map(move |&offset| (vector, offset));
        Fetch {
            version,
            with_state,
            missing: (0..=if with_state { state_vectors } else { 0 }).flat_map(of_vector).collect(),
            first: chunks.iter().filter_map(|chunks| chunks.first().copied()).collect(),
        }
    }

    /// Returns whether the chunk was missing.
    pub(crate) fn take(&mut self, chunk: ChunkId) -> bool {
        chunk.version == self.version && self.missing.remove(&(chunk.vector, chunk.offset))
    }

    /// Whether all shards have begun to send. A shard copies its values before it sends the first chunk, so
    /// it may update them from then on.
    pub(crate) fn is_begun(&self) -> bool {
        self.first.iter().all(|&first| !self.missing.contains(&(0, first)))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}
