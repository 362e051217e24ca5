//! Figures of several panels, written as PNG or SVG.
//!
//! [`Figure`] says what is to be seen; plotters draws it, with a font that is built in, so that a figure looks the same on
//! every machine.

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

/// Panels in rows under a title.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What stands above all.
    pub title: String,
    /// Panels of a row.
    pub columns: usize,
    /// Width and height of a panel in pixels.
    pub panel: (u32, u32),
    /// Row by row.
    pub panels: Vec<Panel>,
}

/// Why a figure is not written.
#[derive(Debug)]
pub enum PlotError {
    /// The file's name ends in neither `.png` nor `.svg`.
    Format(PathBuf),
    /// The system refused.
    File(PathBuf, std::io::Error),
    /// It cannot be drawn.
    Drawing(PathBuf, String),
}

/// The format that a file's name asks for.
enum Format {
    Png,
    Svg,
}

impl Figure {
    /// Draws the figure to `path`, whose ending says the format.
    ///
    /// # Errors
    /// See [`PlotError`].
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
    /// The figure as the text of an SVG file.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn to_svg(&self) -> Result<String, String> {
        draw::svg(self)
    }
}

/// Refuses a path that a figure cannot be written to because of its name, before there is a figure.
///
/// # Errors
/// See [`PlotError::Format`].
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
    /// Whether the command line must change.
    pub fn is_usage(&self) -> bool {
        matches!(self, PlotError::Format(_))
    }
}

impl fmt::Display for PlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlotError::Format(path) => {
                write!(
                    f,
                    "{}: a picture is a .png or .svg file; give its name such an ending",
                    path.display()
                )
            }
            PlotError::File(path, error) => write!(f, "{}: {error}", path.display()),
            PlotError::Drawing(path, problem) => write!(f, "{}: cannot be drawn: {problem}", path.display()),
        }
    }
}

impl std::error::Error for PlotError {}
