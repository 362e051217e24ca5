//! The flags that several binaries share, in groups to flatten.

use crate::error::ConfigError;
use crate::run::RunConfig;
use clap::Args;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Which run.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The run file.
    #[arg(value_name = "RUN.toml")]
    pub run: PathBuf,

    /// Override a key of the run file, such as train.batch=256; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// Where results go.
#[derive(Args, Clone, Debug, Default)]
pub struct OutArgs {
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// When a run is saved, and what it goes on from.
#[derive(Args, Clone, Debug)]
pub struct CheckpointArgs {
    /// Save the run after every so many steps. A run that is started again with the same --out goes on from there.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: Option<u64>,

    /// Save it so many seconds after it was last saved; 0: not by time.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub checkpoint_seconds: u64,

    /// How many of the last checkpoints are kept.
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_keep: u32,

    /// Begin at step 0 where there are checkpoints but none that is good, which is otherwise refused.
    #[arg(long)]
    pub allow_fresh: bool,
}

/// What can be seen of a run while it goes on.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Watching")]
pub struct WatchArgs {
    /// Serve a page that shows how the run goes [without ADDRESS: 127.0.0.1:8080]. A port in use is warned of.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8080", env = "DOWNHILL_DASHBOARD")]
    pub dashboard: Option<String>,

    /// Serve metrics for Prometheus at http://ADDRESS/metrics, to whoever asks.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_METRICS")]
    pub metrics: Option<String>,

    /// Also write event files for TensorBoard, to tensorboard/ in the folder of results.
    #[arg(long)]
    pub tensorboard: bool,

    /// Write a trace of the rounds for Perfetto (ui.perfetto.dev) to this file.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

impl WatchArgs {
    /// The same as flags of another program.
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
pub struct DataArgs {
    /// Folder that relative paths of the run file's sources start at, instead of the run file's own.
    #[arg(long, value_name = "DIR", env = "DOWNHILL_DATA_ROOT")]
    pub data_root: Option<PathBuf>,
}

impl CheckpointArgs {
    /// The same as flags of another program.
    pub fn flags(&self) -> impl Iterator<Item = String> {
        let every = self.checkpoint_every.map(|steps| format!("--checkpoint-every={steps}"));
        let fresh = self.allow_fresh.then(|| "--allow-fresh".to_owned());
        let seconds = format!("--checkpoint-seconds={}", self.checkpoint_seconds);
        let keep = format!("--checkpoint-keep={}", self.checkpoint_keep);
        [seconds, keep].into_iter().chain(every).chain(fresh)
    }
}

impl RunArgs {
    /// The run that the file and the overrides make.
    pub fn load(&self) -> Result<RunConfig, ConfigError> {
        RunConfig::load(&self.run, &self.sets)
    }

    /// The run file's folder, where relative paths in it start.
    pub fn folder(&self) -> &Path {
        match self.run.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

impl DataArgs {
    /// The folder that relative paths start at, for a run file in `run_folder`.
    pub fn root<'a>(&'a self, run_folder: &'a Path) -> &'a Path {
        self.data_root.as_deref().unwrap_or(run_folder)
    }
}
