//! The `[data]` table: the sources of samples, and how they are encoded.

use crate::document::{Document, Value as Toml};
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, Setting, named, quoted};
use ps_data::{DataConfig, Decimal, Missing, RowRange, Separator, Validation};

named!(Missing { "refuse" = Missing::Refuse, "mean" = Missing::Mean, });
named!(Decimal { "." = Decimal::Point, "," = Decimal::Comma, });
#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<DataConfig>] = &[
    field!(train, "data.train", Text, Required("\"digits:\""), Always,
        "Training data: `digits:`, `digits:COUNT`, `idx:IMAGES,LABELS`, `csv:PATH` or `libsvm:PATH`; \
         `csv:-` and `libsvm:-` read standard input. Relative paths start at the run file's folder."),
    field!(test, "data.test", Text, Described("none"), Always,
        "Source on which the final model is evaluated."),
    field!(validation, "data.validation", ShareOrText, Described("none"), Always,
        "Validation data, evaluated after each epoch: a share of the training source, which is not trained \
         on, or a separate source."),
    field!(validation_seed, "data.validation_seed", Integer(0, MAX_INTEGER), Described("seed"), Always,
        "Seed of the choice of validation samples. Runs with different `seed` but the same \
         `validation_seed` validate on the same samples."),
    field!(label, "data.label", TextOrInteger, Described("the last column"), Always,
        "Label column of a CSV source: its name, or its index from 0 (negative indices count from the end)."),
    field!(rows, "data.rows", Rows, Described("all rows"), Always,
        "Rows of the training source that are used, counted from 0 without the header: `a..b` are the rows from a up to but not \
         including b."),
    field!(validation_rows, "data.validation_rows", Rows, Described("all rows"), Always,
        "Rows of a separate validation source that are used. It may be the same file as the training source."),
    field!(test_rows, "data.test_rows", Rows, Described("all rows"), Always,
        "Rows of the test source that are used. It may be the same file as the training source."),
    field!(skip_missing_target, "data.skip_missing_target", Flag, Value("false"), Always,
        "Leave out the rows of a CSV source whose label is missing. Otherwise such a row is refused."),
    field!(separator, "data.separator", Accepts::Separator, Described("found in each file"), Always,
        "What separates the cells of a CSV source. If unset, it is the one of comma, semicolon, tab, vertical bar and blanks \
         that cuts all rows into the same number of cells."),
    field!(decimal, "data.decimal", Name(Decimal::NAMES), Value("\".\""), Always,
        "The decimal separator of the numbers in a CSV source."),
    field!(header, "data.header", Flag, Described("decided by the first row"), Always,
        "Whether the first row of a CSV source contains the column names. If unset, Downhill treats it as a \
         header if none of its cells is a number or missing (one may be empty) and some column below \
         contains only numbers; otherwise it refuses the source."),
    field!(names, "data.names", Names, Described("the header"), Always,
        "Names of all columns of a CSV source without a header. With `header = true`, they replace the header."),
    field!(drop, "data.drop", Names, Described("none"), Always,
        "CSV columns that are not used. Other sources need not have them."),
    field!(only, "data.use", Names, Described("all columns"), Always,
        "The only CSV columns that are used, besides the label."),
    field!(columns, "data.columns", Columns, Described("decided by the cells"), Always,
        "How to use each CSV column: as a number, as a category (one-hot encoded), as a date, or not at all; or a \
         table with `kind` and other settings, see [Your data](your-data.md). Without a header, columns are \
         named by their index from 0."),
    field!(missing_values, "data.missing_values", Texts, Described("`?`, NaN and the markers that pandas uses"), Always,
        "CSV cells that count as missing, in addition to the empty cell."),
    field!(standardize, "data.standardize", Flag, Value("false"), Always,
        "Standardize each feature to mean 0 and standard deviation 1 over the training part."),
    field!(missing, "data.missing", Name(Missing::NAMES), Value("\"refuse\""), Always,
        "How to handle missing CSV cells: refuse the source, or replace them by the column's mean over the \
         training part."),
];

/// Keys that state where data is and how a source is read. They may differ between machines, because the data
/// itself has a fingerprint.
pub(crate) const SOURCE_KEYS: [&str; 15] = [
    "data.train",
    "data.test",
    "data.label",
    "data.rows",
    "data.validation_rows",
    "data.test_rows",
    "data.skip_missing_target",
    "data.separator",
    "data.decimal",
    "data.header",
    "data.names",
    "data.drop",
    "data.use",
    "data.columns",
    "data.missing_values",
];

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

impl Setting for Separator {
    fn read(_: Accepts, value: &Toml) -> Option<Self> {
        let Toml::Text(text) = value else { return None };
        text.parse().ok()
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Setting for RowRange {
    fn read(_: Accepts, value: &Toml) -> Option<Self> {
        let Toml::Text(text) = value else { return None };
        text.parse().ok()
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}
