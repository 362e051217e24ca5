//! The formats of sources, one file each, and the table of all formats.
//!
//! Everything that depends on the format of a source goes through [`FORMATS`]: parsing, reading, the files
//! that a run may open ([`confine`](crate::confine)), the downloads of `ps-fetch`, `downhill data inspect`,
//! and the fuzz targets.

pub(crate) mod csv;
mod digits;
mod idx;
pub(crate) mod libsvm;

use crate::config::DataConfig;
use crate::error::DataError;
use crate::progress::ReadContext;
use crate::raw::Raw;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// All formats. A new format is a file and an entry here.
pub const FORMATS: [Format; 4] = [idx::FORMAT, csv::FORMAT, libsvm::FORMAT, digits::FORMAT];

/// A format of sources.
#[derive(Clone, Copy)]
pub struct Format {
    /// What precedes the colon in a source of this format.
    pub prefix: &'static str,
    /// The name of the format, for people.
    pub name: &'static str,
    /// The syntax of a source in this format, for error messages.
    usage: &'static str,
    /// Whether `PREFIX:-` reads standard input. The other formats need several files, or none.
    reads_stdin: bool,
    /// Parses what follows the colon. The error says what is wrong with it.
    parse: fn(&str) -> Result<Box<dyn Reader>, String>,
}

/// A parsed source of one format.
trait Reader: Send + Sync {
    /// The files and URLs that the source names, in order.
    fn files(&self) -> Vec<&str>;

    /// Reads the source. `files` are the paths for [`Reader::files`].
    fn read(
        &self,
        files: &[PathBuf],
        from: ReadContext<'_>,
        options: &csv::Options,
    ) -> Result<Raw, DataError>;
}

/// A source of samples, such as `csv:train.csv`: a format and its files.
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
    /// Parses the source string of a run file or flag.
    ///
    /// # Errors
    /// Returns an error if the format is unknown or the rest of the string is invalid.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let bad = |problem: String| DataError::Source { source: text.into(), problem };
        let Some((prefix, rest)) = text.split_once(':') else {
            return Err(bad(format!("the format is missing; {}", usage())));
        };
        let prefix = prefix.trim();
        let format = FORMATS.iter().find(|format| format.prefix == prefix);
        let format = format.ok_or_else(|| bad(format!("unknown format `{prefix}`; {}", usage())))?;
        let reader = (format.parse)(rest).map_err(bad)?;
        if !format.reads_stdin && reader.files().contains(&STDIN) {
            return Err(bad(no_stdin()));
        }
        Ok(Source { format, reader })
    }

    /// The format that the source's prefix selects.
    pub(crate) fn format(&self) -> &'static Format {
        self.format
    }

    /// The files and URLs that the source names, in order.
    pub fn files(&self) -> Vec<&str> {
        self.reader.files()
    }

    /// The same source with other files. `files` must have the length of [`Source::files`].
    pub fn with_files(&self, files: &[String]) -> String {
        format!("{}:{}", self.format.prefix, files.join(","))
    }

    /// Whether the source is standard input, which can be read only once and by only one process.
    pub fn reads_stdin(&self) -> bool {
        self.files().contains(&STDIN)
    }

    /// Reads the source. `options` are those of a CSV source.
    pub(crate) fn read(&self, from: ReadContext<'_>, options: &csv::Options) -> Result<Raw, DataError> {
        if from.memory.is_none() && self.reads_stdin() {
            let name = PathBuf::from(STDIN_NAME);
            let content = BTreeMap::from([(name.clone(), standard_input()?)]);
            return self.reader.read(&[name], ReadContext { memory: Some(&content), ..from }, options);
        }
        let files: Vec<PathBuf> = self.files().into_iter().map(|file| from.root.join(file)).collect();
        self.reader.read(&files, from, options)
    }
}

impl DataConfig {
    /// All source strings, the training source first.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        let validation = self.validation_source();
        [Some(self.train.as_str()), validation, self.test.as_deref()].into_iter().flatten()
    }

    /// Whether any source is standard input.
    pub fn reads_stdin(&self) -> bool {
        // An invalid source is an error when it is read.
        self.sources().filter_map(|source| Source::parse(source).ok()).any(|source| source.reads_stdin())
    }
}

/// Parses what follows the colon as a single path.
fn path(prefix: &str, rest: &str) -> Result<String, String> {
    match rest.trim() {
        "" => Err(format!("expected a path after `{prefix}:`")),
        path => Ok(path.into()),
    }
}

/// The path that stands for standard input.
const STDIN: &str = "-";

/// The name of standard input in error messages and progress.
const STDIN_NAME: &str = "standard input";

fn no_stdin() -> String {
    let able = FORMATS.iter().filter(|format| format.reads_stdin);
    let able: Vec<String> = able.map(|format| format!("{}:-", format.prefix)).collect();
    format!("only {} read standard input; give a file (./- if its name is `-`)", able.join(" and "))
}

/// The syntax of all formats.
fn usage() -> String {
    let [first @ .., last] = FORMATS.map(|format| format.usage);
    format!("use {} or {last}; a path may be a URL", first.join(", "))
}

/// Reads all of standard input, which is possible only once.
fn standard_input() -> Result<Vec<u8>, DataError> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    let failed = |error| DataError::File { path: STDIN_NAME.into(), error };
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Err(failed(io::Error::other("it can be read only once; give a file instead of `-`")));
    }
    // In memory at once: the bytes, the parser's copy of them, and the table.
    ps_host::drain(io::stdin().lock(), 0, Ceiling::memory(3)).map_err(failed)
}
