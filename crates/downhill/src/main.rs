//! The command line of Downhill: train, launch, find-lr, evaluate, predict, plot, explain, runs, diff, simulate, data inspect, bench,
//! certs, status, verify.

mod children;
mod commands;
mod drawing;
mod failure;
mod interrupt;
mod local;
mod output;
mod saved;

use clap::{Parser, Subcommand};
#[cfg(unix)]
use commands::verify;
use commands::{
    bench, certs, data, diff, evaluate, explain, find_lr, launch, plot, predict, runs, simulate, status,
    train,
};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

/// Trains models by gradient descent, on one machine or on many, to the same bits.
#[derive(Parser)]
#[command(name = "downhill", version, propagate_version = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Arguments),
    Launch(launch::Arguments),
    FindLr(find_lr::Arguments),
    Evaluate(evaluate::Arguments),
    Plot(plot::Arguments),
    Explain(explain::Arguments),
    Predict(predict::Arguments),
    Runs(runs::Arguments),
    Diff(diff::Arguments),
    Simulate(simulate::Arguments),
    #[command(subcommand)]
    Data(data::Command),
    Bench(bench::Arguments),
    Certs(certs::Arguments),
    Status(status::Arguments),
    #[cfg(unix)]
    Verify(verify::Arguments),
}

const EXAMPLES: &str = "\
Examples:
  downhill train examples/digits.toml
  downhill train examples/digits.toml --threads 4 --set train.epochs=2
  downhill launch examples/mnist.toml --workers 2
  downhill find-lr examples/digits.toml
  downhill plot runs/digits-1
  downhill explain runs/digits-1 --sample 0
  downhill evaluate runs/digits-1
  downhill predict runs/digits-1 --data csv:new.csv --output predictions.csv
  downhill runs
  downhill diff runs/digits-1 runs/digits-2
  downhill simulate examples/mnist.toml --workers 1,2,4,8 --bandwidth 10Gbit
  downhill data inspect digits:
  downhill certs --out certs --host train.example --workers 4
  downhill status 127.0.0.1:4370 --watch
  downhill verify

Exit codes: 0 done, 1 failed, 2 wrong usage or run file, 130 stopped by Ctrl-C with results written.";

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Train(arguments) => train::run(&arguments),
        Command::Launch(arguments) => launch::run(&arguments),
        Command::FindLr(arguments) => find_lr::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Plot(arguments) => plot::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Data(command) => data::run(&command),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Certs(arguments) => certs::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        #[cfg(unix)]
        Command::Verify(arguments) => verify::run(&arguments),
    };
    result.unwrap_or_else(|failure| {
        output::error(&failure.to_string());
        failure.exit_code()
    })
}
