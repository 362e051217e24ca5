//! Samples that the calling program already has in memory.

use crate::dataset::{Features, Image};
use crate::split::Preprocessing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Samples as arrays.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrays {
    /// `[samples, features]`. A binary32 that is NaN is a missing cell.
    pub features: Features,
    /// `[samples]`; not needed to predict.
    pub labels: Option<ArrayLabels>,
    /// Name of each feature; numbers from 0, or the pixels of images, unless given.
    pub feature_names: Option<Vec<String>>,
    /// The shape of samples that are images.
    pub image: Option<Image>,
}

/// What is to be predicted of each sample.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrayLabels {
    /// Values, or classes by number.
    Numbers(Vec<f64>),
    /// Classes by name.
    Names(Vec<String>),
}

/// How arrays are encoded and preprocessed, besides the names of their classes. A model that was trained on arrays keeps this,
/// because nothing else says so once the arrays are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArrayEncoding {
    /// Name of each feature.
    pub feature_names: Vec<String>,
    /// The shape of samples that are images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Whether features are bytes that stand for values from 0 to 1.
    pub are_pixels: bool,
    /// What is done to each row.
    pub preprocessing: Preprocessing,
}

/// Arrays by the text that stands for them in a [`DataConfig`](crate::DataConfig) in the place of a source.
pub type NamedArrays = BTreeMap<String, Arc<Arrays>>;

impl ArrayLabels {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            ArrayLabels::Numbers(numbers) => numbers.len(),
            ArrayLabels::Names(names) => names.len(),
        }
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What error messages call a sample.
pub(crate) fn place(source: &str, row: usize) -> String {
    format!("{source}: row {row}")
}
