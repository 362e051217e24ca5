//! Tensors as bytes and back, with as few copies as the wire allows.

use bytes::Bytes;
use std::sync::mpsc::Sender;

/// The bytes of `values` as they travel; the buffer goes when the last slice does.
pub fn share(values: Vec<f32>) -> Bytes {
    Bytes::from_owner(Shared { values: little_endian(values), give_back: None })
}

/// The same; the buffer is sent to `give_back` when the last slice goes, to be used again.
pub fn share_and_return(values: Vec<f32>, give_back: Sender<Vec<f32>>) -> Bytes {
    Bytes::from_owner(Shared { values: little_endian(values), give_back: Some(give_back) })
}

/// Writes the elements that `bytes` holds (4 for each of `values`).
pub fn read(bytes: &[u8], values: &mut [f32]) {
    let (elements, rest) = bytes.as_chunks::<4>();
    assert!(
        rest.is_empty() && elements.len() == values.len(),
        "the length of a chunk is checked where it arrives"
    );
    for (value, element) in values.iter_mut().zip(elements) {
        *value = f32::from_le_bytes(*element);
    }
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
    give_back: Option<Sender<Vec<f32>>>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.values)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(give_back) = &self.give_back {
            // Whoever wanted it may be gone.
            let _ = give_back.send(std::mem::take(&mut self.values));
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
        let mut back = vec![0.0; 5];
        read(&bytes[..8], &mut back[..2]);
        read(&bytes[8..], &mut back[2..]);
        assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
