//! Categorical columns: each category becomes a feature of 0 or 1.

use super::key;
use crate::error::DataError;
use crate::number::nearest;
use crate::syntax::Cell;
use crate::table::Table;
use serde::{Deserialize, Serialize};

/// Maximum number of categories in a column.
const MAX_CATEGORIES: usize = 1000;

/// The categories of a column, in byte order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Categories(Vec<String>);

impl Categories {
    /// Collects the distinct strings of `column`.
    ///
    /// # Errors
    /// Returns an error if there are more than [`MAX_CATEGORIES`].
    pub(crate) fn learn(table: &Table, column: usize) -> Result<Self, DataError> {
        let mut known: Vec<&str> = Vec::new();
        for row in 0..table.rows() {
            if table.value(row, column) == Cell::Missing {
                continue;
            }
            let text = table.cell(row, column);
            let Err(index) = known.binary_search(&text) else { continue };
            if known.len() == MAX_CATEGORIES {
                let problem = format!(
                    "`{text}` is category {} of the column, which may have at most {MAX_CATEGORIES}; set {} \
                     = \"ignore\"",
                    MAX_CATEGORIES + 1,
                    key(&table.header[column])
                );
                return Err(DataError::content(table.location_of(row, column), problem));
            }
            known.insert(index, text);
        }
        if known.is_empty() {
            let location = format!("{}: column `{}`", table.location, table.header[column]);
            return Err(DataError::content(location, "all cells of the column are missing"));
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
