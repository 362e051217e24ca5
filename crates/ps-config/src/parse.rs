//! From a run file's text to a [`RunConfig`].

use crate::document::{Document, Value};
use crate::error::{ConfigError, Place};
use crate::keys::{
    ACTIVATIONS, Accepts, COLUMN_KINDS, GUARDS, HEADS, KEYS, MISSING, MODEL_KINDS, PRECISIONS, SCHEDULES,
    THRESHOLDS, Use,
};
use crate::run::{
    Batch, GuardConfig, GuardMode, ModelConfig, Phase, RateConfig, RunConfig, Shape, TrainConfig, WireConfig,
};
use crate::time::Time;
use ps_core::control::Descent;
use ps_core::model::ModelKind;
use ps_core::optim::{self, Conflict, Noise, Refusal};
use ps_core::{Head, Optimizer, OptimizerConfig, OptimizerParams, ScheduleKind};
use ps_data::{DataConfig, Validation};
use ps_host::Ceiling;
use std::path::Path;

/// Leaf size where none is given and the batch is no smaller.
const LEAF: usize = 32;

impl RunConfig {
    /// Reads the run file `path` and lets `sets` (each `KEY=VALUE`, or `KEY=` to unset a key) override it.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let text = ps_host::read_text(path, Ceiling::TEXT)
            .map_err(|error| ConfigError::File { path: path.to_path_buf(), error })?;
        Self::parse(&text, &path.display().to_string(), sets)
    }

    /// Reads `text`, which errors call `origin`, and lets `sets` override it, as [`RunConfig::load`] does.
    ///
    /// Unknown keys, wrong types, impossible values and keys without effect are refused with their place.
    pub fn parse(text: &str, origin: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let document = Document::parse(text, origin, sets)?;
        let run = RunConfig {
            seed: always(document.integer("seed")?),
            data: data(&document)?,
            model: model(&document)?,
            train: train(&document)?,
            optimizer: optimizer(&document)?,
            learning_rate: learning_rate(&document)?,
            guard: guard(&document)?,
            wire: WireConfig { weights: always(document.name("wire.weights", &PRECISIONS)?) },
        };
        fit_together(&document, &run)?;
        Ok(run)
    }

    /// Refuses a batch that is larger than the training part of the data.
    pub fn check_samples(&self, samples: usize) -> Result<(), ConfigError> {
        let batch = match self.train.batch {
            Batch::Full if samples > 0 => return Ok(()),
            Batch::Full => 1,
            Batch::Of(batch) => batch,
        };
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
        validation_seed: document.integer("data.validation_seed")?,
        label: document.text("data.label")?,
        header: document.flag("data.header")?,
        columns: document.named("data.columns", &COLUMN_KINDS)?.unwrap_or_default(),
        missing_values: document.texts("data.missing_values")?,
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
    let batch = always(document.batch("train.batch")?);
    let most = match batch {
        Batch::Full => usize::MAX,
        Batch::Of(batch) => batch,
    };
    let leaf = document.integer("train.leaf")?.map_or(LEAF.min(most), |leaf| leaf as usize);
    if leaf > most {
        let expected = format!("a leaf is part of a batch; expected at most train.batch = {most}");
        return Err(document.bad_value("train.leaf", expected));
    }
    let epochs = always(document.integer("train.epochs")?) as u32;
    Ok(TrainConfig {
        epochs,
        batch,
        leaf,
        steps: document.integer("train.steps")?,
        early_stopping: document.integer("train.early_stopping")?,
        min_delta: document.number("train.min_delta")?,
        probe_every: document.time("train.probe_every")?,
    })
}

fn optimizer(document: &Document) -> Result<OptimizerConfig, ConfigError> {
    let mut optimizer = always(document.read("optimizer.kind", |_, value| match value {
        Value::Text(name) => Optimizer::all().find(|optimizer| optimizer.name() == name),
        _ => None,
    })?);
    let single = |path: &str| Ok(document.number(path)?.map(|value| value as f32));
    // Those of other optimizers are refused where they are set.
    for key in KEYS.iter().filter(|key| matches!(key.used, Use::When("optimizer.kind", _))) {
        let value = match key.accepts {
            Accepts::Flag => document.flag(key.path)?.map(optim::Value::Flag),
            _ => single(key.path)?.map(optim::Value::Number),
        };
        if let Some(value) = value {
            optimizer.set(key.parts().1, value);
        }
    }
    if let Err(Refusal { setting, reason }) = optimizer.check() {
        return Err(document.bad_value(&format!("optimizer.{setting}"), reason.into()));
    }
    let params = OptimizerParams {
        weight_decay: always(single("optimizer.weight_decay")?),
        l1: always(single("optimizer.l1")?),
        clip: single("optimizer.clip")?,
        ..optimizer.into()
    };
    let clip_norm = single("optimizer.clip_norm")?;
    let refusal = match params.clip {
        Some(_) => Some("optimizer.clip already cuts the gradient: set one of them"),
        None => optimizer.conflict(Conflict::ClipNorm),
    };
    if let Some(expected) = refusal.filter(|_| clip_norm.is_some()) {
        return Err(document.bad_value("optimizer.clip_norm", expected.into()));
    }
    let noise = document.number("optimizer.noise")?;
    let decay = document.number("optimizer.noise_decay")?;
    if noise.is_none() && decay.is_some() {
        let expected = "there is no noise to go away; set optimizer.noise, such as 0.01".to_string();
        return Err(document.bad_value("optimizer.noise_decay", expected));
    }
    Ok(OptimizerConfig {
        params,
        decay_biases: document.flag("optimizer.decay_biases")?.unwrap_or(true),
        rates: document.factors("optimizer.rates")?.unwrap_or_default(),
        clip_norm,
        noise: noise.map(|scale| Noise { scale, decay: decay.unwrap_or(0.55) }),
    })
}

fn guard(document: &Document) -> Result<GuardConfig, ConfigError> {
    Ok(GuardConfig {
        mode: always(document.name("guard.mode", &GUARDS)?),
        // What a mode does not look at gets the value that changes nothing.
        rise: document.number("guard.rise")?.unwrap_or(f64::MAX),
        factor: document.number("guard.factor")?.unwrap_or(1.0),
        retries: document.integer("guard.retries")?.unwrap_or(0) as u32,
        every: document.time("guard.every")?.unwrap_or(Time::Steps(1)),
    })
}

/// What one table says must make sense beside the others.
fn fit_together(document: &Document, run: &RunConfig) -> Result<(), ConfigError> {
    let refuse = |key: &str, why: &str| Err(document.bad_value(key, why.into()));
    let (rate, params) = (&run.learning_rate, &run.optimizer.params);
    let phases = || std::iter::once(rate).chain(rate.then.iter().map(|phase| &phase.rate));
    if run.data.validation.is_none() {
        let is_plateau = |rate: &RateConfig| rate.schedule == Shape::Is(ScheduleKind::Plateau);
        let key = if is_plateau(rate) { "learning_rate.schedule" } else { "learning_rate.then" };
        if phases().any(is_plateau) {
            return refuse(
                key,
                "a plateau is seen in the validation loss, and there is none; set data.validation, such as 0.1",
            );
        }
        if run.train.early_stopping.is_some() {
            return refuse(
                "train.early_stopping",
                "the validation loss says when to stop, and there is none; set data.validation, such as 0.1",
            );
        }
    }
    if run.train.min_delta.is_some() && run.train.early_stopping.is_none() {
        return refuse("train.min_delta", "nothing looks at it; set train.early_stopping, such as 5");
    }
    if let Some(why) =
        params.optimizer.conflict(Conflict::HiddenLayers).filter(|_| run.model.kind == ModelKind::Mlp)
    {
        return refuse("optimizer.kind", why);
    }
    let names = |name: &str| {
        let is_layer = |rest: &str| {
            let (number, part) = rest.split_once('.').unwrap_or((rest, "weight"));
            number.parse().is_ok_and(|number: usize| number <= run.model.hidden.len())
                && matches!(part, "weight" | "bias")
        };
        matches!(name, "weights" | "biases") || name.strip_prefix("layers.").is_some_and(is_layer)
    };
    if let Some((name, _)) = run.optimizer.rates.iter().find(|(name, _)| !names(name)) {
        let layers = run.model.hidden.len();
        let why = format!(
            "no parameter is called {name}; there are weights, biases, and layers.0 to layers.{layers}, each with .weight and .bias"
        );
        return refuse("optimizer.rates", &why);
    }
    if rate.schedule != Shape::Armijo {
        return Ok(());
    }
    if run.train.batch != Batch::Full {
        return refuse(
            "learning_rate.schedule",
            "armijo compares the loss of one point with that of another, and each minibatch has a loss of its own; set \
             train.batch = \"full\", or take another schedule",
        );
    }
    let plain = "armijo goes along the gradient and measures how the loss falls; leave this out, or take another schedule";
    let odd = [
        ("optimizer.kind", !matches!(params.optimizer, Optimizer::Sgd(_))),
        ("optimizer.momentum", !params.optimizer.vectors().is_empty()),
        ("optimizer.l1", params.l1 != 0.0),
        ("optimizer.clip", params.clip.is_some()),
        ("optimizer.clip_norm", run.optimizer.clip_norm.is_some()),
        ("optimizer.noise", run.optimizer.noise.is_some()),
        ("optimizer.rates", !run.optimizer.rates.is_empty()),
        ("guard.mode", run.guard.mode != GuardMode::Off),
        ("learning_rate.warmup", rate.warmup != Time::Steps(0)),
        ("learning_rate.then", !rate.then.is_empty()),
        ("train.probe_every", run.train.probe_every.is_some()),
    ];
    match odd.iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => refuse(key, plain),
        None => Ok(()),
    }
}

fn learning_rate(document: &Document) -> Result<RateConfig, ConfigError> {
    // Refused where it is set.
    document.time("learning_rate.from")?;
    let rate = phase(document)?;
    let phases = document.phases("learning_rate.then")?.unwrap_or_default();
    let then = phases.iter().map(|document| {
        let inner = phase(document)?;
        document.phases("learning_rate.then")?;
        let expected = match inner.schedule {
            Shape::Pieces => "a phase has one shape; write each piece as a phase of its own",
            Shape::Armijo => "armijo finds its rates itself, for a whole run; nothing comes before it",
            Shape::Is(_) => "",
        };
        if !expected.is_empty() {
            return Err(document.bad_value("learning_rate.schedule", expected.into()));
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
    let schedule = always(document.name("learning_rate.schedule", &SCHEDULES)?);
    let number = |path: &str| document.number(path);
    let descent = Descent {
        sufficient: number("learning_rate.sufficient")?.unwrap_or(0.0),
        shrink: number("learning_rate.shrink")?.unwrap_or(0.0),
        grow: number("learning_rate.grow")?.unwrap_or(0.0),
        tolerance: number("learning_rate.tolerance")?.unwrap_or(0.0),
        gradient_tolerance: number("learning_rate.gradient_tolerance")?.unwrap_or(0.0),
    };
    Ok(RateConfig {
        initial: always(document.number("learning_rate.initial")?),
        schedule,
        descent: (schedule == Shape::Armijo).then_some(descent),
        for_batch: document.integer("learning_rate.for_batch")?.map(|batch| batch as usize),
        warmup: always(document.time("learning_rate.warmup")?),
        pieces: at.into_iter().zip(rates).collect(),
        // What a schedule does not look at gets the value that changes nothing.
        every: document.time("learning_rate.every")?.unwrap_or(Time::Steps(1)),
        stretch: document.integer("learning_rate.stretch")?.unwrap_or(1),
        factor: document.number("learning_rate.factor")?.unwrap_or(1.0),
        patience: document.integer("learning_rate.patience")?.unwrap_or(0),
        threshold: document.number("learning_rate.threshold")?.unwrap_or(0.0),
        is_absolute: document.name("learning_rate.threshold_mode", &THRESHOLDS)?.unwrap_or(false),
        cooldown: document.integer("learning_rate.cooldown")?.unwrap_or(0),
        power: document.number("learning_rate.power")?.unwrap_or(1.0),
        end: document.number("learning_rate.end")?.unwrap_or(0.0),
        then: Vec::new(),
    })
}

/// The value of a key that applies to all runs and is required or has a default.
fn always<T>(value: Option<T>) -> T {
    value.expect("the table of keys says required or gives a default")
}
