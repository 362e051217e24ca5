//! Checkpoints: the weights and the optimizer's state on disk, whole and verified or not at all.
//!
//! A [`Store`] owns a folder and the lock on it. What is saved is written aside, made durable, read back and compared,
//! and only then given its name; the folder is made durable after that, and only then is it called saved. What is loaded
//! is verified to the last byte; what is damaged is renamed and reported, and the one before it is used. [`Writer`] does
//! the saving on a thread of its own.
//!
//! ```text
//! checkpoints/
//!   lock                        held while a process uses the folder
//!   holder                      counts the processes that did; whoever finds another number than its own stops
//!   step-000000001200/
//!     weights.safetensors       the tensors of the model, binary32
//!     velocity.safetensors      the same names and shapes: a vector of the optimizer's state, and one file for each other
//!     manifest.json             what run and step this is, size and SHA-256 of the files and of itself
//! ```

mod disk;
mod error;
mod manifest;
mod planted;
pub mod simulated;
mod store;
pub mod tensors;
mod writer;

pub use disk::{Disk, RealDisk};
pub use error::Error;
pub use manifest::{FileEntry, Fingerprint, Manifest, Progress};
pub use store::{Found, Judge, Kept, Store};
pub use writer::{Saved, Writer};

/// What a run is at one step, complete enough to go on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// How far it is.
    pub progress: Progress,
    /// `[parameters]`.
    pub weights: Vec<f32>,
    /// The vectors of the run's state besides the weights, `[vectors, parameters]`, in the order of [`Kept::state`].
    pub state: Vec<f32>,
}
