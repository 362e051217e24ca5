//! The error type of this crate.

use crate::local::LocalError;
use ps_config::ConfigError;
use ps_data::DataError;
use ps_onnx::OnnxError;
use ps_run::{FolderError, JobError};
use std::fmt;

/// Why a run, a data set or a model cannot be used.
///
/// The message names the key, file, line or column at fault, and says what was found there and what was
/// expected. The command line prints the same message, which therefore refers to settings as `--set
/// KEY=VALUE`, to [`Run::out`](crate::Run::out) as `--out`, and to [`Run::data_root`](crate::Run::data_root) as
/// `--data-root`.
///
/// ```
/// use downhill::{ErrorKind, Run};
///
/// let error = Run::new().set("train.epoch", 3).resolved().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// assert_eq!(error.to_string(), "--set train.epoch=3: unknown key train.epoch: did you mean train.epochs?");
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    is_usage: bool,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kind of an [`Error`], which says what has to be fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A key of the run is unknown, missing or out of range, or does not fit the data.
    Config,
    /// Data cannot be read, or is not what the model needs.
    Data,
    /// The machine has too little memory, or refuses threads.
    Resources,
    /// A file of results, a checkpoint or a model cannot be read or written, or the results folder is in use.
    Files,
    /// The model cannot be expressed in the requested format.
    Unsupported,
    /// The loss or a weight is no longer finite.
    Diverged,
    /// A bug in this library.
    Internal,
}

impl Error {
    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns whether the caller must pass something else; otherwise a file or the machine is at fault.
    pub fn is_usage(&self) -> bool {
        self.is_usage
    }

    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Error { kind, is_usage: false, source: text.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // This error's message already includes that of `source`, so the chain continues after it.
        self.source.source()
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error { kind: ErrorKind::Config, is_usage: true, source: error.into() }
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        Error { kind: ErrorKind::Data, is_usage: error.is_usage(), source: error.into() }
    }
}

impl From<JobError> for Error {
    fn from(error: JobError) -> Self {
        let kind = match &error {
            JobError::Data(_) => ErrorKind::Data,
            JobError::Config(_) | JobError::Kernel(_) => ErrorKind::Config,
            JobError::Unfit(_) => ErrorKind::Resources,
        };
        Error { kind, is_usage: error.is_usage(), source: error.into() }
    }
}

impl From<FolderError> for Error {
    fn from(error: FolderError) -> Self {
        Error { kind: ErrorKind::Files, is_usage: error.is_usage(), source: error.into() }
    }
}

impl From<OnnxError> for Error {
    fn from(error: OnnxError) -> Self {
        Error { kind: ErrorKind::Unsupported, is_usage: error.is_usage(), source: error.into() }
    }
}

impl From<LocalError> for Error {
    fn from(error: LocalError) -> Self {
        let kind = match &error {
            LocalError::Diverged(_) => ErrorKind::Diverged,
            LocalError::Unsaved(_) => ErrorKind::Files,
            LocalError::Lost(_) => ErrorKind::Internal,
        };
        Error { kind, is_usage: false, source: error.into() }
    }
}
