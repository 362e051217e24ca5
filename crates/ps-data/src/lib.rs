//! Reads files and built-in data sets into samples in memory.
//!
//! A [`Source`] is `idx:IMAGES,LABELS`, `csv:PATH`, `libsvm:PATH` or `digits:`; [`FORMATS`] lists the
//! formats. [`load`] reads all sources of a run once and in parallel, encodes them as the training source
//! requires, splits off the validation set and computes a fingerprint of the result. Pixels stay bytes in
//! memory; a [`Split`] scales and standardises a row when it writes it.

mod arrays;
mod blocks;
mod column_config;
mod config;
mod confine;
mod dataset;
mod date;
mod dialect;
mod encoder;
mod encoding;
mod error;
mod fingerprint;
mod format;
mod inspect;
mod json_lines;
mod load;
mod markers;
mod number;
mod preparation;
mod progress;
mod proposal;
mod raw;
mod split;
mod statistics;
mod syntax;
mod table;
mod unknown;

pub use arrays::{ArrayLabels, Arrays, NamedArrays};
pub use blocks::{Block, Kept, RowBlocks, RowFormat};
pub use column_config::{ColumnConfig, ColumnKind, Fill, Quantile, Scale};
pub use config::{DataConfig, Missing, Validation};
pub use confine::{OutsideRoot, confine, is_url};
pub use dataset::{Column, ColumnContent, Dataset, Features, Image, MissingCells, Task};
pub use date::DatePart;
pub use dialect::{Decimal, RowRange, Separator};
pub use encoder::{ArrayEncoding, Encoder};
pub use error::DataError;
pub use format::{FORMATS, Format, Source};
pub use inspect::{ColumnSummary, ColumnUse, Inspection, LabelSummary, SourceProposal, inspect};
pub use load::{Loaded, load, load_arrays, load_from_memory};
pub use markers::USUAL_MARKERS;
pub use progress::{NoProgress, ReadProgress};
pub use split::{Preprocessing, Split, Standard};
pub use unknown::{NewData, Unknown};
