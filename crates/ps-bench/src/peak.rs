//! The peak rate of one core.

use crate::{Bench, Entrant, Error, Measurement, race};
use std::hint::black_box;

/// Name of the figure.
pub(crate) const NAME: &str = "peak/fma";

/// Number of floating-point operations of one call of [`multiply_adds`].
pub(crate) const OPERATIONS: f64 = 2.0 * CHAINED as f64;

/// Number of fused multiply-adds of one call.
const CHAINED: usize = 12 * 16 * 50_000;

pub(crate) fn measure(bench: &mut Bench) -> Result<(), Error> {
    if !bench.is_selected(NAME) {
        return Ok(());
    }
    let times = race(&mut [Entrant::new(NAME, multiply_adds)], bench.effort());
    bench.report(Measurement::new(NAME, OPERATIONS / times[0] / 1e9, "GFLOP/s"))
}

/// Runs chains of fused multiply-adds that need no memory, on one core. Their rate is an upper bound for any
/// matrix product. Makes [`OPERATIONS`].
pub(crate) fn multiply_adds() {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        fn avx512() {
            // Opaque operands, so that the compiler cannot compute the result in advance.
            let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
            let mut acc = [_mm512_set1_ps(1.0); 12];
            for _ in 0..CHAINED / (12 * 16) {
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
            for _ in 0..CHAINED / (12 * 8) {
                for acc in &mut acc {
                    *acc = _mm256_fmadd_ps(*acc, a, b);
                }
            }
            black_box(acc);
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor supports AVX-512F, as was just checked.
            return unsafe { avx512() };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor supports AVX2 and FMA, as was just checked.
            return unsafe { avx2() };
        }
    }
    // Sixteen vectors of four elements, on processors with such vectors; the compiler vectorizes the loop.
    let (a, b) = (black_box(0.999_f32), black_box(0.001_f32));
    let mut acc = [1.0_f32; 64];
    for _ in 0..CHAINED / acc.len() {
        for acc in &mut acc {
            *acc = acc.mul_add(a, b);
        }
    }
    black_box(acc);
}
