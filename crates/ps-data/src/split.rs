//! A subset of a data set, ready for training.

use crate::dataset::{Dataset, Features};
use ps_core::kernel::prefetch;
use ps_core::{Kernel, Samples};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The preprocessing of features, determined by the training set alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Per feature, the value that replaces a missing cell; NaN (`null` in a model file) where missing cells
    /// are not allowed. `None` if they are not allowed at all. Applied when a source is encoded.
    #[serde(with = "nullable")]
    pub fill: Option<Vec<f32>>,
    /// The standardisation, if enabled. Applied when a row is written.
    pub standard: Option<Standard>,
}

impl PartialEq for Preprocessing {
    /// Compares bits, because NaN has a meaning.
    fn eq(&self, other: &Self) -> bool {
        let bits = |fill: &Option<Vec<f32>>| {
            fill.as_ref().map(|fill| fill.iter().map(|value| value.to_bits()).collect::<Vec<u32>>())
        };
        bits(&self.fill) == bits(&other.fill) && self.standard == other.standard
    }
}

/// Lists of numbers in which NaN is saved as `null`.
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        values: &Option<Vec<f32>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let number = |value: &f32| Some(*value).filter(|value| !value.is_nan());
        let values: Option<Vec<Option<f32>>> =
            values.as_ref().map(|values| values.iter().map(number).collect());
        values.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<f32>>, D::Error> {
        let values: Option<Vec<Option<f32>>> = Option::deserialize(deserializer)?;
        Ok(values.map(|values| values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect()))
    }
}

/// Standardisation: per feature, x becomes (x - mean) * inv_std, both steps in binary32.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standard {
    /// Mean over the training set, summed in binary64 in ascending sample order and rounded to binary32; the
    /// minimum for a feature that is scaled to the range from 0 to 1, and 0 for one that is not scaled.
    pub mean: Vec<f32>,
    /// Inverse of the population standard deviation or of the range, computed in binary64 and rounded to
    /// binary32; 1 for a constant feature and for one that is not scaled.
    pub inv_std: Vec<f32>,
}

/// A subset of a data set's samples, or all of them; what training, evaluation and prediction read.
///
/// Implements [`Samples`]. A split holds row numbers only and shares the data set, so clones are cheap.
#[derive(Clone, Debug)]
pub struct Split {
    dataset: Arc<Dataset>,
    /// By sample, its row in the data set; `None` for all rows.
    rows: Option<Arc<[u32]>>,
    preprocessing: Arc<Preprocessing>,
}

impl Split {
    pub(crate) fn new(
        dataset: Arc<Dataset>,
        rows: Option<Arc<[u32]>>,
        preprocessing: Arc<Preprocessing>,
    ) -> Self {
        Split { dataset, rows, preprocessing }
    }

    /// The data set that the samples belong to.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Whether both splits select rows of one data set.
    pub(crate) fn is_of_same_dataset(&self, other: &Split) -> bool {
        Arc::ptr_eq(&self.dataset, &other.dataset)
    }

    /// The preprocessing that is applied to the rows.
    pub fn preprocessing(&self) -> &Arc<Preprocessing> {
        &self.preprocessing
    }

    /// Whether targets are known. If not, [`Samples::target`] returns NaN.
    pub fn has_targets(&self) -> bool {
        !self.dataset.targets.is_empty()
    }

    /// The row in the data set of sample `index`.
    pub fn row(&self, index: usize) -> usize {
        match &self.rows {
            Some(rows) => rows[index] as usize,
            None => index,
        }
    }

    /// Writes the features of sample `index` to `row` (`[features]`) without standardisation.
    pub fn write_raw_row(&self, index: usize, row: &mut [f32]) {
        self.write_values(index, row, None);
    }

    /// Whether the source has no value for `feature` of sample `index`, so that the mean of the training
    /// set replaces it.
    pub fn is_missing(&self, index: usize, feature: usize) -> bool {
        self.dataset.missing.contains(self.row(index), feature)
    }

    /// Selects rows of the data set.
    pub(crate) fn of_rows(&self, rows: &[u32]) -> Split {
        Split { rows: Some(rows.into()), ..self.clone() }
    }

    /// Selects the first `count` samples of this split, or all if it has fewer.
    pub fn head(&self, count: usize) -> Split {
        let rows = (0..count.min(self.len())).map(|index| self.row(index) as u32).collect();
        Split { rows: Some(rows), ..self.clone() }
    }

    fn write_values(&self, index: usize, row: &mut [f32], standard: Option<&Standard>) {
        let first = self.row(index) * row.len();
        // Every sample of every step is written here, so the loops are compiled for the
        // processor's vector instructions.
        Kernel::detect().vectorize(
            #[inline(always)]
            || {
                match &self.dataset.features {
                    Features::U8(bytes) => {
                        let bytes = bytes.as_slice().expect("features are row-major");
                        let bytes = &bytes[first..first + row.len()];
                        row.iter_mut().zip(bytes).for_each(|(slot, &byte)| *slot = scaled(byte));
                    }
                    Features::F32(values) => {
                        let values = values.as_slice().expect("features are row-major");
                        row.copy_from_slice(&values[first..first + row.len()]);
                    }
                }
                if let Some(Standard { mean, inv_std }) = standard {
                    for ((slot, mean), inv_std) in row.iter_mut().zip(mean).zip(inv_std) {
                        *slot = (*slot - mean) * inv_std;
                    }
                }
            },
        );
    }
}

impl Samples for Split {
    fn len(&self) -> usize {
        self.rows.as_ref().map_or(self.dataset.samples(), |rows| rows.len())
    }

    fn features(&self) -> usize {
        self.dataset.features.width()
    }

    fn write_row(&self, index: usize, row: &mut [f32]) {
        self.write_values(index, row, self.preprocessing.standard.as_ref());
    }

    fn prefetch(&self, index: usize) {
        let width = self.features();
        let first = self.row(index) * width;
        match &self.dataset.features {
            Features::U8(bytes) => {
                prefetch(&bytes.as_slice().expect("features are row-major")[first..first + width]);
            }
            Features::F32(values) => {
                let values = &values.as_slice().expect("features are row-major")[first..first + width];
                prefetch(bytemuck::cast_slice(values));
            }
        }
    }

    fn target(&self, index: usize) -> f32 {
        self.dataset.targets.get(self.row(index)).copied().unwrap_or(f32::NAN)
    }
}

/// The value of a pixel: exactly `byte / 255`, as a test checks for all 256 bytes, but in two multiplications
/// and an addition, which vector units compute faster than divisions.
#[inline(always)]
pub(crate) fn scaled(byte: u8) -> f32 {
    let part = f32::from(byte) * (1.0 / 256.0);
    part + part * (1.0 / 255.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pixel_is_its_byte_over_255_to_the_last_bit() {
        for byte in 0..=255_u8 {
            assert_eq!(super::scaled(byte).to_bits(), (f32::from(byte) / 255.0).to_bits(), "{byte}");
        }
    }
}
