//! What a figure can show.

use crate::axis::Axis;

/// One part of a figure.
#[derive(Clone, Debug)]
pub enum Panel {
    /// Curves.
    Lines(Lines),
    /// A function of two variables.
    Field(Field),
    /// Pixels.
    Image(Image),
    /// Bars side by side.
    Bars(Bars),
    /// Named amounts, one below the other.
    Amounts(Amounts),
}

/// Curves over a common axis.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What stands above.
    pub title: String,
    /// Left to right.
    pub x: Axis,
    /// Bottom to top.
    pub y: Axis,
    /// The curves, drawn in this order.
    pub series: Vec<Series>,
    /// Places on the x axis that are pointed out.
    pub marks: Vec<Mark>,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend says; nothing for one that it leaves out.
    pub name: String,
    /// Which colour of the palette.
    pub color: usize,
    /// How it is drawn.
    pub style: Style,
    /// Its points, in order; those that are not finite interrupt it.
    pub points: Vec<(f64, f64)>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line.
    Solid,
    /// A line of dashes.
    Dashed,
    /// A thin pale line, behind others.
    Faint,
    /// A thin pale line with a smooth curve over it; of few points a line.
    Noisy,
    /// Points without a line.
    Dots,
}

/// A place on the x axis.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Where.
    pub at: f64,
    /// What is there.
    pub label: String,
    /// Which colour of the palette.
    pub color: usize,
}

/// A function of two variables, in bands of equal value, with a path over it.
#[derive(Clone, Debug)]
pub struct Field {
    /// What stands above.
    pub title: String,
    /// What the first variable is, and its range.
    pub x: (String, [f64; 2]),
    /// What the second one is.
    pub y: (String, [f64; 2]),
    /// Points of the grid in each row.
    pub columns: usize,
    /// Row by row, from the least second variable on; at least two rows and columns.
    pub values: Vec<f64>,
    /// A path, with a label at some of its points.
    pub path: Vec<(f64, f64, String)>,
}

/// Pixels, row by row from the top.
#[derive(Clone, Debug)]
pub struct Image {
    /// What stands above.
    pub title: String,
    /// Pixels of a row.
    pub width: usize,
    /// One number for each.
    pub values: Vec<f64>,
    /// Whether 0 is in the middle, between red below and blue above; else 0 is white and the greatest is black.
    pub is_signed: bool,
}

/// Groups of bars.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What stands above.
    pub title: String,
    /// What stands below each group.
    pub names: Vec<String>,
    /// A bar of each group: its name, its colour, its heights.
    pub groups: Vec<(String, usize, Vec<f64>)>,
}

/// Amounts as horizontal bars to the left and right of 0, each with its name before it.
#[derive(Clone, Debug)]
pub struct Amounts {
    /// What stands above.
    pub title: String,
    /// Top to bottom; long names are cut.
    pub rows: Vec<(String, f64)>,
}
