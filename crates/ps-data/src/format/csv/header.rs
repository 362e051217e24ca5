//! Whether the first row of a table names its columns.

use super::Table;
use crate::error::DataError;
use crate::number::{Cell, resembles_number};

/// What is known of the first row before a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRow {
    /// It names the columns.
    Names,
    /// It is a row like any other.
    Data,
    /// It must be recognisable as a header, or the file is refused.
    Unknown,
}

impl FirstRow {
    /// Of a training source, where `header` is what the run file says.
    pub fn of_training(header: Option<bool>) -> Self {
        header.map_or(FirstRow::Unknown, FirstRow::of)
    }

    /// Of any other source. If the run file does not say, the training source has a header, with which the first row of
    /// any other source is compared, so that data is not mistaken for names.
    pub fn of_other(header: Option<bool>) -> Self {
        header.map_or(FirstRow::Names, FirstRow::of)
    }

    fn of(header: bool) -> Self {
        if header { FirstRow::Names } else { FirstRow::Data }
    }
}

/// Refuses `table`, whose rows still include the first one, unless that row is clearly a header: none of its cells is a
/// number or missing, except for one that may be empty, and below it some column holds only numbers and missing cells.
pub(crate) fn check(table: &Table) -> Result<(), DataError> {
    let Some(doubt) = doubt(table) else { return Ok(()) };
    let problem = format!(
        "the first row may be data: {doubt}; set data.header = true if it names the columns, or false if it does not"
    );
    Err(DataError::content(table.first_line(), problem))
}

/// Why the first row may be data rather than names.
fn doubt(table: &Table) -> Option<String> {
    let columns = 0..table.width();
    // pandas leaves the name of an index empty.
    let mut may_be_empty = true;
    for column in columns.clone() {
        let text = table.cell(0, column);
        match table.value(0, column) {
            Cell::Missing if text.is_empty() && may_be_empty => may_be_empty = false,
            Cell::Missing if text.is_empty() => return Some("two names are empty".into()),
            Cell::Missing => return Some(format!("`{text}` stands for a missing value")),
            Cell::Number(_) | Cell::Infinite => return Some(format!("`{text}` is a number")),
            Cell::Text if resembles_number(text) => return Some(format!("`{text}` is like a number")),
            Cell::Text => {}
        }
    }
    if table.rows() == 1 || columns.clone().any(|column| is_numeric(table, column)) {
        return None;
    }
    let commas = if columns.len() == 1 { " (cells are separated by commas)" } else { "" };
    Some(format!("no column below it holds only numbers{commas}"))
}

/// Whether all cells below the first row are numbers or missing, and one at least is a number.
fn is_numeric(table: &Table, column: usize) -> bool {
    let mut has_number = false;
    for row in 1..table.rows() {
        match table.value(row, column) {
            Cell::Missing => continue,
            Cell::Text if !resembles_number(table.cell(row, column)) => return false,
            _ => has_number = true,
        }
    }
    has_number
}
