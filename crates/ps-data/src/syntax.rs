//! How the cells of a table are written: markers of missing values, and numbers.

use crate::dialect::Decimal;
use crate::markers::Markers;
use crate::number;
use std::borrow::Cow;
use std::str::FromStr;

/// Decides what a cell of a table means.
#[derive(Clone, Debug)]
pub(crate) struct CellSyntax {
    /// Which strings mark a missing value.
    markers: Markers,
    /// Whether a marker is a number, such as -999.
    has_number_markers: bool,
    decimal: Decimal,
}

/// The type of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell {
    /// An empty string or a marker of a missing value.
    Missing,
    Number(f32),
    /// A number that is infinite or out of the range of binary32.
    Infinite,
    Text,
}

impl CellSyntax {
    /// Decimal points, and no markers besides the empty string.
    pub(crate) fn plain() -> Self {
        CellSyntax::new(Markers::new(Some(&[])), Decimal::Point)
    }

    /// Creates a syntax with these markers of missing values.
    pub(crate) fn new(markers: Markers, decimal: Decimal) -> Self {
        let mut syntax = CellSyntax { markers, has_number_markers: false, decimal };
        syntax.has_number_markers = syntax.markers.listed().iter().any(|text| syntax.number(text).is_some());
        syntax
    }

    /// Which strings mark a missing value.
    pub(crate) fn markers(&self) -> &Markers {
        &self.markers
    }

    /// Whether numbers are written with decimal points.
    pub(crate) fn has_decimal_points(&self) -> bool {
        self.decimal == Decimal::Point
    }

    /// Classifies the trimmed string `text`.
    pub(crate) fn classify(&self, text: &str) -> Cell {
        match self.number(text) {
            // Most cells end here, without being compared with the markers.
            Some(number) if number.is_finite() && !self.has_number_markers => Cell::Number(number),
            _ if self.markers.contains(text) => Cell::Missing,
            Some(number) if number.is_finite() => Cell::Number(number),
            Some(_) => Cell::Infinite,
            None => Cell::Text,
        }
    }

    /// Parses a number other than NaN, correctly rounded to binary32; it may be infinite.
    pub(crate) fn number(&self, text: &str) -> Option<f32> {
        self.parse(text).filter(|number: &f32| !number.is_nan())
    }

    /// Like [`number::finite`], with the decimal separator of the table.
    pub(crate) fn finite(&self, text: &str) -> Result<f32, String> {
        number::check_finite(text, self.parse(text))
    }

    /// Parses a finite number, correctly rounded to binary64. -0 counts as 0.
    pub(crate) fn double(&self, text: &str) -> Option<f64> {
        self.parse(text).filter(|number: &f64| number.is_finite()).map(|number| number + 0.0)
    }

    fn parse<T: FromStr>(&self, text: &str) -> Option<T> {
        let text = match self.decimal {
            Decimal::Point => Cow::Borrowed(text),
            Decimal::Comma if text.contains('.') => return None,
            Decimal::Comma => Cow::Owned(text.replacen(',', ".", 1)),
        };
        text.parse().ok()
    }
}
