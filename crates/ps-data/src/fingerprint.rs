//! The hash by which two processes check that they hold the same data.
//!
//! It is SHA-256 over, in this order: the string `downhill data 1` and a newline; for each source (training,
//! validation if it is a separate source, test) one byte (`t`, `v`, `e`), the number of samples and of
//! features as little-endian 64-bit integers, one byte for the type of the features (0 for u8, 1 for
//! binary32), the features row by row (binary32 in little-endian bytes, a missing cell as the bits
//! 0x7fc00000), and the targets as little-endian binary32; the byte `o`, one byte for `standardize` (0 or 1),
//! one byte for `missing` (0 for refuse, 1 for mean); and, if the validation set is a fraction of the
//! training source, the byte `s` and the fraction as little-endian binary64. Names of files, features and
//! classes are not included.
//!
//! A second hash covers only what determines encoding and preprocessing: it leaves out the validation and
//! test sources and, if there is a validation fraction, ends with its seed as a little-endian 64-bit integer.

use crate::config::{DataConfig, Missing, Validation};
use crate::dataset::{Dataset, Features};
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
    add_options(&mut all, config);
    add_options(&mut training, config);
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
