//! The `[data]` table: the sources of samples, and how they are encoded.

use crate::document::{Document, Value as Toml};
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, Setting, named};
use ps_data::{ColumnKind, DataConfig, Missing, Validation};
use std::collections::BTreeMap;

named!(Missing { "refuse" = Missing::Refuse, "mean" = Missing::Mean, });
named!(ColumnKind {
    "number" = ColumnKind::Number,
    "category" = ColumnKind::Category,
    "ignore" = ColumnKind::Ignore,
});

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<DataConfig>] = &[
    field!(train, "data.train", Text, Required("\"digits:\""), Always,
        "Training source: `digits:`, `digits:COUNT`, `idx:IMAGES,LABELS`, `csv:PATH` or `libsvm:PATH`; `csv:-` and \
         `libsvm:-` read standard input. Relative paths start at the run file's folder."),
    field!(test, "data.test", Text, Described("none"), Always,
        "Source to evaluate on when the run ends."),
    field!(validation, "data.validation", ShareOrText, Described("none"), Always,
        "Share of the training source to set apart and evaluate on after each epoch, or a separate source."),
    field!(validation_seed, "data.validation_seed", Integer(0, MOST), Described("seed"), Always,
        "Seed of the validation share, to validate runs with different seeds on the same samples."),
    field!(label, "data.label", TextOrInteger, Described("the last column"), Always,
        "Label column of a CSV source: its name, or its number from 0 (negative numbers count from the end)."),
    field!(header, "data.header", Flag, Described("decided by the first row"), Always,
        "Whether the first row of a CSV source names its columns. If unset, it does if no cell of it is a number or missing (one may \
         be empty) and a column below it holds only numbers; otherwise the source is refused."),
    field!(columns, "data.columns", Columns, Described("decided by the cells"), Always,
        "The kind of each CSV column: a number, a category (a feature of 0 or 1 for each string), or ignored. Without a header, \
         columns are named by their number from 0."),
    field!(missing_values, "data.missing_values", Texts, Described("`?`, NaN and the markers of pandas"), Always,
        "CSV cells that count as missing besides the empty cell."),
    field!(standardize, "data.standardize", Flag, Value("false"), Always,
        "Shift and scale each feature to mean 0 and standard deviation 1 of the training part."),
    field!(missing, "data.missing", Name(Missing::NAMES), Value("\"refuse\""), Always,
        "How missing CSV cells are handled: refused, or replaced by the column's mean over the training part."),
];

/// Keys that state where data is and how a source is read. They may differ between machines, because the data
/// itself has a fingerprint.
pub(crate) const SOURCE_KEYS: [&str; 6] =
    ["data.train", "data.test", "data.label", "data.header", "data.columns", "data.missing_values"];

pub(crate) fn read(document: &Document) -> Result<DataConfig, ConfigError> {
    let mut data = DataConfig::new(String::new());
    document.read(FIELDS, &mut data)?;
    Ok(data)
}

impl Setting for Validation {
    fn read(_: Accepts, value: &Toml) -> Option<Self> {
        match value {
            Toml::Float(share) => (0.0 < *share && *share < 1.0).then_some(Validation::Share(*share)),
            Toml::Text(source) if !source.trim().is_empty() => Some(Validation::Source(source.clone())),
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        match self {
            Validation::Share(share) => share.write(),
            Validation::Source(source) => source.write(),
        }
    }
}

/// The kinds of columns, by column name.
impl Setting for BTreeMap<String, ColumnKind> {
    fn read(_: Accepts, value: &Toml) -> Option<Self> {
        let Toml::Table(entries) = value else { return None };
        let entry = |(column, value): &(String, Toml)| match value {
            Toml::Text(text) => Some((column.clone(), ColumnKind::named(text)?)),
            _ => None,
        };
        entries.iter().map(entry).collect()
    }

    fn write(&self) -> Option<String> {
        let entry = |(column, kind): (&String, &ColumnKind)| (column.clone(), kind.name().into());
        let table: toml::Table = self.iter().map(entry).collect();
        (!table.is_empty()).then(|| toml::Value::Table(table).to_string())
    }
}
