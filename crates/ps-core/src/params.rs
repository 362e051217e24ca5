//! All parameters of a model as one flat vector with a named layout.

use sha2::{Digest, Sha256};

/// One named tensor inside the flat vector, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in result files and checkpoints, such as `layers.0.weight`.
    pub name: String,
    /// `[outputs, inputs]` for a weight, `[outputs]` for a bias.
    pub shape: Vec<usize>,
    /// Index of the tensor's first element in the flat vector.
    pub offset: usize,
}

impl TensorSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The tensors of a model in the order in which they are stored in the flat vector, without gaps.
///
/// It connects the flat vector, which is divided into shards and chunks without regard to tensors, with the
/// named tensors of result files and checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TensorSpec>,
}

impl Layout {
    /// Appends a tensor and returns the index of its first element.
    pub fn push(&mut self, name: String, shape: Vec<usize>) -> usize {
        let offset = self.len();
        self.tensors.push(TensorSpec { name, shape, offset });
        offset
    }

    /// The tensors, in the order of the flat vector.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Length of the flat vector.
    pub fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.offset + last.len())
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// SHA-256 of the flat vector as little-endian binary32, in lower-case hexadecimal. Two runs have the same
/// result if and only if this hash is the same.
pub fn weights_hash(weights: &[f32]) -> String {
    let mut hasher = Sha256::new();
    for chunk in weights.chunks(4096) {
        let mut bytes = [0_u8; 4 * 4096];
        for (slot, weight) in bytes.chunks_exact_mut(4).zip(chunk) {
            slot.copy_from_slice(&weight.to_le_bytes());
        }
        hasher.update(&bytes[..4 * chunk.len()]);
    }
    hex(&hasher.finalize())
}

/// Formats bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
