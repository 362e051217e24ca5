//! The run file: all settings on which the processes of a run must agree.

use crate::document::Document;
use crate::error::{ConfigError, Location};
use crate::field::Field;
use crate::key::{Always, Integer, Key, MAX_INTEGER, Value};
use crate::setting::Setting;
use crate::tables::{
    Batch, GuardConfig, GuardMode, ModelConfig, RateConfig, Shape, ThresholdMode, TrainConfig, WireConfig,
};
use crate::tables::{data, guard, learning_rate, model, optimizer, train, wire};
use crate::time::Time;
use ps_core::control::{EarlyStopping, Guard};
use ps_core::model::{ModelKind, check_layers};
use ps_core::optim::Conflict;
use ps_core::{ControlConfig, LayerSpec, LearningRate, Optimizer, OptimizerConfig, Schedule, ScheduleKind};
use ps_data::DataConfig;
use ps_host::Ceiling;
use ps_plan::BatchPlan;
use std::path::Path;

/// A run, valid by construction: only [`RunConfig::load`] and [`RunConfig::parse`] create one, and downstream
/// code need not check its values again.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// Seed of the order of samples, of the initial weights, and of the choice of validation samples.
    pub seed: u64,
    /// The `[data]` table: sources, and how they are encoded.
    pub data: DataConfig,
    /// The `[model]` table: kind and layers.
    pub model: ModelConfig,
    /// The `[train]` table: batches and the length of the run.
    pub train: TrainConfig,
    /// The `[optimizer]` table: the update rule and its parameters.
    pub optimizer: OptimizerConfig,
    /// The `[learning_rate]` table: the schedule and its phases.
    pub learning_rate: RateConfig,
    /// The `[guard]` table: how the run reacts when the loss explodes.
    pub guard: GuardConfig,
    /// The `[wire]` table: the precision of weights between processes.
    pub wire: WireConfig,
}

/// The only key outside of all tables.
pub(crate) static SEED: [Field<u64>; 1] = [Field {
    key: Key {
        path: "seed",
        accepts: Integer(0, MAX_INTEGER),
        default: Value("1"),
        used: Always,
        help: "Seed of the sample order, the initial weights and the choice of validation samples.",
    },
    get: |seed, _| seed.write(),
    set: |seed, key, value| u64::read(key.accepts, value).map(|value| *seed = value).is_some(),
}];

impl RunConfig {
    /// Loads the run file `path` with the overrides `sets` (each `KEY=VALUE`, or `KEY=` to unset a key).
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let text = ps_host::read_text(path, Ceiling::TEXT)
            .map_err(|error| ConfigError::File { path: path.to_path_buf(), error })?;
        Self::parse(&text, &path.display().to_string(), sets)
    }

    /// Parses `text`, which errors call `origin`, with the overrides `sets` as in [`RunConfig::load`].
    ///
    /// Unknown keys, wrong types, values out of range and keys without effect are errors, which state the
    /// location of the mistake.
    pub fn parse(text: &str, origin: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let document = Document::parse(text, origin, sets)?;
        let mut seed = 0;
        document.read(&SEED, &mut seed)?;
        let run = RunConfig {
            seed,
            data: data::read(&document)?,
            model: model::read(&document)?,
            train: train::read(&document)?,
            optimizer: optimizer::read(&document)?,
            learning_rate: learning_rate::read(&document)?,
            guard: guard::read(&document)?,
            wire: wire::read(&document)?,
        };
        fit_together(&document, &run)?;
        Ok(run)
    }

    /// Checks that the hidden layers fit samples with this number of features.
    pub fn check_features(&self, features: usize) -> Result<(), ConfigError> {
        let layers = self.model.hidden_layers();
        check_layers(Some(features), &layers).map_err(|expected| ConfigError::Value {
            location: Location::Resolved,
            key: "model.layers".into(),
            value: layers.write().unwrap_or_default(),
            expected,
        })
    }

    /// Checks that the batch is not larger than the training part of the data.
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
            0 => "there are no training samples".to_string(),
            _ => format!(
                "the batch is larger than the training part of {samples} samples; \
                 try --set train.batch={samples}"
            ),
        };
        Err(ConfigError::Value {
            location: Location::Resolved,
            key: "train.batch".into(),
            value: batch.to_string(),
            expected,
        })
    }
}

/// Checks that the settings of different tables fit together.
fn fit_together(document: &Document, run: &RunConfig) -> Result<(), ConfigError> {
    let refuse = |key: &str, why: &str| Err(document.bad_value(key, why.into()));
    let (rate, params) = (&run.learning_rate, &run.optimizer.params);
    let phases = || std::iter::once(rate).chain(&rate.then);
    let is_plateau = |rate: &RateConfig| rate.schedule == Shape::Is(ScheduleKind::Plateau);
    if run.data.validation.is_none() {
        let key = if is_plateau(rate) { "learning_rate.schedule" } else { "learning_rate.then" };
        if phases().any(is_plateau) {
            return refuse(
                key,
                "plateau follows the validation loss; set data.validation, for example to 0.1",
            );
        }
        if run.train.early_stopping.is_some() {
            return refuse(
                "train.early_stopping",
                "early stopping follows the validation loss; set data.validation, for example to 0.1",
            );
        }
    }
    if let Some(monitor) = run.train.monitor {
        if run.train.early_stopping.is_none() && !phases().any(is_plateau) {
            return refuse(
                "train.monitor",
                "only early stopping and plateau use it; set train.early_stopping, for example to 5",
            );
        }
        if !monitor.suits(run.model.head.has_classes()) {
            let predicts = if run.model.head.has_classes() { "classes" } else { "values" };
            return refuse(
                "train.monitor",
                &format!("the model predicts {predicts}, which have no {}", monitor.name()),
            );
        }
    }
    if run.train.min_delta.is_some() && run.train.early_stopping.is_none() {
        return refuse(
            "train.min_delta",
            "only early stopping uses it; set train.early_stopping, for \
                                          example to 5",
        );
    }
    if let Some(why) =
        params.optimizer.conflict(Conflict::HiddenLayers).filter(|_| run.model.kind == ModelKind::Mlp)
    {
        return refuse("optimizer.kind", why);
    }
    let last = run.model.hidden_layers().into_iter().filter(|layer| layer.has_parameters()).count();
    let names = |name: &str| {
        let is_layer = |rest: &str| {
            let (number, part) = rest.split_once('.').unwrap_or((rest, "weight"));
            number.parse().is_ok_and(|number: usize| number <= last) && matches!(part, "weight" | "bias")
        };
        matches!(name, "weights" | "biases") || name.strip_prefix("layers.").is_some_and(is_layer)
    };
    if let Some((name, _)) = run.optimizer.rates.iter().find(|(name, _)| !names(name)) {
        let why = format!(
            "unknown parameters {name}; expected weights, biases, or layers.0 to layers.{last}, optionally \
             with .weight or .bias"
        );
        return refuse("optimizer.rates", &why);
    }
    if rate.schedule != Shape::Armijo {
        return Ok(());
    }
    if run.train.batch != Batch::Full {
        return refuse(
            "learning_rate.schedule",
            "armijo compares losses at different weights, so it needs the same samples in each step; set \
             train.batch = \"full\", or choose another schedule",
        );
    }
    if run.model.hidden_layers().into_iter().any(LayerSpec::is_random) {
        return refuse(
            "model.layers",
            "armijo compares losses at different weights, which dropout makes random; remove the dropout \
             layers, or choose another schedule",
        );
    }
    let plain = "armijo supports only plain gradient steps; remove this key, or choose another schedule";
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

impl RateConfig {
    /// Returns the phases that follow; the pieces of a piecewise rate become phases with a constant rate.
    fn phases(&self) -> Vec<RateConfig> {
        let piece = |(&from, &initial): (&Time, &f64)| {
            let schedule = Shape::Is(ScheduleKind::Constant);
            RateConfig { from, initial, schedule, warmup: Time::Steps(0), ..self.clone() }
        };
        self.then.iter().cloned().chain(self.at.iter().zip(&self.rates).map(piece)).collect()
    }
}

impl RunConfig {
    /// Returns the plan for `samples` training samples and a validation part of `validation` samples. There
    /// must be at least one batch of training samples, which [`RunConfig::check_samples`] checks.
    pub fn plan(&self, samples: usize, validation: usize) -> BatchPlan {
        let TrainConfig { epochs, batch, leaf, steps, .. } = self.train;
        let batch = match batch {
            Batch::Of(batch) => batch,
            Batch::Full => samples,
        };
        let plan = BatchPlan::new(self.seed, samples, batch, leaf.min(batch), epochs, steps);
        // A share of a short run can round to 0 steps, which would turn probes off.
        let every = self.train.probe_every.map_or(0, |every| every.steps(&plan).max(1));
        plan.watching(validation, every)
    }

    /// Returns the policies that watch the loss of the run.
    pub fn control(&self, plan: &BatchPlan) -> ControlConfig {
        let TrainConfig { early_stopping, min_delta, .. } = self.train;
        let GuardConfig { mode, rise, factor, retries, every } = self.guard;
        let guard = Guard {
            can_recover: mode == GuardMode::Recover,
            factor,
            retries,
            rise,
            every: every.steps(plan).max(1),
        };
        ControlConfig {
            monitor: self.train.monitor.unwrap_or_default(),
            early_stopping: early_stopping
                .map(|patience| EarlyStopping { patience, min_delta: min_delta.unwrap_or(0.0) }),
            guard: (mode != GuardMode::Off).then_some(guard),
            descent: (self.learning_rate.schedule == Shape::Armijo).then_some(self.learning_rate.descent),
        }
    }

    /// Returns the learning rate of each step.
    ///
    /// # Errors
    /// A phase does not begin later than the one before it.
    pub fn rate(&self, plan: &BatchPlan) -> Result<Schedule, ConfigError> {
        let rate = &self.learning_rate;
        let phases = rate.phases();
        let mut begins = vec![0];
        for phase in &phases {
            let (step, before) = (phase.from.steps(plan), begins[begins.len() - 1]);
            if step <= before {
                return Err(ConfigError::Value {
                    location: Location::Resolved,
                    key: if rate.at.is_empty() { "learning_rate.from" } else { "learning_rate.at" }.into(),
                    value: phase.from.to_string(),
                    expected: format!(
                        "the phase begins at step {step}, which is not after the beginning of the previous \
                         phase at step {before}; the run has {} steps",
                        plan.steps
                    ),
                });
            }
            begins.push(step);
        }
        let ends = begins[1..].iter().copied().chain([plan.steps]);
        let rates = std::iter::once(rate).chain(&phases);
        // A phase that begins after the end of the run is never reached.
        let mut shapes = begins
            .iter()
            .zip(ends)
            .zip(rates)
            .map(|((&begin, end), rate)| (begin, self.shape(rate, end.saturating_sub(begin), plan)));
        let first = shapes.next().expect("the first schedule begins with the run").1;
        Ok(Schedule::new(first, shapes.collect()))
    }

    /// Returns a schedule that lasts `steps` steps.
    fn shape(&self, rate: &RateConfig, steps: u64, plan: &BatchPlan) -> LearningRate {
        let batch = plan.batch;
        let scale = batch as f64 / self.learning_rate.for_batch.unwrap_or(batch) as f64;
        LearningRate {
            initial: rate.initial * scale,
            schedule: match rate.schedule {
                Shape::Is(kind) => kind,
                Shape::Pieces | Shape::Armijo => ScheduleKind::Constant,
            },
            warmup: rate.warmup.steps(plan),
            every: rate.every.steps(plan).max(1),
            factor: rate.factor,
            stretch: rate.stretch,
            power: rate.power,
            patience: rate.patience,
            threshold: rate.threshold,
            is_absolute: rate.threshold_mode == ThresholdMode::Absolute,
            cooldown: rate.cooldown,
            end: rate.end * scale,
            steps,
        }
    }
}
