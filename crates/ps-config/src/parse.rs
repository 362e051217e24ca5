//! From a run file's text to a [`RunConfig`].

use crate::document::{Document, Value};
use crate::error::{ConfigError, Place};
use crate::keys::{ACTIVATIONS, HEADS, MISSING, MODEL_KINDS, OPTIMIZERS, PRECISIONS, SCHEDULES};
use crate::run::{
    ModelConfig, OptimizerConfig, Phase, RateConfig, RunConfig, Shape, TrainConfig, WireConfig,
};
use crate::time::Time;
use ps_core::{Head, SgdConfig};
use ps_data::{DataConfig, Validation};
use std::path::Path;

/// Leaf size where none is given and the batch is no smaller.
const LEAF: usize = 32;

impl RunConfig {
    /// Reads the run file `path` and lets `sets` (each `KEY=VALUE`) override it.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::File { path: path.to_path_buf(), error })?;
        Self::parse(&text, &path.display().to_string(), sets)
    }

    /// Reads `text`, which errors call `origin`, and lets `sets` (each `KEY=VALUE`) override it.
    ///
    /// Unknown keys, wrong types, impossible values and keys without effect are refused with their place.
    pub fn parse(text: &str, origin: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let document = Document::parse(text, origin, sets)?;
        Ok(RunConfig {
            seed: always(document.integer("seed")?),
            data: data(&document)?,
            model: model(&document)?,
            train: train(&document)?,
            optimizer: optimizer(&document)?,
            learning_rate: learning_rate(&document)?,
            wire: WireConfig { weights: always(document.name("wire.weights", &PRECISIONS)?) },
        })
    }

    /// Refuses a batch that is larger than the training part of the data.
    pub fn check_samples(&self, samples: usize) -> Result<(), ConfigError> {
        let batch = self.train.batch;
        if batch <= samples {
            return Ok(());
        }
        let expected = match samples {
            0 => "there is no training sample".to_string(),
            _ => format!(
                "the batch is larger than the training part of {samples} samples; \
                 try --set train.batch={samples}"
            ),
        };
        Err(ConfigError::Value {
            place: Place::Resolved,
            key: "train.batch".into(),
            value: batch.to_string(),
            expected,
        })
    }
}

fn data(document: &Document) -> Result<DataConfig, ConfigError> {
    Ok(DataConfig {
        train: always(document.text("data.train")?),
        test: document.text("data.test")?,
        validation: document.read("data.validation", |_, value| match value {
            Value::Float(share) => (0.0 < *share && *share < 1.0).then_some(Validation::Share(*share)),
            Value::Text(source) if !source.trim().is_empty() => Some(Validation::Source(source.clone())),
            _ => None,
        })?,
        label: document.text("data.label")?,
        standardize: always(document.flag("data.standardize")?),
        missing: always(document.name("data.missing", &MISSING)?),
    })
}

fn model(document: &Document) -> Result<ModelConfig, ConfigError> {
    let kind = always(document.name("model.kind", &MODEL_KINDS)?);
    Ok(ModelConfig {
        kind,
        hidden: document.widths("model.hidden")?.unwrap_or_default(),
        activation: document.name("model.activation", &ACTIVATIONS)?.unwrap_or_default(),
        head: document.name("model.head", &HEADS)?.unwrap_or(Head::of(kind)),
    })
}

fn train(document: &Document) -> Result<TrainConfig, ConfigError> {
    let batch = always(document.integer("train.batch")?) as usize;
    let leaf = document.integer("train.leaf")?.map_or(LEAF.min(batch), |leaf| leaf as usize);
    if leaf > batch {
        let expected = format!("a leaf is part of a batch; expected at most train.batch = {batch}");
        return Err(document.bad_value("train.leaf", expected));
    }
    let epochs = always(document.integer("train.epochs")?) as u32;
    Ok(TrainConfig { epochs, batch, leaf, steps: document.integer("train.steps")? })
}

fn optimizer(document: &Document) -> Result<OptimizerConfig, ConfigError> {
    let kind = always(document.name("optimizer.kind", &OPTIMIZERS)?);
    let single = |path| Ok(document.number(path)?.map(|value| value as f32));
    let sgd = SgdConfig {
        momentum: always(single("optimizer.momentum")?),
        nesterov: always(document.flag("optimizer.nesterov")?),
        weight_decay: always(single("optimizer.weight_decay")?),
        l1: always(single("optimizer.l1")?),
        clip: single("optimizer.clip")?,
    };
    if sgd.nesterov && sgd.momentum == 0.0 {
        let expected =
            "there is no velocity to look ahead along; set optimizer.momentum, such as 0.9".to_string();
        return Err(document.bad_value("optimizer.nesterov", expected));
    }
    Ok(OptimizerConfig { kind, sgd })
}

fn learning_rate(document: &Document) -> Result<RateConfig, ConfigError> {
    // Refused where it is set.
    document.time("learning_rate.from")?;
    let rate = phase(document)?;
    let phases = document.phases("learning_rate.then")?.unwrap_or_default();
    let then = phases.iter().map(|document| {
        let inner = phase(document)?;
        document.phases("learning_rate.then")?;
        if inner.schedule == Shape::Pieces {
            let expected = "a phase has one shape; write each piece as a phase of its own".to_string();
            return Err(document.bad_value("learning_rate.schedule", expected));
        }
        Ok(Phase { from: always(document.time("learning_rate.from")?), rate: inner })
    });
    let then = then.collect::<Result<Vec<_>, ConfigError>>()?;
    if !then.is_empty() && rate.schedule == Shape::Pieces {
        let expected = "two schedules would be at odds: write the pieces as phases [[learning_rate.then]], too, or leave \
                        these out";
        return Err(document.bad_value("learning_rate.at", expected.into()));
    }
    Ok(RateConfig { then, ..rate })
}

/// The keys that a phase has in common with the first.
fn phase(document: &Document) -> Result<RateConfig, ConfigError> {
    let at = document.times("learning_rate.at")?.unwrap_or_default();
    let rates = document.rates("learning_rate.rates")?.unwrap_or_default();
    if at.len() != rates.len() {
        let expected = format!("{} rates, one for each time of learning_rate.at", at.len());
        return Err(document.bad_value("learning_rate.rates", format!("expected {expected}")));
    }
    Ok(RateConfig {
        initial: always(document.number("learning_rate.initial")?),
        schedule: always(document.name("learning_rate.schedule", &SCHEDULES)?),
        for_batch: document.integer("learning_rate.for_batch")?.map(|batch| batch as usize),
        warmup: always(document.time("learning_rate.warmup")?),
        pieces: at.into_iter().zip(rates).collect(),
        // What a schedule does not look at gets the value that changes nothing.
        every: document.time("learning_rate.every")?.unwrap_or(Time::Steps(1)),
        stretch: document.integer("learning_rate.stretch")?.unwrap_or(1),
        factor: document.number("learning_rate.factor")?.unwrap_or(1.0),
        power: document.number("learning_rate.power")?.unwrap_or(1.0),
        end: document.number("learning_rate.end")?.unwrap_or(0.0),
        then: Vec::new(),
    })
}

/// The value of a key that applies to all runs and is required or has a default.
fn always<T>(value: Option<T>) -> T {
    value.expect("the table of keys says required or gives a default")
}
