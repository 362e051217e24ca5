//! Training in the calling process.

mod local;

pub use local::{LocalError, Trained, train};
