//! The kinds of panels.

use crate::axis::Axis;

/// A panel of a figure.
#[derive(Clone, Debug)]
pub enum Panel {
    /// Curves over a common x axis.
    Lines(Lines),
    /// A function of two variables, as a color map.
    Field(Field),
    /// An image with one number per pixel.
    Image(Image),
    /// Groups of vertical bars.
    Bars(Bars),
    /// Horizontal bars, one below the other, each with a name.
    Amounts(Amounts),
}

/// Curves over a common x axis.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Title of the panel.
    pub title: String,
    /// The horizontal axis, from left to right.
    pub x: Axis,
    /// The vertical axis, from bottom to top.
    pub y: Axis,
    /// The curves. Later ones are drawn on top of earlier ones.
    pub series: Vec<Series>,
    /// Labelled positions on the x axis.
    pub marks: Vec<Mark>,
}

/// A curve of a [`Lines`] panel.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend. If it is empty, the legend omits the curve.
    pub name: String,
    /// Index of a color in the palette; it wraps around.
    pub color: usize,
    /// How the curve is drawn.
    pub style: Style,
    /// The points in order. Points that are not finite interrupt the curve.
    pub points: Vec<(f64, f64)>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A solid line.
    Solid,
    /// A dashed line.
    Dashed,
    /// A thin pale line, behind other curves.
    Faint,
    /// A thin pale line with a smoothed curve on top; with few points, a solid line.
    Noisy,
    /// Points without a line between them.
    Dots,
}

/// A labelled position on the x axis.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Position on the x axis, as a value.
    pub at: f64,
    /// Text of the label.
    pub label: String,
    /// Index of a color in the palette; it wraps around.
    pub color: usize,
}

/// A function of two variables as bands of equal value, with a path on top.
#[derive(Clone, Debug)]
pub struct Field {
    /// Title of the panel.
    pub title: String,
    /// Name and range of the first variable.
    pub x: (String, [f64; 2]),
    /// Name and range of the second variable.
    pub y: (String, [f64; 2]),
    /// Number of grid points per row.
    pub columns: usize,
    /// Values on the grid, `[rows][columns]`, in ascending order of the second variable; at least 2 × 2.
    pub values: Vec<f64>,
    /// A path of points `(x, y)`. Labels may be empty.
    pub path: Vec<(f64, f64, String)>,
}

/// An image with one number per pixel, row by row from the top.
#[derive(Clone, Debug)]
pub struct Image {
    /// Title of the panel.
    pub title: String,
    /// Number of pixels per row.
    pub width: usize,
    /// Values of the pixels, `[rows][width]`.
    pub values: Vec<f64>,
    /// If set, 0 is white, negative values are red and positive ones blue. Otherwise, 0 is white and the
    /// largest value is black.
    pub is_signed: bool,
}

/// Groups of vertical bars. Every group has one bar of each series.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Title of the panel.
    pub title: String,
    /// Labels of the groups, from left to right.
    pub names: Vec<String>,
    /// The series: name in the legend, color index, and one height per group.
    pub groups: Vec<(String, usize, Vec<f64>)>,
}

/// Horizontal bars to the left and right of 0, each after its name.
#[derive(Clone, Debug)]
pub struct Amounts {
    /// Title of the panel.
    pub title: String,
    /// Names and amounts from top to bottom. Long names are truncated.
    pub rows: Vec<(String, f64)>,
}
