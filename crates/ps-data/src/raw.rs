//! The contents of a source before the training data has determined the encoding.

use crate::arrays::Arrays;
use crate::dataset::Image;
use crate::format::libsvm::Sparse;
use crate::table::Table;
use ndarray::Array2;

/// A source as read.
pub(crate) enum Raw {
    /// Images from IDX files, or drawn digits.
    Pixels(Pixels),
    /// Rows of a CSV file.
    Table(Table),
    /// Rows of a LIBSVM file.
    Sparse(Sparse),
    /// Arrays of the calling program.
    Arrays(Arrays),
}

/// Pixels as bytes, and a label byte per row.
pub(crate) struct Pixels {
    /// Where the pixels came from, for error messages.
    pub location: String,
    /// Where the labels came from, for error messages.
    pub labels_location: String,
    pub pixels: Array2<u8>,
    pub image: Option<Image>,
    pub labels: Option<Vec<u8>>,
    /// The number of classes, if the format fixes it.
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
