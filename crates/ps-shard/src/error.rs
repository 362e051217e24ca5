//! The ways in which a run on the server can fail.

use ps_core::trainer::Diverged;
use ps_run::FolderError;
use std::fmt;
use std::time::Duration;

/// Why a run on the server failed.
#[derive(Debug)]
pub enum ServerError {
    /// The system does not allow the use of the listener.
    Listener(std::io::Error),
    /// The loss or a weight became NaN or infinite.
    Diverged(Diverged),
    /// Too few workers were present for too long.
    TooFewWorkers {
        /// Workers present at the end.
        present: u32,
        /// Workers that the run needs.
        needed: u32,
        /// Time for which there were too few.
        waited: Duration,
    },
    /// Processes that keep a part of the weights were missing for too long.
    ShardsMissing {
        /// Their numbers, as `--shard` counts them.
        shards: Vec<u32>,
        /// Time for which they were missing.
        waited: Duration,
    },
    /// This shard's coordinator is gone or out of reach.
    Coordinator {
        /// Address of the coordinator.
        address: String,
        /// How the connection was lost, or why it failed.
        why: String,
    },
    /// The coordinator refuses this shard, or the peer is not a coordinator; another attempt would fail in
    /// the same way.
    Refused {
        /// Address of the coordinator.
        address: String,
        /// The coordinator's reason.
        why: String,
    },
    /// The run ended before this shard took part.
    RunFinished,
    /// The run has failed; holds the coordinator's message.
    RunFailed(String),
    /// The run can no longer be saved.
    Unsaved(FolderError),
    /// A fault of this program or of the machine.
    Internal(String),
}

/// Exit code of every process of a run that an administrator has ended for good, so that a supervisor does
/// not restart it.
pub const ENDED: u8 = 3;

impl ServerError {
    /// The process's exit code: 42 if another attempt would fail in the same way, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, ServerError::Refused { .. }) { 42 } else { 1 }
    }

    /// The error to report when the driver has panicked.
    pub fn panicked() -> Self {
        ServerError::Internal("the driver thread failed; see its messages above".into())
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Listener(error) => write!(f, "cannot listen for workers: {error}"),
            ServerError::Diverged(diverged) => diverged.fmt(f),
            ServerError::TooFewWorkers { present, needed, waited } => write!(
                f,
                "only {present} of {needed} workers joined within {} s; start more, or lower --min-workers",
                waited.as_secs_f64()
            ),
            ServerError::ShardsMissing { shards, waited } => write!(
                f,
                "shards {shards:?} were missing for {} s; start them, and the run resumes from its last \
                 checkpoint",
                waited.as_secs_f64()
            ),
            ServerError::Coordinator { address, why } | ServerError::Refused { address, why } => {
                write!(f, "coordinator {address}: {why}")
            }
            ServerError::RunFinished => f.write_str("the run is over"),
            ServerError::RunFailed(why) => write!(f, "the run has failed: {why}"),
            ServerError::Unsaved(error) => error.fmt(f),
            ServerError::Internal(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServerError::Listener(error) => Some(error),
            ServerError::Diverged(diverged) => Some(diverged),
            _ => None,
        }
    }
}
