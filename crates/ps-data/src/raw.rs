//! What a source holds before the training data has said how to encode it.

use crate::config::Source;
use crate::dataset::Image;
use crate::error::DataError;
use crate::libsvm::{self, Sparse};
use crate::progress::Place;
use crate::table::{self, Format, Table};
use crate::{digits, idx};
use ndarray::Array2;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// A source as read.
pub(crate) enum Raw {
    /// From IDX files or drawn.
    Pixels(Pixels),
    /// From a CSV file.
    Table(Table),
    /// From a LIBSVM file.
    Sparse(Sparse),
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
    pub fn rows(&self) -> usize {
        match self {
            Raw::Pixels(pixels) => pixels.pixels.nrows(),
            Raw::Table(table) => table.rows(),
            Raw::Sparse(sparse) => sparse.rows(),
        }
    }
}

/// Reads `source`; a table as `format` says.
pub(crate) fn read(source: &Source, from: Place<'_>, format: &Format) -> Result<Raw, DataError> {
    if from.memory.is_none() && source.reads_stdin() {
        let name = PathBuf::from(STDIN);
        let files = BTreeMap::from([(name.clone(), standard_input()?)]);
        let from = Place { memory: Some(&files), ..from };
        return match source {
            Source::Libsvm(_) => libsvm::read(&name, from).map(Raw::Sparse),
            _ => table::read(&name, from, format).map(Raw::Table),
        };
    }
    let root = from.root;
    match source {
        Source::Idx { images, labels } => {
            let labels = labels.as_ref().map(|path| root.join(path));
            idx::read(&root.join(images), labels.as_deref(), from).map(Raw::Pixels)
        }
        Source::Csv(path) => table::read(&root.join(path), from, format).map(Raw::Table),
        Source::Libsvm(path) => libsvm::read(&root.join(path), from).map(Raw::Sparse),
        Source::Digits { count, seed } => {
            digits::check_size(*count)?;
            Ok(Raw::Pixels(digits::draw(*count, *seed, from.progress)))
        }
    }
}

/// What errors and progress call standard input.
const STDIN: &str = "standard input";

/// All of standard input, which can be read only once.
fn standard_input() -> Result<Vec<u8>, DataError> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    let failed = |error| DataError::File { path: STDIN.into(), error };
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Err(failed(io::Error::other("it can be read only once; name a file instead of `-`")));
    }
    // The bytes, the parser's copy of them, and the table.
    ps_host::drain(io::stdin().lock(), 0, Ceiling::memory(3)).map_err(failed)
}
