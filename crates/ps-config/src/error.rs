//! What can be wrong with a run file, with its place.

use std::fmt;
use std::path::PathBuf;

/// Where a value of the run comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the run file, counted from 1.
    Line {
        /// The file.
        origin: String,
        /// The line.
        line: usize,
    },
    /// A `--set` flag; its text.
    Flag(String),
    /// The run as a whole: no single line is at fault, or a default is.
    Resolved,
}

/// Why a run file cannot be used. All of these are the user's to mend.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// Not TOML.
    Syntax {
        /// Where.
        place: Place,
        /// What the TOML parser says.
        problem: String,
    },
    /// There is no such key or table.
    Unknown {
        /// Where.
        place: Place,
        /// As it was written; a table in brackets.
        key: String,
        /// The nearest valid one, or all of them.
        hint: String,
    },
    /// A value of the wrong type or out of range.
    Value {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The value as it was written.
        value: String,
        /// What it should have been, and what to do.
        expected: String,
    },
    /// A key without a default is not there.
    Missing {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What to add where.
        hint: String,
    },
    /// A key that has no effect on this run, so that whoever wrote it expects something else.
    Unused {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// As the beginning of an error, with what parts it from the rest.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { origin, line } => write!(f, "{origin}:{line}: "),
            Place::Flag(text) => write!(f, "--set {text}: "),
            Place::Resolved => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::File { path, error } => write!(f, "{}: {error}", path.display()),
            ConfigError::Syntax { place, problem } => write!(f, "{place}{problem}"),
            ConfigError::Unknown { place, key, hint } => {
                let what = if key.starts_with('[') { "table" } else { "key" };
                write!(f, "{place}unknown {what} {key}: {hint}")
            }
            ConfigError::Value { place, key, value, expected } => {
                write!(f, "{place}{key} = {value}: {expected}")
            }
            ConfigError::Missing { origin, key, hint } => write!(f, "{origin}: {key} is missing: {hint}"),
            ConfigError::Unused { place, key, reason } => write!(f, "{place}{key} has no effect: {reason}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::File { error, .. } => Some(error),
            _ => None,
        }
    }
}
