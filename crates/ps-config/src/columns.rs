//! The entries of `data.columns`: how columns of a table are used.

use crate::document::Value;
use crate::key::{Accepts, MAX_INTEGER};
use crate::setting::{Named, Setting, list, named, quoted};
use ps_data::{ColumnConfig, ColumnKind, DatePart, Fill, Quantile, Scale};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The entries of all columns, by name.
pub(crate) type Columns = BTreeMap<String, ColumnConfig>;

named!(ColumnKind {
    "number" = ColumnKind::Number,
    "category" = ColumnKind::Category,
    "date" = ColumnKind::Date,
    "ignore" = ColumnKind::Ignore,
});

named!(Scale { "standard" = Scale::Standard, "min-max" = Scale::MinMax, "none" = Scale::None, });

named!(DatePart {
    "year" = DatePart::Year,
    "quarter" = DatePart::Quarter,
    "month" = DatePart::Month,
    "day" = DatePart::Day,
    "weekday" = DatePart::Weekday,
    "yearday" = DatePart::Yearday,
    "hour" = DatePart::Hour,
    "minute" = DatePart::Minute,
    "second" = DatePart::Second,
    "days" = DatePart::Days,
});

named!(NamedFill {
    "refuse" = NamedFill(Fill::Refuse),
    "mean" = NamedFill(Fill::Mean),
    "median" = NamedFill(Fill::Median),
    "frequency" = NamedFill(Fill::Frequency),
    "most-frequent" = NamedFill(Fill::MostFrequent),
    "none" = NamedFill(Fill::None),
});

/// A [`Fill`] that is not a number.
#[derive(Clone, Copy, PartialEq)]
struct NamedFill(Fill);

/// The keys of an entry.
const KEYS: &str = "kind, fill, scale, clip, min_count, parts and format";

/// Reads the entries of all columns.
///
/// # Errors
/// Returns which column has which wrong setting, and what is expected.
pub(crate) fn columns(value: &Value) -> Result<Columns, String> {
    let Value::Table(entries) = value else { return Err(format!("expected {}", Accepts::Columns)) };
    let column = |(name, value): &(String, Value)| {
        let column = column(value).map_err(|problem| format!("column {}: {problem}", quoted(name)))?;
        Ok((name.clone(), column))
    };
    entries.iter().map(column).collect()
}

fn column(value: &Value) -> Result<ColumnConfig, String> {
    let settings = match value {
        Value::Text(_) => return kind(value).map(ColumnConfig::from),
        Value::Table(settings) => settings,
        _ => {
            return Err(format!(
                "expected {}, or a table such as {{ kind = \"number\", fill = \"median\" }}",
                names::<ColumnKind>()
            ));
        }
    };
    let mut column = ColumnConfig::default();
    for (key, value) in settings {
        match key.as_str() {
            "kind" => column.kind = Some(kind(value)?),
            "fill" => column.fill = Some(fill(value)?),
            "scale" => column.scale = Some(one_of(key, value)?),
            "clip" => column.clip = Some(clip(value)?),
            "min_count" => {
                let count = u64::read(Accepts::Integer(1, MAX_INTEGER), value);
                column.min_count = Some(count.ok_or("min_count: expected an integer of at least 1")?);
            }
            "parts" => column.parts = Some(parts(value)?),
            "format" => match value {
                Value::Text(text) => column.format = Some(text.clone()),
                _ => return Err("format: expected a string such as \"%d/%m/%Y\"".into()),
            },
            _ => return Err(format!("`{key}` is unknown; a column has {KEYS}")),
        }
    }
    Ok(column)
}

fn kind(value: &Value) -> Result<ColumnKind, String> {
    named_value(value).ok_or_else(|| format!("expected {}", names::<ColumnKind>()))
}

fn one_of<T: Named>(key: &str, value: &Value) -> Result<T, String> {
    named_value(value).ok_or_else(|| format!("{key}: expected {}", names::<T>()))
}

fn named_value<T: Named>(value: &Value) -> Option<T> {
    match value {
        Value::Text(name) => T::named(name),
        _ => None,
    }
}

fn names<T: Named>() -> String {
    Accepts::Name(T::NAMES).to_string()
}

fn fill(value: &Value) -> Result<Fill, String> {
    let number = match value {
        Value::Integer(value) => Some(*value as f32),
        Value::Float(value) => Some(*value as f32),
        _ => None,
    };
    match (number.filter(|number| number.is_finite()), named_value(value)) {
        (Some(number), _) => Ok(Fill::Constant(number)),
        (None, Some(NamedFill(fill))) => Ok(fill),
        (None, None) => Err(format!("fill: expected a number, {}", names::<NamedFill>())),
    }
}

fn clip(value: &Value) -> Result<[Quantile; 2], String> {
    let quantile = |value: &Value| match value {
        Value::Float(value) => Quantile::try_from(*value).ok(),
        Value::Integer(value @ 0..=1) => Quantile::try_from(*value as f64).ok(),
        _ => None,
    };
    let pair = match value {
        Value::List(items) => match &items[..] {
            [low, high] => quantile(low).zip(quantile(high)),
            _ => None,
        },
        _ => None,
    };
    let problem =
        "clip: expected two ascending numbers from 0 to 1 with at most nine decimals, such as [0.01, 0.99]";
    pair.filter(|(low, high)| low < high).map(|(low, high)| [low, high]).ok_or(problem.into())
}

fn parts(value: &Value) -> Result<Vec<DatePart>, String> {
    let parts = match value {
        Value::List(items) if !items.is_empty() => items.iter().map(named_value).collect(),
        _ => None,
    };
    parts.ok_or_else(|| format!("parts: expected a list of {}", names::<DatePart>()))
}

impl Setting for Columns {
    fn read(_: Accepts, value: &Value) -> Option<Self> {
        columns(value).ok()
    }

    fn write(&self) -> Option<String> {
        let entries =
            self.iter().map(|(name, column)| format!("{} = {}", column_key(name), column_settings(column)));
        let entries = entries.collect::<Vec<_>>().join(", ");
        (!entries.is_empty()).then(|| format!("{{ {entries} }}"))
    }
}

/// Formats the name of a column as a key of a TOML table.
pub fn column_key(name: &str) -> String {
    // The toml crate decides whether a name needs quotes, as it does when the key is read.
    let table = toml::Table::from_iter([(name.to_owned(), true.into())]);
    let text = toml::Value::Table(table).to_string();
    text.trim_start_matches("{ ").trim_end_matches(" = true }").to_owned()
}

/// Formats the entry of a column in TOML: as a string if it has only a kind, otherwise as a table.
pub fn column_settings(column: &ColumnConfig) -> String {
    let ColumnConfig { kind, fill, scale, clip, min_count, parts, format } = column;
    if let Some(kind) = kind
        && *column == ColumnConfig::from(*kind)
    {
        return quoted(kind.name());
    }
    let clip = clip.map(|quantiles| quantiles.map(f64::from));
    let settings = [
        ("kind", kind.map(|kind| quoted(kind.name()))),
        (
            "fill",
            fill.map(|fill| match fill {
                Fill::Constant(value) => format!("{value:?}"),
                fill => quoted(NamedFill(fill).name()),
            }),
        ),
        ("scale", scale.map(|scale| quoted(scale.name()))),
        ("clip", clip.map(|[low, high]| format!("[{low:?}, {high:?}]"))),
        ("min_count", min_count.map(|count| count.to_string())),
        ("parts", parts.as_ref().map(|parts| list(parts))),
        ("format", format.as_ref().map(|format| quoted(format))),
    ];
    let mut text = String::new();
    for (key, value) in settings {
        if let Some(value) = value {
            let _ = write!(text, "{}{key} = {value}", if text.is_empty() { "" } else { ", " });
        }
    }
    if text.is_empty() { "{}".into() } else { format!("{{ {text} }}") }
}
