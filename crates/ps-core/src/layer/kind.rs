//! The names and settings by which run files define layers, and by which layers are printed.

use super::{KINDS, LayerSpec};
use serde::de::Error;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// A kind of layer that a run file can name.
#[derive(Debug)]
pub struct Kind {
    /// The value of `kind` in the layer's table.
    pub name: &'static str,
    /// What the layer does, as a part of a sentence.
    pub help: &'static str,
    /// The other keys of the table, all of which are required.
    pub settings: &'static [Setting],
    /// Hidden layers that show its use. Tests train them in every mode.
    pub example: &'static [LayerSpec],
    /// Builds the layer from the values of its settings, which are in the order of [`Kind::settings`] and
    /// have been checked.
    pub build: fn(&[f64]) -> LayerSpec,
}

/// A key of a layer's table.
#[derive(Debug)]
pub struct Setting {
    /// The key as a run file writes it.
    pub name: &'static str,
    /// Type and range of the value.
    pub accepts: Accepts,
}

/// Type and range of a [`Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepts {
    /// An integer from 1 to this maximum.
    Count(u64),
    /// A number of at least 0 and below 1, rounded to binary32.
    Share,
}

impl Kind {
    /// Finds the kind with this name.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|kind| kind.name == name)
    }
}

impl Accepts {
    /// Returns `value`, rounded to binary32 if it is a [`Accepts::Share`], or `None` if it is out of range.
    pub fn check(self, value: f64, is_integer: bool) -> Option<f64> {
        match self {
            Accepts::Count(most) => (is_integer && (1.0..=most as f64).contains(&value)).then_some(value),
            // Checked after rounding: a number just below 1 may round to 1, which would drop all units.
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

/// Writes the kind and the settings as a map, as run files do.
impl Serialize for LayerSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, values) = self.parts();
        let mut map = serializer.serialize_map(Some(1 + values.len()))?;
        map.serialize_entry("kind", kind.name)?;
        for (Setting { name, accepts }, value) in kind.settings.iter().zip(values) {
            match accepts {
                Accepts::Count(_) => map.serialize_entry(name, &(value as u64))?,
                Accepts::Share => map.serialize_entry(name, &(value as f32))?,
            }
        }
        map.end()
    }
}

/// Checks kind and settings as for run files.
impl<'de> Deserialize<'de> for LayerSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Table {
            kind: String,
            #[serde(flatten)]
            settings: BTreeMap<String, f64>,
        }
        let table = Table::deserialize(deserializer)?;
        let kind = Kind::find(&table.kind)
            .ok_or_else(|| D::Error::custom(format!("unknown kind of layer `{}`", table.kind)))?;
        if table.settings.len() > kind.settings.len() {
            return Err(D::Error::custom(format!("a layer of kind `{}` has other settings", kind.name)));
        }
        let setting = |Setting { name, accepts }: &Setting| {
            let value = table.settings.get(*name).copied();
            let checked = value.and_then(|value| accepts.check(value, value.fract() == 0.0));
            checked.ok_or_else(|| D::Error::custom(format!("`{name}` of a layer: expected {accepts}")))
        };
        let settings = kind.settings.iter().map(setting).collect::<Result<Vec<f64>, D::Error>>()?;
        Ok((kind.build)(&settings))
    }
}

/// Writes an inline table of TOML that reads back as the same layer.
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
