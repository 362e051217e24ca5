//! Trains models by gradient descent in the calling process, reproducibly: the weights depend on the settings
//! and the data, but not on the number of threads or the machine, down to the last bit.
//!
//! - [`Run`] describes a run, from a run file or from settings, and [`Run::train`] trains it.
//! - [`Dataset`] holds samples to train, validate or predict on: a source such as `csv:people.csv`, or
//!   arrays.
//! - [`Model`] is the result: it [predicts](Model::predict), and can be [evaluated](Model::evaluate),
//!   [saved](Model::save) and [loaded](Model::load).
//! - [`Observer`] sees each step and epoch, and may stop the run.
//!
//! Files are the same as those of the command line: `downhill predict` accepts a model that [`Model::save`]
//! wrote, and [`Model::load`] accepts the results folder of `downhill train`.
//!
//! ```
//! use downhill::{Dataset, Run};
//!
//! let run = Run::from_toml(
//!     r#"
//!     data.train = "digits:1000"
//!     data.validation = 0.1
//!     model.kind = "mlp"
//!     model.hidden = [32]
//!     train.batch = 50
//!     learning_rate.initial = 0.1
//!     "#,
//! );
//! let trained = run.set("train.epochs", 3).train()?;
//! println!("validation {}", trained.summary.validation.as_ref().expect("a share was set apart").line());
//!
//! let evaluation = trained.model.evaluate(&Dataset::open("digits:200,seed=7")?)?;
//! assert!(evaluation.measures.accuracy > Some(0.5));
//! # Ok::<(), downhill::Error>(())
//! ```
//!
//! The folder `examples/` of the crate has programs that train on arrays, train a run file, observe a run, and
//! serve predictions with axum.
//!
//! # What the library leaves alone
//!
//! The library starts threads only for runs and models. It never touches the global pool of `rayon`, the
//! allocator, environment variables, signals or standard error, and it opens no sockets, so sources with URLs
//! must be downloaded first. The programs do more: `downhill train` shows progress, serves a dashboard and
//! fetches data, and `ps-server` trains on several machines.

#![deny(missing_docs)]

mod coefficients;
mod dataset;
mod error;
mod local;
mod model;
mod run;
mod saved;
mod threads;
mod value;

pub use coefficients::{Coefficients, LinearFunction};
pub use dataset::{Dataset, Labels, Rows};
pub use error::{Error, ErrorKind};
pub use model::{Evaluation, LoadOptions, Model, Predictions};
#[doc(no_inline)]
pub use ndarray;
#[doc(inline)]
pub use ps_core::scores::{ClassAverage, ClassScores, ClassificationScores, RegressionScores, Scores};
#[doc(inline)]
pub use ps_onnx::Input as OnnxInput;
#[doc(inline)]
pub use ps_run::{Measures, Observer, Requests, StepMade, Summary};
pub use run::{Run, Trained};
pub use value::Value;

/// The types in which a run reports to its observers and in its summary.
pub mod report {
    #[doc(inline)]
    pub use ps_core::{MetricSums, control::Event};
    #[doc(inline)]
    pub use ps_run::{
        Ban, Diagnosis, Ending, EpochLine, EventLine, Fingerprint, HashLine, Line, Phase, ProbeLine, Resumed,
        Slowest, StepLine, StepWeights,
    };
}

/// Runs the examples of the README as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// Internals that the command line shares with the library. They are types of the crates below and may change
/// at any time.
#[doc(hidden)]
pub mod internal {
    pub use crate::local::run;
    pub use crate::saved::SavedRun;
}
