//! All keys of the run file. Each one is defined in the file of its table, next to the settings that it
//! belongs to.
//!
//! The parser, the suggestions for unknown keys, the resolved run file and the table of keys in
//! `docs/run-file.md` all use [`KEYS`].

use crate::key::MAX_SAMPLES;
use crate::run::SEED;
use crate::tables::{data, guard, learning_rate, model, optimizer, train, wire};
use ps_core::layer::KINDS;
use std::sync::LazyLock;

pub use crate::key::{Accepts, Fallback, Key, Use};

/// All keys, in the order of the resolved run file. The fingerprints of runs depend on this order.
pub static KEYS: LazyLock<Vec<&'static Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    keys.extend(SEED.iter().map(|field| &field.key));
    keys.extend(data::FIELDS.iter().map(|field| &field.key));
    keys.extend(model::FIELDS.iter().map(|field| &field.key));
    keys.extend(train::FIELDS.iter().map(|field| &field.key));
    keys.extend(optimizer::FIELDS.iter().map(|field| &field.key));
    keys.extend(learning_rate::FIELDS.iter().map(|field| &field.key));
    keys.extend(guard::FIELDS.iter().map(|field| &field.key));
    keys.extend(wire::FIELDS.iter().map(|field| &field.key));
    keys
});

/// Returns the key at `path`, if it exists.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().copied().find(|key| key.path == path)
}

/// Formats the tables of all keys and of the layers in `docs/run-file.md`, in Markdown.
pub fn reference_table() -> String {
    let mut table = String::from("| key | value | default | applies to | meaning |\n|---|---|---|---|---|\n");
    for key in KEYS.iter() {
        let accepts = match key.accepts {
            Accepts::Text => "a string".to_string(),
            Accepts::Integer(low, MAX_SAMPLES) => format!("an integer of at least {low}"),
            other => other.to_string(),
        };
        let default = match key.default {
            Fallback::Required(_) => "required".to_string(),
            Fallback::Value(text) => format!("`{text}`"),
            Fallback::Described(words) => words.to_string(),
        };
        let used = match key.used {
            Use::Always | Use::BeforePhases => "all".to_string(),
            Use::InPhases => "phases (`then`)".to_string(),
            Use::When(other, values) => {
                format!("{} {}", find(other).map_or(other, |key| key.parts().1), values.join(", "))
            }
        };
        table += &format!("| `{}` | {accepts} | {default} | {used} | {} |\n", key.path, key.help);
    }
    table += "\nEach table of `model.layers` has a `kind` and the keys of that kind:\n\n";
    table += "| kind | keys | what the layer does |\n|---|---|---|\n";
    for kind in KINDS {
        let settings = kind.settings.iter().map(|setting| format!("`{}`: {}", setting.name, setting.accepts));
        let settings = settings.collect::<Vec<_>>().join("; ");
        table += &format!("| `{}` | {settings} | {} |\n", kind.name, kind.help);
    }
    table
}
