//! What can be wrong with data, with its place.

use std::fmt;
use std::path::PathBuf;

/// Why data cannot be used.
#[derive(Debug)]
pub enum DataError {
    /// The text of a source makes no sense.
    Source {
        /// The text.
        source: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option of the `[data]` table does not fit.
    Option {
        /// The option's key.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A file cannot be opened or read.
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// What a URL names cannot be had.
    Remote {
        /// The URL.
        url: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// The content of a file is bad.
    Content {
        /// File, and line or item, and column.
        place: String,
        /// What is wrong there, with the value.
        problem: String,
    },
    /// The data is sound but not what the model needs.
    Unfit {
        /// Source.
        place: String,
        /// What the model needs and what there is.
        problem: String,
    },
}

impl DataError {
    pub(crate) fn content(place: impl Into<String>, problem: impl Into<String>) -> Self {
        DataError::Content { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn unfit(place: impl Into<String>, problem: impl Into<String>) -> Self {
        DataError::Unfit { place: place.into(), problem: problem.into() }
    }

    /// Whether the run file or the command line must change, rather than a file.
    pub fn is_usage(&self) -> bool {
        matches!(self, DataError::Source { .. } | DataError::Option { .. })
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::Source { source, problem } => write!(f, "source `{source}`: {problem}"),
            DataError::Remote { url, problem } => write!(f, "{url}: {problem}"),
            DataError::Option { key, problem } => write!(f, "data.{key}: {problem}"),
            DataError::File { path, error } => write!(f, "{}: {error}", path.display()),
            DataError::Content { place, problem } | DataError::Unfit { place, problem } => {
                write!(f, "{place}: {problem}")
            }
        }
    }
}

impl std::error::Error for DataError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DataError::File { error, .. } => Some(error),
            _ => None,
        }
    }
}
