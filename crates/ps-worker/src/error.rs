//! The ways in which a worker can fail.

use ps_shard::ServerError;
use std::fmt;
use std::time::Duration;

/// Why a worker failed.
#[derive(Debug)]
pub enum WorkerError {
    /// The server's address is invalid.
    Address {
        /// The address as given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The flags or files that protect connections are invalid; holds what is wrong.
    Security(String),
    /// The computing threads cannot be bound to the given processors; holds the reason.
    Processors(String),
    /// The server was out of reach for too long.
    Unreachable {
        /// Address of the server.
        server: String,
        /// Time for which it was out of reach.
        waited: Duration,
        /// The error of the last attempt.
        last: String,
    },
    /// The peer at the address is not a Downhill server.
    NotDownhill {
        /// Address of the server.
        server: String,
        /// The response that shows it.
        sign: String,
    },
    /// Run file, data, version, machine or credentials do not match the server's; another attempt would fail
    /// in the same way.
    Mismatch(String),
    /// The server found that this process computes wrong sums; holds the server's message.
    Banned(String),
    /// One of the two programs violated the protocol; holds the message of the one that noticed.
    Protocol(String),
    /// The system does not allow listening for other workers.
    Listen {
        /// Address to listen on.
        given: String,
        /// The error of the system.
        error: std::io::Error,
    },
    /// The run ended before this worker took part.
    RunFinished,
    /// The run has failed; holds the server's message.
    RunFailed(String),
    /// Only an administrator may make the call; holds the server's message.
    NotAdmin(String),
    /// The shard in this process has failed.
    Shard(ServerError),
    /// A fault of this program or of the machine.
    Internal(String),
}

impl WorkerError {
    /// Whether the server refuses the data or settings that this worker has loaded.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, WorkerError::Mismatch(_) | WorkerError::Shard(ServerError::Refused { .. }))
    }

    /// The process's exit code: 2 for the command line, 42 if another attempt would fail in the same
    /// way, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            WorkerError::Address { .. }
            | WorkerError::Security(_)
            | WorkerError::Processors(_)
            | WorkerError::Listen { .. } => 2,
            WorkerError::Mismatch(_) | WorkerError::Banned(_) => 42,
            WorkerError::Shard(error) => error.exit_code(),
            _ => 1,
        }
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::Address { given, problem } => {
                write!(
                    f,
                    "--server {given:?}: {problem}; give HOST:PORT, such as 127.0.0.1:4370, or unix:PATH"
                )
            }
            WorkerError::Security(problem) => f.write_str(problem),
            WorkerError::Processors(problem) => write!(f, "--cpus: {problem}"),
            WorkerError::Unreachable { server, waited, last } if waited.is_zero() => {
                write!(f, "{server}: cannot reach a server: {last}; is ps-server running there?")
            }
            WorkerError::Unreachable { server, waited, last } => write!(
                f,
                "{server}: no server within {} s; the last attempt failed: {last}; is ps-server running \
                 there?",
                waited.as_secs()
            ),
            WorkerError::NotDownhill { server, sign } => {
                write!(f, "{server}: this is not a Downhill server: {sign}; check the address and port")
            }
            WorkerError::Mismatch(what) => write!(f, "this worker cannot take part in the run: {what}"),
            WorkerError::Banned(what) => write!(
                f,
                "the server banned this worker: {what}; test the memory and processor of this machine"
            ),
            WorkerError::Protocol(what) => {
                write!(f, "protocol error between the server and this worker: {what}")
            }
            WorkerError::Listen { given, error } => write!(f, "--shard-listen {given}: {error}"),
            WorkerError::RunFinished => f.write_str("the run is over"),
            WorkerError::RunFailed(why) => write!(f, "the run has failed: {why}"),
            WorkerError::NotAdmin(why) => f.write_str(why),
            WorkerError::Shard(error) => write!(f, "the shard of this worker: {error}"),
            WorkerError::Internal(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for WorkerError {}
