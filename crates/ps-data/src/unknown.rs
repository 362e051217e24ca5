//! What data may contain that the training data does not.

use std::collections::BTreeMap;

/// Maximum number of columns that a note lists.
const LISTED: usize = 5;

/// What other data than the training data may contain that the training data does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tolerance {
    /// Whether columns that the model does not use are ignored.
    pub columns: bool,
    /// Whether a category that the training data does not contain counts as none of the known ones.
    pub categories: bool,
}

impl Tolerance {
    pub(crate) const NOTHING: Tolerance = Tolerance { columns: false, categories: false };
    /// Of the validation and test sources of a run: another column is more likely a mistake.
    pub(crate) const CATEGORIES: Tolerance = Tolerance { columns: false, categories: true };
    /// Of new data.
    pub(crate) const ALL: Tolerance = Tolerance { columns: true, categories: true };
}

/// How new data is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewData {
    /// Whether to read the labels, which must then exist.
    pub is_labelled: bool,
    /// Whether columns that the model does not use and categories that the training data does not contain are
    /// errors. Otherwise, such columns are ignored, and such categories count as none of the known ones.
    pub is_strict: bool,
}

impl NewData {
    pub(crate) fn tolerance(self) -> Tolerance {
        if self.is_strict { Tolerance::NOTHING } else { Tolerance::ALL }
    }
}

/// What a source contains that the training data does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Names of the columns that were ignored, in the order of the source.
    pub(crate) columns: Vec<String>,
    /// By column, the number of cells with an unseen category, and the first of these categories.
    pub(crate) categories: BTreeMap<String, (u64, String)>,
}

impl Unknown {
    /// Adds what a later part of the same source contains.
    pub(crate) fn merge(&mut self, later: Unknown) {
        for column in later.columns {
            if !self.columns.contains(&column) {
                self.columns.push(column);
            }
        }
        for (column, (count, example)) in later.categories {
            self.categories.entry(column).or_insert((0, example)).0 += count;
        }
    }

    /// Describes the columns in one note, and the categories of each column in one note.
    pub fn notes(&self, source: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.columns.is_empty() {
            let listed = self.columns.iter().take(LISTED).map(|name| format!("`{name}`"));
            let more = match self.columns.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let listed = listed.collect::<Vec<_>>().join(", ");
            notes.push(format!("{source}: ignored columns that the model does not use: {listed}{more}"));
        }
        notes.extend(self.categories.iter().map(|(column, (count, example))| {
            let cells = if *count == 1 { "1 cell contains".into() } else { format!("{count} cells contain") };
            format!(
                "{source}: column `{column}`: {cells} a category that is not in the training data, such as \
                 `{example}`; it counts as none of the known categories"
            )
        }));
        notes
    }
}
