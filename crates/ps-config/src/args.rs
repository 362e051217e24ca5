//! Groups of flags that several binaries share; each binary flattens those it needs.

use crate::error::ConfigError;
use crate::run::RunConfig;
use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The run file and the keys of it that are overridden.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Run file
    #[arg(value_name = "RUN.toml")]
    pub run: PathBuf,

    /// Override a key of the run file; can be repeated
    ///
    /// For example, --set train.batch=256. Strings need no quotes. With nothing after the equals sign, as in
    /// --set train.steps=, the key has its default, as if it were not in the run file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// Where results go.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Results and checkpoints")]
pub struct OutArgs {
    /// Folder for the results [default: a new one in runs/]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
}

const CHECKPOINT_SECONDS: u64 = 60;
const CHECKPOINTS_KEPT: u32 = 3;

/// When a run is saved.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Results and checkpoints")]
pub struct CheckpointArgs {
    /// Save a checkpoint every N steps
    ///
    /// A run that is started again with the same --out resumes from its newest checkpoint.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: Option<u64>,

    /// Save a checkpoint SECONDS after the last; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = CHECKPOINT_SECONDS)]
    pub checkpoint_seconds: u64,

    /// Number of checkpoints to keep
    #[arg(long, value_name = "K", default_value_t = CHECKPOINTS_KEPT, value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_keep: u32,

    /// Start from step 0 if all checkpoints are damaged
    ///
    /// Without this flag, Downhill refuses to start such a run.
    #[arg(long)]
    pub allow_fresh: bool,
}

/// How a run can be watched while it trains.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Monitoring")]
pub struct WatchArgs {
    /// Serve a live page of the run [if no ADDRESS is given: 127.0.0.1:8080]
    ///
    /// If the port is in use, training continues without the page.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8080",
          env = "DOWNHILL_DASHBOARD")]
    pub dashboard: Option<String>,

    /// Serve Prometheus metrics at http://ADDRESS/metrics
    ///
    /// Every client that can reach the address can read them; no token is required.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_METRICS")]
    pub metrics: Option<String>,

    /// Write TensorBoard event files to tensorboard/ in the results folder
    #[arg(long)]
    pub tensorboard: bool,

    /// Write a trace of the rounds to FILE, for Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

impl WatchArgs {
    /// Formats the settings as flags, to pass them to another program.
    pub fn flags(&self) -> impl Iterator<Item = OsString> {
        let dashboard = self.dashboard.as_ref().map(|address| format!("--dashboard={address}").into());
        let metrics = self.metrics.as_ref().map(|address| format!("--metrics={address}").into());
        let tensorboard = self.tensorboard.then(|| "--tensorboard".into());
        let trace = self.trace.as_ref().map(|path| ["--trace".into(), path.clone().into_os_string()]);
        [dashboard, metrics, tensorboard].into_iter().flatten().chain(trace.into_iter().flatten())
    }
}

/// Where the data lies on this machine.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Base folder for relative paths of data sources
    ///
    /// By default, this is the folder of the run file; for ps-worker, it is the current folder.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "DOWNHILL_DATA_ROOT")]
    pub data_root: Option<PathBuf>,
}

impl Default for CheckpointArgs {
    fn default() -> Self {
        CheckpointArgs {
            checkpoint_every: None,
            checkpoint_seconds: CHECKPOINT_SECONDS,
            checkpoint_keep: CHECKPOINTS_KEPT,
            allow_fresh: false,
        }
    }
}

impl CheckpointArgs {
    /// Formats the settings as flags, to pass them to another program.
    pub fn flags(&self) -> impl Iterator<Item = String> {
        let every = self.checkpoint_every.map(|steps| format!("--checkpoint-every={steps}"));
        let fresh = self.allow_fresh.then(|| "--allow-fresh".to_owned());
        let seconds = format!("--checkpoint-seconds={}", self.checkpoint_seconds);
        let keep = format!("--checkpoint-keep={}", self.checkpoint_keep);
        [seconds, keep].into_iter().chain(every).chain(fresh)
    }
}

impl RunArgs {
    /// Loads the run file, with the overrides of `--set`.
    pub fn load(&self) -> Result<RunConfig, ConfigError> {
        RunConfig::load(&self.run, &self.sets)
    }

    /// The run file's folder, at which relative paths in it start.
    pub fn folder(&self) -> &Path {
        match self.run.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

impl DataArgs {
    /// Returns the folder at which relative paths of sources start, for a run file in `run_folder`.
    pub fn root<'a>(&'a self, run_folder: &'a Path) -> &'a Path {
        self.data_root.as_deref().unwrap_or(run_folder)
    }
}
