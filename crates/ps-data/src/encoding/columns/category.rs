//! Categorical columns: each category becomes a feature of 0 or 1.

use super::key;
use crate::error::DataError;
use crate::number::nearest;
use crate::syntax::Cell;
use crate::table::Table;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Maximum number of categories in a column.
const MAX_CATEGORIES: usize = 1000;

/// The categories of a column, in byte order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Categories(Vec<String>);

impl Categories {
    /// Collects the distinct strings of `column`; with `min_count`, only those in at least as many cells.
    ///
    /// # Errors
    /// Returns an error if there are more than [`MAX_CATEGORIES`].
    pub(crate) fn learn(table: &Table, column: usize, min_count: Option<u64>) -> Result<Self, DataError> {
        let rows = (0..table.rows()).filter(|&row| table.value(row, column) != Cell::Missing);
        let location = || format!("{}: column `{}`", table.location, table.header[column]);
        let mut known: Vec<&str> = Vec::new();
        if let Some(min_count) = min_count {
            let mut counts = BTreeMap::<&str, u64>::new();
            rows.for_each(|row| *counts.entry(table.cell(row, column)).or_default() += 1);
            known.extend(counts.iter().filter(|(_, count)| **count >= min_count).map(|(text, _)| *text));
            if known.len() > MAX_CATEGORIES {
                let problem = format!(
                    "{} strings occur at least {min_count} times, and a column may have at most {MAX_CATEGORIES} \
                     categories; raise min_count",
                    known.len()
                );
                return Err(DataError::content(location(), problem));
            }
            if known.is_empty() {
                let problem = format!("no string occurs at least {min_count} times; lower min_count");
                return Err(DataError::content(location(), problem));
            }
            return Ok(Categories(known.into_iter().map(String::from).collect()));
        }
        for row in rows {
            let text = table.cell(row, column);
            // A sorted list, because features are numbered in byte order. It never holds more than
            // `MAX_CATEGORIES` strings.
            let Err(index) = known.binary_search(&text) else { continue };
            if known.len() == MAX_CATEGORIES {
                let key = key(&table.header[column]);
                let problem = format!(
                    "`{text}` is category {} of the column, which may have at most {MAX_CATEGORIES}; set \
                     {key} = \"ignore\" or {{ min_count = 10 }}",
                    MAX_CATEGORIES + 1,
                );
                return Err(DataError::content(table.location_of(row, column), problem));
            }
            known.insert(index, text);
        }
        if known.is_empty() {
            return Err(DataError::content(location(), "all cells of the column are missing"));
        }
        Ok(Categories(known.into_iter().map(String::from).collect()))
    }

    /// Checks categories that were read from a model file.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.0.len() {
            0 => Err("it has no categories".into()),
            count if count > MAX_CATEGORIES => {
                Err(format!("it has {count} categories, and a column may have at most {MAX_CATEGORIES}"))
            }
            _ if !self.0.is_sorted_by(|a, b| a < b) => {
                Err("its categories are not distinct and in byte order".into())
            }
            _ => Ok(()),
        }
    }

    /// Number of categories.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The strings of the categories.
    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }

    /// The names of the features for the categories of a column named `column`.
    pub(crate) fn feature_names(&self, column: &str) -> Vec<String> {
        self.0.iter().map(|category| format!("{column}={category}")).collect()
    }

    /// The index of the category `text`.
    pub(crate) fn find(&self, text: &str) -> Result<usize, String> {
        self.0.binary_search_by(|category| category.as_str().cmp(text)).map_err(|_| {
            let near = nearest(text, self.0.iter().map(String::as_str));
            format!("category `{text}` does not occur in the training data{near}")
        })
    }
}
