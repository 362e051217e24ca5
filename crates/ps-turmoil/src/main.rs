//! `ps-turmoil`: runs many seeds of the simulated network, or replays one.

use clap::Parser;
use ps_sim::seeds::{self, SeedArgs};
use ps_turmoil::{Report, simulate_all};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the servers and workers over a simulated network and disk, under seeded faults: each run must end
/// with the reference trainer's weights.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    seeds: SeedArgs,
    /// Print what happens in the run; RUST_LOG says how much.
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.trace {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        // The wall clock says nothing about a run in virtual time.
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let seeds = args.seeds.range();
    let count = seeds.end.saturating_sub(seeds.start);
    match simulate_all(seeds, |done| seeds::progress(done, count)) {
        Ok(Report { took, counts, .. }) => {
            println!("{count} seeds: every run ended with the reference trainer's weights");
            println!("{counts}");
            println!("longest run: {} ms of virtual time", took.as_millis());
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}
