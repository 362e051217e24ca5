//! The run file's `[data]` table.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Where the samples come from and how they are prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// The training source: `idx:IMAGES,LABELS`, `csv:PATH`, `libsvm:PATH`, `digits:`, `digits:COUNT` or
    /// `digits:COUNT,seed=N`.
    pub train: String,
    /// A source that is only measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// A share of the training source set apart, or a source of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Seed of a validation share, if not that of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_seed: Option<u64>,
    /// The label column of a CSV source: its name, or its number from 0 (negative numbers count from the
    /// end). The last column where not given.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    pub label: Option<String>,
    /// Whether the first row of a CSV source is a header. If not given, the training source must have one that
    /// cannot be mistaken for data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Kinds of CSV columns, by name; for the others the cells of the training source decide.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnKind>,
    /// CSV cells that count as missing besides empty ones, instead of [`USUAL_MARKERS`](crate::USUAL_MARKERS) and NaN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_values: Option<Vec<String>>,
    /// Whether each feature is shifted and scaled to mean 0 and standard deviation 1 of the training part.
    #[serde(default)]
    pub standardize: bool,
    /// What becomes of missing CSV cells.
    #[serde(default)]
    pub missing: Missing,
}

/// What training progress is measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Validation {
    /// This share of the training source, above 0 and below 1.
    Share(f64),
    /// A source of its own.
    Source(String),
}

/// The kind of a CSV column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// Each cell is a number, and a feature.
    Number,
    /// Each distinct text of the training source, numbers included, is a feature of 0 or 1.
    Category,
    /// The column is no feature, and other sources need not have it.
    Ignore,
}

/// What becomes of a missing CSV cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// It is an error.
    #[default]
    Refuse,
    /// The column's mean over the training part takes its place (of a categorical column: each category's
    /// share).
    Mean,
}

impl DataConfig {
    /// The configuration that only names a training source.
    pub fn new(train: impl Into<String>) -> Self {
        DataConfig {
            train: train.into(),
            test: None,
            validation: None,
            validation_seed: None,
            label: None,
            header: None,
            columns: BTreeMap::new(),
            missing_values: None,
            standardize: false,
            missing: Missing::Refuse,
        }
    }

    /// The validation source, if it is not a share of the training source.
    pub(crate) fn validation_source(&self) -> Option<&str> {
        match &self.validation {
            Some(Validation::Source(source)) => Some(source),
            _ => None,
        }
    }
}

/// Lets `label = 3` stand for `label = "3"`.
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
