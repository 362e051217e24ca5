//! Code that the benches share. The measurements are in `ps-bench`, because `downhill bench` makes them as
//! well.
//!
//! `cargo bench -p downhill-benches --bench NAME [-- [--quick] [FIGURE…]]`

use ps_bench::{Bench, Effort, Error};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

/// Runs `measure` for the figures named on the command line; by default, those in `groups`.
pub fn main(groups: &[&str], measure: impl FnOnce(&mut Bench) -> Result<(), Error>) -> ExitCode {
    // Cargo passes --bench. Without it, this runs as a test, in which timings would be meaningless.
    let (flags, mut only): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    if has("--test") || !has("--bench") {
        return ExitCode::SUCCESS;
    }
    if only.is_empty() {
        only = groups.iter().map(ToString::to_string).collect();
    }
    ps_bench::prepare();
    let effort = if has("--quick") { Effort::Quick } else { Effort::Full };
    let report = |figure: &ps_bench::Measurement| {
        println!("{figure}");
        Ok(())
    };
    match measure(&mut Bench::new(effort, Box::new(report)).only(only)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
