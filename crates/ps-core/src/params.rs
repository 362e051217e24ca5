//! All parameters of a model as one flat vector with a named layout.

use sha2::{Digest, Sha256};

/// One named tensor inside the flat vector, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in result files, such as `layers.0.weight`.
    pub name: String,
    /// `[outputs, inputs]` of a weight, `[outputs]` of a bias.
    pub shape: Vec<usize>,
    /// Index of its first element in the flat vector.
    pub offset: usize,
}

impl TensorSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The tensors of a model in the order in which they lie in the flat vector, without gaps.
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

    /// The tensors in order.
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

/// SHA-256 of the flat vector as little-endian binary32, in lower-case hexadecimal: the run's result in one
/// line.
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

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
