//! Seeds on the command line, runs of many seeds, and how many are done.

use clap::Args;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Which seeds to run.
#[derive(Args)]
pub struct SeedArgs {
    /// Seeds to run, such as 0..1000 (the end is not included).
    #[arg(long, default_value = "0..1000", value_parser = parse)]
    seeds: Range<u64>,
    /// One seed to run instead.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
}

impl SeedArgs {
    /// All of them.
    pub fn range(&self) -> Range<u64> {
        self.seed.map_or(self.seeds.clone(), |seed| seed..seed.saturating_add(1))
    }
}

/// Reads `START..END`.
fn parse(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("expected two numbers, such as 0..1000")?;
    let number = |part: &str| part.trim().parse::<u64>().map_err(|error| format!("`{part}`: {error}"));
    let (start, end) = (number(start)?, number(end)?);
    match start < end {
        true => Ok(start..end),
        false => Err(format!("{start}..{end} holds no seed")),
    }
}

/// A line that rewrites itself on a terminal, a line per tenth elsewhere.
pub fn progress(done: u64, count: u64) {
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

/// Runs each of `seeds`, as many at a time as there are processors, and gives each result to `add`, in any order.
///
/// # Errors
/// The first error; no further seed is begun after it.
pub fn run_all<R, E: Send>(
    seeds: Range<u64>,
    run: impl Fn(u64) -> Result<R, E> + Sync,
    add: impl FnMut(R) + Send,
) -> Result<(), E> {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let total = Mutex::new((add, Ok(())));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let ran = run(seed);
            let (add, outcome) = &mut *total.lock().unwrap_or_else(PoisonError::into_inner);
            match ran {
                _ if outcome.is_err() => return,
                Ok(result) => add(result),
                Err(error) => {
                    *outcome = Err(error);
                    next.store(end, Ordering::Relaxed);
                }
            }
        }
    };
    // Threads, not rayon: while a run computes, its thread must not begin another one.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner).1
}
