//! The command line of Downhill.

mod child_process;
mod commands;
mod drawing;
mod failure;
mod interrupt;
mod output;
mod programs;

use clap::{Parser, Subcommand};
#[cfg(unix)]
use commands::verify;
use commands::{
    bench, certs, coefficients, completions, data, diff, evaluate, explain, export, find_lr, launch, man,
    plot, predict, runs, simulate, status, stop, train,
};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

/// Train models by gradient descent, reproducibly, on one machine or many
#[derive(Parser)]
#[command(name = "downhill", version, propagate_version = true)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
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
    Coefficients(coefficients::Arguments),
    Predict(predict::Arguments),
    Explain(explain::Arguments),
    Export(export::Arguments),
    Plot(plot::Arguments),
    Runs(runs::Arguments),
    Diff(diff::Arguments),
    #[command(subcommand)]
    Data(data::Command),
    Status(status::Arguments),
    Stop(stop::Arguments),
    Certs(certs::Arguments),
    #[cfg(unix)]
    Verify(verify::Arguments),
    Simulate(simulate::Arguments),
    Bench(bench::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

const EXAMPLES: &str = "\
Examples:
  downhill train examples/digits.toml
  downhill launch examples/digits.toml --workers 2
  downhill evaluate runs/digits-1
  downhill plot runs/digits-1
  downhill man train | man -l -";

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong command line or run file
  3    the launched run was ended with 'downhill stop'
  130  stopped by Ctrl-C, with the results so far saved";

fn main() -> ExitCode {
    let arguments: Arguments = ps_config::parse(programs::COMMIT);
    let result = match arguments.command {
        Command::Train(arguments) => train::run(&arguments),
        Command::Launch(arguments) => launch::run(&arguments),
        Command::FindLr(arguments) => find_lr::run(&arguments),
        Command::Coefficients(arguments) => coefficients::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Plot(arguments) => plot::run(&arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Data(command) => data::run(&command),
        Command::Status(arguments) => status::run(&arguments),
        Command::Stop(arguments) => stop::run(&arguments),
        Command::Certs(arguments) => certs::run(&arguments),
        #[cfg(unix)]
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    };
    result.unwrap_or_else(|failure| {
        output::error(&failure.to_string());
        failure.exit_code()
    })
}
