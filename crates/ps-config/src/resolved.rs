//! Formats a run as a resolved run file, and computes the fingerprint of what determines its bits.

use crate::field::values;
use crate::key::Key;
use crate::run::{RunConfig, SEED};
use crate::tables::data::SOURCE_KEYS;
use crate::tables::{RateConfig, data, guard, learning_rate, model, optimizer, train, wire};
use ps_core::NUMERICS_VERSION;
use ps_data::Validation;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// A key with its value.
pub(crate) struct Setting {
    /// The key's path. Keys of the phases are `learning_rate.then.NUMBER.key`, counted from 0.
    pub(crate) key: String,
    /// The value, in TOML.
    pub(crate) value: String,
    /// Whether the key only states where data is.
    pub(crate) is_data_source: bool,
}

impl RunConfig {
    /// Formats the resolved run file: every key that applies, including defaults and overrides. Parsing it
    /// gives an equal run.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for (key, value) in self.values() {
            let (table, name) = key.parts();
            if table != open {
                // The phases of a table come before the next table.
                if open == "learning_rate" {
                    self.write_phases(&mut text);
                }
                let _ = write!(text, "\n[{table}]\n");
                open = table;
            }
            let _ = writeln!(text, "{name} = {value}");
        }
        text
    }

    fn write_phases(&self, text: &mut String) {
        for phase in &self.learning_rate.then {
            let _ = write!(text, "\n[[learning_rate.then]]\n");
            for (key, value) in values(learning_rate::FIELDS, phase, true) {
                let _ = writeln!(text, "{} = {value}", key.parts().1);
            }
        }
    }

    /// SHA-256, in hexadecimal, of the settings that determine the bits of the weights, besides the data
    /// itself. The hashed text is a line with the numerics version, then one line `key = value` for each key
    /// that applies, in the order of [`crate::keys::KEYS`], without those that only state where data is. The
    /// phases of the learning rate come last, with keys called `learning_rate.then.NUMBER.key`; numbers count
    /// from 0.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("numerics = {NUMERICS_VERSION}\n"));
        for Setting { key, value, .. } in self.settings().iter().filter(|setting| !setting.is_data_source) {
            hash.update(format!("{key} = {value}\n"));
        }
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Returns every key that is set and applies, in the order of [`crate::keys::KEYS`], then the phases.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let is_source = matches!(self.data.validation, Some(Validation::Source(_)));
        let setting = |(key, value): (&Key, String)| Setting {
            key: key.path.into(),
            value,
            is_data_source: SOURCE_KEYS.contains(&key.path) || key.path == "data.validation" && is_source,
        };
        let phase = |(number, phase): (usize, &RateConfig)| {
            let setting = move |(key, value): (&Key, String)| Setting {
                key: format!("learning_rate.then.{number}.{}", key.parts().1),
                value,
                is_data_source: false,
            };
            values(learning_rate::FIELDS, phase, true).into_iter().map(setting).collect::<Vec<_>>()
        };
        let phases = self.learning_rate.then.iter().enumerate().flat_map(phase);
        self.values().into_iter().map(setting).chain(phases).collect()
    }

    /// Returns the keys that are set and apply, without those of the phases.
    fn values(&self) -> Vec<(&'static Key, String)> {
        let mut all = values(&SEED, &self.seed, false);
        all.extend(values(data::FIELDS, &self.data, false));
        all.extend(values(model::FIELDS, &self.model, false));
        all.extend(values(train::FIELDS, &self.train, false));
        all.extend(values(&optimizer::FIELDS, &self.optimizer, false));
        all.extend(values(learning_rate::FIELDS, &self.learning_rate, false));
        all.extend(values(guard::FIELDS, &self.guard, false));
        all.extend(values(wire::FIELDS, &self.wire, false));
        all
    }
}
