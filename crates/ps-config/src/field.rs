//! Connects the keys of a table to fields of its settings: how they are read from a [`Document`] and written
//! back.

use crate::columns::columns;
use crate::document::{Document, Entry, Value, similarity};
use crate::error::{ConfigError, Location};
use crate::key::{Accepts, Fallback, Key, Use};
use crate::keys;
use crate::layers::layers;
use crate::setting::quoted;

/// A key, with access to its value in the settings `T` of its table.
pub(crate) struct Field<T: 'static> {
    pub key: Key,
    /// Returns the value in TOML; `None` if it is not set.
    pub get: fn(&T, &Key) -> Option<String>,
    /// Sets the value. Returns whether the key accepts it.
    pub set: fn(&mut T, &Key, &Value) -> bool,
}

/// Defines a [`Field`] for the value at a path in the settings.
macro_rules! field {
    ($($field:ident).+, $path:literal, $accepts:expr, $default:expr, $used:expr, $help:literal) => {
        $crate::field::Field {
            key: $crate::key::Key {
                path: $path,
                accepts: $accepts,
                default: $default,
                used: $used,
                help: $help,
            },
            get: |settings, _| $crate::setting::Setting::write(&settings.$($field).+),
            set: |settings, key, value| {
                let value = $crate::setting::Setting::read(key.accepts, value);
                value.map(|value| settings.$($field).+ = value).is_some()
            },
        }
    };
}
pub(crate) use field;

impl Document {
    /// Reads all keys of a table that apply into `settings`, in the order of the table. A setting whose key
    /// does not apply, or is neither set nor has a default, keeps its value.
    pub(crate) fn read<T>(&self, fields: &[Field<T>], settings: &mut T) -> Result<(), ConfigError> {
        for Field { key, set, .. } in fields {
            if !self.applies(key)? {
                continue;
            }
            let default;
            let value = match (self.entries.get(key.path), key.default) {
                (Some(entry), _) => &entry.value,
                (None, Fallback::Value(text)) => {
                    default = Value::of_default(text);
                    &default
                }
                (None, Fallback::Described(_)) => continue,
                (None, Fallback::Required(example)) => return Err(self.missing(key, example)),
            };
            if !set(settings, key, value) {
                return Err(self.bad_value(key.path, expected(key, value)));
            }
        }
        Ok(())
    }

    /// Returns whether `path` is set.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Refuses the keys `others`, which `key` replaces, if one of them is set.
    pub(crate) fn refuse_replaced(&self, key: &str, others: &[&str]) -> Result<(), ConfigError> {
        let Some((other, entry)) = others.iter().find_map(|other| self.entries.get_key_value(other)) else {
            return Ok(());
        };
        let reason = format!("it cannot be combined with {key}; remove one of them");
        Err(ConfigError::Unused { location: entry.location.clone(), key: other.to_string(), reason })
    }

    /// Returns the error for the value at `path`; `expected` says what the key accepts.
    pub(crate) fn bad_value(&self, path: &str, expected: String) -> ConfigError {
        let (location, value) = match self.entries.get(path) {
            Some(entry) => (entry.location.clone(), entry.text.clone()),
            None => (Location::Resolved, String::new()),
        };
        ConfigError::Value { location, key: path.to_string(), value, expected }
    }

    /// Returns whether `key` applies to this run. It is an error to set a key that does not.
    fn applies(&self, key: &Key) -> Result<bool, ConfigError> {
        let (path, values) = match key.used {
            Use::Always => return Ok(true),
            Use::When(path, values) => (path, values),
            Use::InPhases | Use::BeforePhases if self.is_phase == (key.used == Use::InPhases) => {
                return Ok(true);
            }
            Use::InPhases | Use::BeforePhases => {
                let Some(entry) = self.entries.get(key.path) else { return Ok(false) };
                let reason = match self.is_phase {
                    true => "it applies to the whole run; set it under [learning_rate]",
                    false => "it is only for later phases, [[learning_rate.then]]",
                };
                let (location, key) = (entry.location.clone(), key.path.into());
                return Err(ConfigError::Unused { location, key, reason: reason.into() });
            }
        };
        let chosen = match (self.entries.get(path), keys::find(path).map(|other| other.default)) {
            (Some(entry), _) => entry.value.clone(),
            (None, Some(Fallback::Value(text))) => Value::of_default(text),
            _ => Value::Other("nothing"),
        };
        // A value of the wrong type is reported where its own key is read.
        let Value::Text(chosen) = chosen else { return Ok(false) };
        if values.contains(&chosen.as_str()) {
            return Ok(true);
        }
        let Some(entry) = self.entries.get(key.path) else { return Ok(false) };
        let one_of = values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ");
        let is_flag = |entry: &Entry| matches!(entry.location, Location::Flag(_));
        let remove = match self.entries.get(path) {
            Some(chosen) if is_flag(chosen) && !is_flag(entry) => {
                format!("unset it with --set {}=", key.path)
            }
            _ => "remove this key".to_string(),
        };
        let reason =
            format!("{path} is \"{chosen}\", but the key is only for {one_of}; {remove} or change {path}");
        Err(ConfigError::Unused { location: entry.location.clone(), key: key.path.into(), reason })
    }

    /// Returns the error for a required key that is not set; `example` is a possible value.
    pub(crate) fn missing(&self, key: &Key, example: &str) -> ConfigError {
        let (table, name) = key.parts();
        let hint = match table {
            "" => format!("add a line such as {name} = {example}"),
            table => format!("add a line such as {name} = {example} under [{table}]"),
        };
        ConfigError::Missing { origin: self.origin.clone(), key: key.path.into(), hint }
    }
}

/// Describes what `key` accepts, and where possible why `value` is different.
fn expected(key: &Key, value: &Value) -> String {
    let accepts = key.accepts;
    let note = match (accepts, value) {
        (Accepts::Name(names), Value::Text(text)) => {
            let close = names.iter().map(|name| (similarity(name, text), *name));
            let best = close.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(similarity, _)| *similarity >= 0.5);
            return match best {
                Some((_, name)) => format!("did you mean \"{name}\"? expected {accepts}"),
                None => format!("expected {accepts}"),
            };
        }
        (Accepts::Layers, value) => return layers(value).err().unwrap_or_default(),
        (Accepts::Columns, value) => return columns(value).err().unwrap_or_default(),
        (Accepts::Text | Accepts::ShareOrText | Accepts::TextOrInteger, Value::Text(_)) => {
            "; the string is empty".to_string()
        }
        (Accepts::Widths, Value::List(items)) if items.is_empty() => {
            "; without hidden layers use kind \"linear\", \"logistic\", \"softmax\" or \"poisson\""
                .to_string()
        }
        (_, Value::Float(value)) if value.is_finite() && !(*value as f32).is_finite() => {
            "; the value is too large for a 32-bit float".to_string()
        }
        (Accepts::Single(..) | Accepts::Double(..), Value::Float(value))
            if *value > 0.0 && *value as f32 == 0.0 =>
        {
            "; the value rounds to 0 as a 32-bit float".to_string()
        }
        (_, Value::Other(what)) => format!("; the value is {what}"),
        (_, Value::Table(_)) if !matches!(accepts, Accepts::Factors) => "; the value is a table".to_string(),
        _ => String::new(),
    };
    format!("expected {accepts}{note}")
}

/// Returns the keys of a table that apply to `settings` and are set, with their values in TOML.
pub(crate) fn values<T>(
    fields: &'static [Field<T>],
    settings: &T,
    is_phase: bool,
) -> Vec<(&'static Key, String)> {
    let applies = |key: &Key| match key.used {
        Use::Always => true,
        Use::InPhases => is_phase,
        Use::BeforePhases => !is_phase,
        Use::When(other, values) => {
            let chosen = fields.iter().find(|field| field.key.path == other);
            let chosen = chosen.and_then(|Field { key, get, .. }| get(settings, key));
            chosen.is_some_and(|chosen| values.iter().any(|value| quoted(value) == chosen))
        }
    };
    let fields = fields.iter().filter(|field| applies(&field.key));
    fields.filter_map(|Field { key, get, .. }| Some((key, get(settings, key)?))).collect()
}
