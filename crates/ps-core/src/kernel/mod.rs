//! The product of fused multiply-adds, for each instruction set.
//!
//! A generic micro-kernel (`tile.rs`) computes a tile of `rows x (vectors * lanes)` outputs, each as one
//! chain `acc = fma(a[k], b[k], acc)` in ascending k from zero. Vector lanes span outputs only, never the sum
//! over k, so every instruction set gives the same bits for any blocking. The kernel is compiled for AVX-512,
//! for AVX2 with FMA, for NEON and as plain Rust, and selected at run time.
//!
//! All `unsafe` code of this crate is in this folder.

mod buffer;
mod tile;
mod transpose;
mod vector;

pub use buffer::Buffer;
pub(crate) use tile::{Finish, Left, Segment, Tile, fold_tiles, multiply};
pub(crate) use transpose::transpose;

use std::sync::OnceLock;

/// Environment variable that forces an instruction set: `avx512`, `avx2`, `neon` or `scalar`.
pub const KERNEL_VARIABLE: &str = "DOWNHILL_KERNEL";

/// Number of columns of the widest panel of any instruction set.
pub(crate) const MAX_COLUMNS: usize = 32;

/// An instruction set that the products are compiled for. A value can only be created for a set that
/// this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Scalar,
}

impl Kernel {
    /// The widest instruction set that this processor has.
    pub fn detect() -> Self {
        static WIDEST: OnceLock<Kernel> = OnceLock::new();
        *WIDEST.get_or_init(|| Kernel::available()[0])
    }

    /// The instruction set that [`KERNEL_VARIABLE`] names, or the widest one if the variable is not set.
    ///
    /// # Errors
    /// Returns a message for the user if the name is unknown or this processor does not have the set.
    pub fn chosen() -> Result<Self, String> {
        let Ok(name) = std::env::var(KERNEL_VARIABLE) else { return Ok(Kernel::detect()) };
        let available = Kernel::available();
        available.iter().copied().find(|kernel| kernel.name() == name).ok_or_else(|| {
            let names: Vec<&str> = available.iter().map(|kernel| kernel.name()).collect();
            format!("{KERNEL_VARIABLE}={name}: this processor and build support {}", names.join(", "))
        })
    }

    /// All instruction sets that this processor has, widest first. Plain Rust is always the last.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // AVX-512 counts only together with AVX2 and FMA, which `vectorize` enables along with it.
            if is_x86_feature_detected!("avx512f") {
                sets.push(Kernel(Set::Avx512));
            }
            sets.push(Kernel(Set::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Kernel(Set::Neon));
        sets.push(Kernel(Set::Scalar));
        sets
    }

    /// The name by which [`KERNEL_VARIABLE`] selects the instruction set.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
            Set::Scalar => "scalar",
        }
    }

    /// Number of columns of a full tile, and of a panel of [`crate::gradient`]'s matrices.
    pub(crate) fn width(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => 32,
            _ => 16,
        }
    }

    /// Maximum number of rows of a tile.
    pub(crate) fn max_rows(self) -> usize {
        // As many rows as the registers allow: with AVX-512, 12 rows of two accumulators, two vectors of the
        // right operand and a broadcast take 27 of 32; with AVX2, 6 rows take 15 of 16. A prototype with 14
        // rows was no faster.
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => 12,
            Set::Scalar => 4,
            #[allow(unreachable_patterns)]
            _ => 6,
        }
    }

    /// Runs `f` compiled for this instruction set: its loops are vectorised, and `mul_add` is one
    /// instruction. Applies only to code that is inlined into `f`, so mark it `#[inline(always)]`.
    #[inline]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512<R>(f: impl FnOnce() -> R) -> R {
                f()
            }
            #[target_feature(enable = "avx2,fma")]
            fn avx2<R>(f: impl FnOnce() -> R) -> R {
                f()
            }
            match self.0 {
                // SAFETY: this value exists only if the processor has AVX-512F, AVX2 and FMA.
                Set::Avx512 => return unsafe { avx512(f) },
                // SAFETY: this value exists only if the processor has AVX2 and FMA.
                Set::Avx2 => return unsafe { avx2(f) },
                Set::Scalar => {}
            }
        }
        f()
    }
}

/// Asks the processor to load `bytes` into its caches ahead of their use. Affects nothing but time.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and reads nothing; SSE is part of every x86-64 processor.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
