//! What the run file says about the optimizer.

use super::{Noise, Optimizer, Sgd};

/// The optimizer of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The optimizer and the elementwise part of the chain before it, for all tensors as far as the other fields do not
    /// change it.
    pub params: OptimizerParams,
    /// Whether weight decay and L1 hold for biases.
    pub decay_biases: bool,
    /// Factors of the learning rate, each for the parameters that its name stands for: `weights`, `biases`, or a tensor's
    /// name or its beginning, such as `layers.0`. They are multiplied in this order, which is that of the names, ascending.
    pub rates: Vec<(String, f32)>,
    /// The mean gradient is scaled down to this Euclidean norm where it is longer (Pascanu et al. 2013).
    pub clip_norm: Option<f32>,
    /// Noise on the gradient.
    pub noise: Option<Noise>,
}

/// What happens to an element of the mean gradient, and how its parameter follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerParams {
    /// The optimizer, with its settings.
    pub optimizer: Optimizer,
    /// Each element of the mean gradient is cut to ± this before all else.
    pub clip: Option<f32>,
    /// L2: this times the weight is added to the gradient. AdamW, LAMB and FTRL have it in their step instead.
    pub weight_decay: f32,
    /// L1: this times the weight's sign is added to the gradient. FTRL has it in its step instead.
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
    /// Whether `name` stands for the tensor `tensor`: it is `weights`, `biases`, or the tensor's name or its beginning,
    /// such as `layers.0`.
    pub(crate) fn matches(name: &str, tensor: &str) -> bool {
        match name {
            "weights" => tensor.ends_with(".weight"),
            "biases" => tensor.ends_with(".bias"),
            _ => tensor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        }
    }

    /// Whether a step needs norms of the whole gradient before any weight is updated.
    pub(crate) fn needs_norms(&self) -> bool {
        self.clip_norm.is_some() || self.params.optimizer.needs_norms()
    }

    /// Whether it is plain descent, with momentum or without, the same for all parameters: what
    /// [`crate::gradient::InPlace`] can do.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.params.optimizer, Optimizer::Sgd(_))
            && self.decay_biases
            && self.rates.is_empty()
            && self.clip_norm.is_none()
            && self.noise.is_none()
    }
}
