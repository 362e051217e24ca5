//! Decides whether the first row of a table names its columns.

use crate::error::DataError;
use crate::number::{Cell, resembles_number};
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
}

impl FirstRow {
    /// The first row of a training source, given the value of `header` in the run file.
    pub(super) fn of_training(header: Option<bool>) -> Self {
        header.map_or(FirstRow::Unknown, FirstRow::of_other)
    }

    /// The first row of any other source, given whether it is a header.
    pub(super) fn of_other(header: bool) -> Self {
        if header { FirstRow::Names } else { FirstRow::Data }
    }
}

/// Refuses `table` unless `first`, the row above its rows, is clearly a header: none of its cells is a
/// number or missing, except for at most one empty cell, and some column below it contains only numbers
/// and missing cells.
pub(super) fn check(table: &Table, first: &csv::StringRecord) -> Result<(), DataError> {
    let Some(doubt) = doubt(table, first) else { return Ok(()) };
    let problem = format!(
        "the first row may be data: {doubt}; set data.header = true if it names the columns, or false if it does not"
    );
    Err(DataError::content(table.first_location(), problem))
}

/// Explains why the first row may be data, if so.
fn doubt(table: &Table, first: &csv::StringRecord) -> Option<String> {
    // pandas leaves the name of the index column empty.
    let mut may_be_empty = true;
    for text in first.iter().map(str::trim_ascii) {
        match Cell::of(text, &table.markers) {
            Cell::Missing if text.is_empty() && may_be_empty => may_be_empty = false,
            Cell::Missing if text.is_empty() => return Some("two names are empty".into()),
            Cell::Missing => return Some(format!("`{text}` stands for a missing value")),
            Cell::Number(_) | Cell::Infinite => return Some(format!("`{text}` is a number")),
            Cell::Text if resembles_number(text) => return Some(format!("`{text}` is like a number")),
            Cell::Text => {}
        }
    }
    if table.rows() == 0 || (0..table.width()).any(|column| is_numeric(table, column)) {
        return None;
    }
    let commas = if table.width() == 1 { " (cells are separated by commas)" } else { "" };
    Some(format!("no column below it holds only numbers{commas}"))
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
