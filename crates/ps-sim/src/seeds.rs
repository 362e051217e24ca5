//! Seeds on the command line, and how many are done.

use std::io::{IsTerminal, Write};
use std::ops::Range;

/// Reads `START..END`.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Range<u64>, String> {
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
