//! A run as text: the resolved run file, and the fingerprint of what decides its bits.

use crate::keys::{
    ACTIVATIONS, HEADS, KEYS, Key, MISSING, MODEL_KINDS, Names, OPTIMIZERS, PRECISIONS, SCHEDULES, Use,
};
use crate::run::RunConfig;
use ps_core::NUMERICS_VERSION;
use ps_data::Validation;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Keys that say where data lies. What lies there has a fingerprint of its own, so it may lie elsewhere on
/// each machine.
const PLACES: [&str; 3] = ["data.train", "data.test", "data.label"];

impl RunConfig {
    /// The run file as resolved: every key that applies, defaults and overrides included. It reads back as
    /// the same run.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for (key, value) in self.values() {
            let (table, name) = key.parts();
            if table != open {
                let _ = write!(text, "\n[{table}]\n");
                open = table;
            }
            let _ = writeln!(text, "{name} = {value}");
        }
        text
    }

    /// SHA-256, in hexadecimal, of the text that decides the bits of the weights besides the data itself:
    /// a line for the numerics version, then one line `key = value` for each key that applies, in the order
    /// of [`KEYS`], without those that only say where data lies.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("numerics = {NUMERICS_VERSION}\n"));
        for (key, value) in self.values() {
            let place = PLACES.contains(&key.path)
                || key.path == "data.validation"
                    && matches!(self.data.validation, Some(Validation::Source(_)));
            if !place {
                hash.update(format!("{} = {value}\n", key.path));
            }
        }
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn values(&self) -> impl Iterator<Item = (&'static Key, String)> {
        KEYS.iter().filter(|key| self.has(key)).filter_map(|key| self.value(key).map(|value| (key, value)))
    }

    /// Whether `key` applies to this run.
    fn has(&self, key: &Key) -> bool {
        match key.used {
            Use::Always => true,
            Use::When("model.kind", kinds) => kinds.contains(&name(&MODEL_KINDS, self.model.kind)),
            Use::When(_, schedules) => schedules.contains(&name(&SCHEDULES, self.learning_rate.schedule)),
        }
    }

    /// What `key` is set to, in TOML; `None` where it is not set.
    fn value(&self, key: &Key) -> Option<String> {
        let (data, model, train) = (&self.data, &self.model, &self.train);
        let (sgd, rate) = (&self.optimizer.sgd, &self.learning_rate);
        Some(match key.path {
            "seed" => self.seed.to_string(),
            "data.train" => quoted(&data.train),
            "data.test" => quoted(data.test.as_ref()?),
            "data.validation" => match data.validation.as_ref()? {
                Validation::Share(share) => number(*share),
                Validation::Source(source) => quoted(source),
            },
            "data.label" => quoted(data.label.as_ref()?),
            "data.standardize" => data.standardize.to_string(),
            "data.missing" => quoted(name(&MISSING, data.missing)),
            "model.kind" => quoted(name(&MODEL_KINDS, model.kind)),
            "model.hidden" => format!("{:?}", model.hidden),
            "model.activation" => quoted(name(&ACTIVATIONS, model.activation)),
            "model.head" => quoted(name(&HEADS, model.head)),
            "train.epochs" => train.epochs.to_string(),
            "train.batch" => train.batch.to_string(),
            "train.leaf" => train.leaf.to_string(),
            "train.steps" => train.steps?.to_string(),
            "optimizer.kind" => quoted(name(&OPTIMIZERS, self.optimizer.kind)),
            "optimizer.momentum" => single(sgd.momentum),
            "optimizer.nesterov" => sgd.nesterov.to_string(),
            "optimizer.weight_decay" => single(sgd.weight_decay),
            "optimizer.l1" => single(sgd.l1),
            "optimizer.clip" => single(sgd.clip?),
            "learning_rate.initial" => number(rate.initial),
            "learning_rate.schedule" => quoted(name(&SCHEDULES, rate.schedule)),
            "learning_rate.warmup" => rate.warmup.to_string(),
            "learning_rate.every" => rate.every.to_string(),
            "learning_rate.factor" => number(rate.factor),
            "learning_rate.power" => number(rate.power),
            "learning_rate.end" => number(rate.end),
            "wire.weights" => quoted(name(&PRECISIONS, self.wire.weights)),
            _ => return None,
        })
    }
}

fn name<T: PartialEq, const N: usize>(names: &Names<T, N>, value: T) -> &'static str {
    names.iter().find(|(_, named)| *named == value).map_or("", |(name, _)| name)
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
