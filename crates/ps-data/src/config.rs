//! The run file's `[data]` table.

use crate::column_config::ColumnConfig;
use crate::dialect::{Decimal, RowRange, Separator};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The sources of a run's samples, and how the samples are prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// The training source, such as `idx:IMAGES,LABELS`, `csv:PATH`, `libsvm:PATH` or
    /// `digits:COUNT,seed=N`; see [`crate::Source`].
    pub train: String,
    /// The test source. The model is evaluated on it but never trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// The validation set: a fraction of the training source, or a separate source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Seed that selects the validation fraction; the default is the run's seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_seed: Option<u64>,
    /// The label column of a CSV source: its name, or its index from 0 (negative indices count from the end).
    /// The default is the last column.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    pub label: Option<String>,
    /// The rows of the training source that are used. The default is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowRange>,
    /// The rows of a separate validation source that are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_rows: Option<RowRange>,
    /// The rows of the test source that are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_rows: Option<RowRange>,
    /// Whether rows of a CSV source that have no label are left out. Otherwise such a row is an error.
    #[serde(default)]
    pub skip_missing_target: bool,
    /// What separates the cells of a CSV source. If not given, it is detected in each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<Separator>,
    /// The decimal separator of the numbers in a CSV source.
    #[serde(default)]
    pub decimal: Decimal,
    /// Whether the first row of a CSV source is a header. If not given, the training source must have a
    /// header that cannot be mistaken for data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Names of the columns of a CSV source, which then needs no header. They replace a header if `header` is
    /// `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Columns that are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<Vec<String>>,
    /// The only columns that are used, besides the label.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<String>>,
    /// How CSV columns are used, by name. The types of other columns are inferred from the training source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnConfig>,
    /// Strings that mark a CSV cell as missing, in addition to the empty string. The default is
    /// [`USUAL_MARKERS`](crate::USUAL_MARKERS) and NaN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_values: Option<Vec<String>>,
    /// Whether each feature is shifted and scaled to mean 0 and standard deviation 1 over the training set.
    #[serde(default)]
    pub standardize: bool,
    /// How missing CSV cells are handled.
    #[serde(default)]
    pub missing: Missing,
}

/// The validation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Validation {
    /// A fraction of the training source, above 0 and below 1.
    Share(f64),
    /// A separate source.
    Source(String),
}

/// How a missing CSV cell is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// A missing cell is an error.
    #[default]
    Refuse,
    /// The cell is replaced by the column's mean over the training set or, in a categorical column, by the
    /// frequency of each category.
    Mean,
}

impl DataConfig {
    /// Creates a configuration with a training source and default settings.
    pub fn new(train: impl Into<String>) -> Self {
        DataConfig {
            train: train.into(),
            test: None,
            validation: None,
            validation_seed: None,
            label: None,
            rows: None,
            validation_rows: None,
            test_rows: None,
            skip_missing_target: false,
            separator: None,
            decimal: Decimal::Point,
            header: None,
            names: None,
            drop: None,
            only: None,
            columns: BTreeMap::new(),
            missing_values: None,
            standardize: false,
            missing: Missing::Refuse,
        }
    }

    /// The validation source, unless the validation set is a fraction of the training source.
    pub(crate) fn validation_source(&self) -> Option<&str> {
        match &self.validation {
            Some(Validation::Source(source)) => Some(source),
            _ => None,
        }
    }
}

/// Accepts `label = 3` as well as `label = "3"`.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a column's name or number")]
    enum TextOrNumber {
        Text(String),
        Number(i64),
    }
    Ok(Option::deserialize(deserializer)?.map(|label| match label {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    }))
}
