//! `downhill bench`: measures how fast Downhill runs on this machine.

use crate::failure::Failure;
use ps_bench::{Bench, Comparison, Effort, Error, GROUPS, Measurement};
use ps_config::{DataArgs, RunArgs};
use ps_data::NoProgress;
use ps_run::Job;
use serde_json::json;
use std::cell::Cell;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure how fast Downhill runs on this machine
///
/// Shows each figure as soon as it is measured, next to the figure that bounds it: the peak of the core for
/// matrix products, a copy in memory for the server's update, and bare sockets for rounds. Run it on an
/// otherwise idle machine.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Print one JSON object per figure
    ///
    /// Each has a name, a value, a unit, and the ratio of the value to its bound.
    #[arg(long)]
    json: bool,

    /// Measure for about 15 seconds instead of 90, without rounds of 100 MB
    #[arg(long)]
    quick: bool,

    /// Measure only figures whose names start with these, such as round/10kB
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,

    /// Run file to measure the costs of, for 'downhill simulate'
    ///
    /// By default, the model is 784-512-256-10 on built-in data.
    #[arg(long, value_name = "RUN.toml")]
    run: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill bench
  downhill bench --quick --only peak,kernel
  downhill bench --json > this-machine.jsonl
  downhill bench --json --only cost --run examples/digits.toml > costs.jsonl
  downhill simulate examples/digits.toml --bench costs.jsonl";

/// Measures, and prints each figure.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    for only in &arguments.only {
        let group = only.split('/').next().unwrap_or_default();
        if !GROUPS.contains(&group) {
            let known = GROUPS.join(", ");
            return Err(Failure::Usage(format!(
                "--only {only}: no measurement has a name that starts with this; names start with {known}"
            )));
        }
    }
    ps_bench::prepare();
    let job = arguments.run.as_ref().map(|run| load(arguments, run)).transpose()?;
    let told = Cell::new(false);
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let report = |figure: &Measurement| {
        told.set(true);
        let mut out = io::stdout().lock();
        if arguments.json { writeln!(out, "{}", line(figure)) } else { writeln!(out, "{figure}") }
    };
    let mut bench = Bench::new(effort, Box::new(report)).only(arguments.only.clone());
    match ps_bench::run(&mut bench, job.as_ref()) {
        // A reader that closes the pipe early has seen what it wanted.
        Err(Error::Report(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Failed(error.to_string())),
        Ok(()) if !told.get() => {
            let only = arguments.only.join(",");
            Err(Failure::Usage(format!(
                "--only {only}: no measurement has a name that starts with this; run without --only to see \
                 all names"
            )))
        }
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn load(arguments: &Arguments, run: &Path) -> Result<Job, Failure> {
    let run = RunArgs { run: run.into(), sets: Vec::new() };
    let root = arguments.data.root(run.folder());
    Ok(super::load(run.load()?, root, &NoProgress)?)
}

fn line(figure: &Measurement) -> serde_json::Value {
    let Measurement { name, value, unit, comparison } = figure;
    let mut line = json!({ "name": name, "value": value, "unit": unit });
    if let Some(Comparison { ratio, of }) = comparison {
        line["ratio"] = json!(ratio);
        line["of"] = json!(of);
    }
    line
}
