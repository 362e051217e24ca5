//! Writes to standard output, standard error and new files.

use crate::failure::Failure;
use ps_data::DataError;
use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;

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
    to_stdout(|out| lines.iter().try_for_each(|line| writeln!(out, "{}", printable(line))))
}

/// Replaces control characters, with which a cell of a file could change what a terminal shows.
fn printable(text: &str) -> Cow<'_, str> {
    let is_control = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    match text.contains(is_control) {
        true => text.replace(is_control, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// Creates the file `path` atomically. An existing file is never replaced.
pub(crate) fn write_new(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let failed = |error| Failure::from(DataError::File { path: path.into(), error });
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside = tempfile::Builder::new();
    // Sets the permissions of any new file. By default, only its owner can read a temporary file.
    #[cfg(unix)]
    aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let aside = aside.tempfile_in(folder).map_err(failed)?;
    let mut out = BufWriter::new(&aside);
    write(&mut out).and_then(|()| out.flush()).map_err(failed)?;
    drop(out);
    aside.as_file().sync_all().map_err(failed)?;
    // Fails if another process has created the file meanwhile. A check before writing could not exclude that.
    aside.persist_noclobber(path).map(drop).map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => already_exists(path),
        _ => failed(error.error),
    })
}

/// Returns the error for an existing file `path`.
pub(crate) fn already_exists(path: &Path) -> Failure {
    Failure::Usage(format!(
        "{}: the file exists and is not overwritten; choose another --output",
        path.display()
    ))
}

/// Reports an error on standard error; write errors are ignored.
pub(crate) fn error(message: &str) {
    let (on, off) = if ps_terminal::has_color() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    ps_terminal::print(&format!("{on}error:{off} {}", printable(message)));
}

/// Writes a message for the user to standard error.
pub(crate) fn note(message: &str) {
    ps_terminal::print(&printable(message));
}

/// Writes a warning to standard error.
pub(crate) fn warn(message: &str) {
    ps_terminal::print(&format!("warning: {}", printable(message)));
}

/// Returns the error of the underlying writer, whose kind says whether a pipe was closed.
pub(crate) fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
