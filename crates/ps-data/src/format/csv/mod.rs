//! `csv:PATH`: rows of comma-separated cells.

mod header;
mod quotes;

use super::{Format, Reader, path};
use crate::config::DataConfig;
use crate::error::DataError;
use crate::markers::Markers;
use crate::progress::{ReadContext, TrackedFile};
use crate::raw::Raw;
use crate::table::{Column, Strings, Table};
use header::FirstRow;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// header, and other sources must match it, so that data is never mistaken for names.
    header: bool,
    /// The strings that mark a missing cell, as in the run file; `None` for the default ones.
    missing_values: Option<Vec<String>>,
}

impl Dialect {
    /// The dialect that `config` describes.
    pub(crate) fn new(config: &DataConfig) -> Self {
        Dialect { header: config.header.unwrap_or(true), missing_values: config.missing_values.clone() }
    }

    /// Strings that mark a missing cell, in addition to the empty string; `None` for the default ones.
    pub(crate) fn missing_values(&self) -> Option<&[String]> {
        self.missing_values.as_deref()
    }
}

/// How a CSV file is parsed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    first_row: FirstRow,
    markers: Arc<Markers>,
}

impl Default for Options {
    fn default() -> Self {
        Options { first_row: FirstRow::Names, markers: Arc::new(Markers::new(None)) }
    }
}

impl Options {
    /// Options for the training source of `config`.
    pub(crate) fn of_training(config: &DataConfig) -> Self {
        let markers = Arc::new(Markers::new(config.missing_values.as_deref()));
        Options { first_row: FirstRow::of_training(config.header), markers }
    }

    /// Options for a source that is encoded like a training source with the dialect `dialect`.
    pub(crate) fn of_other(dialect: &Dialect) -> Self {
        let markers = Arc::new(Markers::new(dialect.missing_values()));
        Options { first_row: FirstRow::of_other(dialect.header), markers }
    }
}

/// Reads the file at `path`.
fn read(path: &Path, from: ReadContext<'_>, options: &Options) -> Result<Table, DataError> {
    let location = path.display().to_string();
    let bytes = TrackedFile::open(path, from)?.read_whole()?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Err(DataError::content(location, "the file is empty"));
    }
    quotes::check(bytes)
        .map_err(|(line, problem)| DataError::content(format!("{location}:{line}"), problem))?;
    let (table, first) = read_rows(path, location, bytes, options)?;
    if options.first_row == FirstRow::Unknown {
        header::check(&table, &first)?;
    }
    if options.first_row != FirstRow::Data {
        check_names(&table)?;
    }
    if table.rows() == 0 {
        return Err(DataError::content(table.location, "the file holds a header but no rows"));
    }
    Ok(table)
}

/// Reads all rows. Also returns the first one, which names the columns unless it is data.
fn read_rows(
    path: &Path,
    location: String,
    bytes: &[u8],
    options: &Options,
) -> Result<(Table, csv::StringRecord), DataError> {
    let mut lines = Lines { bytes, counted: 0, line: 1 };
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut record = csv::StringRecord::new();
    let mut next = |record: &mut csv::StringRecord| {
        let found = reader.read_record(record).map_err(|error| csv_error(path, &mut lines, error))?;
        Ok::<_, DataError>(found.then(|| lines.of(record.position())))
    };
    let Some(first_line) = next(&mut record)? else {
        return Err(DataError::content(location, "the file holds no rows"));
    };
    let (first, width) = (record.clone(), record.len());
    let is_data = options.first_row == FirstRow::Data;
    let header = match is_data {
        true => (0..width).map(|column| column.to_string()).collect(),
        false => first.iter().map(|name| name.trim_ascii().to_owned()).collect(),
    };
    // A row has at least one byte per cell and ends at a line break or at the end of the file.
    let line_breaks = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let most_rows = line_breaks.min(bytes.len() / width.max(1)) + 1;
    let mut cells: Vec<Strings> = (0..width).map(|_| Strings::with_capacity(most_rows)).collect();
    let mut row_lines = Vec::new();
    let mut line = is_data.then_some(first_line);
    if line.is_none() {
        line = next(&mut record)?;
    }
    while let Some(of_row) = line {
        let wrong = |problem| DataError::content(format!("{location}:{of_row}"), problem);
        if record.len() != width {
            let first = if is_data { "first row" } else { "header" };
            return Err(wrong(format!("{} cells where the {first} has {width} columns", record.len())));
        }
        if !cells.iter_mut().zip(&record).all(|(strings, cell)| strings.push(cell)) {
            return Err(wrong("some rows of a column hold more than 4 GiB".into()));
        }
        row_lines.push(of_row);
        line = next(&mut record)?;
    }
    let columns = cells.into_iter().map(Column::String).collect();
    let markers = Arc::clone(&options.markers);
    Ok((Table { location, header, columns, markers, lines: row_lines, first_line }, first))
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
        return bad("the first row names no columns".into());
    }
    for (number, name) in table.header.iter().enumerate() {
        if table.header[..number].contains(name) {
            return bad(format!("column {number} is named `{name}` like one before it"));
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
            format!("cell {} of the line is not UTF-8 text; convert the file", err.field()),
        ),
        kind => DataError::content(location, format!("{kind:?}")),
    }
}
