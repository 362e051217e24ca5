//! How the run file wants a column of a table to be used.

use crate::date::DatePart;
use serde::{Deserialize, Serialize};

/// The entry of a column in `data.columns`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnConfig {
    /// What the column holds. If not given, it follows from the other settings or from the cells.
    pub kind: Option<ColumnKind>,
    /// How missing cells are handled, instead of `data.missing`.
    pub fill: Option<Fill>,
    /// How features are scaled, instead of `data.standardize`.
    pub scale: Option<Scale>,
    /// Quantiles of the training set that bound the numbers of the column.
    pub clip: Option<[Quantile; 2]>,
    /// The smallest number of cells that makes a string a category. All rarer strings are one category.
    pub min_count: Option<u64>,
    /// The parts of a date that become features.
    pub parts: Option<Vec<DatePart>>,
    /// How dates are written. The default is ISO 8601.
    pub format: Option<String>,
}

impl From<ColumnKind> for ColumnConfig {
    fn from(kind: ColumnKind) -> Self {
        ColumnConfig { kind: Some(kind), ..ColumnConfig::default() }
    }
}

/// The type of a CSV column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// Each cell is a number. The column is one feature.
    Number,
    /// Each distinct string in the training source, including numbers, becomes a feature of 0 or 1.
    Category,
    /// Each cell is a date, possibly with a time. Each of its selected parts is a feature.
    Date,
    /// The column is not a feature. Other sources need not have it.
    Ignore,
}

impl ColumnKind {
    /// The name of the kind in the run file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ColumnKind::Number => "number",
            ColumnKind::Category => "category",
            ColumnKind::Date => "date",
            ColumnKind::Ignore => "ignore",
        }
    }
}

/// What replaces a missing cell of a column.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// Nothing: a missing cell is an error.
    Refuse,
    /// The mean of each feature over the training set.
    Mean,
    /// The median of each feature over the training set.
    Median,
    /// A fixed number, such as 0.
    Constant(f32),
    /// In a categorical column, the frequency of each category in the training set.
    Frequency,
    /// In a categorical column, the category that is most frequent in the training set.
    MostFrequent,
    /// In a categorical column, none of the categories.
    None,
}

/// How the features of a column are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// To mean 0 and standard deviation 1 over the training set.
    Standard,
    /// To the range from 0 to 1 over the training set.
    MinMax,
    /// Not at all.
    None,
}

/// A fraction from 0 to 1 with at most nine decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Quantile {
    billionths: u32,
}

impl Quantile {
    /// The fraction 1/2, whose quantile is the median.
    pub(crate) const MEDIAN: Quantile = Quantile { billionths: Quantile::WHOLE / 2 };

    const WHOLE: u32 = 1_000_000_000;

    /// The fraction in units of 10⁻⁹.
    pub(crate) fn billionths(self) -> u32 {
        self.billionths
    }

    /// The position of the quantile among `count` sorted values: floor(q · (count - 1)), exactly.
    pub(crate) fn position(self, count: usize) -> usize {
        let product = u128::from(self.billionths) * (count.max(1) - 1) as u128;
        (product / u128::from(Quantile::WHOLE)) as usize
    }
}

impl TryFrom<f64> for Quantile {
    type Error = String;

    /// Converts the binary64 nearest to a decimal number back to that number.
    fn try_from(value: f64) -> Result<Self, String> {
        let billionths = (value * f64::from(Quantile::WHOLE)).round();
        // The quotient of two exact numbers is the binary64 nearest to the decimal.
        let is_exact = (0.0..=1.0).contains(&value) && billionths / f64::from(Quantile::WHOLE) == value;
        match is_exact {
            true => Ok(Quantile { billionths: billionths as u32 }),
            false => Err(format!("{value} is not a number from 0 to 1 with at most nine decimals")),
        }
    }
}

impl From<Quantile> for f64 {
    fn from(quantile: Quantile) -> f64 {
        f64::from(quantile.billionths) / f64::from(Quantile::WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_exact_where_binary_fractions_are_not() {
        let position = |q: f64, count| Quantile::try_from(q).unwrap().position(count);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|count| position(0.5, count)), [0, 0, 0, 1, 1, 2]);
        // In binary64, 0.29 * 100 is below 29.
        assert_eq!((position(0.29, 101), (0.29_f64 * 100.0).floor()), (29, 28.0));
        assert_eq!((position(0.0, 7), position(1.0, 7)), (0, 6));
        assert_eq!(position(0.999_999_999, 1 << 32), 4_294_967_290);
        for bad in [-0.1, 1.1, 0.123_456_789_1, f64::NAN] {
            assert!(Quantile::try_from(bad).is_err(), "{bad}");
        }
    }
}
