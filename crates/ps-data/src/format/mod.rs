//! The formats of sources: a file for each, and a table of all of them.
//!
//! Whatever depends on the format of a source goes through [`FORMATS`]: parsing, reading, the files that a run may open
//! ([`confine`](crate::confine)) and those that `ps-fetch` downloads, `downhill data inspect`, and the fuzz targets.

pub(crate) mod csv;
mod digits;
mod idx;
pub(crate) mod libsvm;

use crate::config::DataConfig;
use crate::error::DataError;
use crate::progress::Place;
use crate::raw::Raw;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// All formats.
pub const FORMATS: [Format; 4] = [idx::FORMAT, csv::FORMAT, libsvm::FORMAT, digits::FORMAT];

/// A format of sources.
#[derive(Clone, Copy)]
pub struct Format {
    /// What a source of this format begins with, before the colon.
    pub prefix: &'static str,
    /// The format's name.
    pub name: &'static str,
    /// How a source of this format is written, for error messages.
    usage: &'static str,
    /// Whether `PREFIX:-` reads standard input. The other formats need more than one file, or none.
    reads_stdin: bool,
    /// Parses what follows the colon; fails with what is wrong with it.
    parse: fn(&str) -> Result<Box<dyn Reader>, String>,
}

/// A parsed source of one format.
trait Reader: Send + Sync {
    /// The files and URLs that the source names, in order.
    fn files(&self) -> Vec<&str>;

    /// Reads the source; `files` are the paths of [`Reader::files`].
    fn read(&self, files: &[PathBuf], from: Place<'_>, options: &csv::Options) -> Result<Raw, DataError>;
}

/// A source of samples, such as `csv:train.csv`.
pub struct Source {
    format: &'static Format,
    reader: Box<dyn Reader>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.format.prefix, self.files().join(","))
    }
}

impl Source {
    /// Parses the text of a source.
    ///
    /// # Errors
    /// The format is unknown, or the rest does not suit it.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let bad = |problem: String| DataError::Source { source: text.into(), problem };
        let Some((prefix, rest)) = text.split_once(':') else {
            return Err(bad(format!("it names no kind of source; {}", usage())));
        };
        let prefix = prefix.trim();
        let format = FORMATS.iter().find(|format| format.prefix == prefix);
        let format = format.ok_or_else(|| bad(format!("`{prefix}` is no kind of source; {}", usage())))?;
        let reader = (format.parse)(rest).map_err(bad)?;
        if !format.reads_stdin && reader.files().contains(&STDIN) {
            return Err(bad(no_stdin()));
        }
        Ok(Source { format, reader })
    }

    /// Its format.
    pub(crate) fn format(&self) -> &'static Format {
        self.format
    }

    /// The files and URLs that it names, in order.
    pub fn files(&self) -> Vec<&str> {
        self.reader.files()
    }

    /// The text of the same source with other files, as many as [`Source::files`] has.
    pub fn with_files(&self, files: &[String]) -> String {
        format!("{}:{}", self.format.prefix, files.join(","))
    }

    /// Whether it reads standard input, which can be read only once and by one process.
    pub fn reads_stdin(&self) -> bool {
        self.files().contains(&STDIN)
    }

    /// Reads the source; `options` apply to a table.
    pub(crate) fn read(&self, from: Place<'_>, options: &csv::Options) -> Result<Raw, DataError> {
        if from.memory.is_none() && self.reads_stdin() {
            let name = PathBuf::from(STDIN_NAME);
            let content = BTreeMap::from([(name.clone(), standard_input()?)]);
            return self.reader.read(&[name], Place { memory: Some(&content), ..from }, options);
        }
        let files: Vec<PathBuf> = self.files().into_iter().map(|file| from.root.join(file)).collect();
        self.reader.read(&files, from, options)
    }
}

impl DataConfig {
    /// The texts of all its sources, the training source first.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        let validation = self.validation_source();
        [Some(self.train.as_str()), validation, self.test.as_deref()].into_iter().flatten()
    }

    /// Whether a source reads standard input.
    pub fn reads_stdin(&self) -> bool {
        // A text that is not a source is refused when it is read.
        self.sources().filter_map(|source| Source::parse(source).ok()).any(|source| source.reads_stdin())
    }
}

/// Parses what follows the colon where that is a single path.
fn path(prefix: &str, rest: &str) -> Result<String, String> {
    match rest.trim() {
        "" => Err(format!("no path follows `{prefix}:`")),
        path => Ok(path.into()),
    }
}

/// Stands for standard input in the place of a path.
const STDIN: &str = "-";

/// What error messages and progress call standard input.
const STDIN_NAME: &str = "standard input";

fn no_stdin() -> String {
    let able = FORMATS.iter().filter(|format| format.reads_stdin);
    let able: Vec<String> = able.map(|format| format!("{}:-", format.prefix)).collect();
    format!("only {} read standard input; name a file (./- if it is called `-`)", able.join(" and "))
}

/// How sources are written.
fn usage() -> String {
    let [first @ .., last] = FORMATS.map(|format| format.usage);
    format!("use {} or {last}; a path may be a URL", first.join(", "))
}

/// All of standard input, which can be read only once.
fn standard_input() -> Result<Vec<u8>, DataError> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    let failed = |error| DataError::File { path: STDIN_NAME.into(), error };
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Err(failed(io::Error::other("it can be read only once; name a file instead of `-`")));
    }
    // The bytes, the parser's copy of them, and the table.
    ps_host::drain(io::stdin().lock(), 0, Ceiling::memory(3)).map_err(failed)
}
