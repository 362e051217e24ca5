//! `downhill status`: shows the progress of a run, its workers, and what it waits for.

use crate::failure::Failure;
use crate::output;
use ps_config::SecurityArgs;
use ps_terminal::stdout_size;
use ps_worker::WorkerError;
use ps_worker::observe::{self, Report};
use std::process::ExitCode;
use std::time::Duration;

/// Show the progress of a run, its workers, and what it waits for
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Server address: HOST:PORT or unix:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:4370", env = "DOWNHILL_SERVER")]
    server: String,

    /// Repeat every N seconds until the server exits [if no N is given: 1]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,

    /// Save a checkpoint after the current step, and wait until it is durable
    #[arg(long, conflicts_with = "watch")]
    checkpoint: bool,

    /// Print one JSON object per line
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

/// Interval and number of checks for a checkpoint that was requested.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const MAX_CHECKS: u32 = 3000;

/// Asks the server for its status and prints it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = observe::runtime().map_err(failed)?;
    if arguments.checkpoint {
        let steps =
            runtime.block_on(observe::checkpoint(&arguments.server, &arguments.security)).map_err(failed)?;
        for _ in 0..MAX_CHECKS {
            let report = fetch_report(&runtime, arguments)?;
            if report.checkpoint() >= steps || report.is_done() {
                output::lines(&[format!("saved after {} steps", report.checkpoint())])?;
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(CHECK_INTERVAL);
        }
        return Err(Failure::Failed(format!(
            "{}: the checkpoint of step {steps} was not written within 5 \
                                            minutes",
            arguments.server
        )));
    }
    show(&fetch_report(&runtime, arguments)?, arguments)?;
    let Some(pause) = arguments.watch else { return Ok(ExitCode::SUCCESS) };
    loop {
        std::thread::sleep(Duration::from_secs(pause));
        match runtime.block_on(observe::status(&arguments.server, &arguments.security)) {
            Ok(report) => show(&report, arguments)?,
            // The server answered before, so a lost connection means that it has exited. That is the regular
            // end of --watch.
            Err(error) => {
                output::note(&format!("{}: the server has exited: {error}", arguments.server));
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn fetch_report(runtime: &observe::Runtime, arguments: &Arguments) -> Result<Report, Failure> {
    runtime.block_on(observe::status(&arguments.server, &arguments.security)).map_err(failed)
}

fn show(report: &Report, arguments: &Arguments) -> Result<(), Failure> {
    if arguments.json {
        return output::lines(&[report.to_json()]);
    }
    let size = stdout_size();
    let mut lines = report.lines(size.map(|(_, columns)| columns));
    match (arguments.watch, size) {
        (Some(_), Some((rows, _))) => output::to_stdout(|out| out.write_all(redraw(lines, rows).as_bytes())),
        (Some(_), None) => {
            // A blank line separates reports.
            lines.push(String::new());
            output::lines(&lines)
        }
        (None, _) => output::lines(&lines),
    }
}

/// Formats text that redraws a terminal of `rows` rows without flicker: each line overwrites its row, and the
/// rest of the previous text is erased.
fn redraw(mut lines: Vec<String>, rows: usize) -> String {
    // The cursor is on the row below the last line, which must also fit.
    let most = rows.saturating_sub(1).max(1);
    if lines.len() > most {
        let hidden = lines.len() - (most - 1);
        lines.truncate(most - 1);
        lines.push(format!("… and {hidden} more; --json has all"));
    }
    let lines: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[H{lines}\x1b[J")
}

pub(super) fn failed(error: WorkerError) -> Failure {
    match error.exit_code() {
        2 => Failure::Usage(error.to_string().replacen("--server ", "", 1)),
        _ => Failure::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_scrolls() {
        let lines = |count: usize| (1..=count).map(|line| line.to_string()).collect::<Vec<_>>();
        assert_eq!(redraw(lines(2), 3), "\x1b[H1\x1b[K\n2\x1b[K\n\x1b[J");
        assert_eq!(redraw(lines(3), 3), "\x1b[H1\x1b[K\n… and 2 more; --json has all\x1b[K\n\x1b[J");
    }
}
