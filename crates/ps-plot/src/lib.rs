//! Figures with several panels, written as PNG or SVG.
//!
//! A [`Figure`] describes what to show. It is drawn by plotters, with a built-in font so that it looks the
//! same on every machine.

mod axis;
mod clip;
mod draw;
mod panel;
mod smooth;

pub use axis::{Axis, number};
pub use panel::{Amounts, Bars, Field, Image, Lines, Mark, Panel, Series, Style};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// Panels in rows, below a common title.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Title of the figure; empty for none.
    pub title: String,
    /// Number of panels in a row.
    pub columns: usize,
    /// Width and height of each panel, in pixels.
    pub panel: (u32, u32),
    /// The panels, row by row.
    pub panels: Vec<Panel>,
}

/// Why a figure could not be written.
#[derive(Debug)]
pub enum PlotError {
    /// The file name ends in neither `.png` nor `.svg`.
    Format(PathBuf),
    /// The file cannot be written.
    File(PathBuf, std::io::Error),
    /// The drawing library failed.
    Drawing(PathBuf, String),
}

/// The file format, by the extension of the file name.
enum Format {
    Png,
    Svg,
}

impl Figure {
    /// Draws the figure to `path`, as PNG or SVG by its extension. An existing file is overwritten.
    ///
    /// # Errors
    /// The extension is unknown, drawing fails, or the file cannot be written; see [`PlotError`].
    pub fn write(&self, path: &Path) -> Result<(), PlotError> {
        let drawn = match format(path)? {
            Format::Png => draw::png(self),
            Format::Svg => draw::svg(self).map(String::into_bytes),
        };
        let bytes = drawn.map_err(|problem| PlotError::Drawing(path.into(), problem))?;
        std::fs::write(path, bytes).map_err(|error| PlotError::File(path.into(), error))
    }
}

impl Figure {
    /// Formats the figure as SVG.
    ///
    /// # Errors
    /// The drawing library fails.
    pub fn to_svg(&self) -> Result<String, String> {
        draw::svg(self)
    }
}

/// Checks that the extension of `path` is a supported format, before a figure is computed for it.
///
/// # Errors
/// Returns [`PlotError::Format`] if it is not.
pub fn check(path: &Path) -> Result<(), PlotError> {
    format(path).map(|_| ())
}

fn format(path: &Path) -> Result<Format, PlotError> {
    match path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase).as_deref() {
        Some("png") => Ok(Format::Png),
        Some("svg") => Ok(Format::Svg),
        _ => Err(PlotError::Format(path.into())),
    }
}

impl PlotError {
    /// Returns whether the command line must change.
    pub fn is_usage(&self) -> bool {
        matches!(self, PlotError::Format(_))
    }
}

impl fmt::Display for PlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlotError::Format(path) => {
                write!(f, "{}: the name of a picture must end in .png or .svg", path.display())
            }
            PlotError::File(path, error) => write!(f, "{}: {error}", path.display()),
            PlotError::Drawing(path, problem) => {
                write!(f, "{}: cannot draw the picture: {problem}", path.display())
            }
        }
    }
}

impl std::error::Error for PlotError {}
