//! The run file's `[data]` table, and what a source's text means.

use crate::error::DataError;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Drawings of `digits:` without a count.
pub const DIGITS_COUNT: usize = 20_000;
/// Seed of `digits:` without one.
pub const DIGITS_SEED: u64 = 1;

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

    /// Whether a source is standard input, which can be read only once and by one process.
    pub fn reads_stdin(&self) -> bool {
        let validation = match &self.validation {
            Some(Validation::Source(source)) => Some(source),
            _ => None,
        };
        let sources = [Some(&self.train), validation, self.test.as_ref()].into_iter().flatten();
        // A text that is not a source is refused when it is read.
        sources.filter_map(|source| Source::parse(source).ok()).any(|source| source.reads_stdin())
    }
}

/// A source's text, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of images and one of labels (which may be absent where no labels are needed).
    Idx {
        /// The images.
        images: PathBuf,
        /// The labels.
        labels: Option<PathBuf>,
    },
    /// Rows of cells separated by commas.
    Csv(PathBuf),
    /// Sparse rows in text.
    Libsvm(PathBuf),
    /// The built-in drawings.
    Digits {
        /// How many.
        count: usize,
        /// Of which series.
        seed: u64,
    },
}

impl Source {
    /// Takes `text` apart.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let bad = |problem: String| DataError::Source { source: text.into(), problem };
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(bad(format!("it names no kind of source; {KINDS}")));
        };
        let path = |path: &str| match path.trim() {
            "" => Err(bad(format!("no path follows `{kind}:`"))),
            path => Ok(PathBuf::from(path)),
        };
        match kind.trim() {
            "idx" => Ok(match rest.split_once(',') {
                Some((images, labels)) if [images, labels].iter().any(|path| is_stdin(path.trim())) => {
                    return Err(bad(STDIN_KINDS.into()));
                }
                None if is_stdin(rest.trim()) => return Err(bad(STDIN_KINDS.into())),
                Some((images, labels)) => Source::Idx { images: path(images)?, labels: Some(path(labels)?) },
                None => Source::Idx { images: path(rest)?, labels: None },
            }),
            "csv" => Ok(Source::Csv(path(rest)?)),
            "libsvm" => Ok(Source::Libsvm(path(rest)?)),
            "digits" => digits(rest).map_err(bad),
            other => Err(bad(format!("`{other}` is no kind of source; {KINDS}"))),
        }
    }

    /// Whether it is `csv:-` or `libsvm:-`, which read standard input.
    pub fn reads_stdin(&self) -> bool {
        matches!(self, Source::Csv(path) | Source::Libsvm(path) if is_stdin(path))
    }
}

/// Whether a path stands for standard input.
fn is_stdin(path: impl AsRef<OsStr>) -> bool {
    path.as_ref() == "-"
}

const STDIN_KINDS: &str =
    "only csv:- and libsvm:- read standard input; name a file (./- if it is called `-`)";

const KINDS: &str = "use idx:IMAGES,LABELS, csv:PATH, libsvm:PATH or digits:COUNT; a path may be a URL";

fn digits(rest: &str) -> Result<Source, String> {
    let (count, seed) = match rest.split_once(',') {
        Some((count, seed)) => (count.trim(), Some(seed.trim())),
        None => (rest.trim(), None),
    };
    let count = match count {
        "" => DIGITS_COUNT,
        text => match text.parse() {
            Ok(count @ 1..=10_000_000) => count,
            _ => return Err(format!("`{text}` is not a number of drawings from 1 to 10000000")),
        },
    };
    let seed = match seed {
        None => DIGITS_SEED,
        Some(text) => text
            .strip_prefix("seed=")
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| format!("`{text}` where seed=N was expected"))?,
    };
    Ok(Source::Digits { count, seed })
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
