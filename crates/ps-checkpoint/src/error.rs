//! Why a checkpoint cannot be saved or loaded.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a checkpoint cannot be saved or loaded.
#[derive(Debug)]
pub enum Error {
    /// Another process uses the folder.
    Locked {
        /// The folder of checkpoints.
        folder: PathBuf,
    },
    /// Another process has taken over the folder, so saving here would mix the checkpoints of two processes.
    Fenced {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// This process's holder number, and the one found in the folder.
        holders: [u64; 2],
    },
    /// The checkpoints in the folder belong to another run, from which this one may not resume.
    OtherRun {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// The difference between the runs, and what to do.
        why: String,
    },
    /// The folder has checkpoints, but all of them are damaged.
    NoneIsGood {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// What is wrong with each checkpoint, newest first.
        problems: Vec<String>,
    },
    /// The system failed to make something durable. Whether it is durable cannot be determined any more.
    NotDurable {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file's contents differ from what was written.
    ReadBack {
        /// The file that was read back.
        path: PathBuf,
    },
    /// The thread that saves has ended. It has reported the cause before.
    WriterGone,
    /// A file operation failed.
    File {
        /// The operation, as part of the message, such as `writing`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl Error {
    /// Whether the process must stop: another process has the folder, or the disk cannot be trusted. After
    /// any other error, a later checkpoint may succeed.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Error::Fenced { .. } | Error::NotDurable { .. } | Error::ReadBack { .. } | Error::WriterGone
        )
    }

    /// Whether the user must change the command line.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::OtherRun { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Locked { folder } => write!(
                f,
                "{}: another process uses these checkpoints; wait until it exits, or choose another --out",
                folder.display()
            ),
            Error::Fenced { folder, holders: [ours, theirs] } => write!(
                f,
                "{}: another process has taken over these checkpoints (holder {theirs}, this process \
                 {ours}); this process exits, so that only one continues the run",
                folder.display()
            ),
            Error::OtherRun { folder, why } => write!(f, "{}: {why}", folder.display()),
            Error::NoneIsGood { folder, problems } => write!(
                f,
                "{}: all checkpoints are damaged: {}; use --allow-fresh to start again from step 0",
                folder.display(),
                problems.join("; ")
            ),
            Error::NotDurable { path, error } => write!(
                f,
                "{}: cannot make it durable: {error}; the data may be lost, so the run ends here and \
                 resumes from the previous checkpoint when it is restarted",
                path.display()
            ),
            Error::ReadBack { path } => write!(
                f,
                "{}: the data read differs from the data written; the disk or memory is faulty",
                path.display()
            ),
            Error::WriterGone => {
                f.write_str("the thread that saves checkpoints failed; see its messages above")
            }
            Error::File { action, path, error } => write!(f, "{} {}: {error}", action, path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NotDurable { error, .. } | Error::File { error, .. } => Some(error),
            _ => None,
        }
    }
}
