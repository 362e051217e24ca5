//! What goes to stdout and stderr.

use crate::failure::Failure;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Writes to stdout through `write`. A reader who closes the pipe early has what it wants: no failure.
pub(crate) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes lines to stdout.
pub(crate) fn lines(lines: &[String]) -> Result<(), Failure> {
    to_stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}

/// Tells of an error on stderr, whether or not anybody reads it.
pub(crate) fn error(message: &str) {
    let (on, off) = if ps_terminal::has_color() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    ps_terminal::print(&format!("{on}error:{off} {message}"));
}

/// Tells the user something on stderr.
pub(crate) fn note(message: &str) {
    ps_terminal::print(message);
}

/// Warns the user on stderr.
pub(crate) fn warn(message: &str) {
    ps_terminal::print(&format!("warning: {message}"));
}
