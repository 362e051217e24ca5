//! Samples in memory as they were read.

use ndarray::Array2;

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
    pub fn has_classes(self) -> bool {
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

    /// Features of every sample.
    pub fn width(&self) -> usize {
        match self {
            Features::U8(bytes) => bytes.ncols(),
            Features::F32(values) => values.ncols(),
        }
    }
}

/// The shape of samples that are images; features are their pixels row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
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
}

impl Dataset {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.features.samples()
    }
}
