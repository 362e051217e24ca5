//! `downhill stop`: ends a run for good.

use super::status::failed;
use crate::failure::Failure;
use crate::output;
use ps_config::SecurityArgs;
use ps_worker::observe;
use std::path::PathBuf;
use std::process::ExitCode;

/// End a run on a server for good, and save its results so far
///
/// The server saves the run; then server, shards and workers exit with code 3, so that supervisors do not
/// restart them. A server that is started again in the same folder exits with code 3, too, until it is
/// started with --resume. To stop a server for a while, send it SIGTERM instead: workers and shards then wait
/// for it to be started again.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Server address: HOST:PORT or unix:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:4370", env = "DOWNHILL_SERVER")]
    server: String,

    /// File with one of the tokens of the server's --admin-token-file
    ///
    /// Not needed on the server's Unix socket.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_ADMIN_TOKEN_FILE", help_heading = "Security")]
    admin_token_file: Option<PathBuf>,

    #[command(flatten)]
    security: SecurityArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill stop train.example:4370 --admin-token-file admin-token
  downhill stop unix:/run/downhill.sock";

/// Asks the server to end the run, and waits until it has saved the run.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = observe::runtime().map_err(failed)?;
    let admin = arguments.admin_token_file.as_deref();
    let steps = runtime.block_on(observe::stop(&arguments.server, &arguments.security, admin));
    output::lines(&[format!("run ended; saved after {} steps", steps.map_err(failed)?)])?;
    Ok(ExitCode::SUCCESS)
}
