//! The columns of a table: their types, and how their cells become features.

mod category;
mod guess;
mod settings;

use crate::column_config::{ColumnConfig, ColumnKind};
use crate::config::{DataConfig, Missing};
use crate::dataset::{self, ColumnContent};
use crate::date::{DateFormat, DatePart};
use crate::error::DataError;
use crate::format::csv::Dialect;
use crate::number::nearest;
use crate::syntax::CellSyntax;
use crate::table::{Column, MISSING, Strings, Table, UNSEEN};
use crate::unknown::{Tolerance, Unknown};
use category::Categories;
use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Range;

pub(crate) use settings::ColumnSettings;

/// Rows that a thread fills column by column: few enough to stay in cache, together with one cache line per
/// column that it reads.
const TILE: usize = 16;

/// Number of columns that are converted at a time. Their strings are freed before the next ones are
/// converted, so that a wide table is never in memory both as strings and as numbers.
const AT_ONCE: usize = 64;

/// The columns of the training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Columns {
    dialect: Dialect,
    /// Name of the label column.
    label: String,
    #[serde(rename = "columns")]
    features: Vec<Feature>,
    /// Names of the columns that are not features.
    ignored: Vec<String>,
    /// Whether columns that the training data does not have are ignored, because the run file lists those
    /// that are used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ignores_others: bool,
}

/// A column that becomes one or more features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Feature {
    name: String,
    #[serde(flatten)]
    content: Content,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Content {
    /// Numbers, each of which is a feature.
    Number {
        /// The bounds that replace numbers below or above them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip: Option<[f32; 2]>,
    },
    /// Categories, each of which becomes a feature of 0 or 1.
    Category {
        categories: Categories,
        /// Whether there is one more feature, for all other strings.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        other: bool,
    },
    /// Dates, whose parts are features.
    Date {
        parts: Vec<DatePart>,
        /// How dates are written; ISO 8601 by default.
        #[serde(default, skip_serializing_if = "DateFormat::is_iso")]
        format: DateFormat,
    },
}

impl Content {
    /// Number of features that the column becomes.
    fn width(&self) -> usize {
        match self {
            Content::Number { .. } => 1,
            Content::Category { categories, other } => categories.count() + usize::from(*other),
            Content::Date { parts, .. } => parts.len(),
        }
    }

    /// The names of these features, in a column named `column`.
    fn feature_names(&self, column: &str) -> Vec<String> {
        match self {
            Content::Number { .. } => vec![column.into()],
            Content::Category { categories, other } => {
                let other = other.then(|| format!("{column}=({OTHER})"));
                categories.feature_names(column).into_iter().chain(other).collect()
            }
            Content::Date { parts, .. } => {
                parts.iter().map(|part| format!("{column}.{}", part.name())).collect()
            }
        }
    }

    /// Converts the cells of a column.
    ///
    /// # Errors
    /// Returns the row of the first invalid cell, and why it is invalid.
    fn convert(
        &self,
        cells: &Strings,
        syntax: &CellSyntax,
        missing: Missing,
        tolerance: Tolerance,
    ) -> Result<Column, (usize, String)> {
        match self {
            Content::Number { clip } => {
                let mut values = cells.numbers(syntax, missing)?;
                if let Some(bounds) = clip {
                    values.iter_mut().for_each(|value| *value = clipped(*value, *bounds));
                }
                Ok(Column::F32(values))
            }
            Content::Category { categories, other } => {
                let find = |text: &str| match categories.find(text) {
                    Err(_) if *other => Ok(categories.count()),
                    Err(_) if tolerance.categories => Ok(UNSEEN as usize),
                    found => found,
                };
                cells.codes(syntax, missing, find).map(Column::Category)
            }
            Content::Date { parts, format } => {
                cells.dates(syntax, missing, format, parts).map(|values| Column::Parts(values, parts.len()))
            }
        }
    }

    fn kind(&self) -> ColumnKind {
        match self {
            Content::Number { .. } => ColumnKind::Number,
            Content::Category { .. } => ColumnKind::Category,
            Content::Date { .. } => ColumnKind::Date,
        }
    }

    /// Checks a type that was read from a model file.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    fn check(&self) -> Result<(), String> {
        match self {
            Content::Number { clip: Some([low, high]) }
                if !(low <= high && low.is_finite() && high.is_finite()) =>
            {
                Err(format!("`clip` is not a range: {low} to {high}"))
            }
            Content::Number { .. } => Ok(()),
            Content::Category { categories, .. } => categories.check(),
            Content::Date { parts, .. } if parts.is_empty() => Err("it has no parts".into()),
            Content::Date { .. } => Ok(()),
        }
    }
}

/// The name of the category of all strings that are no category.
const OTHER: &str = "other";

/// `value`, or the bound that it exceeds. NaN stays NaN.
pub(crate) fn clipped(value: f32, [low, high]: [f32; 2]) -> f32 {
    match value {
        _ if value < low => low,
        _ if value > high => high,
        _ => value,
    }
}

/// The type of a column of the training data, and its converted cells if inferring the type has
/// already converted them.
pub(crate) type LearnedColumn = (Content, Option<Column>);

/// The type of `column` in the training data; `None` if the column is ignored.
///
/// # Errors
/// Returns an error if the type is neither declared nor clear from the cells, if the settings of the column do
/// not suit it, or if it has too many categories.
pub(crate) fn content(
    table: &Table,
    column: usize,
    config: &DataConfig,
) -> Result<Option<LearnedColumn>, DataError> {
    let name = &table.header[column];
    let settings = ColumnSettings::of(config, name);
    let learned = match settings.kind() {
        Some(ColumnKind::Ignore) => {
            settings.check(name, ColumnKind::Ignore)?;
            return Ok(None);
        }
        Some(ColumnKind::Number) => (Content::Number { clip: None }, None),
        Some(ColumnKind::Category) => {
            let categories = Categories::learn(table, column, settings.min_count())?;
            (Content::Category { categories, other: settings.min_count().is_some() }, None)
        }
        Some(ColumnKind::Date) => {
            let (parts, format) = settings.dates(name)?;
            (Content::Date { parts, format }, None)
        }
        None => guess::content(table, column, settings.missing())?,
    };
    settings.check(name, learned.0.kind())?;
    Ok(Some(learned))
}

/// The run-file key that declares the column `name`.
fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => format!("data.columns.{name}"),
        false => format!("data.columns.{name:?}"),
    }
}

/// Checks the names of columns in the run file. `label` is the index of the label column in `table`.
fn check_names(table: &Table, label: usize, config: &DataConfig) -> Result<(), DataError> {
    let bad = |key: &'static str, problem: String| Err(DataError::Option { key, problem });
    if config.only.is_some() && config.drop.is_some() {
        return bad("use", "data.drop is set as well, and only one of them can be".into());
    }
    let listed = [("drop", &config.drop), ("use", &config.only)];
    let listed =
        listed.into_iter().flat_map(|(key, names)| names.iter().flatten().map(move |name| (key, name)));
    for (key, name) in listed.chain(config.columns.keys().map(|name| ("columns", name))) {
        match table.column(name) {
            None => {
                let near = nearest(name, table.header.iter().map(String::as_str));
                return bad(key, format!("{} has no column `{name}`{near}", table.location));
            }
            Some(column) if column == label && key == "drop" => {
                return bad(key, format!("`{name}` is the label column; select another one with data.label"));
            }
            Some(column) if column == label && key == "columns" => {
                return bad(
                    key,
                    format!(
                        "`{name}` is the label column, whose kind the model determines; remove it from \
                         data.columns"
                    ),
                );
            }
            Some(_) => {}
        }
    }
    let contradicts = |(name, column): &(&String, &ColumnConfig)| {
        column.kind != Some(ColumnKind::Ignore) && settings::is_unused(config, name)
    };
    match config.columns.iter().find(contradicts) {
        Some((name, _)) if config.only.is_some() => {
            bad("columns", format!("data.use does not list `{name}`"))
        }
        Some((name, _)) => bad("columns", format!("data.drop lists `{name}`")),
        None => Ok(()),
    }
}

impl Columns {
    /// Determines the columns of the training data, and converts those whose type must be inferred. `label`
    /// is the index of the label column.
    pub(crate) fn learn(table: &mut Table, label: usize, config: &DataConfig) -> Result<Self, DataError> {
        check_names(table, label, config)?;
        let others: Vec<usize> = (0..table.width()).filter(|&column| column != label).collect();
        let mut columns = Columns {
            dialect: Dialect::new(config),
            label: table.header[label].clone(),
            features: Vec::new(),
            ignored: Vec::new(),
            ignores_others: config.only.is_some(),
        };
        for some in others.chunks(AT_ONCE) {
            let learn = |&column: &usize| content(table, column, config);
            // The results are collected before any is unpacked, so that the first bad column of the file is
            // reported, not the one that was found first.
            let learned: Vec<Result<Option<LearnedColumn>, DataError>> = some.par_iter().map(learn).collect();
            for (learned, &column) in learned.into_iter().zip(some) {
                let name = table.header[column].clone();
                let Some((content, converted)) = learned? else {
                    columns.ignored.push(name);
                    continue;
                };
                columns.features.push(Feature { name, content });
                if let Some(converted) = converted {
                    table.columns[column] = converted;
                }
            }
        }
        if columns.features.is_empty() {
            let others = if columns.ignored.is_empty() { "" } else { " that are not ignored" };
            let problem = format!("the file has no columns other than the label{others}");
            return Err(DataError::content(&table.location, problem));
        }
        Ok(columns)
    }

    /// Checks columns that were read from a model file.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.features.is_empty() {
            return Err("there is no column".into());
        }
        let mut names = BTreeSet::from([&self.label]);
        for name in self.features.iter().map(|column| &column.name).chain(&self.ignored) {
            if !names.insert(name) {
                return Err(format!("two columns are named `{name}`"));
            }
        }
        self.features.iter().try_for_each(|column| {
            column.content.check().map_err(|problem| format!("column `{}`: {problem}", column.name))
        })
    }

    /// Names of the columns that become features.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.features.iter().map(|column| column.name.as_str())
    }

    /// Whether the training data had a column of this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        name == self.label
            || self.ignored.iter().any(|known| known == name)
            || self.names().any(|known| known == name)
    }

    /// Whether columns that the training data does not have are ignored without a note.
    pub(crate) fn ignores_others(&self) -> bool {
        self.ignores_others
    }

    /// Checks that `table` has the columns of the model, and no others unless `tolerance` allows them.
    pub(crate) fn check_header(&self, table: &Table, tolerance: Tolerance) -> Result<(), DataError> {
        self.find(table, tolerance, &mut Unknown::default()).map(drop)
    }

    /// How other sources are written.
    pub(crate) fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// Name of the label column.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The names of all features.
    pub(crate) fn feature_names(&self) -> Vec<String> {
        self.features.iter().flat_map(|column| column.content.feature_names(&column.name)).collect()
    }

    /// The columns, each with the features that it becomes.
    pub(crate) fn with_features(&self) -> Vec<dataset::Column> {
        let mut end = 0;
        let with_features = |column: &Feature| {
            let begin = end;
            end += column.content.width();
            let content = match &column.content {
                Content::Number { clip } => ColumnContent::Number { clip: *clip },
                Content::Category { categories, other } => {
                    ColumnContent::Category { names: categories.names().to_vec(), has_other: *other }
                }
                Content::Date { parts, .. } => ColumnContent::Date { parts: parts.clone() },
            };
            dataset::Column { name: column.name.clone(), content, features: begin..end }
        };
        self.features.iter().map(with_features).collect()
    }

    /// Name and number of categories of each categorical column.
    pub(crate) fn categories(&self) -> Vec<(String, usize)> {
        let categories = |column: &Feature| match &column.content {
            Content::Category { .. } => Some((column.name.clone(), column.content.width())),
            Content::Number { .. } | Content::Date { .. } => None,
        };
        self.features.iter().filter_map(categories).collect()
    }

    /// The settings of each column, with its features.
    pub(crate) fn settings<'a>(
        &'a self,
        config: &'a DataConfig,
    ) -> impl Iterator<Item = (Range<usize>, ColumnSettings<'a>)> {
        let mut end = 0;
        self.features.iter().map(move |column| {
            let begin = end;
            end += column.content.width();
            (begin..end, ColumnSettings::of(config, &column.name))
        })
    }

    /// Sets the bounds of the number column with the feature `feature`.
    pub(crate) fn set_clip(&mut self, feature: usize, bounds: [f32; 2]) {
        let mut end = 0;
        let column = self.features.iter_mut().find(|column| {
            end += column.content.width();
            feature < end
        });
        if let Some(Content::Number { clip }) = column.map(|column| &mut column.content) {
            *clip = Some(bounds);
        }
    }

    /// Encodes a table, whose columns are found by name, and converts them on the way. Missing cells become
    /// NaN in the columns that allow them according to `missing`, which has one item per column. Also returns
    /// what was tolerated.
    pub(crate) fn encode(
        &self,
        table: &mut Table,
        missing: &[Missing],
        tolerance: Tolerance,
    ) -> Result<(Array2<f32>, Unknown), DataError> {
        let mut unknown = Unknown::default();
        let indices = self.find(table, tolerance, &mut unknown)?;
        let width: usize = self.features.iter().map(|column| column.content.width()).sum();
        let mut values = super::zeros(&table.location, table.rows(), width)?;
        self.convert(table, &indices, missing, tolerance, &mut unknown)?;
        let mut begin = 0;
        let columns: Vec<(&Column, Range<usize>)> = (self.features.iter().zip(&indices))
            .map(|(feature, &index)| {
                let slots = begin..begin + feature.content.width();
                begin = slots.end;
                (&table.columns[index], slots)
            })
            .collect();
        let flat = values.as_slice_mut().expect("features are row-major");
        flat.par_chunks_mut(TILE * width).enumerate().for_each(|(tile, rows)| {
            for (column, slots) in &columns {
                write(column, tile * TILE, rows.chunks_exact_mut(width).map(|row| &mut row[slots.clone()]));
            }
        });
        Ok((values, unknown))
    }

    /// Converts those columns at `indices` that are still strings. Adds unseen categories to `unknown`.
    fn convert(
        &self,
        table: &mut Table,
        indices: &[usize],
        missing: &[Missing],
        tolerance: Tolerance,
        unknown: &mut Unknown,
    ) -> Result<(), DataError> {
        let mut first: Option<(usize, usize, String)> = None;
        let columns: Vec<(&Content, usize, Missing)> = (self.features.iter().zip(indices).zip(missing))
            .map(|((feature, &index), &missing)| (&feature.content, index, missing))
            .collect();
        for columns in columns.chunks(AT_ONCE) {
            let convert = |&(content, index, missing): &(&Content, usize, Missing)| match &table.columns
                [index]
            {
                Column::String(cells) => content.convert(cells, &table.syntax, missing, tolerance).map(Some),
                Column::F32(_) | Column::Category(_) | Column::Parts(..) => Ok(None),
            };
            let converted: Vec<_> = columns.par_iter().map(convert).collect();
            for (converted, &(_, index, _)) in converted.into_iter().zip(columns) {
                match converted {
                    Ok(Some(column)) => {
                        if let (Column::Category(codes), true) = (&column, tolerance.categories)
                            && let Some(row) = codes.iter().position(|&code| code == UNSEEN)
                        {
                            let count = codes[row..].iter().filter(|&&code| code == UNSEEN).count() as u64;
                            let example = table.cell(row, index).to_owned();
                            unknown.categories.insert(table.header[index].clone(), (count, example));
                        }
                        table.columns[index] = column;
                    }
                    Ok(None) => {}
                    // Report the first invalid cell in the order of the file.
                    Err((row, problem)) if first.as_ref().is_none_or(|first| row < first.0) => {
                        first = Some((row, index, problem));
                    }
                    Err(_) => {}
                }
            }
        }
        match first {
            Some((row, index, problem)) => Err(DataError::content(table.location_of(row, index), problem)),
            None => Ok(()),
        }
    }

    /// Finds each feature's column in `table`. Other columns than the label and ignored ones are errors or added
    /// to `unknown`.
    fn find(
        &self,
        table: &Table,
        tolerance: Tolerance,
        unknown: &mut Unknown,
    ) -> Result<Vec<usize>, DataError> {
        let names = || self.names();
        let bad = |problem: String| DataError::content(table.first_location(), problem);
        if !self.ignores_others {
            unknown.columns = table.header.iter().filter(|name| !self.knows(name)).cloned().collect();
        }
        if let (Some(extra), false) = (unknown.columns.first(), tolerance.columns) {
            let near = nearest(extra, names());
            return Err(bad(format!("column `{extra}` does not occur in the training data{near}")));
        }
        names()
            .map(|name| {
                table.column(name).ok_or_else(|| {
                    let separator = match table.width() {
                        1 => format!("; cells are separated by {}", table.separator.described()),
                        _ => String::new(),
                    };
                    bad(format!("column `{name}`, which the training data has, is missing{separator}"))
                })
            })
            .collect()
    }
}

/// Writes the cells of a column, from row `first` on, to the slots of its features, which must be 0. `rows`
/// has one item per row.
fn write<'a>(column: &Column, first: usize, rows: impl Iterator<Item = &'a mut [f32]>) {
    match column {
        Column::F32(values) => rows.zip(&values[first..]).for_each(|(slots, &value)| slots[0] = value),
        Column::Category(codes) => rows.zip(&codes[first..]).for_each(|(slots, &code)| match code {
            MISSING => slots.fill(f32::NAN),
            UNSEEN => {}
            code => slots[code as usize] = 1.0,
        }),
        Column::Parts(values, width) => {
            let cells = values[first * width..].chunks_exact(*width);
            rows.zip(cells).for_each(|(slots, values)| slots.copy_from_slice(values));
        }
        Column::String(_) => unreachable!("the columns of features have been converted"),
    }
}
