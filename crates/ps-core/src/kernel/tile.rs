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

/// How the left operand lies in memory, in panels of [`Kernel::width`] columns: element (row, k) of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// At `row * width + k`: rows of the panel are rows of the product.
    Rows,
    /// At `row + k * width`: columns of the panel are rows of the product.
    Columns,
    /// The same element for every row and k.
    Constant,
}

/// The operands of a tile. Element (row, k) of the left one lies where [`Left`] says after `segment.a`, of the
/// right one (k, column) at `segment.b + k * width + column`.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub a: &'a [f32],
    pub left: Left,
    pub b: &'a [f32],
    /// 1 to [`Kernel::max_rows`].
    pub rows: usize,
    /// [`Kernel::width`] or half of it.
    pub columns: usize,
}

impl Tile<'_> {
    /// Refuses operands that would be read beyond their ends.
    #[inline]
    fn check(&self, kernel: Kernel, segments: &[Segment]) {
        let width = kernel.width();
        assert!(1 <= self.rows && self.rows <= kernel.max_rows(), "{} rows", self.rows);
        assert!(self.columns == width || 2 * self.columns == width, "{} columns", self.columns);
        let (row, step) = match self.left {
            Left::Rows => (width, 1),
            Left::Columns => (1, width),
            Left::Constant => (0, 0),
        };
        for segment in segments.iter().filter(|segment| segment.k > 0) {
            let last_a = segment.a + (self.rows - 1) * row + (segment.k - 1) * step;
            let end_b = segment.b + (segment.k - 1) * width + self.columns;
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
    let shapes = match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => &AVX512[..],
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => &AVX2,
        #[cfg(target_arch = "aarch64")]
        Set::Neon => &NEON,
        #[cfg(target_arch = "x86_64")]
        Set::Scalar if plain_fma() => &PLAIN_WITH_FMA,
        Set::Scalar => &PLAIN,
    };
    let [wide, narrow] = shapes[tile.rows - 1][tile.left as usize];
    let function = if tile.columns == kernel.width() { wide } else { narrow };
    // SAFETY: the caller's promises; the kernel's value says that the processor has the instruction set.
    unsafe { function(tile, segments, stack, merges, out, out_row) }
}

/// Whether plain Rust may use the processor's fused multiply-add, one lane at a time or as the compiler sees
/// fit: the same bits as the soft one, a hundred times faster.
#[cfg(target_arch = "x86_64")]
fn plain_fma() -> bool {
    is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2")
}

/// The micro-kernel: `ROWS x (VECTORS * LANES)` chains of fused multiply-adds held in registers, then
/// `merges` finished sums before `stack` added from the left, then stored.
///
/// `A_ROW` and `A_K` are the strides of the left operand, `WIDTH` that of the right one; constants, so that a
/// step is its loads and its multiply-adds and little else.
#[inline(always)]
unsafe fn tile<
    V: Vector,
    const ROWS: usize,
    const VECTORS: usize,
    const A_ROW: usize,
    const A_K: usize,
    const WIDTH: usize,
>(
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
            let mut left = segment.k;
            while left >= 4 {
                for k in 0..4 {
                    step(&mut acc, a.add(k * A_K), A_ROW, b.add(k * WIDTH));
                }
                // Past the end at the last step at most, where nothing is read any more.
                a = a.wrapping_add(4 * A_K);
                b = b.wrapping_add(4 * WIDTH);
                left -= 4;
            }
            for k in 0..left {
                step(&mut acc, a.add(k * A_K), A_ROW, b.add(k * WIDTH));
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

/// One k: `acc += a b` for a column `a` of the left operand and a row `b` of the right one.
///
/// # Safety
/// The instruction set is enabled; `ROWS` elements `a_row` apart are readable at `a`, the tile's columns at `b`.
#[inline(always)]
unsafe fn step<V: Vector, const ROWS: usize, const VECTORS: usize>(
    acc: &mut [[V; VECTORS]; ROWS],
    a: *const f32,
    a_row: usize,
    b: *const f32,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut right = [V::zero(); VECTORS];
        for (v, right) in right.iter_mut().enumerate() {
            *right = V::load(b.add(v * V::LANES));
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            let left = V::splat(a.add(row * a_row));
            for (acc, right) in acc.iter_mut().zip(right) {
                *acc = acc.fma(left, right);
            }
        }
    }
}

type TileFn = unsafe fn(&Tile, &[Segment], *const f32, usize, *mut f32, usize);

/// For a number of rows, by [`Left`]: the wide and the narrow tile.
type Shapes = [[TileFn; 2]; 3];

macro_rules! compiled {
    ($table:ident, $function:ident, $vector:ty, [$($feature:literal)?], $width:literal, $wide:literal, $narrow:literal, [$($rows:literal)*]) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $function<const ROWS: usize, const VECTORS: usize, const A_ROW: usize, const A_K: usize>(
            operands: &Tile,
            segments: &[Segment],
            stack: *const f32,
            merges: usize,
            out: *mut f32,
            out_row: usize,
        ) {
            // SAFETY: the same promises, passed on.
            unsafe {
                tile::<$vector, ROWS, VECTORS, A_ROW, A_K, $width>(operands, segments, stack, merges, out, out_row)
            }
        }
        static $table: [Shapes; [$($rows),*].len()] = [$([
            [$function::<$rows, $wide, $width, 1>, $function::<$rows, $narrow, $width, 1>],
            [$function::<$rows, $wide, 1, $width>, $function::<$rows, $narrow, 1, $width>],
            [$function::<$rows, $wide, 0, 0>, $function::<$rows, $narrow, 0, 0>],
        ]),*];
    };
}

#[cfg(target_arch = "x86_64")]
compiled!(AVX512, avx512, super::vector::x86::Avx512, ["avx512f"], 32, 2, 1, [1 2 3 4 5 6 7 8 9 10 11 12]);
#[cfg(target_arch = "x86_64")]
compiled!(AVX2, avx2, super::vector::x86::Avx2, ["avx2,fma"], 16, 2, 1, [1 2 3 4 5 6]);
#[cfg(target_arch = "aarch64")]
compiled!(NEON, neon, super::vector::arm::Neon, ["neon"], 16, 4, 2, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
compiled!(PLAIN_WITH_FMA, plain_with_fma, Plain, ["avx2,fma"], 16, 2, 1, [1 2 3 4]);
compiled!(PLAIN, plain, Plain, [], 16, 2, 1, [1 2 3 4]);

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
        for kernel in Kernel::available() {
            let width = kernel.width();
            for (columns, rows) in
                [width, width / 2].into_iter().flat_map(|c| (1..=kernel.max_rows()).map(move |r| (c, r)))
            {
                for (left, row_stride, k_stride) in
                    [(Left::Rows, width, 1), (Left::Columns, 1, width), (Left::Constant, 0, 0)]
                {
                    let depth = if left == Left::Rows { width - 1 } else { 37 };
                    let (a, b) = (numbers(width * (depth + rows), 1), numbers(width * depth, 2));
                    let tile = Tile { a: &a, left, b: &b, rows, columns };
                    let cut = depth / 3;
                    let segments = [
                        Segment { k: cut, a: 0, b: 0 },
                        Segment { k: depth - cut, a: cut * k_stride, b: cut * width },
                    ];
                    let mut out = vec![f32::NAN; rows * width];
                    multiply(kernel, &tile, &segments, &mut out, width);
                    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                        let chain = (0..depth).fold(0.0_f32, |sum, k| {
                            a[row * row_stride + k * k_stride].mul_add(b[k * width + column], sum)
                        });
                        let got = out[row * width + column];
                        assert_eq!(
                            got.to_bits(),
                            chain.to_bits(),
                            "{} {rows}x{columns} {left:?}",
                            kernel.name()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn folding_tiles_follows_the_tree() {
        for kernel in Kernel::available() {
            let (rows, width) = (kernel.max_rows(), kernel.width());
            for leaves in 1..=if cfg!(miri) { 5 } else { 21 } {
                let (a, b) = (numbers(width * leaves, 3), numbers(width * leaves, 4));
                let tile = Tile { a: &a, left: Left::Columns, b: &b, rows, columns: width };
                let segments: Vec<Segment> =
                    (0..leaves).map(|l| Segment { k: 1, a: l * width, b: l * width }).collect();
                let mut stack = vec![f32::NAN; 8 * rows * width];
                fold_tiles(kernel, &tile, segments.iter().map(std::slice::from_ref), &mut stack);
                for (row, column) in (0..rows).flat_map(|r| (0..width).map(move |c| (r, c))) {
                    let mut level: Vec<f32> =
                        (0..leaves).map(|l| a[l * width + row] * b[l * width + column] + 0.0).collect();
                    while level.len() > 1 {
                        level = level
                            .chunks(2)
                            .map(|p| p.iter().copied().reduce(|l, r| l + r).unwrap())
                            .collect();
                    }
                    assert_eq!(stack[row * width + column].to_bits(), level[0].to_bits());
                }
            }
        }
    }
}
