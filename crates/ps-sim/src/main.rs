//! `ps-sim`: runs many seeds of the simulator with faults, or replays one.

use clap::Parser;
use ps_sim::seeds::{self, SeedArgs};
use ps_sim::tiny::{TinySamples, tiny_job_for_seed};
use ps_sim::{Counts, Faults, Report, SimJob, Violation, simulate, simulate_traced};
use std::io::Write;
use std::process::ExitCode;

/// Runs server and workers in virtual time under seeded faults and checks every invariant after every event.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    seeds: SeedArgs,
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
    let seeds = args.seeds.range();
    let count = seeds.end.saturating_sub(seeds.start);
    let (mut totals, mut steps, mut events, mut done) = (Counts::default(), 0, 0, 0);
    let (mut longest_ms, mut slowest) = (0, 0);
    let simulate_seed = |seed| {
        let job = tiny_job_for_seed(&samples, seed);
        let (expected, _) = job
            .reference()
            .expect("the tiny job does not diverge: its rate is small and its samples are fixed");
        let job = SimJob { expected: Some(expected), ..job };
        Ok((seed, run(&job, &faults, seed, args.trace)?))
    };
    let ran = seeds::run_all(seeds, simulate_seed, |(seed, report)| {
        totals.add(&report.counts);
        steps += report.steps;
        events += report.events;
        if (report.virtual_ms, slowest) > (longest_ms, seed) {
            (longest_ms, slowest) = (report.virtual_ms, seed);
        }
        done += 1;
        seeds::progress(done, count);
    });
    if let Err(violation) = ran {
        report_violation(&violation, args.trace, args.no_faults);
        return ExitCode::FAILURE;
    }
    println!("{count} seeds, {steps} steps, {events} events: all invariants held, every run ended with the");
    println!("weights of the reference trainer");
    println!("{totals}");
    println!("longest run: {longest_ms} ms of virtual time, seed {slowest}");
    ExitCode::SUCCESS
}

fn run(job: &SimJob<'_>, faults: &Faults, seed: u64, trace: bool) -> Result<Report, Violation> {
    match trace {
        true => {
            let mut out = std::io::stdout().lock();
            // A reader that stops early, such as `head`, does not end the run.
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
