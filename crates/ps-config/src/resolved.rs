//! A run as text: the resolved run file, and the fingerprint of what decides its bits.

use crate::keys::{
    ACTIVATIONS, COLUMN_KINDS, GUARDS, HEADS, KEYS, Key, MISSING, MODEL_KINDS, Names, PRECISIONS, SCHEDULES,
    THRESHOLDS, Use,
};
use crate::run::{Batch, Phase, RateConfig, RunConfig};
use ps_core::{NUMERICS_VERSION, optim};
use ps_data::{ColumnKind, Validation};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Keys that say where data lies and how it is read. What comes of that has a fingerprint of its own, so it may lie
/// elsewhere on each machine.
const PLACES: [&str; 6] =
    ["data.train", "data.test", "data.label", "data.header", "data.columns", "data.missing_values"];

/// A key and its value.
pub(crate) struct Setting {
    /// The key's path; of a phase, `learning_rate.then.NUMBER.key`, from 0.
    pub(crate) key: String,
    /// In TOML.
    pub(crate) value: String,
    /// Whether the key only says where data lies.
    pub(crate) is_place: bool,
}

impl RunConfig {
    /// The run file as resolved: every key that applies, defaults and overrides included. It reads back as
    /// the same run.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for (key, value) in self.values() {
            let (table, name) = key.parts();
            if table != open {
                // What follows a table comes before the next one.
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
            for (key, value) in phase.values() {
                let _ = writeln!(text, "{} = {value}", key.parts().1);
            }
        }
    }

    /// SHA-256, in hexadecimal, of the text that decides the bits of the weights besides the data itself:
    /// a line for the numerics version, then one line `key = value` for each key that applies, in the order
    /// of [`KEYS`], without those that only say where data lies; then the phases of the learning rate, whose keys are called
    /// `learning_rate.then.NUMBER.key`, from 0.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("numerics = {NUMERICS_VERSION}\n"));
        for Setting { key, value, .. } in self.settings().iter().filter(|setting| !setting.is_place) {
            hash.update(format!("{key} = {value}\n"));
        }
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Every key that is set and applies, in the order of [`KEYS`], and then those of the phases.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let is_source = matches!(self.data.validation, Some(Validation::Source(_)));
        let setting = |(key, value): (&Key, String)| Setting {
            key: key.path.into(),
            value,
            is_place: PLACES.contains(&key.path) || key.path == "data.validation" && is_source,
        };
        let phase = |(number, phase): (usize, &Phase)| {
            let setting = move |(key, value): (&Key, String)| Setting {
                key: format!("learning_rate.then.{number}.{}", key.parts().1),
                value,
                is_place: false,
            };
            phase.values().map(setting).collect::<Vec<_>>()
        };
        let phases = self.learning_rate.then.iter().enumerate().flat_map(phase);
        self.values().map(setting).chain(phases).collect()
    }

    fn values(&self) -> impl Iterator<Item = (&'static Key, String)> {
        KEYS.iter().filter(|key| self.has(key)).filter_map(|key| self.value(key).map(|value| (key, value)))
    }

    /// Whether `key` applies to this run.
    fn has(&self, key: &Key) -> bool {
        match key.used {
            Use::Always => true,
            Use::When("model.kind", kinds) => kinds.contains(&name(&MODEL_KINDS, self.model.kind)),
            Use::When("optimizer.kind", kinds) => kinds.contains(&self.optimizer.params.optimizer.name()),
            Use::When("guard.mode", modes) => modes.contains(&name(&GUARDS, self.guard.mode)),
            Use::When(..) | Use::BeforePhases | Use::InPhases => self.learning_rate.has(key, false),
        }
    }

    /// What `key` is set to, in TOML; `None` where it is not set.
    fn value(&self, key: &Key) -> Option<String> {
        let (data, model, train) = (&self.data, &self.model, &self.train);
        let (optimizer, params, guard) = (&self.optimizer, &self.optimizer.params, &self.guard);
        Some(match key.path {
            "seed" => self.seed.to_string(),
            "data.train" => quoted(&data.train),
            "data.test" => quoted(data.test.as_ref()?),
            "data.validation" => match data.validation.as_ref()? {
                Validation::Share(share) => number(*share),
                Validation::Source(source) => quoted(source),
            },
            "data.validation_seed" => data.validation_seed?.to_string(),
            "data.label" => quoted(data.label.as_ref()?),
            "data.header" => data.header?.to_string(),
            "data.columns" => columns(&data.columns)?,
            "data.missing_values" => list(data.missing_values.as_ref()?.iter().map(|text| quoted(text))),
            "data.standardize" => data.standardize.to_string(),
            "data.missing" => quoted(name(&MISSING, data.missing)),
            "model.kind" => quoted(name(&MODEL_KINDS, model.kind)),
            "model.hidden" => format!("{:?}", model.hidden),
            "model.activation" => quoted(name(&ACTIVATIONS, model.activation)),
            "model.head" => quoted(name(&HEADS, model.head)),
            "train.epochs" => train.epochs.to_string(),
            "train.batch" => match train.batch {
                Batch::Full => quoted("full"),
                Batch::Of(batch) => batch.to_string(),
            },
            "train.leaf" => train.leaf.to_string(),
            "train.steps" => train.steps?.to_string(),
            "train.early_stopping" => train.early_stopping?.to_string(),
            "train.min_delta" => number(train.min_delta?),
            "train.probe_every" => train.probe_every?.to_string(),
            "optimizer.kind" => quoted(params.optimizer.name()),
            "optimizer.weight_decay" => single(params.weight_decay),
            "optimizer.l1" => single(params.l1),
            "optimizer.clip" => single(params.clip?),
            "optimizer.clip_norm" => single(optimizer.clip_norm?),
            "optimizer.decay_biases" => (!optimizer.decay_biases).then(|| false.to_string())?,
            "optimizer.rates" => factors(&optimizer.rates)?,
            "optimizer.noise" => number(optimizer.noise?.scale),
            "optimizer.noise_decay" => number(optimizer.noise?.decay),
            "guard.mode" => quoted(name(&GUARDS, guard.mode)),
            "guard.rise" => number(guard.rise),
            "guard.factor" => number(guard.factor),
            "guard.retries" => guard.retries.to_string(),
            "guard.every" => guard.every.to_string(),
            "wire.weights" => quoted(name(&PRECISIONS, self.wire.weights)),
            _ => return self.setting(key).or_else(|| self.learning_rate.value(key)),
        })
    }

    /// What `key` is set to, if it is a setting of the optimizer.
    fn setting(&self, key: &Key) -> Option<String> {
        let name = key.path.strip_prefix("optimizer.")?;
        let settings = self.optimizer.params.optimizer.settings();
        let (_, value) = settings.into_iter().find(|(setting, _)| setting.name == name)?;
        Some(match value {
            optim::Value::Flag(flag) => flag.to_string(),
            optim::Value::Number(number) => single(number),
        })
    }
}

impl Phase {
    fn values(&self) -> impl Iterator<Item = (&'static Key, String)> {
        let of = |key: &Key| match key.path {
            "learning_rate.from" => Some(self.from.to_string()),
            _ if self.rate.has(key, true) => self.rate.value(key),
            _ => None,
        };
        KEYS.iter().filter_map(move |key| of(key).map(|value| (key, value)))
    }
}

impl RateConfig {
    /// Whether `key`, which is of this table, applies.
    fn has(&self, key: &Key, is_phase: bool) -> bool {
        match key.used {
            Use::Always => true,
            Use::When(_, schedules) => schedules.contains(&name(&SCHEDULES, self.schedule)),
            Use::InPhases => is_phase,
            Use::BeforePhases => !is_phase,
        }
    }

    /// What `key` is set to; `None` where it is not set, or of another table.
    fn value(&self, key: &Key) -> Option<String> {
        Some(match key.path {
            "learning_rate.initial" => number(self.initial),
            "learning_rate.schedule" => quoted(name(&SCHEDULES, self.schedule)),
            "learning_rate.for_batch" => self.for_batch?.to_string(),
            "learning_rate.warmup" => self.warmup.to_string(),
            "learning_rate.at" => list(self.pieces.iter().map(|(at, _)| at.to_string())),
            "learning_rate.rates" => list(self.pieces.iter().map(|(_, rate)| number(*rate))),
            "learning_rate.every" => self.every.to_string(),
            "learning_rate.stretch" => self.stretch.to_string(),
            "learning_rate.factor" => number(self.factor),
            "learning_rate.patience" => self.patience.to_string(),
            "learning_rate.threshold" => number(self.threshold),
            "learning_rate.threshold_mode" => quoted(name(&THRESHOLDS, self.is_absolute)),
            "learning_rate.cooldown" => self.cooldown.to_string(),
            "learning_rate.sufficient" => number(self.descent?.sufficient),
            "learning_rate.shrink" => number(self.descent?.shrink),
            "learning_rate.grow" => number(self.descent?.grow),
            "learning_rate.tolerance" => number(self.descent?.tolerance),
            "learning_rate.gradient_tolerance" => number(self.descent?.gradient_tolerance),
            "learning_rate.power" => number(self.power),
            "learning_rate.end" => number(self.end),
            _ => return None,
        })
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn name<T: PartialEq, const N: usize>(names: &Names<T, N>, value: T) -> &'static str {
    names.iter().find(|(_, named)| *named == value).map_or("", |(name, _)| name)
}

/// A table on one line; nothing if it is empty.
fn factors(factors: &[(String, f32)]) -> Option<String> {
    let entry = |(name, factor): &(String, f32)| format!("{} = {}", quoted(name), single(*factor));
    let entries = factors.iter().map(entry).collect::<Vec<_>>().join(", ");
    (!entries.is_empty()).then(|| format!("{{ {entries} }}"))
}

/// The same; a column may have any name.
fn columns(columns: &BTreeMap<String, ColumnKind>) -> Option<String> {
    let entry = |(column, kind): (&String, &ColumnKind)| (column.clone(), name(&COLUMN_KINDS, *kind).into());
    let table: toml::Table = columns.iter().map(entry).collect();
    (!table.is_empty()).then(|| toml::Value::Table(table).to_string())
}

/// The shortest decimal that reads back as `value`.
fn number(value: f64) -> String {
    format!("{value:?}")
}

/// The shortest decimal that reads back as `value` in binary32.
fn single(value: f32) -> String {
    format!("{value:?}")
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
