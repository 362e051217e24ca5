//! The numbers: everything that decides a bit of the weights.
//!
//! Parameters are one flat `f32` vector with a named layout ([`Layout`]); a batch is cut into leaves whose
//! gradients are summed in one binary tree ([`ps_plan::Tree`]); every product is a chain of fused
//! multiply-adds ([`kernel`]); the update, the schedules and the metrics follow written-out orders of
//! operations. `docs/numerics.md` is the specification, [`mod@reference`] the plainest program that meets it.
//!
//! This crate never does input or output, never reads a clock and never iterates over a hash map.

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
pub mod trainer;

pub use chunk::ChunkFold;
pub use control::{Control, ControlConfig};
pub use fold::{Fold, NodeSum};
pub use gradient::Gradients;
pub use kernel::Kernel;
pub use layer::{Activation, Dense, Dropout, Layer, LayerSpec, Residual};
pub use metrics::{Observed, Outcome, Tally};
pub use model::{Head, Model};
pub use optim::{Optimizer, OptimizerConfig, OptimizerParams, Rules};
pub use params::{Layout, TensorSpec, weights_hash};
pub use precision::Precision;
pub use samples::Samples;
pub use schedule::{LearningRate, Schedule, ScheduleKind};
pub use trainer::{StepReport, Trainer};

/// Version of `docs/numerics.md`; it changes whenever any bit of any result does.
pub const NUMERICS_VERSION: u32 = 2;
