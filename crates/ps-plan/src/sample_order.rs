//! The order in which an epoch visits its samples: a seeded permutation that can be evaluated at any position
//! in constant memory. Every worker can thus find the samples of any step without communication.

use crate::seed::{Purpose, random};

/// Rounds of the Feistel network.
const ROUNDS: usize = 8;

/// A permutation of `0..n`: a balanced Feistel network over the smallest domain 2^(2h) >= n, h >= 1, followed
/// by cycle-walking (values outside `0..n` are mapped again until they fall inside).
#[derive(Clone, Debug)]
pub struct SampleOrder {
    n: u64,
    half_bits: u32,
    keys: [u32; ROUNDS],
}

impl SampleOrder {
    /// The order in which `epoch` visits `n` training samples.
    pub(crate) fn new(seed: u64, epoch: u32, n: usize) -> Self {
        SampleOrder::keyed(seed, Purpose::SampleOrder, epoch, n)
    }

    /// The order by which samples are set apart for validation.
    pub fn validation(seed: u64, n: usize) -> Self {
        SampleOrder::keyed(seed, Purpose::Validation, 0, n)
    }

    fn keyed(seed: u64, purpose: Purpose, epoch: u32, n: usize) -> Self {
        assert!(n > 0, "an order of no samples");
        let bits = usize::BITS - (n - 1).leading_zeros();
        let first = random(seed, purpose, epoch, 0);
        let second = random(seed, purpose, epoch, 1);
        let mut keys = [0; ROUNDS];
        keys[..4].copy_from_slice(&first);
        keys[4..].copy_from_slice(&second);
        // Each half of a Feistel network needs at least one bit, even for a single sample.
        SampleOrder { n: n as u64, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Returns the sample at `position`.
    ///
    /// # Panics
    /// If `position` is not below the number of samples.
    pub fn at(&self, position: usize) -> usize {
        assert!((position as u64) < self.n, "position {position} of {}", self.n);
        let mut value = position as u64;
        // The cycle of a permutation returns to `position`, so this ends. The domain has at most 4 n values,
        // so there are at most four passes on average.
        loop {
            value = self.permute(value);
            if value < self.n {
                return value as usize;
            }
        }
    }

    fn permute(&self, value: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let mut left = value >> self.half_bits;
        let mut right = value & mask;
        for key in self.keys {
            let mixed = u64::from(mix(right as u32 ^ key)) & mask;
            (left, right) = (right, left ^ mixed);
        }
        left << self.half_bits | right
    }
}

/// The `lowbias32` integer hash of C. Wellons (nullprogram.com, "Prospecting for hash functions").
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_sample_once() {
        for n in (1..70).chain([1000, 4096, 4097]) {
            let order = SampleOrder::new(7, 3, n);
            let mut seen = vec![false; n];
            for position in 0..n {
                let sample = order.at(position);
                assert!(!seen[sample], "n={n}: sample {sample} twice");
                seen[sample] = true;
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let orders =
            [SampleOrder::new(1, 0, 1000), SampleOrder::new(1, 1, 1000), SampleOrder::new(2, 0, 1000)];
        let heads: Vec<Vec<usize>> =
            orders.iter().map(|order| (0..20).map(|position| order.at(position)).collect()).collect();
        assert!(heads[0] != heads[1] && heads[0] != heads[2] && heads[1] != heads[2]);
    }

    #[test]
    fn neighbours_in_order_are_far_apart_in_the_data() {
        // The mean distance of two independent uniform samples of 0..n is n / 3.
        let n = 60_000;
        let order = SampleOrder::new(1, 0, n);
        let total: usize = (0..n - 1).map(|i| order.at(i).abs_diff(order.at(i + 1))).sum();
        let mean = total as f64 / (n - 1) as f64;
        assert!((mean / (n as f64 / 3.0) - 1.0).abs() < 0.02, "mean distance {mean}");
    }
}
