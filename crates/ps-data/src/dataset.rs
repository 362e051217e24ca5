//! Samples in memory as they were read.

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a model needs of the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Any finite number.
    Regression,
    /// A finite number that is not negative (Poisson).
    Count,
    /// One of exactly two classes.
    Binary,
    /// One of at least two classes.
    Classes,
}

impl Task {
    /// Whether targets are class numbers.
    pub(crate) fn has_classes(self) -> bool {
        matches!(self, Task::Binary | Task::Classes)
    }
}

/// The features of all samples of a source, `[samples, features]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// Pixels; the value of byte v is v / 255 in binary32.
    U8(Array2<u8>),
    /// Anything else.
    F32(Array2<f32>),
}

impl Features {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        match self {
            Features::U8(bytes) => bytes.nrows(),
            Features::F32(values) => values.nrows(),
        }
    }

    /// Whether they are bytes.
    pub(crate) fn are_pixels(&self) -> bool {
        matches!(self, Features::U8(_))
    }

    /// Features of every sample.
    pub fn width(&self) -> usize {
        match self {
            Features::U8(bytes) => bytes.ncols(),
            Features::F32(values) => values.ncols(),
        }
    }
}

/// The shape of samples that are images; features are their pixels row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// What a source has of each sample beside its label, and the features that a model sees of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name in a CSV file, `feature 7` in a LIBSVM file, `pixel 3,5` in an image.
    pub name: String,
    /// The categories of a column of text, each of which is a feature that is 1 or 0; empty for a column of numbers.
    pub categories: Vec<String>,
    /// Its features: one for a column of numbers, one for each category otherwise.
    pub features: Range<usize>,
}

/// A source in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// What is known of each sample.
    pub features: Features,
    /// What is to be predicted of it: a class number (0, 1, …) or a value. Empty where the source was read
    /// without labels.
    pub targets: Vec<f32>,
    /// Name of each feature.
    pub feature_names: Vec<String>,
    /// Name of each class; empty for regression and counts.
    pub class_names: Vec<String>,
    /// The shape of samples that are images.
    pub image: Option<Image>,
    /// The source's text.
    pub source: String,
    /// The cells that the source leaves empty.
    pub missing: MissingCells,
}

/// Which cells of `[samples, features]` had no value before means took their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingCells {
    /// A bit for each cell, row by row; empty if no cell is missing.
    bits: Vec<u64>,
    width: usize,
}

impl MissingCells {
    /// The cells of `values` that are NaN.
    pub(crate) fn of(values: &Array2<f32>) -> Self {
        let mut bits = Vec::new();
        for (cell, _) in values.iter().enumerate().filter(|(_, value)| value.is_nan()) {
            bits.resize(values.len().div_ceil(64), 0);
            bits[cell / 64] |= 1 << (cell % 64);
        }
        MissingCells { bits, width: values.ncols() }
    }

    /// Whether a sample's feature had no value.
    pub(crate) fn contains(&self, row: usize, feature: usize) -> bool {
        let cell = row * self.width + feature;
        self.bits.get(cell / 64).is_some_and(|word| word >> (cell % 64) & 1 == 1)
    }
}

impl Dataset {
    /// Number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.features.samples()
    }
}
