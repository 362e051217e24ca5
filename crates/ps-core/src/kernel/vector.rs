//! Vectors of `f32` lanes, for each instruction set.

/// The vector type that the micro-kernel is generic over.
///
/// # Safety
/// All functions may only be called where the implementation's instruction set is enabled; `load` and `store`
/// touch `LANES` elements at the (possibly unaligned) pointer.
pub(super) unsafe trait Vector: Copy {
    /// Number of `f32` elements.
    const LANES: usize;
    /// All lanes 0.
    unsafe fn zero() -> Self;
    /// All lanes `*value`.
    unsafe fn splat(value: *const f32) -> Self;
    /// Loads `LANES` elements.
    unsafe fn load(from: *const f32) -> Self;
    /// Stores `LANES` elements.
    unsafe fn store(self, to: *mut f32);
    /// `fma(a, b, self)`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// `left + self`.
    unsafe fn add(self, left: Self) -> Self;
    /// Keeps each lane where the same lane of `values` is positive, and sets the others to 0.
    unsafe fn where_positive(self, values: Self) -> Self;
    /// Prefetches an address, which need not be readable, into the first-level cache.
    #[inline(always)]
    fn prefetch(_at: *const f32) {}
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($name:ident, $lanes:literal, $inner:ty, $zero:ident, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident, $keep:expr) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($inner);

            // SAFETY: each function is one instruction of the set that the trait's caller has enabled; memory
            // is accessed only at the caller's pointer, without alignment requirements.
            unsafe impl Vector for $name {
                const LANES: usize = $lanes;
                #[inline(always)]
                fn prefetch(at: *const f32) {
                    // SAFETY: a prefetch is a hint and reads nothing; SSE is part of every x86-64 processor.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
                }
                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the caller has enabled the instruction set.
                    unsafe { $name($zero()) }
                }
                #[inline(always)]
                unsafe fn splat(value: *const f32) -> Self {
                    // SAFETY: the caller has enabled the instruction set and the pointer is readable.
                    unsafe { $name($splat(*value)) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller has enabled the instruction set and `LANES` elements are readable.
                    unsafe { $name($load(from)) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the caller has enabled the instruction set and `LANES` elements are writable.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: the caller has enabled the instruction set.
                    unsafe { $name($fma(a.0, b.0, self.0)) }
                }
                #[inline(always)]
                unsafe fn add(self, left: Self) -> Self {
                    // SAFETY: the caller has enabled the instruction set.
                    unsafe { $name($add(left.0, self.0)) }
                }
                #[inline(always)]
                unsafe fn where_positive(self, values: Self) -> Self {
                    // SAFETY: the caller has enabled the instruction set.
                    unsafe { $name($keep(self.0, values.0)) }
                }
            }
        };
    }

    vector!(
        Avx512,
        16,
        __m512,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        // A bitwise `and` of floats would need AVX-512DQ, so the lanes are masked.
        |lanes, values| {
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, _mm512_setzero_ps()), lanes)
        }
    );
    vector!(
        Avx2,
        8,
        __m256,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        |lanes, values| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(values, _mm256_setzero_ps()), lanes)
    );
}

#[cfg(target_arch = "aarch64")]
#[allow(unused_unsafe, reason = "NEON is always enabled there, which makes its arithmetic safe to call")]
pub(super) mod arm {
    use super::Vector;
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Neon(float32x4_t);

    // SAFETY: NEON is part of every aarch64 processor that Rust targets; memory is accessed only at the
    // caller's pointer, without alignment requirements.
    unsafe impl Vector for Neon {
        const LANES: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: NEON is always there.
            unsafe { Neon(vdupq_n_f32(0.0)) }
        }
        #[inline(always)]
        unsafe fn splat(value: *const f32) -> Self {
            // SAFETY: the pointer is readable.
            unsafe { Neon(vdupq_n_f32(*value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: `LANES` elements are readable.
            unsafe { Neon(vld1q_f32(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: `LANES` elements are writable.
            unsafe { vst1q_f32(to, self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { Neon(vfmaq_f32(self.0, a.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, left: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { Neon(vaddq_f32(left.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn where_positive(self, values: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { Neon(vbslq_f32(vcgtzq_f32(values.0), self.0, vdupq_n_f32(0.0))) }
        }
    }
}

/// Eight lanes in plain Rust. `f32::mul_add` rounds once on every machine, with or without an
/// instruction for it.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

// SAFETY: no instruction set is needed; memory is accessed only at the caller's pointer, by unaligned
// reads and writes.
unsafe impl Vector for Plain {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Plain([0.0; 8])
    }
    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self {
        // SAFETY: the pointer is readable.
        Plain([unsafe { *value }; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: `LANES` elements are readable.
        Plain(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: `LANES` elements are writable.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for (lane, (a, b)) in self.0.iter_mut().zip(a.0.into_iter().zip(b.0)) {
            *lane = a.mul_add(b, *lane);
        }
        self
    }
    #[inline(always)]
    unsafe fn add(mut self, left: Self) -> Self {
        for (lane, left) in self.0.iter_mut().zip(left.0) {
            *lane += left;
        }
        self
    }
    #[inline(always)]
    unsafe fn where_positive(mut self, values: Self) -> Self {
        for (lane, value) in self.0.iter_mut().zip(values.0) {
            *lane = if value > 0.0 { *lane } else { 0.0 };
        }
        self
    }
}
