//! Writes to standard output and standard error.

use crate::failure::Failure;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Writes to standard output. A closed pipe is not an error: its reader has seen what it wanted.
pub(crate) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes lines to standard output.
pub(crate) fn lines(lines: &[String]) -> Result<(), Failure> {
    to_stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}

/// Reports an error on standard error; write errors are ignored.
pub(crate) fn error(message: &str) {
    let (on, off) = if ps_terminal::has_color() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    ps_terminal::print(&format!("{on}error:{off} {message}"));
}

/// Writes a message for the user to standard error.
pub(crate) fn note(message: &str) {
    ps_terminal::print(message);
}

/// Writes a warning to standard error.
pub(crate) fn warn(message: &str) {
    ps_terminal::print(&format!("warning: {message}"));
}

/// Returns the error of the underlying writer, whose kind says whether a pipe was closed.
pub(crate) fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
