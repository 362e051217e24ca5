//! Errors in data, each with its position.

use std::fmt;
use std::path::PathBuf;

/// Why data cannot be used.
#[derive(Debug)]
pub enum DataError {
    /// A source string is invalid.
    Source {
        /// The source as given.
        source: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key of the `[data]` table has an invalid value.
    Option {
        /// Name of the key.
        key: &'static str,
        /// What is wrong with the value.
        problem: String,
    },
    /// A file cannot be opened or read.
    File {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A URL cannot be downloaded.
    Remote {
        /// The URL that the source names.
        url: String,
        /// The reason, and what to do.
        problem: String,
    },
    /// The contents of a file are invalid.
    Content {
        /// The file and, where known, line or item and column.
        location: String,
        /// What is wrong there, including the value.
        problem: String,
    },
    /// The data is valid, but the model needs something else.
    Unfit {
        /// The source that does not fit.
        location: String,
        /// What the model needs, and what the data has.
        problem: String,
    },
}

impl DataError {
    pub(crate) fn content(location: impl Into<String>, problem: impl Into<String>) -> Self {
        DataError::Content { location: location.into(), problem: problem.into() }
    }

    pub(crate) fn unfit(location: impl Into<String>, problem: impl Into<String>) -> Self {
        DataError::Unfit { location: location.into(), problem: problem.into() }
    }

    /// Whether the user must change the run file or the command line instead of a data file.
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
            DataError::Content { location, problem } | DataError::Unfit { location, problem } => {
                write!(f, "{location}: {problem}")
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
