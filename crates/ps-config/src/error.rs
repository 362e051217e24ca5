//! The errors of run files, with the location of the mistake.

use std::fmt;
use std::path::PathBuf;

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A line of the run file, counted from 1.
    Line {
        /// Name of the run file as the user gave it.
        origin: String,
        /// Line number, counted from 1.
        line: usize,
    },
    /// A `--set` flag, with its argument.
    Flag(String),
    /// The run as a whole: no single line is at fault, or the value is a default.
    Resolved,
}

/// Why a run file cannot be used. All of these are mistakes of the user.
#[derive(Debug)]
pub enum ConfigError {
    /// The run file cannot be read.
    File {
        /// Path of the run file.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The run file or the value of a flag is not valid TOML.
    Syntax {
        /// Position of the syntax error.
        location: Location,
        /// The message of the TOML parser.
        problem: String,
    },
    /// The key or table does not exist.
    Unknown {
        /// Position of the key or table.
        location: Location,
        /// The name as it was written; tables are in brackets.
        key: String,
        /// The most similar valid name, or all valid names.
        hint: String,
    },
    /// The value has the wrong type or is out of range.
    Value {
        /// Position of the value.
        location: Location,
        /// Path of the key, as `--set` takes it.
        key: String,
        /// The value as it was written, possibly shortened.
        value: String,
        /// What the key accepts, and how to fix the value.
        expected: String,
    },
    /// A key without a default is not set.
    Missing {
        /// Name of the run file as the user gave it.
        origin: String,
        /// Path of the key, as `--set` takes it.
        key: String,
        /// What has to be added, and where.
        hint: String,
    },
    /// The key has no effect on this run. It is refused because its author expects one.
    Unused {
        /// Position of the key.
        location: Location,
        /// Path of the key, as `--set` takes it.
        key: String,
        /// Why it has no effect, and how to fix that.
        reason: String,
    },
}

/// Formats the location as the prefix of an error message, including the separator.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Line { origin, line } => write!(f, "{origin}:{line}: "),
            Location::Flag(text) => write!(f, "--set {text}: "),
            Location::Resolved => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::File { path, error } => write!(f, "{}: {error}", path.display()),
            ConfigError::Syntax { location, problem } => write!(f, "{location}{problem}"),
            ConfigError::Unknown { location, key, hint } => {
                let what = if key.starts_with('[') { "table" } else { "key" };
                write!(f, "{location}unknown {what} {key}: {hint}")
            }
            ConfigError::Value { location, key, value, expected } => {
                write!(f, "{location}{key} = {value}: {expected}")
            }
            ConfigError::Missing { origin, key, hint } => write!(f, "{origin}: {key} is missing: {hint}"),
            ConfigError::Unused { location, key, reason } => {
                write!(f, "{location}{key} has no effect: {reason}")
            }
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
