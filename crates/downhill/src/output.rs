//! What goes to stdout and stderr.

use crate::failure::Failure;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};

/// Writes to stdout through `write`. A reader who closes the pipe early has what it wants: no failure.
pub fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes lines to stdout.
pub fn lines(lines: &[String]) -> Result<(), Failure> {
    to_stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}

/// Tells of an error on stderr, whether or not anybody reads it.
pub fn error(message: &str) {
    let mut stderr = io::stderr();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (on, off) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(stderr, "{on}error:{off} {message}");
}

/// Tells the user something on stderr.
pub fn note(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}
