//! `csv:PATH`: rows of cells between separators.

mod header;
mod quotes;
mod separator;

use super::{Format, Reader, path};
use crate::config::DataConfig;
use crate::dialect::{Decimal, Separator};
use crate::error::DataError;
use crate::markers::Markers;
use crate::progress::{ReadContext, TrackedFile};
use crate::raw::Raw;
use crate::syntax::CellSyntax;
use crate::table::{BLOCK_TOO_LARGE, Column, Strings, Table};
use header::FirstRow;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) const FORMAT: Format = Format {
    prefix: "csv",
    name: "CSV",
    usage: "csv:PATH",
    reads_stdin: true,
    parse: |rest| Ok(Box::new(Csv(path("csv", rest)?))),
};

struct Csv(String);

impl Reader for Csv {
    fn files(&self) -> Vec<&str> {
        vec![&self.0]
    }

    fn read(&self, files: &[PathBuf], from: ReadContext<'_>, options: &Options) -> Result<Raw, DataError> {
        read(&files[0], from, options).map(Raw::Table)
    }
}

/// How the CSV sources other than the training source are written. A model file contains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dialect {
    /// Whether the first row names the columns. If the run file does not say, the training source has a
    /// header, and other sources must match it, so that data is never mistaken for names. `None` if the run
    /// file names the columns instead: a file may then have a header or not.
    header: Option<bool>,
    /// The strings that mark a missing cell, as in the run file; `None` for the default ones.
    missing_values: Option<Vec<String>>,
    /// What separates cells; `None` if it is found in each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    separator: Option<Separator>,
    #[serde(default, skip_serializing_if = "Decimal::is_point")]
    decimal: Decimal,
    /// Names of the columns, as in the run file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
    /// Whether labelled samples without a label are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_missing_target: bool,
}

impl Dialect {
    /// The dialect that `config` describes.
    pub(crate) fn new(config: &DataConfig) -> Self {
        Dialect {
            header: if config.names.is_some() { config.header } else { Some(config.header.unwrap_or(true)) },
            missing_values: config.missing_values.clone(),
            separator: config.separator,
            decimal: config.decimal,
            names: config.names.clone(),
            skip_missing_target: config.skip_missing_target,
        }
    }

    /// Decides what a cell means.
    pub(crate) fn syntax(&self) -> CellSyntax {
        CellSyntax::new(Markers::new(self.missing_values.as_deref()), self.decimal)
    }

    /// Like [`Dialect::syntax`], for JSON, whose numbers have decimal points.
    pub(crate) fn json_syntax(&self) -> CellSyntax {
        CellSyntax::new(Markers::new(self.missing_values.as_deref()), Decimal::Point)
    }
}

/// How a CSV file is parsed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    first_row: FirstRow,
    dialect: Dialect,
    /// The label column, if the file may lack it although the run file names it.
    absent: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options::of_other(&Dialect::new(&DataConfig::new("")))
    }
}

impl Options {
    /// Options for the training source of `config`.
    pub(crate) fn of_training(config: &DataConfig) -> Self {
        Options { first_row: FirstRow::of_training(config), ..Options::of_other(&Dialect::new(config)) }
    }

    /// Options for a source that is encoded like a training source with the dialect `dialect`.
    pub(crate) fn of_other(dialect: &Dialect) -> Self {
        Options { first_row: FirstRow::of_other(dialect), dialect: dialect.clone(), absent: None }
    }

    /// Allows a file to lack the column `label`.
    pub(crate) fn without_label(self, label: &str) -> Self {
        Options { absent: Some(label.into()), ..self }
    }
}

/// Reads the file at `path`.
fn read(path: &Path, from: ReadContext<'_>, options: &Options) -> Result<Table, DataError> {
    let bytes = TrackedFile::open(path, from)?.read_whole()?;
    let location = path.display().to_string();
    let table = parse(location, without_mark(&bytes), 1, options)?;
    if table.rows() == 0 {
        return Err(DataError::content(table.location, "the file contains a header but no rows"));
    }
    Ok(table)
}

/// Removes the byte order mark.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Parses the content of the file `location`, or some of its rows after its header. Error messages call the
/// first line `line`.
fn parse(location: String, bytes: &[u8], line: u64, options: &Options) -> Result<Table, DataError> {
    if bytes.is_empty() {
        return Err(DataError::content(location, "the file is empty"));
    }
    let separator = separator_of(&location, bytes, &options.dialect)?;
    let (bytes, byte) = match separator {
        Separator::Byte(byte) => (Cow::Borrowed(bytes), byte),
        Separator::Blanks => (Cow::Owned(separator::without_runs(bytes, usize::MAX)), b'\t'),
    };
    let comments = separator::comments(&bytes, byte);
    let path = Path::new(&location);
    let file = File { path, location: location.clone(), bytes: &bytes, line, separator, byte, comments };
    quotes::check(file.content(), byte).map_err(|(line, problem)| {
        DataError::content(format!("{}:{}", file.location, file.first_line() + line - 1), problem)
    })?;
    let (table, first) = file.read(options)?;
    if options.first_row == FirstRow::Unknown {
        header::check(&table, &first)?;
    }
    if options.first_row != FirstRow::Data || options.dialect.names.is_some() {
        check_names(&table)?;
    }
    Ok(table)
}

/// The separator of the dialect, or the one that is found in `bytes`.
fn separator_of(location: &str, bytes: &[u8], dialect: &Dialect) -> Result<Separator, DataError> {
    let separator = dialect.separator.map_or_else(|| separator::find(bytes, dialect.decimal), Ok);
    separator.map_err(|candidates| {
        let problem = format!("cells may be separated by {candidates}; set the key");
        DataError::content(location, problem)
    })
}

/// Rows of a file that is parsed in parts, each of them together with the header.
pub(crate) struct Parts {
    location: String,
    /// The comments and the header, or nothing if the first row is data.
    header: Vec<u8>,
    header_lines: u64,
    options: Options,
    separator: Separator,
    /// What the user should know about how the file is read.
    pub notes: Vec<String>,
}

impl Parts {
    /// Begins with the first part of a file, which ends between two lines. Also returns the first row as a
    /// table, which has the names of the columns, and the length of the header, after which the rows begin.
    ///
    /// # Errors
    /// The header is invalid.
    pub(crate) fn begin(
        location: &str,
        bytes: &[u8],
        options: Options,
    ) -> Result<(Self, Table, usize), DataError> {
        let content = without_mark(bytes);
        if content.is_empty() {
            return Err(DataError::content(location, "the file is empty"));
        }
        let separator = separator_of(location, content, &options.dialect)?;
        let mut parts = Parts {
            location: location.into(),
            header: Vec::new(),
            header_lines: 0,
            options,
            separator,
            notes: Vec::new(),
        };
        // The first row that is not empty, with all comments and empty lines before it.
        let byte = if let Separator::Byte(byte) = separator { byte } else { b'\t' };
        let comments = separator::comments(content, byte).0;
        let rows = &content[comments..];
        let is_blank = |end: &usize| rows[..*end].trim_ascii().is_empty();
        let end = parts.row_ends(rows).find(|end| !is_blank(end)).unwrap_or(rows.len());
        let mut head = parse(location.into(), &content[..comments + end], 1, &parts.options)?;
        let is_data = head.rows() > 0;
        parts.notes = std::mem::take(&mut head.notes);
        let skipped = bytes.len() - content.len();
        if is_data {
            parts.options.first_row = FirstRow::Data;
            return Ok((parts, head, skipped + comments));
        }
        if parts.options.first_row == FirstRow::Listed {
            parts.options.dialect.names = None;
        }
        parts.options.first_row = FirstRow::Names;
        parts.header = rows[..end].to_vec();
        if !parts.header.ends_with(b"\n") {
            parts.header.push(b'\n');
        }
        parts.header_lines = lines(&parts.header);
        Ok((parts, head, skipped + comments + end))
    }

    /// Number of bytes of the header.
    pub(crate) fn header_length(&self) -> usize {
        self.header.len()
    }

    /// Parses rows, the first of which is on the line `line`.
    pub(crate) fn parse(&self, rows: &[u8], line: u64) -> Result<Table, DataError> {
        let bytes = [&self.header, rows].concat();
        let mut options = self.options.clone();
        options.dialect.separator = Some(self.separator);
        parse(self.location.clone(), &bytes, line.saturating_sub(self.header_lines), &options)
    }

    /// The positions in `rows` at which rows end.
    pub(crate) fn row_ends<'a>(&self, rows: &'a [u8]) -> impl Iterator<Item = usize> + use<'a> {
        let separator = self.separator;
        quotes::row_ends(rows, move |byte| match separator {
            Separator::Byte(separator) => byte == separator,
            Separator::Blanks => matches!(byte, b' ' | b'\t'),
        })
    }
}

/// Number of line breaks.
pub(crate) fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// The content of a file.
struct File<'a> {
    path: &'a Path,
    /// The path, for error messages.
    location: String,
    bytes: &'a [u8],
    /// The line of the first byte.
    line: u64,
    separator: Separator,
    /// The byte that separates cells.
    byte: u8,
    /// Number of bytes and lines of the comments at the beginning.
    comments: (usize, u64),
}

impl File<'_> {
    /// The content after the comments at the beginning.
    fn content(&self) -> &[u8] {
        &self.bytes[self.comments.0..]
    }

    /// The line, from 1, on which the content starts.
    fn first_line(&self) -> u64 {
        self.line + lines(&self.bytes[..self.comments.0])
    }

    /// Reads all rows. Also returns the first one, which names the columns unless it is data.
    fn read(&self, options: &Options) -> Result<(Table, csv::StringRecord), DataError> {
        let (bytes, location) = (self.content(), &self.location);
        let mut lines = Lines { bytes, counted: 0, line: self.first_line() };
        let mut reader = separator::rows(bytes, self.byte);
        let mut record = csv::StringRecord::new();
        let mut next = |record: &mut csv::StringRecord| {
            let found =
                reader.read_record(record).map_err(|error| csv_error(self.path, &mut lines, error))?;
            Ok::<_, DataError>(found.then(|| lines.of(record.position())))
        };
        let Some(first_line) = next(&mut record)? else {
            return Err(DataError::content(location, "the file contains no rows"));
        };
        let (first, width) = (record.clone(), record.len());
        let (header, is_data) = self.header(&first, first_line, options)?;
        // A row has at least one byte per cell and ends at a line break or at the end of the file.
        let line_breaks = bytes.iter().filter(|&&byte| byte == b'\n').count();
        let most_rows = line_breaks.min(bytes.len() / width.max(1)) + 1;
        let mut cells: Vec<Strings> = (0..width).map(|_| Strings::with_capacity(most_rows)).collect();
        let (mut row_lines, mut comments) = (Vec::new(), self.comments.1);
        let mut line = is_data.then_some(first_line);
        if line.is_none() {
            line = next(&mut record)?;
        }
        while let Some(of_row) = line {
            let wrong = |problem| DataError::content(format!("{location}:{of_row}"), problem);
            if record.len() == width {
                if !cells.iter_mut().zip(&record).all(|(strings, cell)| strings.push(cell)) {
                    return Err(wrong(BLOCK_TOO_LARGE.into()));
                }
                row_lines.push(of_row);
            } else if separator::is_comment(record.get(0).map(str::as_bytes), record.len()) {
                comments += 1;
            } else {
                let first = if is_data { "first row" } else { "header" };
                return Err(wrong(format!(
                    "expected {width} cells, as in the {first}, found {}",
                    record.len()
                )));
            }
            line = next(&mut record)?;
        }
        let mut notes = Vec::new();
        if options.dialect.separator.is_none() && self.separator != Separator::Byte(b',') {
            notes.push(format!("{location}: cells are separated by {}", self.separator.described()));
        }
        if comments > 0 {
            notes.push(format!("{location}: skipped {comments} lines of comments"));
        }
        let table = Table {
            location: location.clone(),
            header,
            columns: cells.into_iter().map(Column::String).collect(),
            syntax: options.dialect.syntax(),
            lines: row_lines,
            first_line,
            separator: self.separator,
            notes,
        };
        Ok((table, first))
    }

    /// The names of the columns, and whether the first row is data.
    fn header(
        &self,
        first: &csv::StringRecord,
        line: u64,
        options: &Options,
    ) -> Result<(Vec<String>, bool), DataError> {
        let in_row = || first.iter().map(|name| name.trim_ascii().to_owned());
        let Some(names) = &options.dialect.names else {
            return Ok(match options.first_row {
                FirstRow::Data => ((0..first.len()).map(|column| column.to_string()).collect(), true),
                _ => (in_row().collect(), false),
            });
        };
        let is_in_row = |name: &String| in_row().any(|cell| cell == *name);
        let lists_all = || names.iter().all(|name| Some(name) == options.absent.as_ref() || is_in_row(name));
        let lists_only = || in_row().all(|name| names.contains(&name));
        if options.first_row == FirstRow::Listed && (lists_only() || lists_all()) {
            return Ok((in_row().collect(), false));
        }
        let is_data = options.first_row != FirstRow::Names;
        if names.len() == first.len() {
            return Ok((names.to_vec(), is_data));
        }
        let others = names.iter().filter(|name| Some(*name) != options.absent.as_ref());
        let others: Vec<String> = others.cloned().collect();
        if others.len() == first.len() {
            return Ok((others, is_data));
        }
        let problem = format!(
            "the row has {} cells (separated by {}), and data.names lists {} names",
            first.len(),
            self.separator.described(),
            names.len()
        );
        Err(DataError::content(format!("{}:{line}", self.location), problem))
    }
}

/// Finds the lines on which records start. The csv crate reports where the previous record ended, before any
/// blank lines and the second half of a CRLF.
struct Lines<'a> {
    bytes: &'a [u8],
    counted: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of the record that was read from `position`. Positions must be ascending.
    fn of(&mut self, position: Option<&csv::Position>) -> u64 {
        let read_from = position.map_or(0, |position| position.byte() as usize).min(self.bytes.len());
        let blank = self.bytes[read_from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let start = (read_from + blank).max(self.counted);
        let passed = &self.bytes[self.counted..start];
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.counted = start;
        self.line
    }
}

/// Refuses column names that are all empty or not distinct.
fn check_names(table: &Table) -> Result<(), DataError> {
    let bad = |problem: String| Err(DataError::content(table.first_location(), problem));
    if table.header.iter().all(String::is_empty) {
        return bad("the first row contains no column names".into());
    }
    let mut seen = BTreeSet::new();
    for (number, name) in table.header.iter().enumerate() {
        if !seen.insert(name) {
            return bad(format!("column {number} has the same name as an earlier column, `{name}`"));
        }
    }
    Ok(())
}

fn csv_error(path: &Path, lines: &mut Lines<'_>, error: csv::Error) -> DataError {
    let location = format!("{}:{}", path.display(), lines.of(error.position()));
    match error.into_kind() {
        csv::ErrorKind::Io(error) => DataError::File { path: path.into(), error },
        csv::ErrorKind::Utf8 { err, .. } => DataError::content(
            location,
            format!("cell {} of the line is not valid UTF-8; convert the file", err.field()),
        ),
        kind => DataError::content(location, format!("{kind:?}")),
    }
}
