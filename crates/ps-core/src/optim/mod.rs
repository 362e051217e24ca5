//! Updates: the transforms of the gradient, the optimizers, and the vectors of their state.
//!
//! An optimizer is elementwise and has one file with its settings, defaults, state and step. If a step needs
//! a norm, which depends on more than one element, that norm is summed in a fixed order (`norms.rs`), so that
//! the weights can be divided into chunks and shards at any multiple of its grid.

mod adagrad;
mod adam;
mod adamw;
mod chain;
mod config;
mod ftrl;
mod lamb;
mod lars;
mod norms;
mod pass;
mod rmsprop;
mod setting;
mod sgd;
mod tensors;
mod update_rule;

pub use chain::Noise;
pub use config::{OptimizerConfig, OptimizerParams};
pub(crate) use norms::GRID;
pub use norms::{Norms, PieceSums, UpdateNorms};
pub use pass::Finite;
pub(crate) use pass::{State, StateMut, Update, split_front, vectors, vectors_mut};
pub use setting::{Accepts, Refusal, Setting, Value};
pub use tensors::{ModelOptimizer, StepParams};
pub use update_rule::{Conflict, StateVector};

use pass::{Pass, UpdateParams};
use setting::Field;
use update_rule::{TensorNorms, UpdateRule, optimizers};

optimizers! {
    /// Stochastic gradient descent, with or without momentum.
    sgd::Sgd,
    /// Rates per parameter from the sum of squared gradients.
    adagrad::Adagrad,
    /// RMSProp, with or without momentum.
    rmsprop::RmsProp,
    /// Rates per parameter from moving means of the gradient and its square.
    adam::Adam,
    /// Adam with decoupled weight decay.
    adamw::AdamW,
    /// Layer-wise adaptive rate scaling, with or without momentum.
    lars::Lars,
    /// Layer-wise adaptive moments.
    lamb::Lamb,
    /// Follow the regularised leader, proximal.
    ftrl::Ftrl,
}
