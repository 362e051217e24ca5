//! The run file and the flags of every process.
//!
//! What processes of one run must agree on is in the run file ([`RunConfig`]); what may differ between them
//! (paths, logging, where results go) is a flag ([`RunArgs`], [`LogArgs`], [`OutArgs`], [`DataArgs`]).
//! Every key of the run file is defined once, in the file of its table beside the setting that it stands for: its name, type,
//! range, default and help, and when it applies. [`keys`] lists all of them.

mod args;
mod difference;
mod document;
mod error;
mod field;
mod key;
pub mod keys;
mod layers;
mod log;
mod program;
mod resolved;
mod run;
mod security;
mod setting;
mod tables;
mod time;

pub use args::{CheckpointArgs, DataArgs, OutArgs, RunArgs, WatchArgs};
pub use difference::Difference;
pub use error::{ConfigError, Place};
pub use log::{LogArgs, LogFormat};
pub use program::{is_heading, parse, program};
pub use run::RunConfig;
pub use security::SecurityArgs;
pub use tables::{
    Batch, GuardConfig, GuardMode, ModelConfig, RateConfig, Shape, ThresholdMode, TrainConfig, WireConfig,
};
pub use time::Time;
