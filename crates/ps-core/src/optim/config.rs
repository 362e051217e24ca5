//! The optimizer's settings from the run file.

use super::{Noise, Optimizer, Sgd};

/// The optimizer of a run, as configured; [`crate::optim::ModelOptimizer`] applies it to a model.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The optimizer and the elementwise transforms before it. They apply to all tensors, except where the
    /// other fields change them.
    pub params: OptimizerParams,
    /// Whether weight decay and L1 apply to biases.
    pub decay_biases: bool,
    /// Factors of the learning rate, each for the parameters that its name selects: `weights`, `biases`, or a
    /// tensor's name or its prefix, such as `layers.0`. They are multiplied in the order of the list, which
    /// is sorted by name.
    pub rates: Vec<(String, f32)>,
    /// Maximum Euclidean norm of the mean gradient, which is scaled down if it is longer (Pascanu
    /// et al. 2013).
    pub clip_norm: Option<f32>,
    /// Gaussian noise that is added to the mean gradient.
    pub noise: Option<Noise>,
}

/// The transforms of an element of the mean gradient, and how its parameter is updated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerParams {
    /// The optimizer and its settings.
    pub optimizer: Optimizer,
    /// Each element of the mean gradient is first clipped to ± this.
    pub clip: Option<f32>,
    /// L2: this times the weight is added to the gradient. AdamW, LAMB and FTRL include weight decay in
    /// their step instead.
    pub weight_decay: f32,
    /// L1: this times the sign of the weight is added to the gradient. FTRL includes L1 in its step instead.
    pub l1: f32,
    /// Factor of the learning rate.
    pub rate: f32,
}

impl<O: Into<Optimizer>> From<O> for OptimizerParams {
    fn from(optimizer: O) -> Self {
        OptimizerParams { optimizer: optimizer.into(), clip: None, weight_decay: 0.0, l1: 0.0, rate: 1.0 }
    }
}

impl<P: Into<OptimizerParams>> From<P> for OptimizerConfig {
    fn from(params: P) -> Self {
        OptimizerConfig {
            params: params.into(),
            decay_biases: true,
            rates: Vec::new(),
            clip_norm: None,
            noise: None,
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Sgd::default().into()
    }
}

impl OptimizerConfig {
    /// Whether `name` selects the tensor `tensor`: it is `weights`, `biases`, or the tensor's name or its
    /// prefix, such as `layers.0`.
    pub(crate) fn matches(name: &str, tensor: &str) -> bool {
        match name {
            "weights" => tensor.ends_with(".weight"),
            "biases" => tensor.ends_with(".bias"),
            _ => tensor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        }
    }

    /// Whether a step needs norms of the whole gradient before it updates any weight.
    pub(crate) fn needs_norms(&self) -> bool {
        self.clip_norm.is_some() || self.params.optimizer.needs_norms()
    }

    /// Whether this is gradient descent, with or without momentum, with the same settings for all parameters
    /// and without norm clipping and noise: the case that [`crate::gradient::InPlace`] supports.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.params.optimizer, Optimizer::Sgd(_))
            && self.decay_biases
            && self.rates.is_empty()
            && self.clip_norm.is_none()
            && self.noise.is_none()
    }
}
