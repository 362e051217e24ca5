//! The micro-kernel in its two forms: a plain product, and a product per leaf with the leaves folded
//! through the tree.

use super::vector::{Plain, Vector};
use super::{Kernel, Set};

/// A segment of the inner index: `k` steps from these offsets (in elements) into `a` and `b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub k: usize,
    pub a: usize,
    pub b: usize,
    /// Whether this is the last segment of a leaf ([`fold_tiles`] only).
    pub ends_leaf: bool,
}

/// The memory layout of the left operand, in panels of [`Kernel::width`] columns: where element (row, k) of
/// a tile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// At `row * width + k`: rows of the panel are rows of the product.
    Rows,
    /// At `row + k * width`: columns of the panel are rows of the product.
    Columns,
    /// The first element for every row and k, as in a matrix of ones.
    Constant,
}

impl Left {
    /// Where a segment of the left operand starts.
    fn start(self, segment: &Segment) -> usize {
        if self == Left::Constant { 0 } else { segment.a }
    }
}

/// The operands of a tile. Element (row, k) of the left one is where [`Left`] says, counted from `segment.a`;
/// element (k, column) of the right one is at `segment.b + k * width + column`.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub a: &'a [f32],
    pub left: Left,
    pub b: &'a [f32],
    /// 1 to [`Kernel::max_rows`].
    pub rows: usize,
    /// [`Kernel::width`] or half of it.
    pub columns: usize,
    /// Distance, in elements, from the tile's rows of the left operand to those that are needed next and
    /// should be prefetched; 0 for no prefetch.
    pub ahead: usize,
}

impl Tile<'_> {
    /// Panics if the operands would be read beyond their ends.
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
        // A segment without steps reads nothing, and `k - 1` would overflow.
        for segment in segments.iter().filter(|segment| segment.k > 0) {
            let last_a = self.left.start(segment) + (self.rows - 1) * row + (segment.k - 1) * step;
            let end_b = segment.b + (segment.k - 1) * width + self.columns;
            assert!(last_a < self.a.len() && end_b <= self.b.len(), "{segment:?}");
        }
    }
}

/// The last operation on a product's tile, while it is in registers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finish<'a> {
    /// Writes the tile as it is.
    Nothing,
    /// Adds these values, one for each column of the tile.
    Add(&'a [f32]),
    /// Adds these values, then replaces everything that is not positive by 0.
    AddAndRectify(&'a [f32]),
    /// Writes 0 wherever this matrix, which has the layout of the result, is not positive.
    WherePositive(&'a [f32]),
}

/// Computes `out = A B` over all `segments` in order: `[rows, columns]`, with `out_row` elements from row to
/// row. With `continues`, the chains continue from the values in `out`, so that a long inner index can be
/// divided into parts. The left operand has the layout [`Left::Rows`].
#[inline]
pub(crate) fn multiply(
    kernel: Kernel,
    tile: &Tile,
    segments: &[Segment],
    continues: bool,
    finish: Finish,
    out: &mut [f32],
    out_row: usize,
) {
    tile.check(kernel, segments);
    let len = (tile.rows - 1) * out_row + tile.columns;
    assert!(tile.left == Left::Rows && out.len() >= len);
    match finish {
        Finish::Nothing => {}
        Finish::Add(values) | Finish::AddAndRectify(values) => assert!(values.len() >= tile.columns),
        Finish::WherePositive(values) => assert!(values.len() >= len),
    }
    let [wide, narrow] = kernel.compiled()[tile.rows - 1].product;
    let product = if tile.columns == kernel.width() { wide } else { narrow };
    // SAFETY: `check` bounds every address of the operands by their slices, and the shape by the table; `out`
    // has room for the tile, and `finish` has as many elements as are read; a kernel's value exists only if
    // the processor has the instruction set.
    unsafe { product(tile, segments, continues, finish, out.as_mut_ptr(), out_row) }
}

/// Computes `out` = the sum of consecutive leaves, each the product over its own segments, added in the tree
/// whose first leaf is the first one given: `[rows, columns]`, with `out_row` elements from row to row.
/// `stack` needs room for `(1 + log2(leaves)) * rows * columns` elements.
///
/// A binary counter keeps one finished subtree per level, larger ones first. Leaf n merges as many of them as
/// n + 1 has trailing zeros. After the last leaf, the remaining subtrees are added from the smallest up,
/// which is how an odd last node moves up in the tree.
#[inline]
pub(crate) fn fold_tiles(
    kernel: Kernel,
    tile: &Tile,
    segments: &[Segment],
    stack: &mut [f32],
    out: &mut [f32],
    out_row: usize,
) {
    tile.check(kernel, segments);
    let size = tile.rows * tile.columns;
    let leaves = segments.iter().filter(|segment| segment.ends_leaf).count();
    // Folding is compiled for the other two layouts only: samples, over which leaves are summed, are rows of
    // both operands.
    assert!(leaves > 0 && tile.left != Left::Rows);
    assert!(segments[segments.len() - 1].ends_leaf, "the last segment ends the last leaf");
    assert!(out.len() >= (tile.rows - 1) * out_row + tile.columns);
    // While leaf n is added, the stack holds n.count_ones() subtrees.
    assert!((leaves.ilog2() as usize + 1) * size <= stack.len(), "the stack holds a subtree per level");
    let shape = &kernel.compiled()[tile.rows - 1];
    let [wide, narrow] = if tile.left == Left::Columns { shape.fold } else { shape.fold_constant };
    let fold = if tile.columns == kernel.width() { wide } else { narrow };
    // SAFETY: as in `multiply`; `stack` has room for a subtree per level.
    unsafe { fold(tile, segments, leaves, stack.as_mut_ptr(), out.as_mut_ptr(), out_row) };
}

/// `ROWS x (VECTORS * LANES)` chains of fused multiply-adds, held in registers.
type Chains<V, const ROWS: usize, const VECTORS: usize> = [[V; VECTORS]; ROWS];

/// Runs the chains through one segment. `A_ROW` and `A_K` are the strides of the left operand,
/// `WIDTH` is that of the right one. They are constants, so that a step has little more than its
/// loads and its multiply-adds.
///
/// # Safety
/// The instruction set is enabled and [`Tile::check`] has bounded `segment`.
#[inline(always)]
unsafe fn extend<
    V: Vector,
    const ROWS: usize,
    const VECTORS: usize,
    const A_ROW: usize,
    const A_K: usize,
    const WIDTH: usize,
>(
    acc: &mut Chains<V, ROWS, VECTORS>,
    tile: &Tile,
    segment: &Segment,
) {
    // SAFETY: every `a` and `b` below is inside its slice, by `Tile::check`; the pointers computed past the
    // end in the last step are not read.
    unsafe {
        let mut a = tile.a.as_ptr().wrapping_add(if A_K == 0 { 0 } else { segment.a });
        let mut b = tile.b.as_ptr().wrapping_add(segment.b);
        let mut left = segment.k;
        while left >= 4 {
            for k in 0..4 {
                step::<V, ROWS, VECTORS, A_ROW>(acc, a.add(k * A_K), b.add(k * WIDTH));
            }
            a = a.wrapping_add(4 * A_K);
            b = b.wrapping_add(4 * WIDTH);
            left -= 4;
        }
        for k in 0..left {
            step::<V, ROWS, VECTORS, A_ROW>(acc, a.add(k * A_K), b.add(k * WIDTH));
        }
    }
}

/// One step k: `acc += a b` for a column `a` of the left operand and a row `b` of the right one.
///
/// # Safety
/// The instruction set is enabled; `ROWS` elements `A_ROW` apart are readable at `a`, the tile's
/// columns at `b`.
#[inline(always)]
unsafe fn step<V: Vector, const ROWS: usize, const VECTORS: usize, const A_ROW: usize>(
    acc: &mut Chains<V, ROWS, VECTORS>,
    a: *const f32,
    b: *const f32,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut right = [V::zero(); VECTORS];
        for (v, right) in right.iter_mut().enumerate() {
            *right = V::load(b.add(v * V::LANES));
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            let left = V::splat(a.add(row * A_ROW));
            for (acc, right) in acc.iter_mut().zip(right) {
                *acc = acc.fma(left, right);
            }
        }
    }
}

/// [`multiply`] for one shape.
///
/// # Safety
/// The instruction set is enabled, [`Tile::check`] has passed, and `out` has room for the tile.
#[inline(always)]
unsafe fn product<V: Vector, const ROWS: usize, const VECTORS: usize, const WIDTH: usize>(
    tile: &Tile,
    segments: &[Segment],
    continues: bool,
    finish: Finish,
    out: *mut f32,
    out_row: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut acc = [[V::zero(); VECTORS]; ROWS];
        if continues {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = V::load(out.add(row * out_row + v * V::LANES));
                }
            }
        }
        for (number, segment) in segments.iter().enumerate() {
            // The position of the next rows of the left operand is irregular, so the hardware prefetcher
            // cannot predict it.
            if let Some(next) = segments.get(number + 1) {
                prefetch_rows::<V, ROWS, WIDTH>(tile.a.as_ptr().wrapping_add(next.a));
            }
            if tile.ahead > 0 {
                prefetch_rows::<V, ROWS, WIDTH>(tile.a.as_ptr().wrapping_add(segment.a + tile.ahead));
            }
            extend::<V, ROWS, VECTORS, WIDTH, 1, WIDTH>(&mut acc, tile, segment);
        }
        match finish {
            Finish::Nothing => {}
            Finish::Add(values) => {
                for v in 0..VECTORS {
                    let value = V::load(values.as_ptr().add(v * V::LANES));
                    acc.iter_mut().for_each(|acc| acc[v] = value.add(acc[v]));
                }
            }
            Finish::AddAndRectify(values) => {
                for v in 0..VECTORS {
                    let value = V::load(values.as_ptr().add(v * V::LANES));
                    for acc in &mut acc {
                        // A comparison instead of a maximum: whatever is not positive becomes +0, including
                        // -0 and NaN, on which the maxima of instruction sets differ.
                        let sum = value.add(acc[v]);
                        acc[v] = sum.where_positive(sum);
                    }
                }
            }
            Finish::WherePositive(values) => {
                for (row, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        let value = V::load(values.as_ptr().add(row * out_row + v * V::LANES));
                        *acc = acc.where_positive(value);
                    }
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

/// Prefetches `ROWS` rows of `WIDTH` elements, at most two cache lines each.
#[inline(always)]
fn prefetch_rows<V: Vector, const ROWS: usize, const WIDTH: usize>(a: *const f32) {
    for row in 0..ROWS {
        V::prefetch(a.wrapping_add(row * WIDTH));
        V::prefetch(a.wrapping_add(row * WIDTH + WIDTH - 1));
    }
}

/// [`fold_tiles`] for one shape.
///
/// # Safety
/// The instruction set is enabled, [`Tile::check`] has passed, `segments` end `leaves` leaves, the last of
/// them with the last segment, `stack` has room for a tile per level of the tree, and `out` for the tile.
#[inline(always)]
unsafe fn fold<
    V: Vector,
    const ROWS: usize,
    const VECTORS: usize,
    const A_ROW: usize,
    const A_K: usize,
    const WIDTH: usize,
>(
    tile: &Tile,
    segments: &[Segment],
    leaves: usize,
    stack: *mut f32,
    out: *mut f32,
    out_row: usize,
) {
    // The output is written at the end; prefetch it meanwhile.
    for row in 0..ROWS {
        V::prefetch(out.wrapping_add(row * out_row));
        V::prefetch(out.wrapping_add(row * out_row + V::LANES * VECTORS - 1));
    }
    let size = ROWS * VECTORS * V::LANES;
    // SAFETY: the caller's promises; before leaf n the stack holds n.count_ones() subtrees, and n + 1 merges
    // at most that many.
    unsafe {
        let mut acc = [[V::zero(); VECTORS]; ROWS];
        let mut leaf = 0_usize;
        let mut top = stack;
        for segment in segments {
            extend::<V, ROWS, VECTORS, A_ROW, A_K, WIDTH>(&mut acc, tile, segment);
            if !segment.ends_leaf {
                continue;
            }
            // The last leaf merges all remaining subtrees.
            let closed = if leaf + 1 == leaves { leaf.count_ones() } else { (leaf + 1).trailing_zeros() };
            for _ in 0..closed {
                // The subtree on the stack has the earlier leaves, so it is the left summand.
                top = top.sub(size);
                for (row, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = acc.add(V::load(top.add((row * VECTORS + v) * V::LANES)));
                    }
                }
            }
            leaf += 1;
            if leaf == leaves {
                break;
            }
            for (row, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    acc.store(top.add((row * VECTORS + v) * V::LANES));
                    *acc = V::zero();
                }
            }
            top = top.add(size);
        }
        for (row, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                acc.store(out.add(row * out_row + v * V::LANES));
            }
        }
    }
}

type Product = unsafe fn(&Tile, &[Segment], bool, Finish, *mut f32, usize);
type FoldLeaves = unsafe fn(&Tile, &[Segment], usize, *mut f32, *mut f32, usize);

/// The functions for one number of rows, each for wide and narrow tiles.
struct Shape {
    product: [Product; 2],
    fold: [FoldLeaves; 2],
    fold_constant: [FoldLeaves; 2],
}

impl Kernel {
    /// The functions of this instruction set, by number of rows.
    fn compiled(self) -> &'static [Shape] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => &avx512::SHAPES,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => &avx2::SHAPES,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => &neon::SHAPES,
            // Plain Rust uses the processor's fused multiply-add where there is one, which gives the same
            // bits as the software version, a hundred times faster.
            #[cfg(target_arch = "x86_64")]
            Set::Scalar if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") => {
                &plain_with_fma::SHAPES
            }
            Set::Scalar => &plain::SHAPES,
        }
    }
}

macro_rules! compiled {
    ($set:ident, $vector:ty, [$($feature:literal)?], $width:literal, $wide:literal, $narrow:literal, [$($rows:literal)*]) => {
        mod $set {
            use super::{Finish, Segment, Shape, Tile};

            $(#[target_feature(enable = $feature)])?
            unsafe fn product<const ROWS: usize, const VECTORS: usize>(
                tile: &Tile, segments: &[Segment], continues: bool, finish: Finish, out: *mut f32, out_row: usize,
            ) {
                // SAFETY: the same promises, passed on.
                unsafe {
                    super::product::<$vector, ROWS, VECTORS, $width>(tile, segments, continues, finish, out, out_row)
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn fold<const ROWS: usize, const VECTORS: usize, const A_ROW: usize, const A_K: usize>(
                tile: &Tile, segments: &[Segment], leaves: usize, stack: *mut f32, out: *mut f32, out_row: usize,
            ) {
                // SAFETY: the same promises, passed on.
                unsafe {
                    super::fold::<$vector, ROWS, VECTORS, A_ROW, A_K, $width>(
                        tile, segments, leaves, stack, out, out_row,
                    )
                }
            }

            pub(super) static SHAPES: [Shape; [$($rows),*].len()] = [$(Shape {
                product: [product::<$rows, $wide>, product::<$rows, $narrow>],
                fold: [fold::<$rows, $wide, 1, $width>, fold::<$rows, $narrow, 1, $width>],
                fold_constant: [fold::<$rows, $wide, 0, 0>, fold::<$rows, $narrow, 0, 0>],
            }),*];
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled!(avx512, crate::kernel::vector::x86::Avx512, ["avx512f"], 32, 2, 1, [1 2 3 4 5 6 7 8 9 10 11 12]);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, crate::kernel::vector::x86::Avx2, ["avx2,fma"], 16, 2, 1, [1 2 3 4 5 6]);
#[cfg(target_arch = "aarch64")]
compiled!(neon, crate::kernel::vector::arm::Neon, ["neon"], 16, 4, 2, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
compiled!(plain_with_fma, super::Plain, ["avx2,fma"], 16, 2, 1, [1 2 3 4]);
compiled!(plain, super::Plain, [], 16, 2, 1, [1 2 3 4]);

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

    /// The numbers of rows and columns of every tile that is compiled for `kernel`.
    fn shapes(kernel: Kernel) -> impl Iterator<Item = (usize, usize)> {
        let width = kernel.width();
        [width, width / 2].into_iter().flat_map(move |c| (1..=kernel.max_rows()).map(move |r| (r, c)))
    }

    #[test]
    fn products_have_the_bits_of_the_plain_chain_on_every_instruction_set() {
        for kernel in Kernel::available() {
            let width = kernel.width();
            for (rows, columns) in shapes(kernel) {
                let depth = width - 1;
                let (a, b) = (numbers(width * rows, 1), numbers(width * depth, 2));
                let tile = Tile { a: &a, left: Left::Rows, b: &b, rows, columns, ahead: 0 };
                let cut = depth / 3;
                let segment = |k, at| Segment { k, a: at, b: at * width, ends_leaf: false };
                let whole = [segment(cut, 0), segment(depth - cut, cut)];
                let mut out = vec![f32::NAN; rows * width];
                multiply(kernel, &tile, &whole, false, Finish::Nothing, &mut out, width);
                // The same product, divided into two parts.
                let mut parts = vec![f32::NAN; rows * width];
                multiply(kernel, &tile, &whole[..1], false, Finish::Nothing, &mut parts, width);
                multiply(kernel, &tile, &whole[1..], true, Finish::Nothing, &mut parts, width);
                for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                    let chain = (0..depth)
                        .fold(0.0_f32, |sum, k| a[row * width + k].mul_add(b[k * width + column], sum));
                    let (got, part) = (out[row * width + column], parts[row * width + column]);
                    assert_eq!(got.to_bits(), chain.to_bits(), "{} {rows}x{columns}", kernel.name());
                    assert_eq!(part.to_bits(), chain.to_bits(), "{} {rows}x{columns}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn a_tile_is_finished_as_plain_loops_would_on_every_instruction_set() {
        for kernel in Kernel::available() {
            let width = kernel.width();
            for (rows, columns) in shapes(kernel) {
                let (a, b) = (numbers(width * rows, 5), numbers(width * 7, 6));
                let (bias, values) = (numbers(width, 7), numbers(width * rows, 8));
                let tile = Tile { a: &a, left: Left::Rows, b: &b, rows, columns, ahead: 0 };
                let segments = [Segment { k: 7, a: 0, b: 0, ends_leaf: false }];
                let run = |finish| {
                    let mut out = vec![f32::NAN; rows * width];
                    multiply(kernel, &tile, &segments, false, finish, &mut out, width);
                    out
                };
                let product = run(Finish::Nothing);
                let added = run(Finish::Add(&bias));
                let rectified = run(Finish::AddAndRectify(&bias));
                let kept = run(Finish::WherePositive(&values));
                for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                    let at = row * width + column;
                    let sum = product[at] + bias[column];
                    assert_eq!(added[at].to_bits(), sum.to_bits());
                    assert_eq!(rectified[at].to_bits(), if sum > 0.0 { sum.to_bits() } else { 0 });
                    assert_eq!(kept[at].to_bits(), if values[at] > 0.0 { product[at].to_bits() } else { 0 });
                }
            }
        }
    }

    #[test]
    fn folded_leaves_have_the_bits_of_the_plain_tree_on_every_instruction_set() {
        for kernel in Kernel::available() {
            let width = kernel.width();
            for (rows, columns) in shapes(kernel).filter(|&(rows, _)| !cfg!(miri) || rows == 2) {
                for leaves in 1..=if cfg!(miri) { 5 } else { 21 } {
                    for left in [Left::Columns, Left::Constant] {
                        fold_against_the_plain_tree(kernel, rows, columns, leaves, left, width);
                    }
                }
            }
        }
    }

    fn fold_against_the_plain_tree(
        kernel: Kernel,
        rows: usize,
        columns: usize,
        leaves: usize,
        left: Left,
        width: usize,
    ) {
        // Leaves of 5 in two segments each; the last leaf is shorter.
        let depth = 5 * leaves - 2;
        let (a, b) = (numbers(width * depth, 3), numbers(width * depth, 4));
        let tile = Tile { a: &a, left, b: &b, rows, columns, ahead: 0 };
        let a_k = if left == Left::Columns { width } else { 0 };
        let at = |k: usize, len: usize, ends_leaf| Segment { k: len, a: k * a_k, b: k * width, ends_leaf };
        let lengths = |leaf: usize| if leaf + 1 == leaves { 1 } else { 3 };
        let segments: Vec<Segment> = (0..leaves)
            .flat_map(|leaf| [at(5 * leaf, 2, false), at(5 * leaf + 2, lengths(leaf), true)])
            .collect();
        let mut stack = vec![f32::NAN; 5 * rows * columns];
        let mut out = vec![f32::NAN; rows * (columns + 3)];
        fold_tiles(kernel, &tile, &segments, &mut stack, &mut out, columns + 3);
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let a_row = if left == Left::Columns { row } else { 0 };
            let mut level: Vec<f32> = (0..leaves)
                .map(|leaf| {
                    (5 * leaf..5 * leaf + 2 + lengths(leaf))
                        .fold(0.0, |sum, k| a[a_row + k * a_k].mul_add(b[k * width + column], sum))
                })
                .collect();
            while level.len() > 1 {
                level = level.chunks(2).map(|p| p.iter().copied().reduce(|l, r| l + r).unwrap()).collect();
            }
            let got = out[row * (columns + 3) + column];
            assert_eq!(got.to_bits(), level[0].to_bits(), "{} {rows}x{columns} {leaves}", kernel.name());
        }
    }
}
