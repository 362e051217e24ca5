//! The tables of the run file. Each file defines the settings and keys of one table, and checks what a single
//! key cannot check: that the settings fit together.

pub(crate) mod data;
pub(crate) mod guard;
pub(crate) mod learning_rate;
pub(crate) mod model;
pub(crate) mod optimizer;
pub(crate) mod train;
pub(crate) mod wire;

pub use guard::{GuardConfig, GuardMode};
pub use learning_rate::{RateConfig, Shape, ThresholdMode};
pub use model::ModelConfig;
pub use train::{Batch, TrainConfig};
pub use wire::WireConfig;
