//! The run file: everything that processes of one run must agree on.

use ps_core::model::ModelKind;
use ps_core::{Activation, BatchPlan, Head, LearningRate, Precision, ScheduleKind, SgdConfig};
use ps_data::DataConfig;

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

/// The `[train]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainConfig {
    /// Passes over the training samples.
    pub epochs: u32,
    /// Samples of a step.
    pub batch: usize,
    /// Samples of a leaf.
    pub leaf: usize,
    /// Stop after this many steps even if the epochs are not over.
    pub steps: Option<u64>,
}

/// The `[optimizer]` table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Its settings.
    pub sgd: SgdConfig,
}

/// The optimizers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Stochastic gradient descent.
    #[default]
    Sgd,
}

/// The `[learning_rate]` table. Times are in steps; see [`LearningRate`] for what each key means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateConfig {
    /// Rate that the schedule starts from (one-cycle: its peak).
    pub initial: f64,
    /// Shape of the schedule.
    pub schedule: ScheduleKind,
    /// Steps of linear warm-up before it.
    pub warmup: u64,
    /// Period of step, exponential and inverse-time.
    pub every: u64,
    /// Factor of step and exponential, decay of inverse-time.
    pub factor: f64,
    /// Exponent of polynomial.
    pub power: f64,
    /// Rate that polynomial, cosine and one-cycle end at.
    pub end: f64,
}

/// The `[wire]` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireConfig {
    /// Precision of the weights that gradients are computed at.
    pub weights: Precision,
}

impl RunConfig {
    /// The plan for `samples` training samples. They must be at least one batch; [`crate::ConfigError`] says so
    /// otherwise.
    pub fn plan(&self, samples: usize) -> BatchPlan {
        let TrainConfig { epochs, batch, leaf, steps } = self.train;
        BatchPlan::new(self.seed, samples, batch, leaf, epochs, steps)
    }

    /// The schedule over `steps` steps.
    pub fn rate(&self, steps: u64) -> LearningRate {
        let RateConfig { initial, schedule, warmup, every, factor, power, end } = self.learning_rate;
        LearningRate { initial, schedule, warmup, every, factor, power, end, steps }
    }
}
