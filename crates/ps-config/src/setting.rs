//! The Rust types of values of keys: how each is read from TOML and written back.

use crate::document::Value;
use crate::key::{Accepts, MAX_WIDTH};
use std::ops::RangeBounds;

/// A type of values of keys.
pub(crate) trait Setting: Sized {
    /// Converts a value; `None` if it has another type or is not in the range that the key accepts.
    fn read(accepts: Accepts, value: &Value) -> Option<Self>;

    /// Formats the value in TOML; `None` if the key is not set.
    fn write(&self) -> Option<String>;
}

/// A type whose values have names in the run file. `NAMES` and the values are in the same order.
pub(crate) trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [&'static str];
    const VALUES: &'static [Self];

    fn named(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|other| *other == name)?;
        Some(Self::VALUES[at])
    }

    fn name(self) -> &'static str {
        Self::VALUES.iter().position(|value| *value == self).map_or("", |at| Self::NAMES[at])
    }
}

/// Implements [`Named`] and [`Setting`] for a type, from pairs of names and values.
macro_rules! named {
    ($type:ty { $($name:literal = $value:expr,)* }) => {
        impl $crate::setting::Named for $type {
            const NAMES: &'static [&'static str] = &[$($name),*];
            const VALUES: &'static [Self] = &[$($value),*];
        }

        impl $crate::setting::Setting for $type {
            fn read(_: $crate::key::Accepts, value: &$crate::document::Value) -> Option<Self> {
                match value {
                    $crate::document::Value::Text(name) => <$type as $crate::setting::Named>::named(name),
                    _ => None,
                }
            }

            fn write(&self) -> Option<String> {
                Some($crate::setting::quoted($crate::setting::Named::name(*self)))
            }
        }
    };
}
pub(crate) use named;

impl Setting for u64 {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        match (accepts, value) {
            (Accepts::Integer(low, high), Value::Integer(value)) => {
                u64::try_from(*value).ok().filter(|value| (low..=high).contains(value))
            }
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for u32 {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        u32::try_from(u64::read(accepts, value)?).ok()
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for usize {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        usize::try_from(u64::read(accepts, value)?).ok()
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for f64 {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        let value = real(value)?;
        // Rounding may move a value out of its range, so it happens before the check.
        let (value, range) = match accepts {
            Accepts::Single(low, high) => (f64::from(value as f32), (low, high)),
            Accepts::Double(low, high) => (value, (low, high)),
            _ => return None,
        };
        // Even a value that is kept as binary64 ends up in a rate that is rounded to binary32. It must not
        // become 0 or infinite.
        let rounded = value as f32;
        (range.contains(&value) && range.contains(&f64::from(rounded)) && rounded.is_finite())
            .then_some(value)
    }

    /// Writes the shortest decimal that reads back as the same number.
    fn write(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Setting for f32 {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        f64::read(accepts, value).map(|value| value as f32)
    }

    /// Writes the shortest decimal that reads back as the same number.
    fn write(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Setting for bool {
    fn read(_: Accepts, value: &Value) -> Option<Self> {
        match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for String {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        match (accepts, value) {
            (_, Value::Text(text)) if !text.trim().is_empty() => Some(text.clone()),
            (Accepts::TextOrInteger, Value::Integer(integer)) => Some(integer.to_string()),
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        T::read(accepts, value).map(Some)
    }

    fn write(&self) -> Option<String> {
        self.as_ref()?.write()
    }
}

/// A list of layer widths.
impl Setting for Vec<usize> {
    fn read(_: Accepts, value: &Value) -> Option<Self> {
        filled(value, |item| usize::read(Accepts::Integer(1, MAX_WIDTH), item))
    }

    fn write(&self) -> Option<String> {
        Some(list(self))
    }
}

/// A list of learning rates.
impl Setting for Vec<f64> {
    fn read(_: Accepts, value: &Value) -> Option<Self> {
        filled(value, |item| {
            let rate = real(item)?;
            (rate as f32 > 0.0 && (rate as f32).is_finite()).then_some(rate)
        })
    }

    fn write(&self) -> Option<String> {
        Some(list(self))
    }
}

impl Setting for Vec<String> {
    fn read(accepts: Accepts, value: &Value) -> Option<Self> {
        let Value::List(items) = value else { return None };
        let text = |item: &Value| match (accepts, item) {
            (_, Value::Text(text)) => Some(text.clone()),
            (Accepts::Names, Value::Integer(number)) => Some(number.to_string()),
            _ => None,
        };
        let texts: Option<Vec<String>> = items.iter().map(text).collect();
        texts.filter(|texts| !(texts.is_empty() && matches!(accepts, Accepts::Names)))
    }

    fn write(&self) -> Option<String> {
        Some(list(self))
    }
}

/// Factors in ascending order of their names. Products are rounded, so the order influences the result.
impl Setting for Vec<(String, f32)> {
    fn read(_: Accepts, value: &Value) -> Option<Self> {
        let Value::Table(entries) = value else { return None };
        let factor = |(name, value): &(String, Value)| {
            let factor = real(value)? as f32;
            (factor >= 0.0 && factor.is_finite()).then(|| (name.clone(), factor))
        };
        let mut factors = entries.iter().map(factor).collect::<Option<Vec<_>>>()?;
        factors.sort_by(|(left, _), (right, _)| left.cmp(right));
        Some(factors)
    }

    fn write(&self) -> Option<String> {
        let entry = |(name, factor): &(String, f32)| format!("{} = {factor:?}", quoted(name));
        let entries = self.iter().map(entry).collect::<Vec<_>>().join(", ");
        (!entries.is_empty()).then(|| format!("{{ {entries} }}"))
    }
}

/// Converts the items of a list that is not empty.
pub(crate) fn filled<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let Value::List(items) = value else { return None };
    items.iter().map(read).collect::<Option<Vec<T>>>().filter(|items| !items.is_empty())
}

pub(crate) fn list<T: Setting>(items: &[T]) -> String {
    format!("[{}]", items.iter().filter_map(Setting::write).collect::<Vec<_>>().join(", "))
}

pub(crate) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    }
}
