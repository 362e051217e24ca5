//! Files and built-in sources to samples in memory.
//!
//! A source is `idx:IMAGES,LABELS`, `csv:PATH`, `libsvm:PATH` or `digits:`. [`load`] reads all sources of a
//! run, each once and side by side, encodes them the way the training data asks for, sets the validation
//! share apart and states the fingerprint of all of it. Pixels stay bytes in memory; a [`Split`] scales and
//! standardises while it writes a row.

mod config;
mod confine;
mod dataset;
mod digits;
mod encoding;
mod error;
mod fingerprint;
mod header;
mod idx;
mod inspect;
mod libsvm;
mod load;
mod markers;
mod number;
mod progress;
mod quotes;
mod raw;
mod split;
mod statistics;
mod table;

pub use config::{ColumnKind, DIGITS_COUNT, DIGITS_SEED, DataConfig, Missing, Source, Validation};
pub use confine::{Outside, confine, is_url};
pub use dataset::{Column, Dataset, Features, Image, MissingCells, Task};
pub use error::DataError;
pub use inspect::{ColumnSummary, ColumnUse, Inspection, LabelSummary, inspect};
pub use load::{Loaded, load, load_from_memory, load_like, load_unlabelled};
pub use markers::USUAL_MARKERS;
pub use progress::{NoProgress, Progress};
pub use split::{Preprocessing, Split, Standard};
