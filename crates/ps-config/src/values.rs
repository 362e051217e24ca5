//! Typed values of a [`Document`], each checked against its key.

use crate::document::{Document, Entry, Value, likeness};
use crate::error::{ConfigError, Place};
use crate::keys::{Accepts, Fallback, Key, MOST_WIDTH, Names, Use};
use crate::run::Batch;
use crate::time::Time;
use std::collections::BTreeMap;
use std::ops::RangeBounds;

impl Document {
    /// The integer at `path`; `None` where the key does not apply or is not set and has no default. So of all
    /// below.
    pub(crate) fn integer(&self, path: &str) -> Result<Option<u64>, ConfigError> {
        self.read(path, |accepts, value| match (accepts, value) {
            (Accepts::Integer(low, high), Value::Integer(value)) => {
                u64::try_from(*value).ok().filter(|value| (low..=high).contains(value))
            }
            _ => None,
        })
    }

    /// The number at `path`.
    pub(crate) fn number(&self, path: &str) -> Result<Option<f64>, ConfigError> {
        self.read(path, |accepts, value| {
            let value = real(value)?;
            // Rounding may carry a value out of its range, so it comes first.
            let (value, range) = match accepts {
                Accepts::Single(low, high) => (f64::from(value as f32), (low, high)),
                Accepts::Double(low, high) => (value, (low, high)),
                _ => return None,
            };
            // Even what stays binary64 ends in a rate that is rounded, and must not become 0 or infinite by it.
            let rounded = value as f32;
            (range.contains(&value) && range.contains(&f64::from(rounded)) && rounded.is_finite())
                .then_some(value)
        })
    }

    /// The truth value at `path`.
    pub(crate) fn flag(&self, path: &str) -> Result<Option<bool>, ConfigError> {
        self.read(path, |_, value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// The text at `path`.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, ConfigError> {
        self.read(path, |accepts, value| match (accepts, value) {
            (_, Value::Text(text)) if !text.trim().is_empty() => Some(text.clone()),
            (Accepts::TextOrInteger, Value::Integer(integer)) => Some(integer.to_string()),
            _ => None,
        })
    }

    /// The layer widths at `path`.
    pub(crate) fn widths(&self, path: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        self.read(path, |_, value| {
            list(value, |item| match item {
                Value::Integer(width) => u64::try_from(*width)
                    .ok()
                    .filter(|width| (1..=MOST_WIDTH).contains(width))
                    .map(|width| width as usize),
                _ => None,
            })
        })
    }

    /// The time at `path`.
    pub(crate) fn time(&self, path: &str) -> Result<Option<Time>, ConfigError> {
        self.read(path, |accepts, value| match accepts {
            Accepts::Time(low) => time(value, low),
            _ => None,
        })
    }

    /// The times at `path`.
    pub(crate) fn times(&self, path: &str) -> Result<Option<Vec<Time>>, ConfigError> {
        self.read(path, |_, value| list(value, |item| time(item, 1)))
    }

    /// The rates at `path`.
    pub(crate) fn rates(&self, path: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.read(path, |_, value| {
            list(value, |item| {
                let rate = real(item)?;
                (rate as f32 > 0.0 && (rate as f32).is_finite()).then_some(rate)
            })
        })
    }

    /// The factors at `path`, in ascending order of their names: their products are rounded, so the order is part of the result.
    pub(crate) fn factors(&self, path: &str) -> Result<Option<Vec<(String, f32)>>, ConfigError> {
        self.read(path, |_, value| {
            let Value::Table(entries) = value else { return None };
            let factor = |(name, value): &(String, Value)| {
                let factor = real(value)? as f32;
                (factor >= 0.0 && factor.is_finite()).then(|| (name.clone(), factor))
            };
            let mut factors = entries.iter().map(factor).collect::<Option<Vec<_>>>()?;
            factors.sort_by(|(left, _), (right, _)| left.cmp(right));
            Some(factors)
        })
    }

    /// The table at `path`, whose values are names of `names`.
    pub(crate) fn named<T: Copy, const N: usize>(
        &self,
        path: &str,
        names: &Names<T, N>,
    ) -> Result<Option<BTreeMap<String, T>>, ConfigError> {
        self.read(path, |_, value| {
            let Value::Table(entries) = value else { return None };
            let entry = |(key, value): &(String, Value)| match value {
                Value::Text(text) => Some((key.clone(), find(names, text)?)),
                _ => None,
            };
            entries.iter().map(entry).collect()
        })
    }

    /// The texts at `path`.
    pub(crate) fn texts(&self, path: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.read(path, |_, value| {
            let Value::List(items) = value else { return None };
            let text = |item: &Value| match item {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            };
            items.iter().map(text).collect()
        })
    }

    /// The batch at `path`.
    pub(crate) fn batch(&self, path: &str) -> Result<Option<Batch>, ConfigError> {
        self.read(path, |accepts, value| match (accepts, value) {
            (Accepts::Batch(_), Value::Text(text)) => (text == "full").then_some(Batch::Full),
            (Accepts::Batch(most), Value::Integer(value)) => {
                let of = u64::try_from(*value).ok().filter(|value| (1..=most).contains(value))?;
                Some(Batch::Of(of as usize))
            }
            _ => None,
        })
    }

    /// The phases at `path`.
    pub(crate) fn phases(&self, path: &str) -> Result<Option<Vec<Document>>, ConfigError> {
        self.read(path, |_, value| match value {
            Value::Phases(phases) => Some(phases.clone()),
            _ => None,
        })
    }

    /// What the name at `path` stands for.
    pub(crate) fn name<T: Copy, const N: usize>(
        &self,
        path: &str,
        names: &Names<T, N>,
    ) -> Result<Option<T>, ConfigError> {
        self.read(path, |_, value| match value {
            Value::Text(text) => find(names, text),
            _ => None,
        })
    }

    /// The value at `path` as `take` understands it, or its default.
    pub(crate) fn read<T>(
        &self,
        path: &str,
        take: impl Fn(Accepts, &Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let key = Key::find(path).expect("the code names keys of the table");
        if !self.applies(key)? {
            return Ok(None);
        }
        let default;
        let entry = match (self.entries.get(path), key.default) {
            (Some(entry), _) => entry,
            (None, Fallback::Value(text)) => {
                default = Entry { value: Value::of_default(text), text: text.into(), place: Place::Resolved };
                &default
            }
            (None, Fallback::Described(_)) => return Ok(None),
            (None, Fallback::Required(example)) => return Err(self.missing(key, example)),
        };
        match take(key.accepts, &entry.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.bad_value(path, expected(key, &entry.value))),
        }
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
        let chosen = match (self.entries.get(path), Key::find(path).map(|other| other.default)) {
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

    fn missing(&self, key: &Key, example: &str) -> ConfigError {
        let (table, name) = key.parts();
        let hint = match table {
            "" => format!("add a line such as {name} = {example}"),
            table => format!("add a line such as {name} = {example} under [{table}]"),
        };
        ConfigError::Missing { origin: self.origin.clone(), key: key.path.into(), hint }
    }
}

/// What `text` stands for.
fn find<T: Copy, const N: usize>(names: &Names<T, N>, text: &str) -> Option<T> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

/// A list that is not empty.
fn list<T>(value: &Value, take: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let Value::List(items) = value else { return None };
    items.iter().map(take).collect::<Option<Vec<T>>>().filter(|items| !items.is_empty())
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    }
}

fn time(value: &Value, low: u64) -> Option<Time> {
    match value {
        Value::Integer(steps) => u64::try_from(*steps).ok().filter(|steps| *steps >= low).map(Time::Steps),
        Value::Text(text) => Time::parse(text),
        _ => None,
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
