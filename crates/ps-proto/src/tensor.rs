//! Tensors as bytes and back, with as few copies as possible.

use bytes::{Bytes, BytesMut};
pub use ps_core::chunk::share;
use ps_core::chunk::{self, make_little_endian};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Decodes `bytes`, 4 per element, into `values`.
pub fn read(bytes: &[u8], values: &mut [f32]) {
    let (elements, rest) = bytes.as_chunks::<4>();
    assert!(
        rest.is_empty() && elements.len() == values.len(),
        "the length of a chunk is checked where it arrives"
    );
    chunk::read(elements, values);
}

/// A tensor that is completed from its end towards its beginning: completed parts can be sent while the rest
/// is still written. Its memory is reused once all parts have been dropped.
pub struct SharedBuffer {
    elements: usize,
    /// The part that is not completed.
    open: BytesMut,
    /// Completed parts that were dropped by their last reader.
    recycled: Vec<BytesMut>,
    returns: Sender<BytesMut>,
    returned: Receiver<BytesMut>,
}

impl SharedBuffer {
    /// Creates a tensor of `elements` elements with unspecified values.
    pub fn new(elements: usize) -> Self {
        // The elements are written as f32, and `BytesMut` does not promise any alignment.
        let mut open = BytesMut::zeroed(4 * elements + align_of::<f32>());
        let aligned = open.as_ptr().align_offset(align_of::<f32>());
        let mut open = open.split_off(aligned);
        open.truncate(4 * elements);
        let (returns, returned) = channel();
        SharedBuffer { elements, open, recycled: Vec::new(), returns, returned }
    }

    /// The elements that are not completed, which are the first ones.
    pub fn open(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.open)
    }

    /// Completes the elements from `from` on, and returns those that were not completed before.
    pub fn finish(&mut self, from: usize) -> Bytes {
        let mut last = self.open.split_off(4 * from);
        make_little_endian(bytemuck::cast_slice_mut(&mut last));
        Bytes::from_owner(CompletedPart { bytes: last, returns: self.returns.clone() })
    }

    /// Whether the whole tensor can be written again: no part was completed, or all of them were dropped.
    pub fn is_whole(&mut self) -> bool {
        self.recycled.extend(self.returned.try_iter());
        let recycled: usize = self.recycled.iter().map(BytesMut::len).sum();
        if self.open.len() + recycled < 4 * self.elements {
            return false;
        }
        // Neighbouring parts of one allocation are joined in place.
        self.recycled.sort_unstable_by_key(|part| part.as_ptr());
        self.recycled.drain(..).for_each(|part| self.open.unsplit(part));
        true
    }
}

/// A completed part, which returns its memory when it is dropped.
struct CompletedPart {
    bytes: BytesMut,
    returns: Sender<BytesMut>,
}

impl AsRef<[u8]> for CompletedPart {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CompletedPart {
    fn drop(&mut self) {
        // The tensor may be gone.
        let _ = self.returns.send(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_round_trip_as_little_endian() {
        let values = vec![1.0, -0.0, f32::MIN_POSITIVE / 3.0, f32::INFINITY, 3.5e-20];
        let bytes = share(values.clone());
        assert_eq!(bytes[..4], [0, 0, 0x80, 0x3f]);
        let mut back = vec![0.0; 5];
        read(&bytes[..8], &mut back[..2]);
        read(&bytes[8..], &mut back[2..]);
        assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn completed_parts_are_shared_while_the_rest_is_written_and_memory_is_reused() {
        let mut tensor = SharedBuffer::new(10);
        tensor.open().fill(1.0);
        let address = tensor.open().as_ptr();
        let last = tensor.finish(7);
        tensor.open()[4..].fill(2.0);
        let middle = tensor.finish(4);
        tensor.open().fill(3.0);
        let first = tensor.finish(0);
        assert!(tensor.open().is_empty());
        let mut values = [0.0; 10];
        read(&[first.clone(), middle.clone(), last.clone()].concat(), &mut values);
        assert_eq!(values, [3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]);
        let slice = middle.slice(4..8);
        drop((first, last, middle));
        assert!(!tensor.is_whole());
        drop(slice);
        assert!(tensor.is_whole());
        assert_eq!((tensor.open().len(), tensor.open().as_ptr()), (10, address));
    }
}
