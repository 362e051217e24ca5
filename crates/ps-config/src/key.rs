//! The definition of a key: name, type and range, default, help, and the runs to which it applies.

use std::fmt;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// A key of the run file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Table and name separated by a dot, as `--set` takes it; the name alone at the top level.
    pub path: &'static str,
    /// Type and range of the value.
    pub accepts: Accepts,
    /// The value if the key is not set.
    pub default: Fallback,
    /// The runs to which the key applies; in others it is refused.
    pub used: Use,
    /// Description in Markdown, for the reference of keys.
    pub help: &'static str,
}

impl Key {
    /// Returns the table (empty at the top level) and the name in it.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

/// Type and range of a key.
#[derive(Clone, Copy, Debug)]
pub enum Accepts {
    /// An integer between two bounds, both inclusive.
    Integer(u64, u64),
    /// A finite number between two bounds, rounded to binary32.
    Single(Bound<f64>, Bound<f64>),
    /// A finite number between two bounds, kept as binary64.
    Double(Bound<f64>, Bound<f64>),
    /// `true` or `false`.
    Flag,
    /// A non-empty string.
    Text,
    /// One of the given strings.
    Name(&'static [&'static str]),
    /// A list of layer widths.
    Widths,
    /// A list of layers as inline tables, see [`ps_core::layer::KINDS`].
    Layers,
    /// A time: an integer of at least this many steps, or a string such as `2 epochs` or `10%` (of the run).
    Time(u64),
    /// A list of times.
    Times,
    /// A list of positive numbers.
    Rates,
    /// An inline table from parameter names to non-negative factors.
    Factors,
    /// An inline table from column names to how they are used, see [`ps_data::ColumnConfig`].
    Columns,
    /// A list of strings; may be empty.
    Texts,
    /// A list of column names, or of numbers for columns without names; may not be empty.
    Names,
    /// A separator of cells: a character, or `tab`.
    Separator,
    /// A range of rows, such as `0..8000`.
    Rows,
    /// An integer from 1 to this, or the string `full`.
    Batch(u64),
    /// An array of tables. Each has the same keys as the table that contains this key.
    Phases,
    /// A number strictly between 0 and 1, or a string.
    ShareOrText,
    /// A string or an integer.
    TextOrInteger,
}

/// The value of a key that is not set.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// There is none: the key must be set. The string is an example.
    Required(&'static str),
    /// A constant, in TOML.
    Value(&'static str),
    /// A value that depends on the run; the string describes it.
    Described(&'static str),
}

/// The runs to which a key applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The key applies to all runs.
    Always,
    /// Runs in which another key of the same table has one of the given values.
    When(&'static str, &'static [&'static str]),
    /// Only the phases that follow a table, not the table itself.
    InPhases,
    /// Only the table itself, not the phases that follow it.
    BeforePhases,
}

pub(crate) use Accepts::{
    Columns, Double, Factors, Flag, Integer, Layers, Name, Names, Phases, Rates, Rows, ShareOrText, Single,
    Text, TextOrInteger, Texts, Times, Widths,
};
pub(crate) use Fallback::{Described, Required, Value};
pub(crate) use Use::{Always, BeforePhases, InPhases, When};

/// The largest integer that TOML supports.
pub(crate) const MAX_INTEGER: u64 = i64::MAX as u64;
/// The largest number of samples: leaves are numbered with 32 bits.
pub(crate) const MAX_SAMPLES: u64 = u32::MAX as u64;
/// The largest layer width. The weights of wider layers would not fit into the memory of any machine.
pub(crate) const MAX_WIDTH: u64 = 1_000_000;

pub(crate) const POSITIVE: Accepts = Double(Excluded(0.0), Unbounded);
pub(crate) const NOT_NEGATIVE: Accepts = Double(Included(0.0), Unbounded);
/// Numbers strictly between 0 and 1.
pub(crate) const BETWEEN: Accepts = Double(Excluded(0.0), Excluded(1.0));
pub(crate) const POSITIVE_SINGLE: Accepts = Single(Excluded(0.0), Unbounded);
pub(crate) const NOT_NEGATIVE_SINGLE: Accepts = Single(Included(0.0), Unbounded);

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integer(low, MAX_INTEGER) => write!(f, "an integer of at least {low}"),
            Integer(low, high) => write!(f, "an integer from {low} to {high}"),
            Single(low, high) | Double(low, high) => match (low, high) {
                (Included(low), Excluded(high)) => write!(f, "a number of at least {low} and below {high}"),
                (Excluded(low), Excluded(high)) => write!(f, "a number above {low} and below {high}"),
                (Excluded(low), _) => write!(f, "a finite number above {low}"),
                (Included(low), _) => write!(f, "a finite number of at least {low}"),
                (Unbounded, _) => write!(f, "a finite number"),
            },
            Flag => write!(f, "true or false"),
            Text => write!(f, "a string in quotes"),
            Name(names) => {
                for (index, name) in names.iter().enumerate() {
                    let between = match index {
                        0 => "",
                        _ if index + 1 == names.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{between}\"{name}\"")?;
                }
                Ok(())
            }
            Widths => write!(f, "a list of integers from 1 to {MAX_WIDTH}, such as [512, 256]"),
            Layers => {
                write!(
                    f,
                    "a list of tables, such as [{{ kind = \"dense\", units = 64 }}, {{ kind = \"relu\" }}]"
                )
            }
            Accepts::Time(low) => {
                write!(
                    f,
                    "a number of steps of at least {low}, or a string such as \"2 epochs\" or \"5%\" of the run"
                )
            }
            Times => write!(f, "a list of times, such as [1000, \"3 epochs\", \"90%\"]"),
            Rates => write!(f, "a list of numbers above 0, such as [0.01, 0.001]"),
            Factors => {
                write!(f, "a table of numbers above 0, such as {{ biases = 2.0, \"layers.0\" = 0.1 }}")
            }
            Columns => write!(
                f,
                "a table of columns, such as {{ id = \"ignore\", age = {{ kind = \"number\", fill = \"median\" }} }}"
            ),
            Texts => write!(f, "a list of strings, such as [\"NA\", \"-\"]"),
            Names => write!(f, "a list of columns, such as [\"id\", \"name\"]"),
            Accepts::Separator => {
                write!(f, "a character such as \";\", or \"tab\", or \" \" for any number of blanks")
            }
            Rows => write!(f, "a range of rows, such as \"0..8000\", \"8000..\" or \"..8000\""),
            Accepts::Batch(most) => write!(f, "an integer from 1 to {most}, or \"full\""),
            Phases => write!(f, "an array of tables, [[learning_rate.then]]"),
            ShareOrText => write!(f, "a number above 0 and below 1, or a source in quotes"),
            TextOrInteger => write!(f, "a column's name in quotes or its number"),
        }
    }
}
