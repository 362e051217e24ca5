//! The flags that several binaries share, in groups to flatten.

use crate::error::ConfigError;
use crate::run::RunConfig;
use clap::Args;
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

/// Where the data lies on this machine.
#[derive(Args, Clone, Debug, Default)]
pub struct DataArgs {
    /// Folder that relative paths of the run file's sources start at, instead of the run file's own.
    #[arg(long, value_name = "DIR", env = "DOWNHILL_DATA_ROOT")]
    pub data_root: Option<PathBuf>,
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
