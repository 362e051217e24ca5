//! What the benches share: taking turns, medians and ratios, and the processor's peak.
//!
//! Machines are noisy, so nothing is timed alone: competitors run in turn, round after round, and what counts
//! is the ratio of their medians in one run.

use std::hint::black_box;
use std::time::Instant;

/// One competitor: its name and one round of its work.
pub struct Entrant<'a> {
    /// Shown in the table.
    pub name: String,
    /// One round.
    pub run: Box<dyn FnMut() + 'a>,
}

impl<'a> Entrant<'a> {
    /// A competitor.
    pub fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Entrant { name: name.into(), run: Box::new(run) }
    }
}

/// Seconds that a round of each entrant takes: the median over `rounds` rounds in which all take turns.
pub fn race(entrants: &mut [Entrant], rounds: usize) -> Vec<f64> {
    for entrant in entrants.iter_mut() {
        (entrant.run)();
    }
    let mut times = vec![Vec::with_capacity(rounds); entrants.len()];
    for _ in 0..rounds {
        for (entrant, times) in entrants.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (entrant.run)();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.into_iter().map(median).collect()
}

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Floating-point operations of one call of [`peak_round`].
pub const PEAK_OPERATIONS: f64 = 2.0 * 12.0 * 16.0 * 200_000.0;

/// Chains of fused multiply-adds that need no memory, on one core: their rate is the most that any product can
/// reach. Counts [`PEAK_OPERATIONS`].
pub fn peak_round() {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        fn avx512() {
            let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
            let mut acc = [_mm512_set1_ps(1.0); 12];
            for _ in 0..200_000 {
                for acc in &mut acc {
                    *acc = _mm512_fmadd_ps(*acc, a, b);
                }
            }
            black_box(acc);
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2() {
            let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
            let mut acc = [_mm256_set1_ps(1.0); 12];
            for _ in 0..400_000 {
                for acc in &mut acc {
                    *acc = _mm256_fmadd_ps(*acc, a, b);
                }
            }
            black_box(acc);
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor was asked for AVX-512F.
            return unsafe { avx512() };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor was asked for AVX2 and FMA.
            return unsafe { avx2() };
        }
    }
    let (a, b) = (black_box(0.999_f32), black_box(0.001_f32));
    let mut acc = [1.0_f32; 32];
    for _ in 0..75_000 * 2 {
        for acc in &mut acc {
            *acc = acc.mul_add(a, b);
        }
    }
    black_box(acc);
}
