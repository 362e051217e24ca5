//! Samples that the calling program holds in memory.

use crate::dataset::{Features, Image};
use ndarray::s;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Samples as arrays, which replace a file as a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrays {
    /// `[samples, features]`. A NaN is a missing cell.
    pub features: Features,
    /// `[samples]`; not needed for prediction.
    pub labels: Option<ArrayLabels>,
    /// Name of each feature. The default is the index from 0 or, for images, the position of the pixel.
    pub feature_names: Option<Vec<String>>,
    /// Height and width, if the samples are images.
    pub image: Option<Image>,
}

/// The prediction target of each sample.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrayLabels {
    /// Values, or numeric classes.
    Numbers(Vec<f64>),
    /// Names of classes.
    Names(Vec<String>),
}

impl Arrays {
    /// Keeps only these rows.
    pub(crate) fn select(&mut self, rows: Range<usize>) {
        match &mut self.features {
            Features::U8(bytes) => *bytes = bytes.slice(s![rows.clone(), ..]).to_owned(),
            Features::F32(values) => *values = values.slice(s![rows.clone(), ..]).to_owned(),
        }
        let labels = self.labels.as_mut().filter(|labels| labels.len() >= rows.end);
        match labels {
            Some(ArrayLabels::Numbers(numbers)) => *numbers = numbers[rows].to_vec(),
            Some(ArrayLabels::Names(names)) => *names = names[rows].to_vec(),
            // Labels that are too few are an error when they are used.
            None => {}
        }
    }
}

/// Arrays, by the name under which a [`DataConfig`](crate::DataConfig) uses them instead of a source.
pub type NamedArrays = BTreeMap<String, Arc<Arrays>>;

impl ArrayLabels {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            ArrayLabels::Numbers(numbers) => numbers.len(),
            ArrayLabels::Names(names) => names.len(),
        }
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The name of a sample in error messages.
pub(crate) fn location(source: &str, row: usize) -> String {
    format!("{source}: row {row}")
}
