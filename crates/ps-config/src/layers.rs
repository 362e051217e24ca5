//! `model.layers`: hidden layers as a list of tables.

use crate::document::{Value, similarity};
use crate::key::Accepts;
use crate::setting::Setting;
use ps_core::LayerSpec;
use ps_core::layer::{self, KINDS, Kind};
use ps_core::model::check_layers;

/// Maximum number of layers; a longer list can only be a mistake.
const MAX_LAYERS: usize = 1000;

/// Converts the value of `model.layers`.
///
/// # Errors
/// The error says what is wrong, with the index of the layer, counted from 0.
pub(crate) fn layers(value: &Value) -> Result<Vec<LayerSpec>, String> {
    let items = match value {
        Value::List(items) if (1..=MAX_LAYERS).contains(&items.len()) => items,
        Value::List(items) if items.is_empty() => {
            return Err(
                "without hidden layers use kind \"linear\", \"logistic\", \"softmax\" or \"poisson\"".into(),
            );
        }
        Value::List(_) => return Err(format!("expected at most {MAX_LAYERS} layers")),
        _ => {
            return Err(
                "expected a list of tables, such as [{ kind = \"dense\", units = 128 }, { kind = \"relu\" }]"
                    .into(),
            );
        }
    };
    let layer = |(number, item)| layer(item).map_err(|problem| format!("layer {number}: {problem}"));
    let layers = items.iter().enumerate().map(layer).collect::<Result<Vec<_>, _>>()?;
    check_layers(None, &layers)?;
    Ok(layers)
}

fn layer(item: &Value) -> Result<LayerSpec, String> {
    let Value::Table(entries) = item else {
        return Err("expected a table, such as { kind = \"relu\" }".into());
    };
    let value = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let names = KINDS.map(|kind| kind.name);
    let kind = match value("kind") {
        Some(Value::Text(name)) => Kind::find(name).ok_or_else(|| unknown("kind", name, &names))?,
        _ => return Err(format!("expected a kind: {}", list(&names))),
    };
    let settings: Vec<&str> = kind.settings.iter().map(|setting| setting.name).collect();
    if let Some((key, _)) = entries.iter().find(|(key, _)| key != "kind" && !settings.contains(&key.as_str()))
    {
        return Err(match settings[..] {
            [] => format!("{} has no key {key}", kind.name),
            _ => unknown("key", key, &settings),
        });
    }
    let setting = |layer::Setting { name, accepts }: &layer::Setting| {
        let (number, is_integer) = match value(name) {
            Some(Value::Integer(number)) => (*number as f64, true),
            Some(Value::Float(number)) => (*number, false),
            Some(_) => return Err(format!("{name}: expected {accepts}")),
            None => return Err(format!("{name} is missing: expected {accepts}")),
        };
        accepts.check(number, is_integer).ok_or_else(|| format!("{name}: expected {accepts}"))
    };
    let settings = kind.settings.iter().map(setting).collect::<Result<Vec<f64>, _>>()?;
    Ok((kind.build)(&settings))
}

fn unknown(what: &str, name: &str, valid: &[&str]) -> String {
    let near = valid.iter().map(|valid| (similarity(name, valid), valid));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(similarity, _)| *similarity >= 0.5) {
        Some((_, valid)) => format!("unknown {what} \"{name}\"; did you mean \"{valid}\"?"),
        None => format!("unknown {what} \"{name}\"; expected {}", list(valid)),
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

impl Setting for Vec<LayerSpec> {
    fn read(_: Accepts, value: &Value) -> Option<Self> {
        layers(value).ok()
    }

    fn write(&self) -> Option<String> {
        Some(format!("[{}]", self.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
    }
}
