//! The trait that every optimizer's file implements, and the list of all optimizers.

use super::pass::{Pass, UpdateParams};
use super::setting::{Field, Refusal};
use crate::optim::Finite;

/// An optimizer: its settings, state and elementwise step. `docs/numerics.md` specifies each one.
pub(super) trait UpdateRule: Copy + Default + 'static {
    /// The name in the run file.
    const NAME: &'static str;
    /// The keys of the run file. Their defaults are those of `Default`.
    const SETTINGS: &'static [Field<Self>];
    /// The vectors of state that it may keep, each as long as the weights and initially 0. Checkpoints
    /// use their names.
    const VECTORS: &'static [StateVector];
    /// Whether weight decay is part of the step instead of being added to the gradient.
    const OWN_DECAY: bool = false;
    /// Whether L1 is part of the step instead of being added to the gradient.
    const OWN_L1: bool = false;
    /// Whether the learning rate of each tensor depends on [`UpdateRule::trust`], and therefore on norms of
    /// the whole gradient.
    const NEEDS_NORMS: bool = false;
    /// What the optimizer cannot be combined with, and why.
    const CONFLICTS: &'static [(Conflict, &'static str)] = &[];

    /// How many of [`UpdateRule::VECTORS`], starting with the first, these settings need.
    fn vectors(&self) -> usize {
        Self::VECTORS.len()
    }

    /// Rejects settings that contradict each other.
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Updates the elements of `pass` with [`Pass::each`].
    fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite;

    /// Turns the gradients in `steps` into the steps before the learning rate, for [`TensorNorms::step`].
    /// `state` has the vectors that the optimizer keeps, which do not change.
    fn predict(&self, _params: &UpdateParams, _w: &[f32], _state: &[&[f32]], _steps: &mut [f32]) {}

    /// The factor of a weight's learning rate; called if [`UpdateRule::NEEDS_NORMS`].
    fn trust(&self, _norms: TensorNorms, _weight_decay: f32) -> f64 {
        1.0
    }
}

/// The names of one vector of an optimizer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateVector {
    /// Name of the vector in checkpoints.
    pub name: &'static str,
    /// Name of the guard's copy of the vector in checkpoints.
    pub kept: &'static str,
}

macro_rules! state_vectors {
    ($($name:literal),*) => {
        &[$(StateVector { name: $name, kept: concat!("good-", $name) }),*]
    };
}
pub(super) use state_vectors;

/// Norms of one tensor before a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorNorms {
    pub weights: f64,
    /// Norm of the mean gradient, scaled to `clip_norm`.
    pub gradient: f64,
    /// Norm of the step before the learning rate.
    pub step: f64,
}

/// What an optimizer may not be combinable with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Clipping by the norm of the whole gradient.
    ClipNorm,
    /// A model with hidden layers.
    HiddenLayers,
}

/// Declares the enum of optimizers. Every function of [`Optimizer`] matches once, outside of all loops.
macro_rules! optimizers {
    ($($(#[$doc:meta])* $module:ident::$name:ident,)*) => {
        $(pub use $module::$name;)*

        /// The optimizers, with their settings. To add one, write a file that implements `UpdateRule` and add
        /// a line to the list.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Optimizer {
            $($(#[$doc])* $name($name),)*
        }

        $(impl From<$name> for Optimizer {
            fn from(optimizer: $name) -> Self {
                Optimizer::$name(optimizer)
            }
        })*

        /// The maximum number of state vectors of any optimizer.
        pub(crate) const MAX_VECTORS: usize = {
            let mut max = 0;
            $(if $name::VECTORS.len() > max { max = $name::VECTORS.len(); })*
            max
        };

        impl Optimizer {
            /// The names of all optimizers in the run file.
            pub const NAMES: &'static [&'static str] = &[$($name::NAME),*];

            /// All optimizers with their default settings.
            pub fn all() -> impl Iterator<Item = Optimizer> {
                [$(Optimizer::$name($name::default())),*].into_iter()
            }

            /// The name in the run file.
            pub fn name(&self) -> &'static str {
                match self { $(Optimizer::$name(_) => $name::NAME),* }
            }

            /// The settings with their values.
            pub fn settings(&self) -> Vec<(&'static Setting, Value)> {
                match self {
                    $(Optimizer::$name(optimizer) => {
                        $name::SETTINGS.iter().map(|field| (field.setting, field.get(*optimizer))).collect()
                    })*
                }
            }

            /// Sets one of the settings. Has no effect if the optimizer does not have it.
            pub fn set(&mut self, name: &str, value: Value) {
                match self {
                    $(Optimizer::$name(optimizer) => {
                        let named = |field: &&Field<$name>| field.setting.name == name;
                        if let Some(field) = $name::SETTINGS.iter().find(named) {
                            field.set(optimizer, value);
                        }
                    })*
                }
            }

            /// Rejects settings that contradict each other.
            pub fn check(&self) -> Result<(), Refusal> {
                match self { $(Optimizer::$name(optimizer) => optimizer.check()),* }
            }

            /// Why the optimizer cannot be combined with `other`; `None` if it can.
            pub fn conflict(&self, other: Conflict) -> Option<&'static str> {
                let conflicts = match self { $(Optimizer::$name(_) => $name::CONFLICTS),* };
                conflicts.iter().find(|(conflict, _)| *conflict == other).map(|(_, why)| *why)
            }

            /// The vectors of state that these settings need, each as long as the weights and initially 0.
            pub fn vectors(&self) -> &'static [StateVector] {
                match self { $(Optimizer::$name(optimizer) => &$name::VECTORS[..optimizer.vectors()]),* }
            }

            fn owns_decay(&self) -> bool {
                match self { $(Optimizer::$name(_) => $name::OWN_DECAY),* }
            }

            fn owns_l1(&self) -> bool {
                match self { $(Optimizer::$name(_) => $name::OWN_L1),* }
            }

            fn needs_norms(&self) -> bool {
                match self { $(Optimizer::$name(_) => $name::NEEDS_NORMS),* }
            }

            fn update(&self, params: &UpdateParams, pass: impl Pass) -> Finite {
                match self { $(Optimizer::$name(optimizer) => optimizer.update(params, pass)),* }
            }

            fn predict(&self, params: &UpdateParams, w: &[f32], state: &[&[f32]], steps: &mut [f32]) {
                match self { $(Optimizer::$name(optimizer) => optimizer.predict(params, w, state, steps)),* }
            }

            fn trust(&self, norms: TensorNorms, weight_decay: f32) -> f64 {
                match self { $(Optimizer::$name(optimizer) => optimizer.trust(norms, weight_decay)),* }
            }
        }
    };
}
pub(super) use optimizers;
