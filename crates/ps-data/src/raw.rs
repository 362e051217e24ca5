//! What a source holds before the training data has said how to encode it.

use crate::config::Source;
use crate::dataset::Image;
use crate::error::DataError;
use crate::idx;
use crate::progress::Progress;
use ndarray::Array2;
use std::path::Path;

/// A source as read.
pub(crate) enum Raw {
    /// From IDX files or drawn.
    Pixels(Pixels),
}

/// Bytes, and a byte of label for each row.
pub(crate) struct Pixels {
    /// Where the bytes came from, for error texts.
    pub place: String,
    /// Where the labels came from, for error texts.
    pub labels_place: String,
    pub pixels: Array2<u8>,
    pub image: Option<Image>,
    pub labels: Option<Vec<u8>>,
    /// The number of classes where it is known beforehand.
    pub classes: Option<usize>,
}

/// Reads `source`, whose relative paths start at `root`.
pub(crate) fn read(source: &Source, root: &Path, progress: &dyn Progress) -> Result<Raw, DataError> {
    match source {
        Source::Idx { images, labels } => {
            let labels = labels.as_ref().map(|path| root.join(path));
            idx::read(&root.join(images), labels.as_deref(), progress).map(Raw::Pixels)
        }
        _ => Err(DataError::Source { source: format!("{source:?}"), problem: "not there yet".into() }),
    }
}
