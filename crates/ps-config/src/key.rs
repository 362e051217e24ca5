//! A key of the run file: its name, type and range, default, help, and which runs it applies to.

use std::fmt;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// One key of the run file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its table and name with a dot between, as `--set` takes it; the name alone at the top level.
    pub path: &'static str,
    /// Its type and range.
    pub accepts: Accepts,
    /// What holds if it is not set.
    pub default: Fallback,
    /// Which runs it applies to; in others it is refused.
    pub used: Use,
    /// What it means.
    pub help: &'static str,
}

impl Key {
    /// Its table (empty at the top level) and its name there.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

/// Type and range of a key.
#[derive(Clone, Copy, Debug)]
pub enum Accepts {
    /// An integer from the first to the second, both included.
    Integer(u64, u64),
    /// A finite number between bounds, rounded to binary32.
    Single(Bound<f64>, Bound<f64>),
    /// A finite number between bounds.
    Double(Bound<f64>, Bound<f64>),
    /// `true` or `false`.
    Flag,
    /// A string that is not empty.
    Text,
    /// One of these strings.
    Name(&'static [&'static str]),
    /// A list of layer widths.
    Widths,
    /// A list of tables, see [`ps_core::layer::KINDS`].
    Layers,
    /// A number of steps, at least this many, or a string of epochs or a share of the run.
    Time(u64),
    /// A list of those.
    Times,
    /// A list of numbers above 0.
    Rates,
    /// A table from names of parameters to numbers of at least 0.
    Factors,
    /// A table from names of columns to their kinds.
    Columns,
    /// A list of strings, which may be empty.
    Texts,
    /// An integer from 1 to this, or the string `full`.
    Batch(u64),
    /// An array of tables with the keys of the table that this key is in.
    Phases,
    /// A number above 0 and below 1, or a string.
    ShareOrText,
    /// A string or an integer.
    TextOrInteger,
}

/// What holds if a key is not set.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// The key must be set, for example to this.
    Required(&'static str),
    /// This value, in TOML.
    Value(&'static str),
    /// What these words say.
    Described(&'static str),
}

/// Which runs a key applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// All.
    Always,
    /// Those in which another key of the same table has one of these values.
    When(&'static str, &'static [&'static str]),
    /// Phases that follow a table, and not the table itself.
    InPhases,
    /// The table itself, and not the phases that follow it.
    BeforePhases,
}

pub(crate) use Accepts::{
    Columns, Double, Factors, Flag, Integer, Layers, Name, Phases, Rates, ShareOrText, Single, Text,
    TextOrInteger, Texts, Times, Widths,
};
pub(crate) use Fallback::{Described, Required, Value};
pub(crate) use Use::{Always, BeforePhases, InPhases, When};

/// The largest integer of TOML.
pub(crate) const MOST: u64 = i64::MAX as u64;
/// Leaves are numbered with 32 bits.
pub(crate) const MOST_SAMPLES: u64 = u32::MAX as u64;
/// Beyond this a layer's weights would not fit any machine's memory.
pub(crate) const MOST_WIDTH: u64 = 1_000_000;

pub(crate) const POSITIVE: Accepts = Double(Excluded(0.0), Unbounded);
pub(crate) const NOT_NEGATIVE: Accepts = Double(Included(0.0), Unbounded);
/// Strictly between 0 and 1.
pub(crate) const BETWEEN: Accepts = Double(Excluded(0.0), Excluded(1.0));
pub(crate) const POSITIVE_SINGLE: Accepts = Single(Excluded(0.0), Unbounded);
pub(crate) const NOT_NEGATIVE_SINGLE: Accepts = Single(Included(0.0), Unbounded);

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integer(low, MOST) => write!(f, "an integer of at least {low}"),
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
            Widths => write!(f, "a list of integers from 1 to {MOST_WIDTH}, such as [512, 256]"),
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
            Times => write!(f, "a list of such times, such as [1000, \"3 epochs\", \"90%\"]"),
            Rates => write!(f, "a list of numbers above 0, such as [0.01, 0.001]"),
            Factors => {
                write!(f, "a table of numbers above 0, such as {{ biases = 2.0, \"layers.0\" = 0.1 }}")
            }
            Columns => write!(
                f,
                "a table of columns, each \"number\", \"category\" or \"ignore\", such as {{ id = \"ignore\" }}"
            ),
            Texts => write!(f, "a list of strings, such as [\"NA\", \"-\"]"),
            Accepts::Batch(most) => write!(f, "an integer from 1 to {most}, or \"full\""),
            Phases => write!(f, "an array of tables, [[learning_rate.then]]"),
            ShareOrText => write!(f, "a number above 0 and below 1, or a source in quotes"),
            TextOrInteger => write!(f, "a column's name in quotes or its number"),
        }
    }
}
