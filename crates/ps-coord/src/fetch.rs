//! Which chunks of the other shards' weights have been asked for and are not here yet.

use crate::shard_event::ChunkId;
use std::collections::BTreeSet;
use std::ops::Range;

/// The chunks of some elements, which may be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Chunks {
    /// First elements of each shard's chunks.
    offsets: Vec<Vec<usize>>,
    /// Vectors of the optimizer's state.
    state_vectors: usize,
}

impl Chunks {
    /// Shards keep these elements, in chunks of `chunk_elements`.
    pub fn new(kept: &[Range<usize>], chunk_elements: usize, state_vectors: usize) -> Self {
        let offsets = kept.iter().map(|kept| kept.clone().step_by(chunk_elements).collect());
        Chunks { offsets: offsets.collect(), state_vectors }
    }
}

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
    pub fn new(chunks: &Chunks, version: u64, with_state: bool) -> Self {
        let vectors = 0..=if with_state { chunks.state_vectors } else { 0 };
        let offsets = || chunks.offsets.iter().flatten();
        let missing = vectors.flat_map(|vector| offsets().map(move |&offset| (vector, offset))).collect();
        let first = chunks.offsets.iter().filter_map(|offsets| offsets.first().copied()).collect();
        Fetch { version, with_state, missing, first }
    }

    /// Whether the chunk was missing.
    pub fn take(&mut self, chunk: ChunkId) -> bool {
        chunk.version == self.version && self.missing.remove(&(chunk.vector, chunk.offset))
    }

    /// Whether all shards have begun to send: each has copied what it keeps, and may change it from now on.
    pub fn is_begun(&self) -> bool {
        self.first.iter().all(|&first| !self.missing.contains(&(0, first)))
    }

    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}
