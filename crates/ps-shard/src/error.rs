//! Why a run on the server came to no good end.

use ps_core::trainer::Diverged;
use ps_run::FolderError;
use std::fmt;
use std::time::Duration;

/// Why a run on the server came to no good end.
#[derive(Debug)]
pub enum ServerError {
    /// The system does not let us use the listener.
    Listener(std::io::Error),
    /// The loss or a weight is not finite any more.
    Diverged(Diverged),
    /// Too few workers for too long.
    TooFewWorkers {
        /// Workers present.
        present: u32,
        /// Workers asked for.
        needed: u32,
        /// For how long it was so.
        waited: Duration,
    },
    /// Processes that keep a part of the weights were missing for too long.
    ShardsMissing {
        /// Which.
        shards: Vec<u32>,
        /// For how long.
        waited: Duration,
    },
    /// This shard's coordinator is gone or out of reach.
    Coordinator {
        /// Where it is, or was.
        address: String,
        /// What happened.
        why: String,
    },
    /// This shard's coordinator refuses it, or is none; trying again is useless.
    Refused {
        /// Where it is.
        address: String,
        /// Why.
        why: String,
    },
    /// The run was over before this shard took part.
    Over,
    /// The run has failed; what the coordinator says.
    RunFailed(String),
    /// The run cannot be saved any more.
    Unsaved(FolderError),
    /// A fault of this program or of the machine.
    Internal(String),
}

/// The exit code of every process of a run that an administrator has ended for good. A supervisor is not to start it again.
pub const ENDED: u8 = 3;

impl ServerError {
    /// The process's exit code: 42 for what no retry can mend, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, ServerError::Refused { .. }) { 42 } else { 1 }
    }

    /// The driver has panicked.
    pub fn panicked() -> Self {
        ServerError::Internal("the thread of the rounds ended; what it said is above".into())
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Listener(error) => write!(f, "listening for workers: {error}"),
            ServerError::Diverged(diverged) => diverged.fmt(f),
            ServerError::TooFewWorkers { present, needed, waited } => write!(
                f,
                "{present} of {needed} workers after waiting for {} s; start more, or ask for fewer with \
                 --min-workers",
                waited.as_secs_f64()
            ),
            ServerError::ShardsMissing { shards, waited } => write!(
                f,
                "shards {shards:?} were missing for {} s; start them, then the run goes on from its last checkpoint",
                waited.as_secs_f64()
            ),
            ServerError::Coordinator { address, why } | ServerError::Refused { address, why } => {
                write!(f, "coordinator {address}: {why}")
            }
            ServerError::Over => f.write_str("the run is over"),
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
