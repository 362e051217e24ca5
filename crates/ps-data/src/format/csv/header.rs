//! Decides whether the first row of a table names its columns.

use super::Dialect;
use crate::config::DataConfig;
use crate::error::DataError;
use crate::number::resembles_number;
use crate::syntax::Cell;
use crate::table::Table;

/// What is known about the first row before a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstRow {
    /// The row names the columns.
    Names,
    /// The row is data, like any other.
    Data,
    /// The row must be recognisable as a header; otherwise the file is refused.
    Unknown,
    /// The run file names the columns, so the row is data, unless each of its cells is such a name.
    Listed,
}

impl FirstRow {
    /// The first row of a training source, according to the run file.
    pub(super) fn of_training(config: &DataConfig) -> Self {
        match (config.header, &config.names) {
            (None, None) => FirstRow::Unknown,
            _ => FirstRow::of_other(&Dialect::new(config)),
        }
    }

    /// The first row of any other source.
    pub(super) fn of_other(dialect: &Dialect) -> Self {
        match dialect.header {
            Some(true) => FirstRow::Names,
            Some(false) => FirstRow::Data,
            None => FirstRow::Listed,
        }
    }
}

/// Refuses `table` unless `first`, the row above its rows, is clearly a header: none of its cells is a
/// number or missing, except for at most one empty cell, and some column below it contains only numbers
/// and missing cells.
pub(super) fn check(table: &Table, first: &csv::StringRecord) -> Result<(), DataError> {
    let Some(reason) = reason_to_doubt_header(table, first) else { return Ok(()) };
    let problem = format!(
        "cannot tell whether the first row is a header: {reason}; set data.header = true if it is, or false \
         if it is data"
    );
    Err(DataError::content(table.first_location(), problem))
}

/// Explains why the first row may be data, if so.
fn reason_to_doubt_header(table: &Table, first: &csv::StringRecord) -> Option<String> {
    // pandas leaves the name of the index column empty.
    let mut may_be_empty = true;
    for text in first.iter().map(str::trim_ascii) {
        match table.syntax.classify(text) {
            Cell::Missing if text.is_empty() && may_be_empty => may_be_empty = false,
            Cell::Missing if text.is_empty() => return Some("two names are empty".into()),
            Cell::Missing => return Some(format!("`{text}` marks a missing value")),
            Cell::Number(_) | Cell::Infinite => return Some(format!("`{text}` is a number")),
            Cell::Text if resembles_number(text) => return Some(format!("`{text}` resembles a number")),
            Cell::Text => {}
        }
    }
    if table.rows() == 0 || (0..table.width()).any(|column| is_numeric(table, column)) {
        return None;
    }
    let separator = match table.width() {
        1 => format!(" (cells are separated by {})", table.separator.described()),
        _ => String::new(),
    };
    Some(format!("no column below it contains only numbers{separator}"))
}

/// Whether all cells of a column are numbers or missing, with at least one number.
fn is_numeric(table: &Table, column: usize) -> bool {
    let mut has_number = false;
    for row in 0..table.rows() {
        match table.value(row, column) {
            Cell::Missing => continue,
            Cell::Text if !resembles_number(table.cell(row, column)) => return false,
            _ => has_number = true,
        }
    }
    has_number
}
