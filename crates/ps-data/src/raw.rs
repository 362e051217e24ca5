//! The contents of a source before the training data has determined the encoding.

use crate::arrays::Arrays;
use crate::dataset::Image;
use crate::dialect::RowRange;
use crate::error::DataError;
use crate::format::libsvm::Sparse;
use crate::table::Table;
use ndarray::{Array2, s};

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
    /// Keeps only `rows`, which `key` of the run file selects from the rows of `source`.
    ///
    /// # Errors
    /// Returns an error if the source has fewer rows.
    pub(crate) fn select(
        &mut self,
        rows: RowRange,
        key: &'static str,
        source: &str,
    ) -> Result<(), DataError> {
        let count = self.rows();
        let end = rows.end.unwrap_or(count);
        if end > count || rows.begin >= end {
            let problem = format!("`{source}` has no rows {rows}, it has {count} rows");
            return Err(DataError::Option { key, problem });
        }
        let range = rows.begin..end;
        match self {
            Raw::Pixels(pixels) => {
                pixels.pixels = pixels.pixels.slice(s![range.clone(), ..]).to_owned();
                if let Some(labels) = &mut pixels.labels {
                    *labels = labels[range].to_vec();
                }
            }
            Raw::Table(table) => table.select(&range.collect::<Vec<_>>())?,
            Raw::Sparse(sparse) => sparse.select(range),
            Raw::Arrays(arrays) => arrays.select(range),
        }
        Ok(())
    }

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
