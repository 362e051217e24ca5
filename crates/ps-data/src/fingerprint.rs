//! The hash by which two processes check that they hold the same data.
//!
//! It is SHA-256 over, in this order: the string `downhill data 1` and a newline; for each source (training,
//! validation if it is a separate source, test) one byte (`t`, `v`, `e`), the number of samples and of
//! features as little-endian 64-bit integers, one byte for the type of the features (0 for u8, 1 for
//! binary32), the features row by row (binary32 in little-endian bytes, a missing cell as the bits
//! 0x7fc00000), and the targets as little-endian binary32; the byte `o`, one byte for `standardize` (0 or 1),
//! one byte for `missing` (0 for refuse, 1 for mean); if the validation set is a fraction of the
//! training source, the byte `s` and the fraction as little-endian binary64; and, for each column of a table
//! whose own settings fill, scale or clip it, the byte `c`, the number of its first feature as a little-endian
//! 64-bit integer, one byte for `fill` (0 if it is not set, 1 for refuse, 2 for mean, 3 for median, 4 for
//! frequency, 5 for most-frequent, 6 for none, 7 for a constant) with the constant as little-endian binary32,
//! one byte for `scale` (0 if it is not set, 1 for standard, 2 for min-max, 3 for none), and one byte for `clip`
//! (0 or 1) with both fractions in units of 10⁻⁹ as little-endian 32-bit integers. Names of files, features
//! and classes are not included.
//!
//! A second hash covers only what determines encoding and preprocessing: it leaves out the validation and
//! test sources and, if there is a validation fraction, ends with its seed as a little-endian 64-bit integer.

use crate::column_config::{Fill, Scale};
use crate::config::{DataConfig, Missing, Validation};
use crate::dataset::{Dataset, Features};
use crate::encoding::columns::ColumnSettings;
use crate::preparation::Settings;
use ps_core::params::hex;
use sha2::{Digest, Sha256};

/// Hashes of the encoded data, before missing cells are filled.
pub(crate) struct Fingerprints {
    /// Hash of all data.
    pub all: String,
    /// Hash of what determines encoding and preprocessing: the training source, the options, and the fraction
    /// and seed of the validation set.
    pub training: String,
}

/// Hashes the sources. `seed` selects the validation fraction.
pub(crate) fn fingerprints(
    config: &DataConfig,
    settings: &Settings<'_>,
    seed: u64,
    train: &Dataset,
    validation: Option<&Dataset>,
    test: Option<&Dataset>,
) -> Fingerprints {
    let mut all = Sha256::new();
    all.update(b"downhill data 1\n");
    add(&mut all, b't', train);
    let mut training = all.clone();
    for (tag, dataset) in [(b'v', validation), (b'e', test)] {
        if let Some(dataset) = dataset {
            add(&mut all, tag, dataset);
        }
    }
    for hasher in [&mut all, &mut training] {
        add_options(hasher, config);
        settings.iter().for_each(|(features, settings)| add_settings(hasher, features.start, settings));
    }
    if matches!(config.validation, Some(Validation::Share(_))) {
        training.update(seed.to_le_bytes());
    }
    Fingerprints { all: hex(&all.finalize()), training: hex(&training.finalize()) }
}

fn add_options(hasher: &mut Sha256, config: &DataConfig) {
    hasher.update([b'o', u8::from(config.standardize), u8::from(config.missing == Missing::Mean)]);
    if let Some(Validation::Share(share)) = &config.validation {
        hasher.update(b"s");
        hasher.update(share.to_le_bytes());
    }
}

/// Adds the settings of the column with this first feature. What they do to the features before
/// preprocessing needs no addition, because the features are hashed.
fn add_settings(hasher: &mut Sha256, feature: usize, settings: &ColumnSettings<'_>) {
    let (fill, scale, clip) = settings.of_preprocessing();
    if fill.is_none() && scale.is_none() && clip.is_none() {
        return;
    }
    hasher.update(b"c");
    hasher.update((feature as u64).to_le_bytes());
    hasher.update([match fill {
        None => 0,
        Some(Fill::Refuse) => 1,
        Some(Fill::Mean) => 2,
        Some(Fill::Median) => 3,
        Some(Fill::Frequency) => 4,
        Some(Fill::MostFrequent) => 5,
        Some(Fill::None) => 6,
        Some(Fill::Constant(_)) => 7,
    }]);
    if let Some(Fill::Constant(value)) = fill {
        hasher.update(value.to_le_bytes());
    }
    hasher.update([match scale {
        None => 0,
        Some(Scale::Standard) => 1,
        Some(Scale::MinMax) => 2,
        Some(Scale::None) => 3,
    }]);
    hasher.update([u8::from(clip.is_some())]);
    for quantile in clip.into_iter().flatten() {
        hasher.update(quantile.billionths().to_le_bytes());
    }
}

fn add(hasher: &mut Sha256, tag: u8, dataset: &Dataset) {
    hasher.update([tag]);
    hasher.update((dataset.features.samples() as u64).to_le_bytes());
    hasher.update((dataset.features.width() as u64).to_le_bytes());
    match &dataset.features {
        Features::U8(bytes) => {
            hasher.update([0]);
            hasher.update(bytes.as_slice().expect("features are row-major"));
        }
        Features::F32(values) => {
            hasher.update([1]);
            add_floats(hasher, values.as_slice().expect("features are row-major"));
        }
    }
    add_floats(hasher, &dataset.targets);
}

fn add_floats(hasher: &mut Sha256, values: &[f32]) {
    if cfg!(target_endian = "little") {
        hasher.update(bytemuck::cast_slice(values));
    } else {
        values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
    }
}
