//! `downhill status`: how far a run is, who takes part, and what it waits for.

use crate::failure::Failure;
use crate::output;
use ps_config::SecurityArgs;
use ps_worker::WorkerError;
use ps_worker::observe::{self, Report};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Show how far a run is, who takes part, how fast, and what it waits for.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The server: HOST:PORT, or unix:PATH for one on this machine.
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:4370", env = "DOWNHILL_SERVER")]
    server: String,

    /// Look again every so many seconds, until the server is gone.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,

    /// Have the run saved after the step in hand, and wait until that is done.
    #[arg(long, conflicts_with = "watch")]
    checkpoint: bool,

    /// Print JSON, a line each time.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    security: SecurityArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill status 127.0.0.1:4370
  downhill status 127.0.0.1:4370 --watch
  downhill status 127.0.0.1:4370 --checkpoint
  downhill status unix:/run/downhill.sock --json";

/// A checkpoint that was asked for is looked for this often, so many times.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const LOOKS: u32 = 3000;

/// Asks and shows.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = observe::runtime().map_err(failed)?;
    if arguments.checkpoint {
        let steps =
            runtime.block_on(observe::checkpoint(&arguments.server, &arguments.security)).map_err(failed)?;
        for _ in 0..LOOKS {
            let report = ask(&runtime, arguments)?;
            if report.checkpoint() >= steps || report.is_done() {
                output::lines(&[format!("saved after {} steps", report.checkpoint())])?;
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        return Err(Failure::Failed(format!("{}: no checkpoint of step {steps} yet", arguments.server)));
    }
    show(&ask(&runtime, arguments)?, arguments)?;
    let Some(pause) = arguments.watch else { return Ok(ExitCode::SUCCESS) };
    loop {
        std::thread::sleep(Duration::from_secs(pause));
        match runtime.block_on(observe::status(&arguments.server, &arguments.security)) {
            Ok(report) => show(&report, arguments)?,
            // It was there: its end is the end of the watch.
            Err(error) => {
                output::note(&format!("{}: the server is gone: {error}", arguments.server));
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn ask(runtime: &observe::Runtime, arguments: &Arguments) -> Result<Report, Failure> {
    runtime.block_on(observe::status(&arguments.server, &arguments.security)).map_err(failed)
}

fn show(report: &Report, arguments: &Arguments) -> Result<(), Failure> {
    if arguments.json {
        return output::lines(&[report.to_json()]);
    }
    let mut lines = report.lines();
    if arguments.watch.is_some() {
        if std::io::stdout().is_terminal() {
            // The picture stays where it is: to the corner, and whatever was there goes.
            lines.insert(0, "\x1b[H\x1b[2J".into());
        } else {
            lines.push(String::new());
        }
    }
    output::lines(&lines)
}

fn failed(error: WorkerError) -> Failure {
    match error.exit_code() {
        2 => Failure::Usage(error.to_string().replacen("--server ", "", 1)),
        _ => Failure::Failed(error.to_string()),
    }
}
