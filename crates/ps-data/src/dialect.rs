//! How a source is written: separators, decimal points, and the rows that are used.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What separates the cells of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Separator {
    /// A character in ASCII, such as `,` or a tab.
    Byte(u8),
    /// One or more spaces and tabs. Those at the start and the end of a row separate nothing.
    Blanks,
}

impl Separator {
    /// The separator as error messages and notes call it.
    pub fn described(self) -> String {
        match self {
            Separator::Byte(b',') => "commas".into(),
            Separator::Byte(b';') => "semicolons".into(),
            Separator::Byte(b'\t') => "tabs".into(),
            Separator::Byte(byte) => format!("`{}`", char::from(byte)),
            Separator::Blanks => "blanks".into(),
        }
    }
}

impl FromStr for Separator {
    type Err = String;

    /// Parses a single character, where a space stands for any number of blanks, or `tab` or `blanks`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b" " | b"blanks" => Ok(Separator::Blanks),
            b"\t" | b"tab" => Ok(Separator::Byte(b'\t')),
            &[byte] if byte.is_ascii_punctuation() && !b"\"'+-.".contains(&byte) => Ok(Separator::Byte(byte)),
            _ => Err(format!("{text:?} is not a separator")),
        }
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Separator::Byte(byte) => write!(f, "{}", char::from(*byte)),
            Separator::Blanks => write!(f, " "),
        }
    }
}

impl TryFrom<String> for Separator {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Separator> for String {
    fn from(separator: Separator) -> String {
        separator.to_string()
    }
}

/// What separates the integer part of a number from its fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decimal {
    /// A point, as in `1.5`.
    #[default]
    #[serde(rename = ".")]
    Point,
    /// A comma, as in `1,5`.
    #[serde(rename = ",")]
    Comma,
}

impl Decimal {
    pub(crate) fn is_point(&self) -> bool {
        *self == Decimal::Point
    }
}

/// A range of rows, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowRange {
    /// The first row.
    pub begin: usize,
    /// The row after the last one; `None` for all rows from `begin` on.
    pub end: Option<usize>,
}

impl FromStr for RowRange {
    type Err = String;

    /// Parses `a..b`, `a..` or `..b`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a range of rows");
        let bound = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
        let (begin, end) = text.split_once("..").ok_or_else(bad)?;
        let range = RowRange {
            begin: if begin.trim().is_empty() { 0 } else { bound(begin)? },
            end: if end.trim().is_empty() { None } else { Some(bound(end)?) },
        };
        if range.end.is_some_and(|end| end <= range.begin) { Err(bad()) } else { Ok(range) }
    }
}

impl fmt::Display for RowRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.begin)?;
        self.end.map_or(Ok(()), |end| write!(f, "{end}"))
    }
}

impl TryFrom<String> for RowRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RowRange> for String {
    fn from(range: RowRange) -> String {
        range.to_string()
    }
}
