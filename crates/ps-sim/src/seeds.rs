//! The command-line arguments for seeds, and a driver that runs many seeds and reports progress.

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
    /// The seeds to run.
    pub fn range(&self) -> Range<u64> {
        self.seed.map_or(self.seeds.clone(), |seed| seed..seed.saturating_add(1))
    }
}

/// Parses a range of seeds, `START..END`, which must not be empty.
fn parse(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("expected two numbers, such as 0..1000")?;
    let number = |part: &str| part.trim().parse::<u64>().map_err(|error| format!("`{part}`: {error}"));
    let (start, end) = (number(start)?, number(end)?);
    match start < end {
        true => Ok(start..end),
        false => Err(format!("{start}..{end} holds no seed")),
    }
}

/// Prints progress: a line that is overwritten on a terminal, otherwise a line per tenth.
pub fn progress(done: u64, count: u64) {
    let mut err = std::io::stderr();
    let result = if err.is_terminal() {
        write!(err, "\r{done} of {count} seeds{}", if done == count { "\n" } else { "" })
    } else if count >= 10 && done.is_multiple_of(count / 10) {
        writeln!(err, "{done} of {count} seeds")
    } else {
        Ok(())
    };
    // A failure to write progress is no reason to stop.
    drop(result);
}

/// Runs each of `seeds`, one per processor at a time, and passes each result to `add`, in any order.
///
/// # Errors
/// Returns the first error. No further seed starts after it.
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
    // Threads rather than rayon: a rayon thread that waits within a run could start another run.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner).1
}
