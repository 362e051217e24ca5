//! Samples in memory, as they were read.

use crate::date::DatePart;
use crate::unknown::Unknown;
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The kind of prediction target that a model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Any finite number.
    Regression,
    /// A finite number that is not negative, for Poisson regression.
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

/// The features of all samples in a source, `[samples, features]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// Pixels. A byte v represents the value v / 255 in binary32.
    U8(Array2<u8>),
    /// Values of any other origin.
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

    /// Whether the features are bytes that represent pixels.
    pub(crate) fn are_pixels(&self) -> bool {
        matches!(self, Features::U8(_))
    }

    /// Number of features per sample.
    pub fn width(&self) -> usize {
        match self {
            Features::U8(bytes) => bytes.ncols(),
            Features::F32(values) => values.ncols(),
        }
    }
}

/// Height and width of samples that are images. The features are the pixels, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Number of pixel rows.
    pub height: usize,
    /// Number of pixel columns.
    pub width: usize,
}

/// A column of a source, other than the label, and the features that it becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The name of the column in a CSV file, `feature 7` in a LIBSVM file, `pixel 3,5` in an image.
    pub name: String,
    /// What the column holds.
    pub content: ColumnContent,
    /// Indices of the column's features.
    pub features: Range<usize>,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnContent {
    /// Numbers, each of which is a feature.
    Number {
        /// The bounds that replace numbers below or above them, before missing cells are filled.
        clip: Option<[f32; 2]>,
    },
    /// Strings. Each category becomes a feature of 1 or 0.
    Category {
        /// The categories, in byte order.
        names: Vec<String>,
        /// Whether there is one more feature, for strings that are no category.
        has_other: bool,
    },
    /// Dates. Each part becomes a feature.
    Date {
        /// The part that each feature holds, in order.
        parts: Vec<DatePart>,
    },
}

impl Column {
    /// The names of the categories; empty if the column is not categorical.
    pub fn categories(&self) -> &[String] {
        match &self.content {
            ColumnContent::Category { names, .. } => names,
            ColumnContent::Number { .. } | ColumnContent::Date { .. } => &[],
        }
    }
}

/// The samples of a source in memory, encoded but not yet scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The features of each sample.
    pub features: Features,
    /// The target of each sample: a class number (0, 1, …) or a value. Empty if the source was
    /// read without labels.
    pub targets: Vec<f32>,
    /// Name of each feature.
    pub feature_names: Vec<String>,
    /// Name of each class; empty for regression and counts.
    pub class_names: Vec<String>,
    /// Height and width, if the samples are images.
    pub image: Option<Image>,
    /// The source as the run file gives it.
    pub source: String,
    /// The cells that the source leaves empty.
    pub missing: MissingCells,
    /// What the user should know about how the source was read.
    pub notes: Vec<String>,
    /// What the source contains that the training data does not.
    pub unknown: Unknown,
}

/// Which cells of `[samples, features]` were missing before they were filled with means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingCells {
    /// One bit per cell, row by row; empty if no cell is missing.
    bits: Vec<u64>,
    width: usize,
}

impl MissingCells {
    /// Finds the cells of `values` that are NaN.
    pub(crate) fn of(values: &Array2<f32>) -> Self {
        let mut bits = Vec::new();
        for (cell, _) in values.iter().enumerate().filter(|(_, value)| value.is_nan()) {
            bits.resize(values.len().div_ceil(64), 0);
            bits[cell / 64] |= 1 << (cell % 64);
        }
        MissingCells { bits, width: values.ncols() }
    }

    /// Whether the feature of a sample was missing.
    pub(crate) fn contains(&self, row: usize, feature: usize) -> bool {
        let cell = row * self.width + feature;
        self.bits.get(cell / 64).is_some_and(|word| word >> (cell % 64) & 1 == 1)
    }
}

impl Dataset {
    /// What the user should know about how the source was read, and what it contains that the training data
    /// does not.
    pub fn all_notes(&self) -> Vec<String> {
        [self.notes.clone(), self.unknown.notes(&self.source)].concat()
    }

    /// Number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.features.samples()
    }
}
