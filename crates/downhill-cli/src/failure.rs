//! The errors of commands.

use ps_config::ConfigError;
use ps_core::trainer::Diverged;
use ps_data::DataError;
use ps_plot::PlotError;
use ps_run::{FolderError, JobError};
use std::fmt;
use std::process::ExitCode;

/// A message for the user, and whether the command line or the run file must change.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the run file must change; exit code 2.
    Usage(String),
    /// Anything else failed; exit code 1.
    Failed(String),
}

impl Failure {
    /// Returns 2 for usage errors and 1 for failures.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::from(1),
        }
    }

    fn new(is_usage: bool, error: &dyn std::error::Error) -> Self {
        if is_usage { Failure::Usage(error.to_string()) } else { Failure::Failed(error.to_string()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) | Failure::Failed(message) => f.write_str(message),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(true, &error)
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Failure::new(error.is_usage(), &error)
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Failure::new(error.is_usage(), &error)
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        Failure::new(error.is_usage(), &error)
    }
}

impl From<PlotError> for Failure {
    fn from(error: PlotError) -> Self {
        Failure::new(error.is_usage(), &error)
    }
}

impl From<downhill::Error> for Failure {
    fn from(error: downhill::Error) -> Self {
        Failure::new(error.is_usage(), &error)
    }
}

impl From<Diverged> for Failure {
    fn from(error: Diverged) -> Self {
        Failure::new(false, &error)
    }
}
