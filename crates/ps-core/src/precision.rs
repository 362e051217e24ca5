//! The precision of the weights at which gradients are computed.
//!
//! The holder of the weights stores and updates them in binary32. With [`Precision::Bf16`], every worker in
//! every mode computes gradients at the weights rounded to bfloat16, the upper half of a binary32, so that
//! all modes still agree bit by bit. docs/numerics.md specifies the rounding.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One binary32 in its wire format, little-endian.
pub type Element = [u8; 4];

/// The precision of the weights at which gradients are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE-754 binary32, the precision in which weights are stored.
    #[default]
    F32,
    /// bfloat16, which halves the bytes on the wire.
    Bf16,
}

impl Precision {
    /// Bytes per element on the wire.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }

    /// Rounds weights to this precision. Idempotent.
    pub fn round(self, weights: &[f32]) -> Cow<'_, [f32]> {
        match self {
            Precision::F32 => Cow::Borrowed(weights),
            Precision::Bf16 => weights.iter().map(|&weight| widen(bf16(weight))).collect(),
        }
    }
}

/// Rounds a binary32 to the nearest bfloat16, ties to even. NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    // Rounding could turn a NaN into infinity or carry into its sign. The quiet bit keeps it a NaN.
    if value.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// Converts a bfloat16 to the binary32 of the same value.
#[inline(always)]
fn widen(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// Writes `elements` as bfloat16, little-endian: `[2 * elements]` bytes.
pub fn encode_bf16(elements: &[Element], bytes: &mut [u8]) {
    let (halves, rest) = bytes.as_chunks_mut::<2>();
    assert!(rest.is_empty() && halves.len() == elements.len(), "two bytes for each element");
    for (half, element) in halves.iter_mut().zip(elements) {
        *half = bf16(f32::from_le_bytes(*element)).to_le_bytes();
    }
}

/// Reads the format of [`encode_bf16`].
pub fn decode_bf16(bytes: &[u8], values: &mut [f32]) {
    let (halves, rest) = bytes.as_chunks::<2>();
    assert!(rest.is_empty() && halves.len() == values.len(), "two bytes for each element");
    for (value, half) in values.iter_mut().zip(halves) {
        *value = widen(u16::from_le_bytes(*half));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_ties_go_to_even() {
        let cases = [
            (1.0, 0x3f80),
            (-0.0, 0x8000),
            (f32::from_bits(0x3f80_7fff), 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::MAX, 0x7f80),
            (f32::INFINITY, 0x7f80),
        ];
        for (value, expected) in cases {
            assert_eq!(bf16(value), expected, "{value:e}");
        }
        assert!(widen(bf16(f32::from_bits(0x7f80_0001))).is_nan());
    }

    #[test]
    fn transmitted_weights_equal_those_used_without_a_network() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 1.001).collect();
        let elements: Vec<Element> = values.iter().map(|value| value.to_le_bytes()).collect();
        let (mut bytes, mut arrived) = (vec![0; 2000], vec![0.0; 1000]);
        encode_bf16(&elements, &mut bytes);
        decode_bf16(&bytes, &mut arrived);
        assert_eq!(arrived, *Precision::Bf16.round(&values));
        assert_eq!(arrived, *Precision::Bf16.round(&arrived));
    }
}
