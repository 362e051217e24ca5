//! `ps-sim`: runs many seeds of the simulator with faults, or replays one.

use clap::Parser;
use ps_core::{reference, weights_hash};
use ps_sim::tiny::{TinySamples, tiny_job, tiny_job_of};
use ps_sim::{Counts, Faults, Report, SimJob, Violation, simulate, simulate_traced};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;

/// Runs server and workers in virtual time under seeded faults and checks every invariant after every event.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Seeds to run, such as 0..1000 (the end is not included).
    #[arg(long, default_value = "0..1000", value_parser = parse_seeds)]
    seeds: Range<u64>,
    /// One seed to run instead.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print every event and action of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Nothing goes wrong in these runs.
    #[arg(long)]
    no_faults: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let faults = if args.no_faults { Faults::none() } else { Faults::mix() };
    let samples = TinySamples::new();
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed.saturating_add(1));
    let count = seeds.end.saturating_sub(seeds.start);
    let (mut totals, mut steps, mut events) = (Counts::default(), 0, 0);
    let (mut longest_ms, mut slowest) = (0, 0);
    let expected = expected_hash(&samples);
    for seed in seeds.clone() {
        let job = SimJob { expected: Some(expected.clone()), ..tiny_job_of(&samples, seed) };
        match run(&job, &faults, seed, args.trace) {
            Ok(report) => {
                totals.add(&report.counts);
                steps += report.steps;
                events += report.events;
                if report.virtual_ms > longest_ms {
                    (longest_ms, slowest) = (report.virtual_ms, seed);
                }
            }
            Err(violation) => {
                report_violation(&violation, args.trace, args.no_faults);
                return ExitCode::FAILURE;
            }
        }
        progress(seed - seeds.start + 1, count);
    }
    println!("{count} seeds, {steps} steps, {events} events: all invariants held, every run ended in");
    println!("{expected}");
    println!("{totals}");
    println!("longest run: {longest_ms} ms of virtual time, seed {slowest}");
    ExitCode::SUCCESS
}

/// What the reference trainer makes of the tiny job.
fn expected_hash(samples: &TinySamples) -> String {
    let SimJob { model, plan, optimizer, rate, .. } = tiny_job(samples, 1);
    let weights = reference::train(&model, plan, optimizer, rate, samples, |_, _| {});
    weights_hash(
        &weights.expect("the tiny job does not diverge: its rate is small and its samples are fixed"),
    )
}

fn run(job: &SimJob<'_>, faults: &Faults, seed: u64, trace: bool) -> Result<Report, Violation> {
    match trace {
        true => {
            let mut out = std::io::stdout().lock();
            // A reader that has seen enough, such as `head`, does not end the run.
            simulate_traced(job, faults, seed, &mut |line| drop(writeln!(out, "{line}")))
        }
        false => simulate(job, faults, seed),
    }
}

fn report_violation(violation: &Violation, traced: bool, no_faults: bool) {
    for line in &violation.log {
        eprintln!("{line}");
    }
    eprintln!("{violation}");
    if !traced {
        let faults = if no_faults { " --no-faults" } else { "" };
        eprintln!("replay it with: ps-sim --seed {}{faults} --trace", violation.seed);
    }
}

/// A line that rewrites itself on a terminal, a line per tenth elsewhere.
fn progress(done: u64, count: u64) {
    let mut err = std::io::stderr();
    let result = if err.is_terminal() {
        write!(err, "\r{done} of {count} seeds{}", if done == count { "\n" } else { "" })
    } else if count >= 10 && done.is_multiple_of(count / 10) {
        writeln!(err, "{done} of {count} seeds")
    } else {
        Ok(())
    };
    // Progress that cannot be written is no reason to stop.
    drop(result);
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("expected two numbers, such as 0..1000")?;
    let number = |part: &str| part.trim().parse::<u64>().map_err(|error| format!("`{part}`: {error}"));
    let (start, end) = (number(start)?, number(end)?);
    match start < end {
        true => Ok(start..end),
        false => Err(format!("{start}..{end} holds no seed")),
    }
}
