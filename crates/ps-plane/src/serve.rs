//! Read access: workers fetch the weights of up to three versions, checkpoints the weights and the state of
//! one.

use crate::chunk::{Chunk, Served};
use crate::message::{StatePart, WeightsPart};
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
    pub fn parts(&self) -> impl Iterator<Item = WeightsPart> {
        let version = self.version;
        let part =
            |version, offset, served: &Served| WeightsPart { version, offset, bytes: served.sent.clone() };
        let previous = self.chunks.iter().filter_map(move |chunk| {
            chunk.previous.as_ref().map(|previous| part(version - 1, chunk.offset, previous))
        });
        let current = self.chunks.iter().map(move |chunk| part(version, chunk.offset, &chunk.weights));
        let next =
            self.chunks.iter().filter(|_| !self.diverged).filter_map(move |chunk| {
                chunk.next.as_ref().map(|next| part(version + 1, chunk.offset, next))
            });
        previous.chain(current).chain(next)
    }

    /// The weights as they are kept, by ascending offset: little-endian binary32.
    pub fn kept_parts(&self) -> Vec<(usize, Bytes)> {
        self.chunks.iter().map(|chunk| (chunk.offset, chunk.weights.kept.clone())).collect()
    }

    /// Like [`Plane::kept_parts`], but for `version`: the current one, or the previous one if it is kept.
    pub fn parts_at(&self, version: u64) -> Option<Vec<(usize, Bytes)>> {
        if version == self.version {
            return Some(self.kept_parts());
        }
        if version + 1 != self.version {
            return None;
        }
        let previous = |chunk: &Chunk| Some((chunk.offset, chunk.previous.as_ref()?.kept.clone()));
        self.chunks.iter().map(previous).collect()
    }

    /// The vectors of the state at a version for which [`Plane::parts_at`] returns weights: vector by vector,
    /// by ascending offset.
    pub fn state_at(&self, version: u64) -> Vec<StatePart> {
        let is_previous = version < self.version;
        let part = move |chunk: &Chunk, vector: usize| {
            let bytes = share(chunk.state(vector, is_previous).to_vec());
            StatePart { vector, offset: chunk.offset, bytes }
        };
        let vectors = 0..self.control.vectors().len();
        vectors.flat_map(|vector| self.chunks.iter().map(move |chunk| part(chunk, vector))).collect()
    }
}
