//! The run file and the flags of every process.
//!
//! What processes of one run must agree on is in the run file ([`RunConfig`]); what may differ between them
//! (paths, logging, where results go) is a flag ([`RunArgs`], [`LogArgs`], [`OutArgs`], [`DataArgs`]).
//! Every key of the run file is defined once, in [`keys`]: its name, values, default and help.

mod args;
mod difference;
mod document;
mod error;
pub mod keys;
mod log;
mod parse;
mod program;
mod resolved;
mod run;
mod security;
mod time;
mod values;

pub use args::{CheckpointArgs, DataArgs, OutArgs, RunArgs, WatchArgs};
pub use difference::Difference;
pub use error::{ConfigError, Place};
pub use log::{LogArgs, LogFormat};
pub use program::{is_heading, parse, program};
pub use run::{
    Batch, GuardConfig, GuardMode, ModelConfig, Phase, RateConfig, RunConfig, Shape, TrainConfig, WireConfig,
};
pub use security::SecurityArgs;
pub use time::Time;
