//! Why a worker's part came to no good end.

use ps_shard::ServerError;
use std::fmt;
use std::time::Duration;

/// Why a worker's part came to no good end.
#[derive(Debug)]
pub enum WorkerError {
    /// The server's address is none.
    Address {
        /// As given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The flags or files that protect connections are wrong; what is.
    Security(String),
    /// The threads that compute cannot be bound to the processors given; why.
    Processors(String),
    /// The server was out of reach for too long.
    Unreachable {
        /// Its address.
        server: String,
        /// For how long.
        waited: Duration,
        /// What the last attempt failed with.
        last: String,
    },
    /// Something answers at the address, but it is no Downhill server.
    NotOurs {
        /// The address.
        server: String,
        /// What gives it away.
        sign: String,
    },
    /// Run file, data, version, machine or credentials do not fit the server's; trying again is useless.
    Mismatch(String),
    /// The server has found that this process computes wrong sums; what it says.
    Banned(String),
    /// One of the two programs made a mistake; what the one that noticed says.
    Protocol(String),
    /// The system does not let us listen for other workers.
    Listen {
        /// Where.
        given: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The run was over before this worker took part.
    Over,
    /// The run has failed; what the server says.
    RunFailed(String),
    /// Only an administrator may do what was asked for; what the server says.
    NotAdmin(String),
    /// The shard in this process has failed.
    Shard(ServerError),
    /// A fault of this program or of the machine.
    Internal(String),
}

impl WorkerError {
    /// Whether the server refuses what this worker has loaded.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, WorkerError::Mismatch(_) | WorkerError::Shard(ServerError::Refused { .. }))
    }

    /// The process's exit code: 2 for the command line, 42 for what no retry can mend, else 1.
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
                write!(f, "{server}: no server there: {last}; is ps-server running there?")
            }
            WorkerError::Unreachable { server, waited, last } => write!(
                f,
                "{server}: no server within {} s, the last attempt failed with: {last}; \
                 is ps-server running there?",
                waited.as_secs()
            ),
            WorkerError::NotOurs { server, sign } => {
                write!(f, "{server}: this is not a Downhill server: {sign}; check the address and port")
            }
            WorkerError::Mismatch(what) => write!(f, "this worker cannot take part: {what}"),
            WorkerError::Banned(what) => write!(
                f,
                "the server has found this worker out: {what}; test this machine's memory and processor"
            ),
            WorkerError::Protocol(what) => {
                write!(f, "the server and this worker misunderstand each other: {what}")
            }
            WorkerError::Listen { given, error } => write!(f, "--shard-listen {given}: {error}"),
            WorkerError::Over => f.write_str("the run is over"),
            WorkerError::RunFailed(why) => write!(f, "the run has failed: {why}"),
            WorkerError::NotAdmin(why) => f.write_str(why),
            WorkerError::Shard(error) => write!(f, "the shard of this worker: {error}"),
            WorkerError::Internal(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for WorkerError {}
