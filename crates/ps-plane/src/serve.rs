//! Read access: workers fetch the weights of up to three versions, checkpoints the weights and the state of
//! one.

use crate::chunk::{Chunk, ServedChunk};
use crate::message::{OptimizerStateChunk, WeightsChunk};
use crate::plane::Plane;
use bytes::Bytes;
use ps_core::chunk::share;

impl Plane {
    /// The version of the oldest weights that a worker may need.
    pub fn oldest(&self) -> u64 {
        self.version - u64::from(self.has_previous)
    }

    /// All weights as they travel to workers: the current ones, those of the next version that are already
    /// computed, and those of the previous version while some server may not have made the last step. A
    /// worker that has just joined may still be assigned leaves of that step.
    pub fn weights_chunks(&self) -> impl Iterator<Item = WeightsChunk> {
        let version = self.version;
        let part = |version, offset, served: &ServedChunk| WeightsChunk {
            version,
            offset,
            bytes: served.sent.clone(),
        };
        let previous = self.chunks.iter().filter_map(move |chunk| {
            chunk.previous.as_ref().map(|previous| part(version - 1, chunk.offset, previous))
        });
        let current = self.chunks.iter().map(move |chunk| part(version, chunk.offset, &chunk.weights));
        let next =
            // A step that diverges is never made, so no worker may get its weights.
            self.chunks.iter().filter(|_| !self.diverged).filter_map(move |chunk| {
                chunk.next.as_ref().map(|next| part(version + 1, chunk.offset, next))
            });
        previous.chain(current).chain(next)
    }

    /// The weights as they are kept, by ascending offset: little-endian binary32.
    pub fn kept_chunks(&self) -> Vec<(usize, Bytes)> {
        self.chunks.iter().map(|chunk| (chunk.offset, chunk.weights.kept.clone())).collect()
    }

    /// Like [`Plane::kept_chunks`], but for `version`: the current one, or the previous one if it is kept.
    pub fn chunks_at(&self, version: u64) -> Option<Vec<(usize, Bytes)>> {
        if version == self.version {
            return Some(self.kept_chunks());
        }
        if version + 1 != self.version {
            return None;
        }
        let previous = |chunk: &Chunk| Some((chunk.offset, chunk.previous.as_ref()?.kept.clone()));
        self.chunks.iter().map(previous).collect()
    }

    /// The vectors of the state at a version for which [`Plane::chunks_at`] returns weights: vector by
    /// vector, by ascending offset.
    pub fn state_at(&self, version: u64) -> Vec<OptimizerStateChunk> {
        let is_previous = version < self.version;
        let part = move |chunk: &Chunk, vector: usize| {
            let bytes = share(chunk.state(vector, is_previous).to_vec());
            OptimizerStateChunk { vector, offset: chunk.offset, bytes }
        };
        let vectors = 0..self.control.vectors().len();
        vectors.flat_map(|vector| self.chunks.iter().map(move |chunk| part(chunk, vector))).collect()
    }
}
