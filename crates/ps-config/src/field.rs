//! Keys with the places of their values in a table's settings, and how these are read from a [`Document`] and written back.

use crate::document::{Document, Entry, Value, likeness};
use crate::error::{ConfigError, Place};
use crate::key::{Accepts, Fallback, Key, Use};
use crate::keys;
use crate::layers::layers;
use crate::setting::quoted;

/// A key of the table whose settings are a `T`.
pub(crate) struct Field<T: 'static> {
    pub key: Key,
    /// Its value in TOML; `None` if it is not set.
    pub get: fn(&T, &Key) -> Option<String>,
    /// Sets it; whether the key accepts the value.
    pub set: fn(&mut T, &Key, &Value) -> bool,
}

/// A [`Field`] whose value lies at this path in the settings.
macro_rules! field {
    ($($place:ident).+, $path:literal, $accepts:expr, $default:expr, $used:expr, $help:literal) => {
        $crate::field::Field {
            key: $crate::key::Key {
                path: $path,
                accepts: $accepts,
                default: $default,
                used: $used,
                help: $help,
            },
            get: |settings, _| $crate::setting::Setting::write(&settings.$($place).+),
            set: |settings, key, value| {
                let value = $crate::setting::Setting::read(key.accepts, value);
                value.map(|value| settings.$($place).+ = value).is_some()
            },
        }
    };
}
pub(crate) use field;

impl Document {
    /// Reads the keys of a table that apply into `settings`, in the order of the table. Settings whose keys do not apply, or
    /// are not set and have no default value, stay as they are.
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

    /// Whether `path` is set.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Refuses the keys `others`, whose place `key` takes.
    pub(crate) fn refuse_beside(&self, key: &str, others: &[&str]) -> Result<(), ConfigError> {
        let Some((other, entry)) = others.iter().find_map(|other| self.entries.get_key_value(other)) else {
            return Ok(());
        };
        let reason = format!("{key} is set, which takes its place; remove one of them");
        Err(ConfigError::Unused { place: entry.place.clone(), key: other.to_string(), reason })
    }

    /// The error that says what the value at `path` should have been.
    pub(crate) fn bad_value(&self, path: &str, expected: String) -> ConfigError {
        let (place, value) = match self.entries.get(path) {
            Some(entry) => (entry.place.clone(), entry.text.clone()),
            None => (Place::Resolved, String::new()),
        };
        ConfigError::Value { place, key: path.to_string(), value, expected }
    }

    /// Whether `key` has a meaning in this run. An error if it has none and was set all the same.
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
                    true => "it is for the whole run; set it under [learning_rate]",
                    false => "only phases, [[learning_rate.then]], begin later than the run",
                };
                let (place, key) = (entry.place.clone(), key.path.into());
                return Err(ConfigError::Unused { place, key, reason: reason.into() });
            }
        };
        let chosen = match (self.entries.get(path), keys::find(path).map(|other| other.default)) {
            (Some(entry), _) => entry.value.clone(),
            (None, Some(Fallback::Value(text))) => Value::of_default(text),
            _ => Value::Other("nothing"),
        };
        let Value::Text(chosen) = chosen else { return Ok(false) };
        if values.contains(&chosen.as_str()) {
            return Ok(true);
        }
        let Some(entry) = self.entries.get(key.path) else { return Ok(false) };
        let one_of = values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ");
        let is_flag = |entry: &Entry| matches!(entry.place, Place::Flag(_));
        let remove = match self.entries.get(path) {
            Some(chosen) if is_flag(chosen) && !is_flag(entry) => {
                format!("unset it with --set {}=", key.path)
            }
            _ => "remove this key".to_string(),
        };
        let reason = format!("{path} is \"{chosen}\" and only {one_of} use it; {remove} or change {path}");
        Err(ConfigError::Unused { place: entry.place.clone(), key: key.path.into(), reason })
    }

    /// The error that says that `key` must be set, for example to `example`.
    pub(crate) fn missing(&self, key: &Key, example: &str) -> ConfigError {
        let (table, name) = key.parts();
        let hint = match table {
            "" => format!("add a line such as {name} = {example}"),
            table => format!("add a line such as {name} = {example} under [{table}]"),
        };
        ConfigError::Missing { origin: self.origin.clone(), key: key.path.into(), hint }
    }
}

/// What `key` accepts, and what is known about why `value` is not that.
fn expected(key: &Key, value: &Value) -> String {
    let accepts = key.accepts;
    let note = match (accepts, value) {
        (Accepts::Name(names), Value::Text(text)) => {
            let close = names.iter().map(|name| (likeness(name, text), *name));
            let best = close.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness >= 0.5);
            return match best {
                Some((_, name)) => format!("did you mean \"{name}\"? expected {accepts}"),
                None => format!("expected {accepts}"),
            };
        }
        (Accepts::Layers, value) => return layers(value).err().unwrap_or_default(),
        (Accepts::Text | Accepts::ShareOrText | Accepts::TextOrInteger, Value::Text(_)) => {
            "; it is empty".to_string()
        }
        (Accepts::Widths, Value::List(items)) if items.is_empty() => {
            "; without hidden layers use kind \"linear\", \"logistic\", \"softmax\" or \"poisson\""
                .to_string()
        }
        (_, Value::Float(value)) if value.is_finite() && !(*value as f32).is_finite() => {
            "; this is too large for binary32".to_string()
        }
        (Accepts::Single(..) | Accepts::Double(..), Value::Float(value))
            if *value > 0.0 && *value as f32 == 0.0 =>
        {
            "; this rounds to 0 in binary32".to_string()
        }
        (_, Value::Other(what)) => format!("; this is {what}"),
        (_, Value::Table(_)) if !matches!(accepts, Accepts::Factors | Accepts::Columns) => {
            "; this is a table".to_string()
        }
        _ => String::new(),
    };
    format!("expected {accepts}{note}")
}

/// The keys of a table that apply to `settings` and are set, with their values in TOML.
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
