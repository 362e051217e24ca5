//! Infers the type of a column of the training data that the run file does not declare.
//!
//! If all cells are numbers, the column is numeric; otherwise it is categorical. Two kinds of columns are
//! refused, because they would silently become hundreds of features: formatted numbers, and strings that
//! hardly ever repeat.

use super::category::Categories;
use super::{Content, LearnedColumn, key};
use crate::config::Missing;
use crate::date::DateFormat;
use crate::dialect::Separator;
use crate::error::DataError;
use crate::number::{have_decimal_commas, resembles_number};
use crate::syntax::Cell;
use crate::table::{Column, Table};
use std::collections::BTreeSet;

/// If a column has fewer distinct values than this, it means little that they are all different.
const FEW: usize = 5;

/// Infers what `column` holds.
///
/// # Errors
/// Returns an error if the values are mostly numbers, plain or formatted; if nearly all are different; or if
/// there are too many categories.
pub(super) fn content(table: &Table, column: usize, missing: Missing) -> Result<LearnedColumn, DataError> {
    if let Ok(values) = table.strings(column).numbers(&table.syntax, missing) {
        return Ok((Content::Number { clip: None }, Some(Column::F32(values))));
    }
    let is_text = |row: &usize| table.value(*row, column) == Cell::Text;
    let Some(row) = (0..table.rows()).find(is_text) else {
        return Ok((Content::Number { clip: None }, None));
    };
    let counts = CellCounts::of(table, column);
    let (text, key) = (table.cell(row, column), key(&table.header[column]));
    let refuse = |problem: String| Err(DataError::content(table.location_of(row, column), problem));
    if let Some(mostly) = counts.mostly_numbers() {
        if table.syntax.has_decimal_points() && have_decimal_commas(counts.different.iter().copied()) {
            let separator = match table.separator {
                Separator::Byte(b',') => " and data.separator = \",\"",
                _ => "",
            };
            return refuse(format!(
                "expected a number, found `{text}`: all values of the column are numbers with decimal commas; \
                 set data.decimal = \",\"{separator}, or {key} = \"category\" or \"ignore\""
            ));
        }
        return refuse(format!(
            "expected a number, found `{text}`: {mostly}; write it as a plain number, list it in \
             data.missing_values, or set {key} = \"category\" or \"ignore\""
        ));
    }
    if counts.is_nearly_all_different() {
        let CellCounts { cells, different, .. } = counts;
        let is_date = |text: &&str| DateFormat::default().parse(text).is_some();
        let kinds = match different.iter().all(is_date) {
            true => "\"date\" or \"ignore\"",
            false => "\"ignore\"",
        };
        return refuse(format!(
            "`{text}` is one of {} distinct values in {cells} cells, and each would become a feature; set \
             {key} = {kinds} or, if that is intended, \"category\"",
            different.len()
        ));
    }
    let categories = Categories::learn(table, column, None)?;
    Ok((Content::Category { categories, other: false }, None))
}

/// Statistics of the cells of a column that are not missing.
struct CellCounts<'a> {
    cells: usize,
    /// Number of cells that are numbers.
    plain: usize,
    /// Number of cells that are numbers or resemble one.
    numbers: usize,
    different: BTreeSet<&'a str>,
    /// Number of distinct values that are numbers or resemble one.
    different_numbers: usize,
}

impl<'a> CellCounts<'a> {
    fn of(table: &'a Table, column: usize) -> Self {
        let mut counts =
            CellCounts { cells: 0, plain: 0, numbers: 0, different: BTreeSet::new(), different_numbers: 0 };
        for row in 0..table.rows() {
            let text = table.cell(row, column);
            let is_plain = match table.value(row, column) {
                Cell::Missing => continue,
                Cell::Number(_) | Cell::Infinite => true,
                Cell::Text => false,
            };
            let is_number = is_plain || resembles_number(text);
            counts.cells += 1;
            counts.plain += usize::from(is_plain);
            counts.numbers += usize::from(is_number);
            counts.different_numbers += usize::from(counts.different.insert(text) && is_number);
        }
        counts
    }

    /// Explains why the values seem to be meant as numbers, if they do: more than half of the cells
    /// are numbers or resemble one or, since a single string may fill most cells, more than half of
    /// the distinct values.
    fn mostly_numbers(&self) -> Option<String> {
        let CellCounts { cells, plain, numbers, different_numbers, .. } = self;
        let different = self.different.len();
        let removed = match numbers == plain {
            true => "",
            false => " after removal of separators, decimal commas and `%`",
        };
        if 2 * numbers > *cells {
            Some(format!("{numbers} of the column's {cells} values are numbers{removed}"))
        } else if 2 * different_numbers > different {
            Some(format!(
                "{different_numbers} of the column's {different} distinct values are numbers{removed}"
            ))
        } else {
            None
        }
    }

    /// Whether there are at least nine distinct values for every ten cells.
    fn is_nearly_all_different(&self) -> bool {
        self.different.len() >= FEW && 10 * self.different.len() >= 9 * self.cells
    }
}
