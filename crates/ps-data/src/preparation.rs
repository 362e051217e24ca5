//! Preparation of encoded features: bounds, values for missing cells, and scales, which the training rows
//! determine.

use crate::column_config::{Fill, Quantile, Scale};
use crate::dataset::{Dataset, Features, MissingCells};
use crate::encoding::columns::{ColumnSettings, clipped};
use crate::error::DataError;
use crate::split::Standard;
use crate::statistics;
use rayon::prelude::*;
use std::ops::Range;

/// What the run file says about groups of features.
pub(crate) type Settings<'a> = [(Range<usize>, ColumnSettings<'a>)];

/// The bounds of each feature that has some: the quantiles of its known values in `rows` of `train`.
///
/// # Errors
/// Returns an error if a column has no known value.
pub(crate) fn clips(
    settings: &Settings<'_>,
    train: &Dataset,
    rows: &[u32],
) -> Result<Vec<(usize, [f32; 2])>, DataError> {
    let Features::F32(values) = &train.features else { return Ok(Vec::new()) };
    let clipped =
        settings.par_iter().filter_map(|(features, settings)| Some((features.start, settings.clip()?)));
    let bounds = |(feature, quantiles): (usize, [Quantile; 2])| {
        let sorted = statistics::sorted(values, rows, feature);
        match sorted.is_empty() {
            true => Err(no_value(train, feature)),
            false => Ok((feature, quantiles.map(|quantile| sorted[quantile.position(sorted.len())]))),
        }
    };
    // Collected before errors are unpacked, so that the first bad column is reported in every run.
    let found: Vec<Result<_, DataError>> = clipped.map(bounds).collect();
    found.into_iter().collect()
}

/// Replaces values beyond the bounds of their feature.
pub(crate) fn clip(dataset: &mut Dataset, clips: &[(usize, [f32; 2])]) {
    let Features::F32(values) = &mut dataset.features else { return };
    for &(feature, bounds) in clips {
        values.column_mut(feature).iter_mut().for_each(|value| *value = clipped(*value, bounds));
    }
}

/// The values that replace missing cells, with NaN for features that allow none; `None` if no feature does.
///
/// # Errors
/// Returns an error if a value is needed of a column that has no known value.
pub(crate) fn fill_values(
    settings: &Settings<'_>,
    train: &Dataset,
    rows: &[u32],
) -> Result<Option<Vec<f32>>, DataError> {
    let Features::F32(values) = &train.features else { return Ok(None) };
    let has = |fills: &[Fill]| settings.iter().any(|(_, settings)| fills.contains(&settings.fill()));
    if settings.iter().all(|(_, settings)| settings.fill() == Fill::Refuse) {
        return Ok(None);
    }
    let means = match has(&[Fill::Mean, Fill::Frequency, Fill::MostFrequent]) {
        true => statistics::means_of_known(values, rows),
        false => Vec::new(),
    };
    let filled = |(features, settings): &(Range<usize>, ColumnSettings<'_>)| {
        let known = |feature: usize, value: Option<f32>| value.ok_or_else(|| no_value(train, feature));
        match settings.fill() {
            Fill::Refuse => Ok(vec![f32::NAN; features.len()]),
            Fill::None => Ok(vec![0.0; features.len()]),
            Fill::Constant(value) => Ok(vec![value; features.len()]),
            Fill::Mean | Fill::Frequency => {
                features.clone().map(|feature| known(feature, means[feature])).collect()
            }
            Fill::MostFrequent => {
                let frequencies = features.clone().map(|feature| known(feature, means[feature]));
                let frequencies = frequencies.collect::<Result<Vec<f32>, DataError>>()?;
                let most = frequencies.iter().copied().fold(0.0, f32::max);
                let first = frequencies.iter().position(|&frequency| frequency == most);
                Ok((0..features.len()).map(|index| f32::from(u8::from(Some(index) == first))).collect())
            }
            Fill::Median => {
                let median = |feature: usize| {
                    let sorted = statistics::sorted(values, rows, feature);
                    known(feature, sorted.get(Quantile::MEDIAN.position(sorted.len())).copied())
                };
                features.clone().map(median).collect()
            }
        }
    };
    let found: Vec<Result<Vec<f32>, DataError>> = settings.par_iter().map(filled).collect();
    found.into_iter().collect::<Result<Vec<_>, _>>().map(|found| Some(found.concat()))
}

fn no_value(train: &Dataset, feature: usize) -> DataError {
    let name = &train.feature_names[feature];
    DataError::unfit(&train.source, format!("all cells of column `{name}` are missing in the training part"))
}

/// Replaces missing cells, and notes where they were.
pub(crate) fn fill_missing(dataset: &mut Dataset, fill: Option<&[f32]>) {
    if let (Features::F32(values), Some(fill)) = (&mut dataset.features, fill) {
        dataset.missing = MissingCells::of(values);
        for mut row in values.rows_mut() {
            row.iter_mut()
                .zip(fill)
                .filter(|(cell, _)| cell.is_nan())
                .for_each(|(cell, &value)| *cell = value);
        }
    }
}

/// The scale of each feature, if any feature is scaled.
pub(crate) fn scales(settings: &Settings<'_>, train: &Dataset, rows: &[u32]) -> Option<Standard> {
    let has = |scale| settings.iter().any(|(_, settings)| settings.scale() == scale);
    let width = train.features.width();
    let mut standard = match has(Scale::Standard) {
        true => statistics::standard(train, rows),
        false if has(Scale::MinMax) => Standard { mean: vec![0.0; width], inv_std: vec![1.0; width] },
        false => return None,
    };
    for (features, settings) in settings {
        for feature in features.clone() {
            let (mean, inverse) = match (settings.scale(), &train.features) {
                (Scale::MinMax, Features::F32(values)) => statistics::min_and_range(values, rows, feature),
                // Bytes are never the columns of a table, which alone have this scale.
                (Scale::None | Scale::MinMax, _) => (0.0, 1.0),
                (Scale::Standard, _) => continue,
            };
            (standard.mean[feature], standard.inv_std[feature]) = (mean, inverse);
        }
    }
    Some(standard)
}
