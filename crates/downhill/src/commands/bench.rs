//! `downhill bench`: how well it runs on this machine.

use crate::failure::Failure;
use ps_bench::{Bench, Effort, Error, GROUPS, Held, Measurement};
use serde_json::json;
use std::cell::Cell;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Measure how well Downhill runs on this machine.
///
/// Each figure is shown as soon as it is known, and beside what bounds it: products beside the core's peak, the
/// server's work beside a copy in memory, rounds beside bare sockets. Best on a machine that does nothing else.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Write one JSON object a line: name, value, unit, and the ratio to what it is held against.
    #[arg(long)]
    json: bool,

    /// Take about ten seconds instead of a minute; leaves out rounds of 100 MB.
    #[arg(long)]
    quick: bool,

    /// Measure only what has these names or begins with them, such as peak or round/10kB.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  downhill bench
  downhill bench --quick --only peak,kernel
  downhill bench --json > this-machine.jsonl";

/// Measures and tells.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    for only in &arguments.only {
        let group = only.split('/').next().unwrap_or_default();
        if !GROUPS.contains(&group) {
            let known = GROUPS.join(", ");
            return Err(Failure::Usage(format!(
                "--only {only}: no figure's name begins so; there are {known}"
            )));
        }
    }
    ps_bench::prepare();
    let told = Cell::new(false);
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let tell = |figure: &Measurement| {
        told.set(true);
        let mut out = io::stdout().lock();
        if arguments.json { writeln!(out, "{}", line(figure)) } else { writeln!(out, "{figure}") }
    };
    match ps_bench::run(&mut Bench::new(effort, Box::new(tell)).only(arguments.only.clone())) {
        // A reader who closes the pipe early has what it wants.
        Err(Error::Report(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Failed(error.to_string())),
        Ok(()) if !told.get() => {
            let only = arguments.only.join(",");
            Err(Failure::Usage(format!(
                "--only {only}: no figure's name begins so; a run without it shows all names"
            )))
        }
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn line(figure: &Measurement) -> serde_json::Value {
    let Measurement { name, value, unit, held } = figure;
    let mut line = json!({ "name": name, "value": value, "unit": unit });
    if let Some(Held { ratio, of }) = held {
        line["ratio"] = json!(ratio);
        line["of"] = json!(of);
    }
    line
}
