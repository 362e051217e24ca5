//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011), keyed by the run's seed. Any number of any stream can be computed without the ones before it.

/// The use of a stream of random numbers; streams for different purposes never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Round keys of the sample order.
    SampleOrder = 1,
    /// Initial weights, by index of the parameter.
    Weights = 2,
    /// Round keys of the order that sets the validation share apart.
    Validation = 3,
    /// The built-in digits, by number of the drawing.
    Digits = 4,
    /// Faults and delays of the simulator, jitter and the choice of audits. No weight depends on it.
    Simulation = 5,
    /// The samples of the probe gradient by which workers prove on joining that they compute correctly.
    Probe = 6,
    /// Noise on the gradient, by step (in the place of the epoch) and index of the parameter.
    Noise = 7,
    /// Dropout, by step (in the place of the epoch), and by sample and unit.
    Dropout = 8,
}

/// The four words of Philox4x32-10 for counter `[index low, index high, epoch, purpose]` under key `seed`
/// (low word first).
#[inline]
pub fn random(seed: u64, purpose: Purpose, epoch: u32, index: u64) -> [u32; 4] {
    const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut counter = [index as u32, (index >> 32) as u32, epoch, purpose as u32];
    for _ in 0..10 {
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A stream of random numbers for one purpose, for consumers that take them one after the other (the built-in
/// digits, the simulator).
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    purpose: Purpose,
    epoch: u32,
    next: u64,
    words: [u32; 4],
}

impl Stream {
    /// Creates a stream. Its first four numbers are the words of counter index 0, the next four those of
    /// index 1, and so on.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32) -> Self {
        Stream { seed, purpose, epoch, next: 0, words: [0; 4] }
    }

    /// The next 32 bits.
    fn next_u32(&mut self) -> u32 {
        let word = (self.next % 4) as usize;
        if word == 0 {
            self.words = random(self.seed, self.purpose, self.epoch, self.next / 4);
        }
        self.next += 1;
        self.words[word]
    }

    /// Uniform in `0..bound` (by multiplication; the bias is below 2^-32 times `bound`). `bound` must
    /// not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Uniform in [0, 1) on a grid of 2^-24.
    pub fn unit(&mut self) -> f32 {
        // An f32 holds 24 bits. With all 32, the largest words would be rounded up to 1.
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
    #[test]
    fn philox_matches_its_authors_vectors() {
        // `random` cannot produce the published vectors because purpose 0 does not exist. They are checked on
        // a second transcription, with which `random` is then compared.
        fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
            for _ in 0..10 {
                let a = 0xD251_1F53_u64 * u64::from(c[0]);
                let b = 0xCD9E_8D57_u64 * u64::from(c[2]);
                c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
                k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
            }
            c
        }
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
        assert_eq!(
            random(0x299f_31d0_a409_3822, Purpose::Weights, 0x1319_8a2e, 0x85a3_08d3_243f_6a88),
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 2], [0xa409_3822, 0x299f_31d0])
        );
    }
}
