//! Transposes matrices, one block of registers at a time.

use super::{Kernel, Set};

/// Sets `to[c * to_row + r] = from[r * from_row + c]` for every r below `rows` and c below `columns`. Rows
/// must not overlap.
pub(crate) fn transpose(
    kernel: Kernel,
    from: &[f32],
    from_row: usize,
    [rows, columns]: [usize; 2],
    to: &mut [f32],
    to_row: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= from_row && rows <= to_row);
    assert!((rows - 1) * from_row + columns <= from.len());
    assert!((columns - 1) * to_row + rows <= to.len());
    let (side, block): (usize, Block) = match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => (16, x86::block_of_16),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => (8, x86::block_of_8),
        _ => return plain(from, from_row, 0..rows, 0..columns, to, to_row),
    };
    let (whole_rows, whole_columns) = (rows / side * side, columns / side * side);
    for c in (0..whole_columns).step_by(side) {
        for r in (0..whole_rows).step_by(side) {
            // SAFETY: the block's last element is at most element (rows - 1, columns - 1), which is
            // inside both slices as checked above; a kernel's value exists only if the processor has
            // the instruction set.
            unsafe {
                block(
                    from.as_ptr().add(r * from_row + c),
                    from_row,
                    to.as_mut_ptr().add(c * to_row + r),
                    to_row,
                );
            }
        }
    }
    plain(from, from_row, whole_rows..rows, 0..whole_columns, to, to_row);
    plain(from, from_row, 0..rows, whole_columns..columns, to, to_row);
}

/// Transposes a square block, from rows `from_row` elements apart to rows `to_row` elements apart.
type Block = unsafe fn(*const f32, usize, *mut f32, usize);

fn plain(
    from: &[f32],
    from_row: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    to: &mut [f32],
    to_row: usize,
) {
    for r in rows {
        for c in columns.clone() {
            to[c * to_row + r] = from[r * from_row + c];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::array::from_fn;

    /// Prefetch distance within each row, in elements. The rows are too many and too short for
    /// the hardware prefetcher.
    const AHEAD: usize = 64;

    #[inline(always)]
    fn prefetch(at: *const f32) {
        // SAFETY: a prefetch reads nothing, so any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    /// # Safety
    /// The processor has AVX-512F; 16 rows of 16 elements are readable at `from` and writable at `to`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn block_of_16(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for r in 0..16 {
            prefetch(from.wrapping_add(r * from_row + AHEAD));
        }
        // SAFETY: the caller's promise; loads and stores need no alignment.
        let rows: [__m512; 16] = from_fn(|r| unsafe { _mm512_loadu_ps(from.add(r * from_row)) });
        // Pairs of rows, then quadruples: afterwards lane 4 g + i of `fours[4 q + c]` is element (4 q + i, 4
        // g + c).
        let twos: [__m512; 16] = from_fn(|i| {
            let (upper, lower) = (rows[i & !1], rows[i | 1]);
            if i % 2 == 0 { _mm512_unpacklo_ps(upper, lower) } else { _mm512_unpackhi_ps(upper, lower) }
        });
        let fours: [__m512; 16] = from_fn(|i| {
            let at = i & !3 | (i & 2) >> 1;
            let (upper, lower) = (_mm512_castps_pd(twos[at]), _mm512_castps_pd(twos[at + 2]));
            _mm512_castpd_ps(match i % 2 {
                0 => _mm512_unpacklo_pd(upper, lower),
                _ => _mm512_unpackhi_pd(upper, lower),
            })
        });
        for c in 0..4 {
            // The four quadruples of rows; the quarters of each hold the columns c, 4 + c, 8 + c and 12 + c.
            let [a, b] = [0, 8].map(|q| [fours[q + c], fours[q + 4 + c]]);
            let even = [a, b].map(|[upper, lower]| _mm512_shuffle_f32x4::<0x88>(upper, lower));
            let odd = [a, b].map(|[upper, lower]| _mm512_shuffle_f32x4::<0xdd>(upper, lower));
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]),
                _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]),
            ];
            for (group, column) in columns.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_ps(to.add((4 * group + c) * to_row), column) };
            }
        }
    }

    /// # Safety
    /// The processor has AVX2; 8 rows of 8 elements are readable at `from` and writable at `to`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn block_of_8(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for r in 0..8 {
            prefetch(from.wrapping_add(r * from_row + AHEAD));
        }
        // SAFETY: the caller's promise; loads and stores need no alignment.
        let rows: [__m256; 8] = from_fn(|r| unsafe { _mm256_loadu_ps(from.add(r * from_row)) });
        let twos: [__m256; 8] = from_fn(|i| {
            let (upper, lower) = (rows[i & !1], rows[i | 1]);
            if i % 2 == 0 { _mm256_unpacklo_ps(upper, lower) } else { _mm256_unpackhi_ps(upper, lower) }
        });
        let fours: [__m256; 8] = from_fn(|i| {
            let at = i & !3 | (i & 2) >> 1;
            let (upper, lower) = (_mm256_castps_pd(twos[at]), _mm256_castps_pd(twos[at + 2]));
            _mm256_castpd_ps(match i % 2 {
                0 => _mm256_unpacklo_pd(upper, lower),
                _ => _mm256_unpackhi_pd(upper, lower),
            })
        });
        for c in 0..4 {
            let (upper, lower) = (fours[c], fours[4 + c]);
            // SAFETY: the caller's promise.
            unsafe {
                _mm256_storeu_ps(to.add(c * to_row), _mm256_permute2f128_ps::<0x20>(upper, lower));
                _mm256_storeu_ps(to.add((4 + c) * to_row), _mm256_permute2f128_ps::<0x31>(upper, lower));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_changes_its_row_for_its_column_and_nothing_else_is_touched() {
        for kernel in Kernel::available() {
            for (rows, columns) in [(1, 1), (8, 8), (16, 16), (32, 48), (17, 31), (3, 40), (40, 3), (33, 16)]
            {
                let (from_row, to_row) = (columns + 3, rows + 5);
                let from: Vec<f32> = (0..rows * from_row).map(|at| at as f32).collect();
                let mut to = vec![-1.0; columns * to_row];
                transpose(kernel, &from, from_row, [rows, columns], &mut to, to_row);
                for (at, &got) in to.iter().enumerate() {
                    let (c, r) = (at / to_row, at % to_row);
                    let expected = if r < rows { from[r * from_row + c] } else { -1.0 };
                    assert_eq!(got, expected, "{} {rows}x{columns} at ({c}, {r})", kernel.name());
                }
            }
        }
    }
}
