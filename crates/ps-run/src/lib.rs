//! From a run file to loaded data and model, and from a run to its folder and progress.
//!
//! [`Job`] is a run ready to start: what the reference, the local driver, the server and the workers all
//! begin with. [`RunFolder`] is where its results go, [`Recorder`] what tells the user how it goes, and
//! [`evaluate()`] measures weights on any split. Nothing here decides a bit of the weights.

mod evaluate;
mod job;

pub use evaluate::{evaluate, predict};
pub use job::{Fingerprint, Job, JobError};
