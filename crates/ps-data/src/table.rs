//! Tables: named columns, each of a single type.
//!
//! Text formats yield columns of strings, because the type of a column is known only when all of it has
//! been read, or from the training source. Encoding converts each column once, to numbers or categories
//! ([`Strings::numbers`], [`Strings::codes`]), and uses only typed columns after that.

use crate::config::Missing;
use crate::date::{Date, DateFormat, DatePart};
use crate::dialect::Separator;
use crate::error::DataError;
use crate::number::nearest;
use crate::syntax::{Cell, CellSyntax};
use rayon::prelude::*;

/// Number of cells that a thread converts at a time.
const BLOCK: usize = 1024;

/// The code of a missing cell in a categorical column.
pub(crate) const MISSING: u32 = u32::MAX;

/// The code of a cell with a category that the training data does not contain.
pub(crate) const UNSEEN: u32 = u32::MAX - 1;

/// Why the strings of a column do not fit.
pub(crate) const BLOCK_TOO_LARGE: &str = "a column contains more than 4 GiB of text";

/// A table, stored by columns.
pub(crate) struct Table {
    /// The path, for error messages.
    pub location: String,
    /// Names of the columns, or their indices from 0 if the source has no header.
    pub header: Vec<String>,
    pub columns: Vec<Column>,
    /// How cells are written.
    pub syntax: CellSyntax,
    /// The line of each row in the file, from 1.
    pub lines: Vec<u64>,
    /// The line of the file's first row, which may be the header.
    pub first_line: u64,
    /// What separates the cells.
    pub separator: Separator,
    /// What the user should know about how the file was read.
    pub notes: Vec<String>,
}

/// The cells of one column.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// Numbers; NaN for a missing cell.
    F32(Vec<f32>),
    /// The category of each cell, or [`MISSING`].
    Category(Vec<u32>),
    /// This number of values for each cell, row by row; NaN for a missing cell.
    Parts(Vec<f32>, usize),
    /// Strings that have not been converted, or the label.
    String(Strings),
}

impl Table {
    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.lines.len()
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.header.len()
    }

    /// The strings of a column that has not been converted.
    ///
    /// # Panics
    /// Panics if the column has been converted.
    pub(crate) fn strings(&self, column: usize) -> &Strings {
        match &self.columns[column] {
            Column::String(strings) => strings,
            Column::F32(_) | Column::Category(_) | Column::Parts(..) => {
                unreachable!("columns are converted once, when they are encoded")
            }
        }
    }

    /// The string in a cell of a column that has not been converted.
    pub(crate) fn cell(&self, row: usize, column: usize) -> &str {
        self.strings(column).get(row)
    }

    /// Classifies the cell that [`Table::cell`] returns.
    pub(crate) fn value(&self, row: usize, column: usize) -> Cell {
        self.syntax.classify(self.cell(row, column))
    }

    /// File and line of the first row, for error messages about the columns.
    pub(crate) fn first_location(&self) -> String {
        format!("{}:{}", self.location, self.first_line)
    }

    /// File and line, for error messages.
    fn line_of(&self, row: usize) -> String {
        format!("{}:{}", self.location, self.lines[row])
    }

    /// File, line and column, for error messages.
    pub(crate) fn location_of(&self, row: usize, column: usize) -> String {
        format!("{}: column `{}`", self.line_of(row), self.header[column])
    }

    /// Keeps only the rows `kept`, which are ascending.
    pub(crate) fn select(&mut self, kept: &[usize]) -> Result<(), DataError> {
        if kept.len() == self.rows() {
            return Ok(());
        }
        for column in &mut self.columns {
            *column = match column {
                Column::F32(values) => Column::F32(kept.iter().map(|&row| values[row]).collect()),
                Column::Category(codes) => Column::Category(kept.iter().map(|&row| codes[row]).collect()),
                Column::Parts(values, width) => {
                    let row = |&row: &usize| &values[row * *width..(row + 1) * *width];
                    Column::Parts(kept.iter().flat_map(row).copied().collect(), *width)
                }
                Column::String(strings) => {
                    let strings = strings.select(kept);
                    Column::String(
                        strings.ok_or_else(|| DataError::content(&self.location, BLOCK_TOO_LARGE))?,
                    )
                }
            };
        }
        self.lines = kept.iter().map(|&row| self.lines[row]).collect();
        Ok(())
    }

    /// Removes the rows whose label is missing, and adds a note about them.
    ///
    /// # Errors
    /// Returns an error if no row is left.
    pub(crate) fn skip_missing(&mut self, label: usize) -> Result<(), DataError> {
        let rows = self.rows();
        let kept: Vec<usize> = (0..rows).filter(|&row| self.value(row, label) != Cell::Missing).collect();
        self.select(&kept)?;
        let (removed, name) = (rows - kept.len(), &self.header[label]);
        if kept.is_empty() {
            let problem = format!("the label `{name}` is missing in every row");
            return Err(DataError::content(&self.location, problem));
        }
        if removed > 0 {
            let note = format!("{}: skipped {removed} rows without a label (`{name}`)", self.location);
            self.notes.push(note);
        }
        Ok(())
    }

    /// The index of the column `name`.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// The index of the label column that `label`, a key of the run file, selects: by name, or by index,
    /// which counts from the end if it is negative. The default is the last column.
    pub(crate) fn label_column(&self, label: Option<&str>) -> Result<usize, DataError> {
        let Some(label) = label else { return Ok(self.header.len() - 1) };
        let width = self.header.len() as i64;
        let by_number =
            label.parse::<i64>().ok().map(|number| if number < 0 { number + width } else { number });
        match (self.column(label), by_number) {
            // A name takes precedence over an index, because names can be numbers, too.
            (Some(column), _) => Ok(column),
            (None, Some(number)) if (0..width).contains(&number) => Ok(number as usize),
            (None, Some(_)) => {
                let problem = format!("{} has no column {label}; it has {width} columns", self.location);
                Err(DataError::Option { key: "label", problem })
            }
            (None, None) => {
                let near = nearest(label, self.header.iter().map(String::as_str));
                let problem = format!("{} has no column `{label}`{near}", self.location);
                Err(DataError::Option { key: "label", problem })
            }
        }
    }
}

/// Trimmed strings in one block of memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strings {
    text: String,
    /// The end of each string, relative to the start of its block in `text`, which takes half the memory
    /// of a `usize`.
    ends: Vec<u32>,
    /// The start of each block of [`BLOCK`] strings.
    blocks: Vec<usize>,
}

impl Strings {
    /// Creates an empty list with room for `capacity` strings. Thousands of growing columns
    /// would fragment memory.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Strings { ends: Vec::with_capacity(capacity), ..Strings::default() }
    }

    /// Appends `cell`. Returns `false` if its block would be longer than 4 GiB.
    pub(crate) fn push(&mut self, cell: &str) -> bool {
        if self.ends.len().is_multiple_of(BLOCK) {
            self.blocks.push(self.text.len());
        }
        self.text.push_str(cell.trim_ascii());
        let start = self.blocks[self.ends.len() / BLOCK];
        let end = u32::try_from(self.text.len() - start);
        self.ends.extend(end);
        end.is_ok()
    }

    /// The string in row `row`.
    pub(crate) fn get(&self, row: usize) -> &str {
        let block = self.blocks[row / BLOCK];
        let start = if row.is_multiple_of(BLOCK) { 0 } else { self.ends[row - 1] as usize };
        &self.text[block + start..block + self.ends[row] as usize]
    }

    fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The strings of these rows; `None` if a block would be longer than 4 GiB.
    fn select(&self, rows: &[usize]) -> Option<Strings> {
        let mut strings = Strings::with_capacity(rows.len());
        rows.iter().all(|&row| strings.push(self.get(row))).then_some(strings)
    }

    /// Converts the cells to numbers, with NaN for missing cells.
    ///
    /// # Errors
    /// Returns the row of the first invalid cell, and why it is invalid.
    pub(crate) fn numbers(&self, syntax: &CellSyntax, missing: Missing) -> Result<Vec<f32>, (usize, String)> {
        self.convert(syntax, missing, f32::NAN, |text, cell| match cell {
            Cell::Number(value) => Ok(value),
            Cell::Infinite => Err(format!("`{text}` is infinite or too large for a 32-bit float")),
            Cell::Missing | Cell::Text => Err(format!("expected a number, found `{text}`")),
        })
    }

    /// Converts the cells to category indices, which `find` looks up, with [`MISSING`] for missing cells.
    ///
    /// # Errors
    /// Returns the row of the first invalid cell, and why it is invalid.
    pub(crate) fn codes(
        &self,
        syntax: &CellSyntax,
        missing: Missing,
        find: impl Fn(&str) -> Result<usize, String> + Sync,
    ) -> Result<Vec<u32>, (usize, String)> {
        self.convert(syntax, missing, MISSING, |text, _| find(text).map(|category| category as u32))
    }

    /// Converts the cells to the `parts` of dates, row by row, with NaN for missing cells.
    ///
    /// # Errors
    /// Returns the row of the first invalid cell, and why it is invalid.
    pub(crate) fn dates(
        &self,
        syntax: &CellSyntax,
        missing: Missing,
        format: &DateFormat,
        parts: &[DatePart],
    ) -> Result<Vec<f32>, (usize, String)> {
        let dates = self.convert(syntax, missing, None, |text, _| match format.parse(text) {
            Some(date) => Ok(Some(date)),
            None => Err(format!("`{text}` is not a date ({})", format.described())),
        })?;
        let part = |date: Option<Date>, part: &DatePart| date.map_or(f32::NAN, |date| date.part(*part));
        Ok(dates.into_iter().flat_map(|date| parts.iter().map(move |name| part(date, name))).collect())
    }

    fn convert<T: Copy + Default + Send + Sync>(
        &self,
        syntax: &CellSyntax,
        missing: Missing,
        absent: T,
        value: impl Fn(&str, Cell) -> Result<T, String> + Sync,
    ) -> Result<Vec<T>, (usize, String)> {
        let mut values = vec![T::default(); self.rows()];
        let fill = |(block, slots): (usize, &mut [T])| {
            (block * BLOCK..).zip(slots).find_map(|(row, slot)| {
                let text = self.get(row);
                let converted = match syntax.classify(text) {
                    Cell::Missing if missing == Missing::Refuse => Err(refused(text)),
                    Cell::Missing => Ok(absent),
                    cell => value(text, cell),
                };
                converted.map(|value| *slot = value).err().map(|problem| (row, problem))
            })
        };
        // The first invalid cell is reported, not the one that a thread happens to find first.
        match values.par_chunks_mut(BLOCK).enumerate().find_map_first(fill) {
            Some(problem) => Err(problem),
            None => Ok(values),
        }
    }
}

fn refused(text: &str) -> String {
    let shown = if text.is_empty() { "an empty cell".into() } else { format!("`{text}`") };
    format!("missing value ({shown}); remove the row or set data.missing = \"mean\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_found_again_across_blocks() {
        let mut strings = Strings::default();
        let text = |row: usize| if row.is_multiple_of(3) { String::new() } else { format!("{row}") };
        for row in 0..3 * BLOCK + 5 {
            assert!(strings.push(&format!(" {}\t", text(row))));
        }
        for row in 0..strings.rows() {
            assert_eq!(strings.get(row), text(row), "{row}");
        }
    }

    #[test]
    fn the_first_cell_that_cannot_be_used_is_named() {
        let mut strings = Strings::default();
        for row in 0..4 * BLOCK {
            strings.push(match row {
                1500 => "x",
                3000 => "y",
                4000 => "1e39",
                _ => "1",
            });
        }
        let (row, problem) = strings.numbers(&CellSyntax::plain(), Missing::Refuse).unwrap_err();
        assert_eq!((row, problem.as_str()), (1500, "expected a number, found `x`"));
    }
}
