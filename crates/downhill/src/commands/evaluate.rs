//! TODO

use crate::failure::Failure;
use std::process::ExitCode;

/// x
#[derive(clap::Args)]
pub struct Arguments {}

/// x
pub fn run(_: &Arguments) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
