//! Table columns: numbers as they are, categories one-hot.

use crate::config::Missing;
use crate::dataset;
use crate::error::DataError;
use crate::number::{Cell, nearest};
use crate::table::Table;
use ndarray::Array2;
use rayon::prelude::*;

/// A categorical column may have this many categories.
const MAX_CATEGORIES: usize = 1000;
/// Rows that a thread takes at once.
const BLOCK: usize = 1024;

/// A column of the training data.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub name: String,
    /// The categories in order of their bytes; none for a column of numbers.
    pub categories: Vec<String>,
}

impl Column {
    /// How many features it becomes.
    fn width(&self) -> usize {
        self.categories.len().max(1)
    }

    /// The names of these features.
    fn feature_names(&self) -> Vec<String> {
        if self.categories.is_empty() {
            return vec![self.name.clone()];
        }
        self.categories.iter().map(|category| format!("{}={category}", self.name)).collect()
    }
}

/// What the columns of the training data are, `label` left out.
pub(crate) fn learn(table: &Table, label: usize) -> Result<Vec<Column>, DataError> {
    let numbers: Vec<usize> = (0..table.header.len()).filter(|&column| column != label).collect();
    if numbers.is_empty() {
        return Err(DataError::content(&table.place, "the file has no column beside the label"));
    }
    numbers
        .into_par_iter()
        .map(|column| learn_column(table, column))
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

fn learn_column(table: &Table, column: usize) -> Result<Column, DataError> {
    let mut first_text = None;
    let (mut numbers, mut known) = (0_usize, 0_usize);
    for row in 0..table.rows() {
        match Cell::of(table.cell(row, column)) {
            Cell::Missing => continue,
            Cell::Number(_) | Cell::Infinite => numbers += 1,
            Cell::Text => first_text = first_text.or(Some(row)),
        }
        known += 1;
    }
    let name = table.header[column].clone();
    let Some(row) = first_text else { return Ok(Column { name, categories: Vec::new() }) };
    let text = table.cell(row, column);
    // A column of numbers with a slip in it is not meant as thousands of categories.
    if numbers * 10 >= known * 9 {
        let problem = format!(
            "`{text}` where a number was expected ({numbers} of the column's {known} cells are numbers)"
        );
        return Err(DataError::content(table.place_of(row, column), problem));
    }
    let mut categories: Vec<&str> = Vec::new();
    for row in 0..table.rows() {
        let text = table.cell(row, column);
        if Cell::of(text) == Cell::Missing {
            continue;
        }
        let Err(place) = categories.binary_search(&text) else { continue };
        if categories.len() == MAX_CATEGORIES {
            let problem = format!(
                "`{text}` is text number {} of a categorical column, more than {MAX_CATEGORIES}; drop the column",
                MAX_CATEGORIES + 1
            );
            return Err(DataError::content(table.place_of(row, column), problem));
        }
        categories.insert(place, text);
    }
    Ok(Column { name, categories: categories.into_iter().map(String::from).collect() })
}

/// The names of all features.
pub(crate) fn feature_names(columns: &[Column]) -> Vec<String> {
    columns.iter().flat_map(Column::feature_names).collect()
}

/// Each column with the features that it becomes.
pub(crate) fn with_features(columns: &[Column]) -> Vec<dataset::Column> {
    let mut end = 0;
    let mut with_features = |column: &Column| {
        let begin = end;
        end += column.width();
        let Column { name, categories } = column.clone();
        dataset::Column { name, categories, features: begin..end }
    };
    columns.iter().map(&mut with_features).collect()
}

/// Encodes a table by the columns of the training data, which are found by name; `label` is no feature.
/// Missing cells become NaN where they are allowed.
pub(crate) fn encode(
    table: &Table,
    columns: &[Column],
    label: &str,
    missing: Missing,
) -> Result<Array2<f32>, DataError> {
    let places = find(table, columns, label)?;
    let width: usize = columns.iter().map(Column::width).sum();
    let mut values = super::zeros(&table.place, table.rows(), width)?;
    let encode_row = |row: usize, mut rest: &mut [f32]| {
        for (column, &place) in columns.iter().zip(&places) {
            let (slots, after) = rest.split_at_mut(column.width());
            rest = after;
            encode_cell(table.cell(row, place), column, missing, slots)
                .map_err(|problem| DataError::content(table.place_of(row, place), problem))?;
        }
        Ok(())
    };
    let flat = values.as_slice_mut().expect("features are row-major");
    let blocks: Vec<Result<(), DataError>> = flat
        .par_chunks_mut(BLOCK * width)
        .enumerate()
        .map(|(block, rows)| {
            let rows = rows.chunks_exact_mut(width).enumerate();
            rows.into_iter().try_for_each(|(row, slots)| encode_row(block * BLOCK + row, slots))
        })
        .collect();
    blocks.into_iter().collect::<Result<(), _>>()?;
    Ok(values)
}

fn encode_cell(text: &str, column: &Column, missing: Missing, slots: &mut [f32]) -> Result<(), String> {
    match Cell::of(text) {
        Cell::Missing if missing == Missing::Refuse => {
            let shown = if text.is_empty() { "an empty cell".into() } else { format!("`{text}`") };
            return Err(format!("missing value ({shown}); remove the row or set data.missing = \"mean\""));
        }
        Cell::Missing => slots.fill(f32::NAN),
        _ if !column.categories.is_empty() => {
            match column.categories.binary_search_by(|category| category.as_str().cmp(text)) {
                Ok(category) => slots[category] = 1.0,
                Err(_) => {
                    let near = nearest(text, column.categories.iter().map(String::as_str));
                    return Err(format!("category `{text}` does not occur in the training data{near}"));
                }
            }
        }
        Cell::Number(value) => slots[0] = value,
        Cell::Infinite => return Err(format!("`{text}` is infinite or too large for a 32-bit float")),
        Cell::Text => return Err(format!("`{text}` where a number was expected")),
    }
    Ok(())
}

/// Where each column of the training data stands in `table`.
fn find(table: &Table, columns: &[Column], label: &str) -> Result<Vec<usize>, DataError> {
    let names = || columns.iter().map(|column| column.name.as_str());
    let bad = |problem: String| DataError::content(format!("{}:1", table.place), problem);
    if let Some(extra) =
        table.header.iter().find(|name| *name != label && !names().any(|known| known == *name))
    {
        let near = nearest(extra, names());
        return Err(bad(format!("column `{extra}` does not occur in the training data{near}")));
    }
    names()
        .map(|name| {
            table.column(name).ok_or_else(|| bad(format!("column `{name}` of the training data is missing")))
        })
        .collect()
}
