//! What a step does with the gradient: the chain before the optimizer, the optimizers, and the vectors of their state.
//!
//! An optimizer is elementwise and has a file: its settings, their defaults, its state and its step. Where a step needs more
//! than one element, a norm, that is summed in a fixed order (`norms.rs`), so that the weights may be cut into chunks and
//! shards anywhere on its grid.

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
mod rule;
mod setting;
mod sgd;
mod tensors;

pub use chain::Noise;
pub use config::{OptimizerConfig, OptimizerParams};
pub(crate) use norms::GRID;
pub use norms::{Moved, Norms, PieceSums};
pub use pass::Finite;
pub(crate) use pass::{State, StateMut, Update, split_front, vectors, vectors_mut};
pub use rule::{Conflict, StateVector};
pub use setting::{Accepts, Refusal, Setting, Value};
pub use tensors::{Rules, Stride};

use pass::{Pass, StepParams};
use rule::{Rule, TensorNorms, optimizers};
use setting::Field;

optimizers! {
    /// Stochastic gradient descent, with or without momentum.
    sgd::Sgd,
    /// Adagrad.
    adagrad::Adagrad,
    /// RMSProp, with or without momentum.
    rmsprop::RmsProp,
    /// Adam.
    adam::Adam,
    /// Adam with decoupled weight decay.
    adamw::AdamW,
    /// Layer-wise adaptive rates.
    lars::Lars,
    /// Layer-wise adaptive moments.
    lamb::Lamb,
    /// Follow the regularised leader, proximal.
    ftrl::Ftrl,
}
