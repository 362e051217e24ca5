//! What the run file says about a single column, with the defaults of `[data]`.

use super::key;
use crate::column_config::{ColumnConfig, ColumnKind, Fill, Quantile, Scale};
use crate::config::{DataConfig, Missing};
use crate::date::{DateFormat, DatePart};
use crate::error::DataError;

/// The settings of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnSettings<'a> {
    data: &'a DataConfig,
    column: Option<&'a ColumnConfig>,
    is_unused: bool,
}

impl<'a> ColumnSettings<'a> {
    /// The settings of the column `name`.
    pub(crate) fn of(data: &'a DataConfig, name: &String) -> Self {
        ColumnSettings { data, column: data.columns.get(name), is_unused: is_unused(data, name) }
    }

    /// The settings of features that are not the columns of a table.
    pub(crate) fn of_all(data: &'a DataConfig) -> Self {
        ColumnSettings { data, column: None, is_unused: false }
    }

    fn get<T>(&self, setting: impl FnOnce(&'a ColumnConfig) -> Option<T>) -> Option<T> {
        self.column.and_then(setting)
    }

    /// The kind of the column, if it is declared or follows from a setting that only one kind has.
    pub(crate) fn kind(&self) -> Option<ColumnKind> {
        if self.is_unused {
            return Some(ColumnKind::Ignore);
        }
        let column = self.column?;
        let implied = [
            (column.clip.is_some(), ColumnKind::Number),
            (column.min_count.is_some(), ColumnKind::Category),
            (column.parts.is_some() || column.format.is_some(), ColumnKind::Date),
        ];
        column.kind.or_else(|| implied.into_iter().find(|(is_set, _)| *is_set).map(|(_, kind)| kind))
    }

    /// What replaces a missing cell.
    pub(crate) fn fill(&self) -> Fill {
        self.get(|column| column.fill).unwrap_or(match self.data.missing {
            Missing::Refuse => Fill::Refuse,
            Missing::Mean => Fill::Mean,
        })
    }

    /// Whether cells may be missing.
    pub(crate) fn missing(&self) -> Missing {
        if self.fill() == Fill::Refuse { Missing::Refuse } else { Missing::Mean }
    }

    /// How the features are scaled.
    pub(crate) fn scale(&self) -> Scale {
        let default = if self.data.standardize { Scale::Standard } else { Scale::None };
        self.get(|column| column.scale).unwrap_or(default)
    }

    /// The quantiles that bound the numbers.
    pub(crate) fn clip(&self) -> Option<[Quantile; 2]> {
        self.get(|column| column.clip)
    }

    /// The smallest number of cells that makes a string a category.
    pub(crate) fn min_count(&self) -> Option<u64> {
        self.get(|column| column.min_count)
    }

    /// The settings of the column itself that affect preprocessing and are not visible in its features.
    pub(crate) fn of_preprocessing(&self) -> (Option<Fill>, Option<Scale>, Option<[Quantile; 2]>) {
        (self.get(|column| column.fill), self.get(|column| column.scale), self.clip())
    }

    /// The parts and the format of dates in the column `name`.
    pub(crate) fn dates(&self, name: &str) -> Result<(Vec<DatePart>, DateFormat), DataError> {
        let parts = self.get(|column| column.parts.clone()).unwrap_or_else(|| DatePart::DEFAULT.to_vec());
        let format = DateFormat::new(self.get(|column| column.format.as_deref()));
        let format = format.map_err(|problem| bad(name, "format", &problem))?;
        match (0..parts.len()).find(|&index| parts[..index].contains(&parts[index])) {
            Some(twice) => Err(bad(name, "parts", &format!("{} is listed twice", parts[twice].name()))),
            None if parts.is_empty() => Err(bad(name, "parts", "the list is empty")),
            None => Ok((parts, format)),
        }
    }

    /// Checks that the settings of the column `name` suit its kind.
    pub(crate) fn check(&self, name: &str, kind: ColumnKind) -> Result<(), DataError> {
        let Some(column) = self.column else { return Ok(()) };
        let only = |key: &str, kinds: &str| {
            Err(bad(name, key, &format!("the column is of kind {}, and only {kinds} has this", kind.name())))
        };
        let (is_number, is_category) = (kind == ColumnKind::Number, kind == ColumnKind::Category);
        match column {
            _ if self.is_unused => return Ok(()),
            ColumnConfig { clip: Some(_), .. } if !is_number => return only("clip", "a number"),
            ColumnConfig { min_count: Some(_), .. } if !is_category => {
                return only("min_count", "a category");
            }
            ColumnConfig { parts: Some(_), .. } if kind != ColumnKind::Date => {
                return only("parts", "a date");
            }
            ColumnConfig { format: Some(_), .. } if kind != ColumnKind::Date => {
                return only("format", "a date");
            }
            ColumnConfig { fill: Some(_), .. } if kind == ColumnKind::Ignore => {
                return only("fill", "a column that is used");
            }
            ColumnConfig { scale: Some(_), .. } if kind == ColumnKind::Ignore => {
                return only("scale", "a column that is used");
            }
            _ => {}
        }
        if let Some([low, high]) = column.clip.filter(|[low, high]| low >= high) {
            let (low, high) = (f64::from(low), f64::from(high));
            return Err(bad(name, "clip", &format!("{low} is not below {high}")));
        }
        if column.min_count == Some(0) {
            return Err(bad(name, "min_count", "it must be at least 1"));
        }
        match column.fill {
            Some(Fill::Median | Fill::Constant(_)) if is_category => {
                Err(bad(name, "fill", "a category has this: refuse, frequency, most-frequent or none"))
            }
            Some(Fill::Frequency | Fill::MostFrequent | Fill::None) if !is_category => {
                let problem = format!("a {} has this: refuse, mean, median or a number", kind.name());
                Err(bad(name, "fill", &problem))
            }
            Some(Fill::Constant(value)) if !value.is_finite() => {
                Err(bad(name, "fill", &format!("{value} is not finite")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the run file excludes the column `name` by `drop` or `use`.
pub(crate) fn is_unused(data: &DataConfig, name: &String) -> bool {
    let is_listed = |names: &Vec<String>| names.contains(name);
    data.drop.as_ref().is_some_and(is_listed) || data.only.as_ref().is_some_and(|only| !is_listed(only))
}

fn bad(name: &str, setting: &str, problem: &str) -> DataError {
    let path = key(name);
    let path = path.strip_prefix("data.columns.").unwrap_or(&path);
    DataError::Option { key: "columns", problem: format!("{path}.{setting}: {problem}") }
}
