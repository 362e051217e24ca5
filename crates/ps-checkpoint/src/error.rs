//! Why a checkpoint cannot be saved or loaded.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a checkpoint cannot be saved or loaded.
#[derive(Debug)]
pub enum Error {
    /// Another process uses the folder.
    Locked {
        /// Which folder.
        folder: PathBuf,
    },
    /// Another process has begun to use the folder, and what we save would be lost among what it saves.
    Fenced {
        /// Which folder.
        folder: PathBuf,
        /// Our number, and the one that is there now.
        holders: [u64; 2],
    },
    /// This run may not resume from what the folder holds.
    OtherRun {
        /// Which folder.
        folder: PathBuf,
        /// The reason, and what to do.
        why: String,
    },
    /// There were checkpoints, and none is good.
    NoneIsGood {
        /// Which folder.
        folder: PathBuf,
        /// What is wrong with each, the newest first.
        problems: Vec<String>,
    },
    /// The system could not make something durable: whether it is cannot be known any more.
    NotDurable {
        /// Which file or folder.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// What was written is not what is read.
    ReadBack {
        /// Which file.
        path: PathBuf,
    },
    /// The thread that saves has ended; what it said is above.
    WriterGone,
    /// The system refused.
    File {
        /// What was to be done.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
}

impl Error {
    /// Whether the process must not go on: the folder is another's, or its disk cannot be trusted. After other errors a
    /// later checkpoint may succeed.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Error::Fenced { .. } | Error::NotDurable { .. } | Error::ReadBack { .. } | Error::WriterGone
        )
    }

    /// Whether the command line must change.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::OtherRun { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Locked { folder } => write!(
                f,
                "{}: another process uses these checkpoints; wait for its end, or choose another --out",
                folder.display()
            ),
            Error::Fenced { folder, holders: [ours, theirs] } => write!(
                f,
                "{}: another process has taken over these checkpoints (holder {theirs}, we are {ours}); \
                 this one ends, so that there are not two",
                folder.display()
            ),
            Error::OtherRun { folder, why } => write!(f, "{}: {why}", folder.display()),
            Error::NoneIsGood { folder, problems } => write!(
                f,
                "{}: no checkpoint is good: {}; say --allow-fresh to begin again at step 0",
                folder.display(),
                problems.join("; ")
            ),
            Error::NotDurable { path, error } => write!(
                f,
                "{}: it cannot be made durable: {error}; what was written may be lost, so the run ends here and \
                 goes on from the checkpoint before when it is started again",
                path.display()
            ),
            Error::ReadBack { path } => write!(
                f,
                "{}: what is read is not what was written; this disk or memory cannot be trusted",
                path.display()
            ),
            Error::WriterGone => {
                f.write_str("the thread that saves checkpoints has ended; what it said is above")
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
