//! Values of settings.

use std::fmt;

/// The value of a setting, as TOML: a number, a string, a boolean or a list of these.
///
/// [`Run::set`](crate::Run::set) accepts every type that converts to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(String);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! values {
    ($($kind:ty),*: $format:literal) => {
        $(impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Value(format!($format, value))
            }
        })*
    };
}

values!(bool, u8, u16, u32, u64, usize, i32, i64: "{}");
// The debug format always has a point or an exponent, which makes the value a float in TOML.
values!(f32, f64: "{:?}");

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value(toml::Value::from(value).to_string())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        value.as_str().into()
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        let values: Vec<String> = values.into_iter().map(|value| value.into().0).collect();
        Value(format!("[{}]", values.join(", ")))
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(values: [T; N]) -> Self {
        Vec::from(values).into()
    }
}
