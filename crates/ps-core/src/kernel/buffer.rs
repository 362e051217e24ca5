//! Memory for matrices, aligned to cache lines.

use bytemuck::{Pod, Zeroable};

/// A growable `f32` buffer that starts on a cache line.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    lines: Vec<CacheLine>,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

impl Buffer {
    /// Grows the buffer to at least `len` elements and returns the first `len`, whose
    /// contents are unspecified.
    pub(crate) fn resize(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        // The buffer never shrinks. The last batch of an epoch may be short, and the step after it would
        // otherwise allocate again.
        if self.lines.len() < lines {
            self.lines.resize(lines, CacheLine::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }

    /// The whole buffer, rounded up to cache lines.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// The whole buffer, rounded up to cache lines.
    pub(crate) fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }
}
