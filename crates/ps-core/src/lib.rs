//! Numerics: everything that determines a bit of the weights.
//!
//! Parameters are one flat `f32` vector with a named layout ([`Layout`]). A batch is divided into leaves
//! (short runs of samples), whose gradients are summed in one binary tree ([`ps_plan::Tree`]). Every
//! product is a chain of fused multiply-adds ([`kernel`]). Updates, schedules and metrics follow specified
//! orders of operations. `docs/numerics.md` is the specification, and [`mod@reference`] is the plainest
//! program that implements it.
//!
//! This crate never performs I/O, never reads a clock and never iterates over a hash map.

mod block;
pub mod chunk;
pub mod control;
pub mod fold;
pub mod function;
pub mod gradient;
pub mod kernel;
pub mod layer;
pub mod metrics;
pub mod model;
pub mod optim;
pub mod params;
pub mod precision;
mod product;
pub mod reference;
pub mod samples;
pub mod schedule;
pub mod scores;
pub mod trainer;

pub use chunk::ChunkFold;
pub use control::{Control, ControlConfig};
pub use fold::{Fold, NodeSum};
pub use gradient::Gradients;
pub use kernel::Kernel;
pub use layer::{Activation, Dense, Dropout, Layer, LayerSpec, Residual};
pub use metrics::{MetricSums, Observed, SampleMetrics};
pub use model::{Head, Model};
pub use optim::{ModelOptimizer, Optimizer, OptimizerConfig, OptimizerParams};
pub use params::{Layout, TensorSpec, weights_hash};
pub use precision::Precision;
pub use samples::Samples;
pub use schedule::{LearningRate, Schedule, ScheduleKind};
pub use scores::{ClassificationScores, RegressionScores, Scores};
pub use trainer::{StepReport, Trainer};

/// Version of `docs/numerics.md`. It changes whenever any bit of any result changes.
pub const NUMERICS_VERSION: u32 = 2;
