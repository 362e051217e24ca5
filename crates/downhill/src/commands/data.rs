//! TODO

use crate::failure::Failure;
use std::process::ExitCode;

/// x
#[derive(clap::Subcommand)]
pub enum Command {
    /// x
    Inspect,
}

/// x
pub fn run(_: &Command) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
