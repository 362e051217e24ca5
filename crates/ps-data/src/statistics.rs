//! Means and standard deviations over the training set.
//!
//! The sums of each feature are computed in binary64 in ascending sample order. Features are independent, so
//! threads can share blocks of features without changing any bit.

use crate::dataset::{Dataset, Features};
use crate::split::{Standard, scaled};
use ndarray::Array2;
use rayon::prelude::*;
use std::ops::Range;

/// Number of features that a thread processes at a time.
const BLOCK: usize = 64;

/// Per feature, the mean of the cells that are not missing, rounded to binary32; `None` for a
/// feature without any.
pub(crate) fn means_of_known(values: &Array2<f32>, rows: &[u32]) -> Vec<Option<f32>> {
    by_blocks(values.ncols(), |features| {
        let mut sums = vec![(0.0_f64, 0_u64); features.len()];
        for &row in rows {
            for (sum, feature) in sums.iter_mut().zip(features.clone()) {
                let value = values[[row as usize, feature]];
                if !value.is_nan() {
                    sum.0 += f64::from(value);
                    sum.1 += 1;
                }
            }
        }
        sums.into_iter().map(|(sum, count)| (count > 0).then(|| (sum / count as f64) as f32)).collect()
    })
}

/// The standardisation determined by `rows` of `dataset`.
pub(crate) fn standard(dataset: &Dataset, rows: &[u32]) -> Standard {
    let pairs = by_blocks(dataset.features.width(), |features| match &dataset.features {
        Features::U8(bytes) => block(bytes, rows, features, scaled),
        Features::F32(values) => block(values, rows, features, |value| value),
    });
    let (mean, inv_std) = pairs.into_iter().unzip();
    Standard { mean, inv_std }
}

/// The numbers of a feature in these rows that are not missing, sorted in ascending order; -0 comes before 0.
pub(crate) fn sorted(values: &Array2<f32>, rows: &[u32], feature: usize) -> Vec<f32> {
    let cells = rows.iter().map(|&row| values[[row as usize, feature]]);
    let mut known: Vec<f32> = cells.filter(|value| !value.is_nan()).collect();
    known.sort_unstable_by(f32::total_cmp);
    known
}

/// Minimum of a feature over these rows and the inverse of its range, which is 1 for a constant feature.
pub(crate) fn min_and_range(values: &Array2<f32>, rows: &[u32], feature: usize) -> (f32, f32) {
    let cells = rows.iter().map(|&row| values[[row as usize, feature]]);
    let (low, high) = cells.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
        (if value < low { value } else { low }, if value > high { value } else { high })
    });
    let range = f64::from(high) - f64::from(low);
    (low, if range == 0.0 { 1.0 } else { (1.0 / range) as f32 })
}

/// Mean and inverse standard deviation of a block of features.
fn block<T: Copy>(
    table: &Array2<T>,
    rows: &[u32],
    features: Range<usize>,
    value: impl Fn(T) -> f32,
) -> Vec<(f32, f32)> {
    struct Sums {
        first: f32,
        constant: bool,
        sum: f64,
        squares: f64,
    }
    let at = |row: u32, feature: usize| value(table[[row as usize, feature]]);
    let mut all: Vec<Sums> = features
        .clone()
        .map(|feature| Sums { first: at(rows[0], feature), constant: true, sum: 0.0, squares: 0.0 })
        .collect();
    for &row in rows {
        for (sums, feature) in all.iter_mut().zip(features.clone()) {
            let value = at(row, feature);
            sums.constant &= value == sums.first;
            sums.sum += f64::from(value);
        }
    }
    let count = rows.len() as f64;
    // A second pass follows instead of the difference of two sums, which loses all digits if the mean is much
    // larger than the deviation.
    let means: Vec<f64> = all.iter().map(|sums| sums.sum / count).collect();
    for &row in rows {
        for ((sums, mean), feature) in all.iter_mut().zip(&means).zip(features.clone()) {
            let difference = f64::from(at(row, feature)) - mean;
            sums.squares += difference * difference;
        }
    }
    all.iter()
        .zip(means)
        .map(|(sums, mean)| match sums.constant {
            true => (sums.first, 1.0),
            false => (mean as f32, (1.0 / (sums.squares / count).sqrt()) as f32),
        })
        .collect()
}

fn by_blocks<T: Send>(width: usize, work: impl Fn(Range<usize>) -> Vec<T> + Sync) -> Vec<T> {
    let blocks: Vec<Vec<T>> = (0..width.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| work(block * BLOCK..((block + 1) * BLOCK).min(width)))
        .collect();
    blocks.into_iter().flatten().collect()
}
