//! Checkpoints: the weights and the optimizer's state on disk, either complete and verified or not
//! there at all.
//!
//! A [`Store`] owns a folder and the lock on it. It writes a checkpoint under a temporary name, makes it
//! durable, reads it back and compares it, and only then gives it its name; it reports a checkpoint as saved
//! only after the folder has been made durable as well. On loading, every byte is verified. If the newest
//! checkpoint is damaged, the store renames it, reports it and falls back to the previous one. [`Writer`]
//! saves on a separate thread.
//!
//! ```text
//! checkpoints/
//!   lock                        held while a process uses the folder
//!   holder                      number of the last process to open the folder; any other process stops
//!   step-000000001200/
//!     weights.safetensors       the tensors of the model, binary32
//!     velocity.safetensors      a state vector, with the same names and shapes; one file per vector
//!     manifest.json             the run, the step, size and SHA-256 of each file, and its own SHA-256
//! ```

mod disk;
mod error;
mod manifest;
mod mutation;
pub mod simulated;
mod store;
pub mod tensors;
mod writer;

pub use disk::{Disk, RealDisk};
pub use error::Error;
pub use manifest::{FileEntry, Fingerprint, Manifest, Progress};
pub use store::{Found, ResumeCheck, Store, StoreOptions};
pub use writer::{Saved, Writer};

/// The complete state of a run at one step, from which it can be resumed with the same bits.
///
/// The vectors are whole: a run with sharded weights assembles them from all servers first.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The position in the run, and everything that is counted.
    pub progress: Progress,
    /// The flat parameter vector, `[parameters]`.
    pub weights: Vec<f32>,
    /// The other vectors of the run's state, `[vectors, parameters]`, in the order of
    /// [`StoreOptions::state`].
    pub state: Vec<f32>,
}
