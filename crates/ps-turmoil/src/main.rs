//! `ps-turmoil`: runs many seeds of the simulated network, or replays one.

use clap::Parser;
use ps_sim::seeds;
use ps_turmoil::{Report, Violation, simulate, simulate_all};
use std::ops::Range;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the servers and workers over a simulated network and disk, under seeded faults: each run must end with the
/// reference trainer's weights.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Seeds to run, such as 0..1000 (the end is not included).
    #[arg(long, default_value = "0..1000", value_parser = seeds::parse)]
    seeds: Range<u64>,
    /// One seed to run instead.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print what happens in the run; RUST_LOG says how much.
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.trace {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let ran = match args.seed {
        Some(seed) => simulate(seed).map(|report| (1, report)),
        None => {
            let count = args.seeds.end - args.seeds.start;
            simulate_all(args.seeds, |done| seeds::progress(done, count)).map(|report| (count, report))
        }
    };
    match ran {
        Ok((count, Report { took, counts, .. })) => {
            println!("{count} seeds: every run ended with the reference trainer's weights");
            println!("{counts}");
            println!("longest run: {} ms of virtual time", took.as_millis());
            ExitCode::SUCCESS
        }
        Err(violation @ Violation { .. }) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}
