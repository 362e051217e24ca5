//! What a source holds before the training data has said how to encode it.

use crate::arrays::Arrays;
use crate::dataset::Image;
use crate::format::libsvm::Sparse;
use crate::table::Table;
use ndarray::Array2;

/// A source as read.
pub(crate) enum Raw {
    /// From IDX files or drawn.
    Pixels(Pixels),
    /// From a CSV file.
    Table(Table),
    /// From a LIBSVM file.
    Sparse(Sparse),
    /// From the calling program.
    Arrays(Arrays),
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

impl Raw {
    /// Number of samples.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Raw::Pixels(pixels) => pixels.pixels.nrows(),
            Raw::Table(table) => table.rows(),
            Raw::Sparse(sparse) => sparse.rows(),
            Raw::Arrays(arrays) => arrays.features.samples(),
        }
    }
}
