//! The run file: everything that processes of one run must agree on.

use crate::error::{ConfigError, Place};
use crate::time::Time;
use ps_core::control::{Descent, EarlyStopping, Guard};
use ps_core::model::{ModelKind, chain};
use ps_core::{
    Activation, ControlConfig, Head, LayerSpec, LearningRate, OptimizerConfig, Precision, Schedule,
    ScheduleKind,
};
use ps_data::DataConfig;
use ps_plan::BatchPlan;

/// A run, valid by construction: made by [`RunConfig::parse`] alone.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// Seed of the sample order, the initial weights and the validation share.
    pub seed: u64,
    /// Where the samples come from.
    pub data: DataConfig,
    /// What is trained.
    pub model: ModelConfig,
    /// How the samples are cut into steps.
    pub train: TrainConfig,
    /// What a step does with the gradient.
    pub optimizer: OptimizerConfig,
    /// How far a step goes.
    pub learning_rate: RateConfig,
    /// What happens when the loss explodes.
    pub guard: GuardConfig,
    /// What travels between processes.
    pub wire: WireConfig,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which model.
    pub kind: ModelKind,
    /// Widths of the hidden layers (mlp only).
    pub hidden: Vec<usize>,
    /// Nonlinearity of the hidden layers (mlp only).
    pub activation: Activation,
    /// What the outputs mean (mlp only; the other kinds have their own).
    pub head: Head,
}

impl ModelConfig {
    /// The layers before the last one, first to last.
    pub fn hidden_layers(&self) -> Vec<LayerSpec> {
        chain(&self.hidden, self.activation)
    }
}

/// The `[train]` table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainConfig {
    /// Passes over the training samples.
    pub epochs: u32,
    /// Samples of a step.
    pub batch: Batch,
    /// Samples of a leaf.
    pub leaf: usize,
    /// Stop after this many steps even if the epochs are not over.
    pub steps: Option<u64>,
    /// End the run when validation was no better so many times in a row.
    pub early_stopping: Option<u64>,
    /// By how much a validation loss must be below the best to be better.
    pub min_delta: Option<f64>,
    /// How often a step is looked at closely.
    pub probe_every: Option<Time>,
}

/// Samples of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// The whole training part.
    Full,
    /// So many.
    Of(usize),
}

/// The `[guard]` table; see [`ps_core::control::Guard`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardConfig {
    /// Whether it does anything.
    pub mode: GuardMode,
    /// What an explosion is.
    pub rise: f64,
    /// What the rate is multiplied by.
    pub factor: f64,
    /// How often.
    pub retries: u32,
    /// How often the weights are kept.
    pub every: Time,
}

/// What happens when the loss explodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Nothing.
    Off,
    /// It is said.
    Warn,
    /// The run goes back, and lowers the rate.
    Recover,
}

/// The `[learning_rate]` table, or one of the phases that follow it; see [`LearningRate`] for what each key means.
#[derive(Clone, Debug, PartialEq)]
pub struct RateConfig {
    /// Rate that the schedule starts from (one-cycle: its peak).
    pub initial: f64,
    /// Shape of the schedule.
    pub schedule: Shape,
    /// The batch that the rates are meant for.
    pub for_batch: Option<usize>,
    /// Linear warm-up before it.
    pub warmup: Time,
    /// When the rate changes, and to what (piecewise).
    pub pieces: Vec<(Time, f64)>,
    /// Period of step, exponential and inverse-time, first period of cosine-restarts.
    pub every: Time,
    /// How many times as long each period of cosine-restarts is.
    pub stretch: u64,
    /// Factor of step and exponential, decay of inverse-time.
    pub factor: f64,
    /// Of plateau.
    pub patience: u64,
    /// Of plateau.
    pub threshold: f64,
    /// Of plateau.
    pub is_absolute: bool,
    /// Of plateau.
    pub cooldown: u64,
    /// How a descent checks itself (armijo).
    pub descent: Option<Descent>,
    /// Exponent of polynomial.
    pub power: f64,
    /// Rate that polynomial, cosine, cosine-restarts and one-cycle end at.
    pub end: f64,
    /// What follows; empty in a phase.
    pub then: Vec<Phase>,
}

/// A schedule that follows another.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// When.
    pub from: Time,
    /// What it is.
    pub rate: RateConfig,
}

/// What a schedule looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A function of the step.
    Is(ScheduleKind),
    /// A constant, from some times on another.
    Pieces,
    /// What a descent finds that checks itself.
    Armijo,
}

/// The `[wire]` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireConfig {
    /// Precision of the weights that gradients are computed at.
    pub weights: Precision,
}

impl RateConfig {
    /// What follows it: the phases, or the pieces as phases of a constant rate.
    fn phases(&self) -> Vec<Phase> {
        let piece = |&(from, initial): &(Time, f64)| {
            let schedule = Shape::Is(ScheduleKind::Constant);
            Phase { from, rate: RateConfig { initial, schedule, warmup: Time::Steps(0), ..self.clone() } }
        };
        self.then.iter().cloned().chain(self.pieces.iter().map(piece)).collect()
    }
}

impl RunConfig {
    /// The plan for `samples` training samples and a validation part of `validation`. The former must be at least one batch;
    /// [`crate::ConfigError`] says so otherwise.
    pub fn plan(&self, samples: usize, validation: usize) -> BatchPlan {
        let TrainConfig { epochs, batch, leaf, steps, .. } = self.train;
        let batch = match batch {
            Batch::Of(batch) => batch,
            Batch::Full => samples,
        };
        let plan = BatchPlan::new(self.seed, samples, batch, leaf.min(batch), epochs, steps);
        let every = self.train.probe_every.map_or(0, |every| every.steps(&plan).max(1));
        plan.watching(validation, every)
    }

    /// What the run watches.
    pub fn control(&self, plan: &BatchPlan) -> ControlConfig {
        let TrainConfig { early_stopping, min_delta, .. } = self.train;
        let GuardConfig { mode, rise, factor, retries, every } = self.guard;
        let guard = Guard {
            recovers: mode == GuardMode::Recover,
            factor,
            retries,
            rise,
            every: every.steps(plan).max(1),
        };
        ControlConfig {
            early_stopping: early_stopping
                .map(|patience| EarlyStopping { patience, least: min_delta.unwrap_or(0.0) }),
            guard: (mode != GuardMode::Off).then_some(guard),
            descent: self.learning_rate.descent,
        }
    }

    /// The schedule of a run.
    ///
    /// # Errors
    /// A phase does not begin after the one before it.
    pub fn rate(&self, plan: &BatchPlan) -> Result<Schedule, ConfigError> {
        let rate = &self.learning_rate;
        let phases = rate.phases();
        let mut begins = vec![0];
        for phase in &phases {
            let (step, before) = (phase.from.steps(plan), begins[begins.len() - 1]);
            if step <= before {
                return Err(ConfigError::Value {
                    place: Place::Resolved,
                    key: if rate.pieces.is_empty() { "learning_rate.from" } else { "learning_rate.at" }
                        .into(),
                    value: phase.from.to_string(),
                    expected: format!(
                        "this is step {step}, which does not come after step {before}, where the phase before it begins; \
                         the run has {} steps",
                        plan.steps
                    ),
                });
            }
            begins.push(step);
        }
        let ends = begins[1..].iter().copied().chain([plan.steps]);
        let rates = std::iter::once(rate).chain(phases.iter().map(|phase| &phase.rate));
        // A phase that begins after the end of the run is not come to.
        let mut shapes = begins
            .iter()
            .zip(ends)
            .zip(rates)
            .map(|((&begin, end), rate)| (begin, self.shape(rate, end.saturating_sub(begin), plan)));
        let first = shapes.next().expect("the first schedule begins with the run").1;
        Ok(Schedule::new(first, shapes.collect()))
    }

    /// A schedule of `steps` steps.
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
            is_absolute: rate.is_absolute,
            cooldown: rate.cooldown,
            end: rate.end * scale,
            steps,
        }
    }
}
