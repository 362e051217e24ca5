//! The micro-kernel and its two uses: a product stored as it is, and leaves folded through the tree.

use super::vector::{Plain, Vector};
use super::{Kernel, Set};

/// A stretch of the inner index: `k` steps from these offsets (in elements) into `a` and `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub k: usize,
    pub a: usize,
    pub b: usize,
}

/// The operands of a tile. Element (row, k) of the left one lies at `segment.a + row * a_row + k * a_k`, of
/// the right one (k, column) at `segment.b + k * b_k + column`.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub a: &'a [f32],
    pub a_row: usize,
    pub a_k: usize,
    pub b: &'a [f32],
    pub b_k: usize,
    /// 1 to [`Kernel::max_rows`].
    pub rows: usize,
    /// [`Kernel::width`] or half of it.
    pub columns: usize,
}

impl Tile<'_> {
    /// Refuses operands that would be read beyond their ends.
    #[inline]
    fn check(&self, kernel: Kernel, segments: &[Segment]) {
        assert!(1 <= self.rows && self.rows <= kernel.max_rows(), "{} rows", self.rows);
        assert!(
            self.columns == kernel.width() || 2 * self.columns == kernel.width(),
            "{} columns",
            self.columns
        );
        for segment in segments.iter().filter(|segment| segment.k > 0) {
            let last_a = segment.a + (self.rows - 1) * self.a_row + (segment.k - 1) * self.a_k;
            let end_b = segment.b + (segment.k - 1) * self.b_k + self.columns;
            assert!(last_a < self.a.len() && end_b <= self.b.len(), "{segment:?}");
        }
    }
}

/// `out = A B` over all `segments` in order, `[rows, columns]` with `out_row` elements from row to row.
#[inline]
pub(crate) fn multiply(kernel: Kernel, tile: &Tile, segments: &[Segment], out: &mut [f32], out_row: usize) {
    tile.check(kernel, segments);
    assert!(out.len() >= (tile.rows - 1) * out_row + tile.columns);
    // SAFETY: `check` holds every address of the operands inside their slices and the shape inside the table;
    // `out` has room for the tile; no sums are merged, so `stack` is not read.
    unsafe { run(kernel, tile, segments, std::ptr::null(), 0, out.as_mut_ptr(), out_row) }
}

/// The sum of consecutive leaves, each the product over its own segments, added in the tree whose first leaf
/// is the first one given: `[rows, columns]` at the start of `stack`, which needs room for
/// `(2 + log2(leaves)) * rows * columns` elements.
///
/// A binary counter keeps one finished subtree per level, larger ones first; leaf number n closes as many of
/// them as n + 1 has trailing zeros. What is left at the end is added from the smallest up, which is how an
/// odd last node passes up in the tree.
#[inline]
pub(crate) fn fold_tiles<'s>(
    kernel: Kernel,
    tile: &Tile,
    leaves: impl Iterator<Item = &'s [Segment]>,
    stack: &mut [f32],
) {
    let size = tile.rows * tile.columns;
    let mut depth = 0;
    for (leaf, segments) in leaves.enumerate() {
        tile.check(kernel, segments);
        let merges = (leaf + 1).trailing_zeros() as usize;
        assert!(merges <= depth && (depth + 1) * size <= stack.len(), "the stack holds a subtree per level");
        let base = stack.as_mut_ptr();
        // SAFETY: as in `multiply`; the `merges` subtrees below `top` lie in the stack, and the sum is stored
        // over the lowest of them (or on top), also in the stack, after they were read.
        unsafe {
            let top = base.add(depth * size);
            run(kernel, tile, segments, top, merges, top.sub(merges * size), tile.columns);
        }
        depth = depth + 1 - merges;
    }
    while depth > 1 {
        let (left, right) = stack.split_at_mut((depth - 1) * size);
        for (left, right) in left[(depth - 2) * size..].iter_mut().zip(right) {
            *left += *right;
        }
        depth -= 1;
    }
}

/// Runs the micro-kernel of the instruction set and shape.
///
/// # Safety
/// `tile` was checked against `segments`; `merges` tiles lie before `stack`; `out` has room for a tile with
/// `out_row` elements from row to row.
#[inline]
unsafe fn run(
    kernel: Kernel,
    tile: &Tile,
    segments: &[Segment],
    stack: *const f32,
    merges: usize,
    out: *mut f32,
    out_row: usize,
) {
    let wide = tile.columns == kernel.width();
    let function = match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 if wide => AVX512_WIDE[tile.rows - 1],
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => AVX512_NARROW[tile.rows - 1],
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 if wide => AVX2_WIDE[tile.rows - 1],
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => AVX2_NARROW[tile.rows - 1],
        #[cfg(target_arch = "aarch64")]
        Set::Neon if wide => NEON_WIDE[tile.rows - 1],
        #[cfg(target_arch = "aarch64")]
        Set::Neon => NEON_NARROW[tile.rows - 1],
        Set::Scalar if plain_fma() && wide => PLAIN_FMA_WIDE[tile.rows - 1],
        Set::Scalar if plain_fma() => PLAIN_FMA_NARROW[tile.rows - 1],
        Set::Scalar if wide => PLAIN_WIDE[tile.rows - 1],
        Set::Scalar => PLAIN_NARROW[tile.rows - 1],
    };
    // SAFETY: the caller's promises; the kernel's value says that the processor has the instruction set.
    unsafe { function(tile, segments, stack, merges, out, out_row) }
}

/// Whether plain Rust may use the processor's fused multiply-add, one lane at a time or as the compiler sees
/// fit: the same bits as the soft one, a hundred times faster.
fn plain_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// The micro-kernel: `ROWS x (VECTORS * LANES)` chains of fused multiply-adds held in registers, then
/// `merges` finished sums before `stack` added from the left, then stored.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    segments: &[Segment],
    stack: *const f32,
    merges: usize,
    out: *mut f32,
    out_row: usize,
) {
    // SAFETY: `Tile::check` has bounded `rows`, `columns` (here ROWS and VECTORS * LANES) and each segment, so
    // every `a` and `b` address below lies inside its slice; the caller gives `merges` whole tiles before
    // `stack` and room for one at `out`.
    unsafe {
        let mut acc = [[V::zero(); VECTORS]; ROWS];
        for segment in segments {
            let mut a = tile.a.as_ptr().add(segment.a);
            let mut b = tile.b.as_ptr().add(segment.b);
            for _ in 0..segment.k {
                let mut right = [V::zero(); VECTORS];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = V::load(b.add(v * V::LANES));
                }
                for (row, acc) in acc.iter_mut().enumerate() {
                    let left = V::splat(a.add(row * tile.a_row));
                    for (acc, right) in acc.iter_mut().zip(right) {
                        *acc = acc.fma(left, right);
                    }
                }
                // One past the end at most, where nothing is read any more.
                a = a.wrapping_add(tile.a_k);
                b = b.wrapping_add(tile.b_k);
            }
        }
        let size = ROWS * VECTORS * V::LANES;
        for merge in 1..=merges {
            let left = stack.sub(merge * size);
            for (row, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = acc.add(V::load(left.add((row * VECTORS + v) * V::LANES)));
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                acc.store(out.add(row * out_row + v * V::LANES));
            }
        }
    }
}

type TileFn = unsafe fn(&Tile, &[Segment], *const f32, usize, *mut f32, usize);

macro_rules! compiled {
    ($function:ident, $vector:ty, [$($feature:literal)?], $wide:ident, $narrow:ident, $vectors:literal, $half:literal, [$($rows:literal)*]) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $function<const ROWS: usize, const VECTORS: usize>(
            operands: &Tile,
            segments: &[Segment],
            stack: *const f32,
            merges: usize,
            out: *mut f32,
            out_row: usize,
        ) {
            // SAFETY: the same promises, passed on.
            unsafe { tile::<$vector, ROWS, VECTORS>(operands, segments, stack, merges, out, out_row) }
        }
        static $wide: [TileFn; [$($rows),*].len()] = [$($function::<$rows, $vectors>),*];
        static $narrow: [TileFn; [$($rows),*].len()] = [$($function::<$rows, $half>),*];
    };
}

#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::vector::x86::Avx512, ["avx512f"], AVX512_WIDE, AVX512_NARROW, 2, 1, [1 2 3 4 5 6 7 8 9 10 11 12]);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::vector::x86::Avx2, ["avx2,fma"], AVX2_WIDE, AVX2_NARROW, 2, 1, [1 2 3 4 5 6]);
#[cfg(target_arch = "aarch64")]
compiled!(neon, super::vector::arm::Neon, ["neon"], NEON_WIDE, NEON_NARROW, 4, 2, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
compiled!(plain_with_fma, Plain, ["avx2,fma"], PLAIN_FMA_WIDE, PLAIN_FMA_NARROW, 2, 1, [1 2 3 4]);
compiled!(plain, Plain, [], PLAIN_WIDE, PLAIN_NARROW, 2, 1, [1 2 3 4]);
#[cfg(not(target_arch = "x86_64"))]
use {PLAIN_NARROW as PLAIN_FMA_NARROW, PLAIN_WIDE as PLAIN_FMA_WIDE};

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, mut state: u64) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / 8_388_608.0) - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn every_instruction_set_and_shape_gives_the_bits_of_the_plain_chain() {
        let depth = if cfg!(miri) { 5 } else { 37 };
        for kernel in Kernel::available() {
            for columns in [kernel.width(), kernel.width() / 2] {
                for rows in 1..=kernel.max_rows() {
                    let a = numbers(rows * (depth + 3), 1);
                    let b = numbers(columns * depth, 2);
                    let tile = Tile { a: &a, a_row: depth + 3, a_k: 1, b: &b, b_k: columns, rows, columns };
                    let cut = depth / 3;
                    let segments = [
                        Segment { k: cut, a: 0, b: 0 },
                        Segment { k: depth - cut, a: cut, b: cut * columns },
                    ];
                    let mut out = vec![f32::NAN; rows * columns];
                    multiply(kernel, &tile, &segments, &mut out, columns);
                    for row in 0..rows {
                        for column in 0..columns {
                            let chain = (0..depth).fold(0.0_f32, |sum, k| {
                                a[row * (depth + 3) + k].mul_add(b[k * columns + column], sum)
                            });
                            let got = out[row * columns + column];
                            assert_eq!(got.to_bits(), chain.to_bits(), "{} {rows}x{columns}", kernel.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn folding_tiles_follows_the_tree() {
        for kernel in Kernel::available() {
            let (rows, columns) = (kernel.max_rows(), kernel.width());
            for leaves in 1..=if cfg!(miri) { 5 } else { 21 } {
                let (a, b) = (numbers(rows * leaves, 3), numbers(columns * leaves, 4));
                let tile = Tile { a: &a, a_row: 1, a_k: rows, b: &b, b_k: columns, rows, columns };
                let segments: Vec<Segment> =
                    (0..leaves).map(|l| Segment { k: 1, a: l * rows, b: l * columns }).collect();
                let mut stack = vec![f32::NAN; 8 * rows * columns];
                fold_tiles(kernel, &tile, segments.iter().map(std::slice::from_ref), &mut stack);
                for row in 0..rows {
                    for column in 0..columns {
                        let mut level: Vec<f32> =
                            (0..leaves).map(|l| a[l * rows + row] * b[l * columns + column] + 0.0).collect();
                        while level.len() > 1 {
                            level = level
                                .chunks(2)
                                .map(|p| p.iter().copied().reduce(|l, r| l + r).unwrap())
                                .collect();
                        }
                        assert_eq!(stack[row * columns + column].to_bits(), level[0].to_bits());
                    }
                }
            }
        }
    }
}
