//! The product kernel for each instruction set.

/// An instruction set that the products are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 512-bit vectors.
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 128-bit vectors of 64-bit Arm.
    Neon,
    /// Plain Rust.
    Scalar,
}

impl Kernel {
    /// The widest that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                return Kernel::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Kernel::Avx2;
            }
        }
        if cfg!(target_arch = "aarch64") { Kernel::Neon } else { Kernel::Scalar }
    }

    /// Runs `f`, if it is inlined, compiled for this instruction set.
    #[inline]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn fma<R>(f: impl FnOnce() -> R) -> R {
                f()
            }
            if matches!(self, Kernel::Avx512 | Kernel::Avx2) {
                // SAFETY: both values are only made after the processor was asked for AVX2 and FMA.
                return unsafe { fma(f) };
            }
        }
        f()
    }
}
