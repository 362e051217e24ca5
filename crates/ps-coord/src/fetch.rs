//! Which chunks of the other shards' weights have been asked for and are not here yet.

use crate::shard_event::ChunkId;
use std::collections::BTreeSet;

/// Chunks on their way here.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub version: u64,
    pub with_state: bool,
    /// Vector and first element.
    missing: BTreeSet<(usize, usize)>,
    /// What each shard sends first.
    first: Vec<usize>,
}

impl Fetch {
    /// Of the weights, and of this many vectors of the state: each shard's chunks, by their first elements.
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

    /// Whether the chunk was missing.
    pub(crate) fn take(&mut self, chunk: ChunkId) -> bool {
        chunk.version == self.version && self.missing.remove(&(chunk.vector, chunk.offset))
    }

    /// Whether all shards have begun to send: each has copied what it keeps, and may change it from now on.
    pub(crate) fn is_begun(&self) -> bool {
        self.first.iter().all(|&first| !self.missing.contains(&(0, first)))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}
