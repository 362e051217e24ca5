//! The columns of a table: what they hold, and how their cells become features.

mod category;
mod guess;

use crate::config::{ColumnKind, DataConfig, Missing};
use crate::dataset;
use crate::error::DataError;
use crate::format::csv::Table;
use crate::number::{Cell, nearest};
use category::Categories;
use ndarray::Array2;
use rayon::prelude::*;

/// Rows that a thread takes at once.
const BLOCK: usize = 1024;

/// The columns of the training data.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    features: Vec<Column>,
    /// Names of those that are no features.
    ignored: Vec<String>,
    /// Name of the label column.
    label: String,
}

/// A column that becomes features.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    content: Content,
}

/// What a column holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Numbers, which are features as they are.
    Number,
    /// Categories, which become a feature of 0 or 1 each.
    Category(Categories),
}

impl Content {
    /// How many features it becomes.
    fn width(&self) -> usize {
        match self {
            Content::Number => 1,
            Content::Category(categories) => categories.count(),
        }
    }

    /// The names of these features, in a column called `column`.
    fn feature_names(&self, column: &str) -> Vec<String> {
        match self {
            Content::Number => vec![column.into()],
            Content::Category(categories) => categories.feature_names(column),
        }
    }

    /// Writes what a cell that is not missing becomes to `slots`, which are 0.
    fn encode(&self, text: &str, cell: Cell, slots: &mut [f32]) -> Result<(), String> {
        match (self, cell) {
            (Content::Category(categories), _) => slots[categories.find(text)?] = 1.0,
            (Content::Number, Cell::Number(value)) => slots[0] = value,
            (Content::Number, Cell::Infinite) => {
                return Err(format!("`{text}` is infinite or too large for a 32-bit float"));
            }
            (Content::Number, _) => return Err(format!("`{text}` where a number was expected")),
        }
        Ok(())
    }
}

/// What `column` of the training data holds; `None` if it is ignored.
///
/// # Errors
/// The column is not declared and its cells are ambiguous, or it has too many categories.
pub(crate) fn content(
    table: &Table,
    column: usize,
    declared: Option<ColumnKind>,
) -> Result<Option<Content>, DataError> {
    match declared {
        Some(ColumnKind::Ignore) => Ok(None),
        Some(ColumnKind::Number) => Ok(Some(Content::Number)),
        Some(ColumnKind::Category) => Ok(Some(Content::Category(Categories::learn(table, column)?))),
        None => guess::content(table, column).map(Some),
    }
}

/// The key of the run file that declares the column `name`.
fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => format!("data.columns.{name}"),
        false => format!("data.columns.{name:?}"),
    }
}

impl Columns {
    /// Learns the columns of the training data; `label` is the number of the label column.
    pub fn learn(table: &Table, label: usize, config: &DataConfig) -> Result<Self, DataError> {
        let declared = &config.columns;
        let bad = |problem: String| DataError::Option { key: "columns", problem };
        for name in declared.keys() {
            match table.column(name) {
                None => {
                    let near = nearest(name, table.header.iter().map(String::as_str));
                    return Err(bad(format!("{} has no column `{name}`{near}", table.place)));
                }
                Some(column) if column == label => {
                    return Err(bad(format!(
                        "`{name}` is the label column, whose kind follows from the model; remove it here"
                    )));
                }
                Some(_) => {}
            }
        }
        let others: Vec<usize> = (0..table.width()).filter(|&column| column != label).collect();
        let learn = |column: usize| {
            let name = table.header[column].clone();
            let content = content(table, column, declared.get(&name).copied())?;
            Ok((name, content))
        };
        let learnt: Vec<Result<(String, Option<Content>), DataError>> =
            others.into_par_iter().map(learn).collect();
        let label = table.header[label].clone();
        let mut columns = Columns { features: Vec::new(), ignored: Vec::new(), label };
        for learnt in learnt {
            match learnt? {
                (name, Some(content)) => columns.features.push(Column { name, content }),
                (name, None) => columns.ignored.push(name),
            }
        }
        if columns.features.is_empty() {
            let others = if columns.ignored.is_empty() { "" } else { " that is not ignored" };
            let problem = format!("the file has no column beside the label{others}");
            return Err(DataError::content(&table.place, problem));
        }
        Ok(columns)
    }

    /// Name of the label column.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The names of all features.
    pub fn feature_names(&self) -> Vec<String> {
        self.features.iter().flat_map(|column| column.content.feature_names(&column.name)).collect()
    }

    /// Each column with the features that it becomes.
    pub fn with_features(&self) -> Vec<dataset::Column> {
        let mut end = 0;
        let with_features = |column: &Column| {
            let begin = end;
            end += column.content.width();
            let categories = match &column.content {
                Content::Category(categories) => categories.names().to_vec(),
                Content::Number => Vec::new(),
            };
            dataset::Column { name: column.name.clone(), categories, features: begin..end }
        };
        self.features.iter().map(with_features).collect()
    }

    /// Name and number of categories of each category column.
    pub fn categories(&self) -> Vec<(String, usize)> {
        let categories = |column: &Column| match &column.content {
            Content::Category(categories) => Some((column.name.clone(), categories.count())),
            Content::Number => None,
        };
        self.features.iter().filter_map(categories).collect()
    }

    /// Encodes a table, whose columns are found by name. Missing cells become NaN where they are allowed.
    pub fn encode(&self, table: &Table, missing: Missing) -> Result<Array2<f32>, DataError> {
        let places = self.find(table)?;
        let width: usize = self.features.iter().map(|column| column.content.width()).sum();
        let mut values = super::zeros(&table.place, table.rows(), width)?;
        let encode_row = |row: usize, mut rest: &mut [f32]| {
            for (column, &place) in self.features.iter().zip(&places) {
                let (slots, after) = rest.split_at_mut(column.content.width());
                rest = after;
                let text = table.cell(row, place);
                let encoded = match table.value(row, place) {
                    Cell::Missing if missing == Missing::Refuse => Err(refused(text)),
                    Cell::Missing => {
                        slots.fill(f32::NAN);
                        Ok(())
                    }
                    cell => column.content.encode(text, cell, slots),
                };
                encoded.map_err(|problem| DataError::content(table.place_of(row, place), problem))?;
            }
            Ok(())
        };
        let flat = values.as_slice_mut().expect("features are row-major");
        let blocks: Vec<Result<(), DataError>> = flat
            .par_chunks_mut(BLOCK * width)
            .enumerate()
            .map(|(block, rows)| {
                let mut rows = rows.chunks_exact_mut(width).enumerate();
                rows.try_for_each(|(row, slots)| encode_row(block * BLOCK + row, slots))
            })
            .collect();
        blocks.into_iter().collect::<Result<(), _>>()?;
        Ok(values)
    }

    /// Finds in `table` each column that becomes features. Apart from the label and ignored columns there must be no others.
    fn find(&self, table: &Table) -> Result<Vec<usize>, DataError> {
        let names = || self.features.iter().map(|column| column.name.as_str());
        let bad = |problem: String| DataError::content(table.first_line(), problem);
        let is_known = |name: &String| {
            *name == self.label || self.ignored.contains(name) || names().any(|known| known == name)
        };
        if let Some(extra) = table.header.iter().find(|name| !is_known(name)) {
            let near = nearest(extra, names());
            return Err(bad(format!("column `{extra}` does not occur in the training data{near}")));
        }
        names()
            .map(|name| {
                table
                    .column(name)
                    .ok_or_else(|| bad(format!("column `{name}` of the training data is missing")))
            })
            .collect()
    }
}

fn refused(text: &str) -> String {
    let shown = if text.is_empty() { "an empty cell".into() } else { format!("`{text}`") };
    format!("missing value ({shown}); remove the row or set data.missing = \"mean\"")
}
