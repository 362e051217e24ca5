//! Tensors as bytes and back, with as few copies as the wire allows.

use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Buffers of `f32` that come back when the last message that refers to them is sent: a copy of the weights
/// per step costs no memory from the system after the first few.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

/// Buffers kept for reuse; more are given back to the allocator.
const KEPT: usize = 4;

impl Pool {
    /// A buffer with a copy of `values`.
    pub fn copy(&self, values: &[f32]) -> Vec<f32> {
        let mut buffer = self.empty(values.len());
        buffer.extend_from_slice(values);
        buffer
    }

    /// An empty buffer with room for `capacity` elements.
    pub fn empty(&self, capacity: usize) -> Vec<f32> {
        let kept = self.free.lock().ok().and_then(|mut free| free.pop());
        let mut buffer = kept.unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(capacity);
        buffer
    }

    /// The bytes of `values` as they travel, without a copy on little-endian machines. The buffer comes back
    /// to this pool when the last slice of the bytes is dropped.
    pub fn share(&self, values: Vec<f32>) -> Bytes {
        Bytes::from_owner(Shared { values: little_endian(values), pool: Some(self.clone()) })
    }

    /// Takes a buffer back.
    pub fn give_back(&self, buffer: Vec<f32>) {
        if let Ok(mut free) = self.free.lock()
            && free.len() < KEPT
        {
            free.push(buffer);
        }
    }
}

/// The bytes of `values` as they travel; the buffer goes when the last slice does.
pub fn share(values: Vec<f32>) -> Bytes {
    Bytes::from_owner(Shared { values: little_endian(values), pool: None })
}

/// Appends the elements that `bytes` holds (a multiple of 4 of them).
pub fn append(bytes: &[u8], values: &mut Vec<f32>) {
    let (elements, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "the length of a chunk is checked where it arrives");
    values.extend(elements.iter().map(|element| f32::from_le_bytes(*element)));
}

/// The floats so that their bytes in memory are little-endian; nothing to do nearly everywhere.
fn little_endian(mut values: Vec<f32>) -> Vec<f32> {
    if cfg!(target_endian = "big") {
        for value in &mut values {
            *value = f32::from_bits(value.to_bits().swap_bytes());
        }
    }
    values
}

struct Shared {
    values: Vec<f32>,
    pool: Option<Pool>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.values)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give_back(std::mem::take(&mut self.values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_travel_as_little_endian_and_come_back_bit_for_bit() {
        let values = vec![1.0, -0.0, f32::MIN_POSITIVE / 3.0, f32::INFINITY, 3.5e-20];
        let bytes = share(values.clone());
        assert_eq!(bytes[..4], [0, 0, 0x80, 0x3f]);
        let mut back = Vec::new();
        append(&bytes[..8], &mut back);
        append(&bytes[8..], &mut back);
        assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn a_buffer_is_used_again_once_its_last_slice_is_gone() {
        let pool = Pool::default();
        let buffer = pool.copy(&[1.0; 100]);
        let address = buffer.as_ptr();
        let bytes = pool.share(buffer);
        let slice = bytes.slice(4..8);
        drop(bytes);
        let other = pool.copy(&[2.0; 100]);
        assert_ne!(other.as_ptr(), address);
        drop(slice);
        let again = pool.copy(&[3.0; 100]);
        assert_eq!(again.as_ptr(), address);
    }
}
