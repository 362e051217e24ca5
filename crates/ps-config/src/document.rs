//! Parses a run file and `--set` flags to a flat map of known keys, with their values and locations.

use crate::error::{ConfigError, Location};
use crate::key::{Accepts, Key};
use crate::keys::{self, KEYS};
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// The values of a run file, by the path of their key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Document {
    pub(crate) origin: String,
    /// Whether this is a phase of the learning rate rather than a whole run file.
    pub(crate) is_phase: bool,
    pub(crate) entries: BTreeMap<&'static str, Entry>,
}

/// A value that the user wrote.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    /// The source text of the value, shortened to fit an error message.
    pub(crate) text: String,
    pub(crate) location: Location,
}

/// The subset of TOML values that run files use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Value>),
    /// An inline table, as names with values.
    Table(Vec<(String, Value)>),
    /// An array of tables, each of which has the same keys as the table it follows.
    Phases(Vec<Document>),
    /// A value of any other kind, which the string names for error messages.
    Other(&'static str),
}

impl Document {
    /// Parses `text`, which errors call `origin`, and applies the overrides `sets`.
    pub(crate) fn parse(text: &str, origin: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut document = Document { origin: origin.to_string(), ..Document::default() };
        let root = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            ConfigError::Syntax { location: location(origin, text, at), problem: message(&error, text) }
        })?;
        document.read_table("", root.get_ref(), text)?;
        for set in sets {
            document.set(set)?;
        }
        Ok(document)
    }

    fn read_table(&mut self, table: &str, values: &DeTable<'_>, text: &str) -> Result<(), ConfigError> {
        let mut values: Vec<_> = values.iter().collect();
        // In whatever order the table yields its entries, the error that is reported has to be the first one
        // that a reader of the file meets.
        values.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in values {
            let location = location(&self.origin, text, name.span().start);
            let path = join(table, name.get_ref());
            let source = text.get(value.span()).unwrap_or_default();
            if let Some(key) = keys::find(&path) {
                let value = read_value(key, value.get_ref(), &self.origin, text)?;
                self.entries.insert(key.path, Entry { value, text: shorten(source), location });
                continue;
            }
            match value.get_ref() {
                DeValue::Table(inner) if table.is_empty() && is_table(&path) => {
                    self.read_table(&path, inner, text)?;
                }
                _ if is_table(&path) => {
                    return Err(ConfigError::Value {
                        location,
                        value: shorten(source),
                        expected: format!(
                            "this is a table; write [{path}], followed by its keys on the next lines"
                        ),
                        key: path,
                    });
                }
                value => {
                    let hint = nearest(&path, value.is_table());
                    let key = if value.is_table() { format!("[{path}]") } else { path };
                    return Err(ConfigError::Unknown { location, key, hint });
                }
            }
        }
        Ok(())
    }

    /// Applies one override: `KEY=VALUE`, where a value that is not valid TOML counts as an unquoted string,
    /// or `KEY=`, which unsets the key.
    fn set(&mut self, set: &str) -> Result<(), ConfigError> {
        let location = Location::Flag(set.to_string());
        let Some((path, text)) = set.split_once('=') else {
            let problem = "expected KEY=VALUE, such as train.batch=256, or KEY= to unset a key".to_string();
            return Err(ConfigError::Syntax { location, problem });
        };
        let (path, text) = (path.trim(), text.trim());
        let (key, name) = match inside_a_table(path) {
            Some((key, name)) => (Some(key), Some(name)),
            None => (keys::find(path), None),
        };
        let Some(key) = key else {
            if is_table(path) {
                let hint = format!("{path} is a table; set one of its keys, such as {}", first_key(path));
                return Err(ConfigError::Unknown { location, key: path.into(), hint });
            }
            return Err(ConfigError::Unknown { location, key: path.into(), hint: nearest(path, false) });
        };
        if text.is_empty() {
            self.entries.remove(key.path);
            return Ok(());
        }
        let value = match DeValue::parse(text) {
            Ok(value) => read_value(key, value.get_ref(), &format!("--set {set}"), text)?,
            // A plain word need not be quoted on a command line, but what begins like TOML must be TOML.
            Err(error) if text.starts_with(['"', '\'', '[', '{']) => {
                return Err(ConfigError::Syntax { location, problem: message(&error, "") });
            }
            Err(_) => Value::Text(text.to_string()),
        };
        let value = match name {
            Some(name) => self.with(key, name, value),
            None => value,
        };
        self.entries.insert(key.path, Entry { value, text: shorten(text), location });
        Ok(())
    }

    /// Returns the phases at `path`; empty if the key is not set.
    pub(crate) fn phases(&self, path: &str) -> &[Document] {
        match self.entries.get(path) {
            Some(Entry { value: Value::Phases(phases), .. }) => phases,
            _ => &[],
        }
    }

    /// Returns the inline table at `key`, with its entry `name` set to `value`.
    fn with(&self, key: &Key, name: &str, value: Value) -> Value {
        let mut names = match self.entries.get(key.path) {
            Some(Entry { value: Value::Table(names), .. }) => names.clone(),
            _ => Vec::new(),
        };
        names.retain(|(other, _)| other != name);
        names.push((name.to_string(), value));
        Value::Table(names)
    }
}

/// Splits a path such as `data.columns.size` into the key of an inline table and a name in that table. The
/// name may be in quotes, as in a run file.
fn inside_a_table(path: &str) -> Option<(&'static Key, &str)> {
    let mut tables =
        KEYS.iter().copied().filter(|key| matches!(key.accepts, Accepts::Columns | Accepts::Factors));
    let (key, name) = tables.find_map(|key| Some((key, path.strip_prefix(key.path)?.strip_prefix('.')?)))?;
    let unquoted = |quote| name.strip_prefix(quote)?.strip_suffix(quote);
    Some((key, unquoted('"').or_else(|| unquoted('\'')).unwrap_or(name)))
}

/// Converts a TOML value of `key`. `text` is the document, which errors call `origin`. Phases are read as
/// documents with the keys of the table they follow.
fn read_value(key: &Key, value: &DeValue<'_>, origin: &str, text: &str) -> Result<Value, ConfigError> {
    let (Accepts::Phases, DeValue::Array(items)) = (key.accepts, value) else {
        return Ok(Value::from(value));
    };
    let read = |item: &DeTable<'_>| {
        let mut phase = Document { origin: origin.to_string(), is_phase: true, ..Document::default() };
        phase.read_table(key.parts().0, item, text)?;
        Ok(phase)
    };
    let tables: Option<Vec<&DeTable<'_>>> = items.iter().map(|item| item.get_ref().as_table()).collect();
    match tables {
        Some(tables) => Ok(Value::Phases(tables.into_iter().map(read).collect::<Result<_, _>>()?)),
        None => Ok(Value::Other("a list")),
    }
}

impl Value {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Value::Other("an integer that does not fit into 64 bits"), Value::Integer),
            DeValue::Float(float) => {
                float.as_str().parse().map_or(Value::Other("a number out of range"), Value::Float)
            }
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| Value::from(item.get_ref())).collect())
            }
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Table(table) => {
                let entry = |(name, value): (_, &toml::Spanned<DeValue<'_>>)| {
                    (
                        AsRef::<str>::as_ref(toml::Spanned::get_ref(name)).to_string(),
                        Value::from(value.get_ref()),
                    )
                };
                Value::Table(table.iter().map(entry).collect())
            }
        }
    }

    /// Parses a default value, which this crate wrote itself.
    pub(crate) fn of_default(text: &str) -> Self {
        DeValue::parse(text).map_or(Value::Other("invalid TOML"), |value| Value::from(value.get_ref()))
    }
}

fn location(origin: &str, text: &str, at: usize) -> Location {
    let line = text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
    Location::Line { origin: origin.to_string(), line }
}

fn message(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim().replace('\n', "; ");
    let key = error.span().and_then(|span| text.get(span)).filter(|_| message == "duplicate key");
    format!("not valid TOML: {message}{}", key.map(|key| format!(" {key}")).unwrap_or_default())
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_string() } else { format!("{table}.{name}") }
}

/// Joins a value into one line and truncates it to fit an error message.
fn shorten(text: &str) -> String {
    const MAX_LEN: usize = 60;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_LEN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn first_key(table: &str) -> &'static str {
    KEYS.iter().find(|key| key.parts().0 == table).map_or("seed", |key| key.path)
}

fn is_table(path: &str) -> bool {
    KEYS.iter().any(|key| key.parts().0 == path && !path.is_empty())
}

/// Suggests a valid name that is similar to an unknown key or table.
fn nearest(path: &str, table: bool) -> String {
    let mut tables: Vec<&str> =
        KEYS.iter().map(|key| key.parts().0).filter(|name| !name.is_empty()).collect();
    tables.dedup();
    let (inside, name) = path.rsplit_once('.').unwrap_or(("", path));
    let top_table = table && inside.is_empty();
    let candidates: Vec<(f64, String)> = if top_table {
        tables.iter().map(|valid| (similarity(name, valid), format!("[{valid}]"))).collect()
    } else {
        // A key of another table is suggested only if the table does not exist or the name is an exact match.
        let elsewhere = |key: &Key| key.parts().0 != inside && is_table(inside);
        let score = |key: &Key| match similarity(name, key.parts().1) {
            score if score < 1.0 && elsewhere(key) => 0.0,
            score => score,
        };
        KEYS.iter().map(|key| (score(key), key.path.to_string())).collect()
    };
    let best = candidates.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((_, valid)) = best.filter(|(score, _)| *score > 0.5) {
        return format!("did you mean {valid}?");
    }
    if !is_table(inside) {
        return format!("valid are seed and the tables {}", tables.join(", "));
    }
    let names: Vec<&str> =
        KEYS.iter().map(|key| key.parts()).filter(|parts| parts.0 == inside).map(|parts| parts.1).collect();
    format!("[{inside}] has the keys {}", names.join(", "))
}

/// Similarity of two names, from 0 for unrelated to 1 for equal names. Ignores case.
pub(crate) fn similarity(a: &str, b: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(&a.to_lowercase(), &b.to_lowercase())
}
