//! How layers are written in a run file, and how they are shown.

use super::{KINDS, LayerSpec};
use std::fmt;

/// A kind of layer, as a run file names it.
#[derive(Debug)]
pub struct Kind {
    /// The value of its table's `kind`.
    pub name: &'static str,
    /// What it does, as part of a sentence.
    pub help: &'static str,
    /// Its other keys, all of which must be set.
    pub settings: &'static [Setting],
    /// Hidden layers that show its use. Tests train them in every way.
    pub example: &'static [LayerSpec],
    /// The layer with these settings, which are in the order of [`Kind::settings`] and within their ranges.
    pub build: fn(&[f64]) -> LayerSpec,
}

/// A key of a layer's table.
#[derive(Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its type and range.
    pub accepts: Accepts,
}

/// Type and range of a [`Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepts {
    /// An integer from 1 to this.
    Count(u64),
    /// A number of at least 0 and below 1, rounded to binary32.
    Share,
}

impl Kind {
    /// The kind with this name, if there is one.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|kind| kind.name == name)
    }
}

impl Accepts {
    /// `value`, rounded, if it is in range.
    pub fn check(self, value: f64, is_integer: bool) -> Option<f64> {
        match self {
            Accepts::Count(most) => (is_integer && (1.0..=most as f64).contains(&value)).then_some(value),
            Accepts::Share => Some(f64::from(value as f32)).filter(|share| (0.0..1.0).contains(share)),
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepts::Count(most) => write!(f, "an integer from 1 to {most}"),
            Accepts::Share => write!(f, "a number of at least 0 and below 1"),
        }
    }
}

/// An inline table of TOML, which reads back as the same layer.
impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, values) = self.parts();
        write!(f, "{{ kind = \"{}\"", kind.name)?;
        for (Setting { name, accepts }, value) in kind.settings.iter().zip(values) {
            match accepts {
                Accepts::Count(_) => write!(f, ", {name} = {value}")?,
                Accepts::Share => write!(f, ", {name} = {:?}", value as f32)?,
            }
        }
        f.write_str(" }")
    }
}
