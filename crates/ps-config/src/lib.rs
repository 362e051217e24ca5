//! The run file, and the flags that all processes share.
//!
//! Processes of one run must agree on the content of the run file ([`RunConfig`]). What may differ between
//! them, such as paths, logging and the results folder, is a flag ([`RunArgs`], [`LogArgs`], [`OutArgs`],
//! [`DataArgs`]).
//! Every key of the run file is defined exactly once, in the file of its table next to the setting: its name,
//! type, range, default, help and the runs to which it applies. [`keys`] lists all of them.

mod args;
mod columns;
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
pub use columns::{column_key, column_settings};
pub use difference::Difference;
pub use error::{ConfigError, Location};
pub use log::{LogArgs, LogFormat};
pub use program::{is_heading, parse, program};
pub use run::RunConfig;
pub use security::SecurityArgs;
pub use tables::{
    Batch, GuardConfig, GuardMode, ModelConfig, RateConfig, Shape, ThresholdMode, TrainConfig, WireConfig,
};
pub use time::Time;
