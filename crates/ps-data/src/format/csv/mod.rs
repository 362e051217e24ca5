//! `csv:PATH`: rows of cells separated by commas.

mod header;
mod quotes;

use super::{Format, Reader, path};
use crate::config::DataConfig;
use crate::error::DataError;
use crate::markers::Markers;
use crate::number::{Cell, nearest};
use crate::progress::{Place, Watched};
use crate::raw::Raw;
use header::FirstRow;
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

    fn read(&self, files: &[PathBuf], from: Place<'_>, options: &Options) -> Result<Raw, DataError> {
        read(&files[0], from, options).map(Raw::Table)
    }
}

/// How a CSV file is read.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub first_row: FirstRow,
    pub markers: Arc<Markers>,
}

impl Options {
    /// Of the training source of `config`.
    pub fn of_training(config: &DataConfig) -> Self {
        let markers = Arc::new(Markers::new(config.missing_values.as_deref()));
        Options { first_row: FirstRow::of_training(config.header), markers }
    }

    /// Of a source that is encoded like the training source of `config`.
    pub fn of_other(config: &DataConfig) -> Self {
        Options { first_row: FirstRow::of_other(config.header), ..Options::of_training(config) }
    }
}

/// A CSV file's cells.
pub(crate) struct Table {
    /// The path, for error texts.
    pub place: String,
    /// Names of the columns, or their numbers from 0 if the file has no header.
    pub header: Vec<String>,
    markers: Arc<Markers>,
    /// Rows before the data: 1 with a header, else 0.
    skipped: usize,
    /// All cells' texts, one after the other.
    text: String,
    rows: Vec<Row>,
    /// Per cell its end in `text`, counted from the row's start.
    ends: Vec<u32>,
}

struct Row {
    /// Start of its first cell in the text.
    start: usize,
    /// Its line in the file, from 1.
    line: u64,
}

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len() - self.skipped
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.header.len()
    }

    /// A cell's text without surrounding blanks.
    pub fn cell(&self, row: usize, column: usize) -> &str {
        let row = row + self.skipped;
        let first = row * self.header.len();
        let start = if column == 0 { 0 } else { self.ends[first + column - 1] as usize };
        let end = self.ends[first + column] as usize;
        let base = self.rows[row].start;
        self.text[base + start..base + end].trim_ascii()
    }

    /// What a cell is.
    pub fn value(&self, row: usize, column: usize) -> Cell {
        Cell::of(self.cell(row, column), &self.markers)
    }

    /// Which cells are missing.
    pub fn markers(&self) -> &Markers {
        &self.markers
    }

    /// File and line of the first row, for error texts about the columns.
    pub fn first_line(&self) -> String {
        format!("{}:{}", self.place, self.rows[0].line)
    }

    /// File and line, for error texts.
    pub fn line_of(&self, row: usize) -> String {
        format!("{}:{}", self.place, self.rows[row + self.skipped].line)
    }

    /// File, line and column, for error texts.
    pub fn place_of(&self, row: usize, column: usize) -> String {
        format!("{}: column `{}`", self.line_of(row), self.header[column])
    }

    /// The number of the column `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// The number of the label column that `label` asks for.
    pub fn label_column(&self, label: Option<&str>) -> Result<usize, DataError> {
        let Some(label) = label else { return Ok(self.header.len() - 1) };
        let width = self.header.len() as i64;
        let by_number =
            label.parse::<i64>().ok().map(|number| if number < 0 { number + width } else { number });
        match (self.column(label), by_number) {
            (Some(column), _) => Ok(column),
            (None, Some(number)) if (0..width).contains(&number) => Ok(number as usize),
            (None, Some(_)) => {
                let problem = format!("{} has no column {label}, it has {width} columns", self.place);
                Err(DataError::Option { key: "label", problem })
            }
            (None, None) => {
                let near = nearest(label, self.header.iter().map(String::as_str));
                let problem = format!("{} has no column `{label}`{near}", self.place);
                Err(DataError::Option { key: "label", problem })
            }
        }
    }
}

/// Reads the file at `path`.
fn read(path: &Path, from: Place<'_>, options: &Options) -> Result<Table, DataError> {
    let place = path.display().to_string();
    let bytes = Watched::open(path, from)?.read_whole()?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Err(DataError::content(place, "the file is empty"));
    }
    quotes::check(bytes).map_err(|(line, problem)| DataError::content(format!("{place}:{line}"), problem))?;
    let mut table = read_rows(path, place, bytes, options)?;
    if options.first_row == FirstRow::Unknown {
        header::check(&table)?;
    }
    if options.first_row != FirstRow::Data {
        table.header = (0..table.width()).map(|column| table.cell(0, column).to_string()).collect();
        check_names(&table)?;
        table.skipped = 1;
    }
    if table.rows() == 0 {
        return Err(DataError::content(table.place, "the file holds a header but no rows"));
    }
    Ok(table)
}

/// Reads all rows, the first one included, and names the columns by their numbers.
fn read_rows(path: &Path, place: String, bytes: &[u8], options: &Options) -> Result<Table, DataError> {
    let mut lines = Lines { bytes, counted: 0, line: 1 };
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let markers = Arc::clone(&options.markers);
    let mut table = Table {
        place,
        header: Vec::new(),
        markers,
        skipped: 0,
        text: String::new(),
        rows: Vec::new(),
        ends: Vec::new(),
    };
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| csv_error(path, &mut lines, error))? {
        let line = lines.of(record.position());
        if table.rows.is_empty() {
            table.header = (0..record.len()).map(|column| column.to_string()).collect();
        }
        if record.len() != table.width() {
            let (cells, columns) = (record.len(), table.width());
            let first = if options.first_row == FirstRow::Data { "first row" } else { "header" };
            let problem = format!("{cells} cells where the {first} has {columns} columns");
            return Err(DataError::content(format!("{}:{line}", table.place), problem));
        }
        table.rows.push(Row { start: table.text.len(), line });
        let mut end = 0;
        for cell in &record {
            end += cell.len();
            let fits = u32::try_from(end).map_err(|_| {
                DataError::content(format!("{}:{line}", table.place), "a row of more than 4 GiB")
            })?;
            table.ends.push(fits);
            table.text.push_str(cell);
        }
    }
    if table.rows.is_empty() {
        return Err(DataError::content(table.place, "the file holds no rows"));
    }
    Ok(table)
}

/// The lines on which records begin. The csv crate counts a record from the end of the one before it, blank
/// lines and the second half of a CRLF included.
struct Lines<'a> {
    bytes: &'a [u8],
    counted: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of the record that was read from `position`; positions must ascend.
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

/// Refuses names of columns that are all empty or not distinct.
fn check_names(table: &Table) -> Result<(), DataError> {
    let bad = |problem: String| Err(DataError::content(table.first_line(), problem));
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
    let place = format!("{}:{}", path.display(), lines.of(error.position()));
    match error.into_kind() {
        csv::ErrorKind::Io(error) => DataError::File { path: path.into(), error },
        csv::ErrorKind::Utf8 { err, .. } => DataError::content(
            place,
            format!("cell {} of the line is not UTF-8 text; convert the file", err.field()),
        ),
        kind => DataError::content(place, format!("{kind:?}")),
    }
}
