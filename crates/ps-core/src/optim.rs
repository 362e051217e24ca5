//! The update: elementwise, in a written-out order of operations.

use crate::kernel::Kernel;
use serde::{Deserialize, Serialize};

/// Stochastic gradient descent and what may be done to a gradient before it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdConfig {
    /// Share of the last step's velocity that is kept; 0 is plain descent.
    pub momentum: f32,
    /// Whether the gradient is taken ahead of the velocity (Nesterov 1983, as in Sutskever et al. 2013).
    pub nesterov: bool,
    /// L2: `weight_decay * w` is added to the gradient.
    pub weight_decay: f32,
    /// L1: `l1 * sign(w)` is added to the gradient.
    pub l1: f32,
    /// Each element of the mean gradient is cut to ±this before all else.
    pub clip: Option<f32>,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.0, l1: 0.0, clip: None }
    }
}

/// The optimizer with its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    config: SgdConfig,
    /// One per parameter; empty without momentum.
    velocity: Vec<f32>,
}

impl Optimizer {
    /// An optimizer at rest, for `parameters` parameters.
    pub fn new(config: SgdConfig, parameters: usize) -> Self {
        let velocity = if config.momentum == 0.0 { Vec::new() } else { vec![0.0; parameters] };
        Optimizer { config, velocity }
    }

    /// One step. `gradient` is the sum over `samples` samples, `[parameters]` like `weights`.
    pub fn apply(&mut self, weights: &mut [f32], gradient: &[f32], samples: usize, rate: f32) {
        assert_eq!(weights.len(), gradient.len());
        let (config, samples) = (self.config, samples as f32);
        Kernel::detect().vectorize(
            #[inline(always)]
            || {
                if self.velocity.is_empty() {
                    for (w, &g) in weights.iter_mut().zip(gradient) {
                        *w = (-rate).mul_add(config.transform(g / samples, *w), *w);
                    }
                    return;
                }
                for ((w, &g), v) in weights.iter_mut().zip(gradient).zip(&mut self.velocity) {
                    let g = config.transform(g / samples, *w);
                    *v = config.momentum.mul_add(*v, g);
                    let direction = if config.nesterov { config.momentum.mul_add(*v, g) } else { *v };
                    *w = (-rate).mul_add(direction, *w);
                }
            },
        );
    }
}

impl SgdConfig {
    /// Clip, then weight decay, then L1.
    #[inline(always)]
    fn transform(&self, mut g: f32, w: f32) -> f32 {
        if let Some(clip) = self.clip {
            g = if g > clip { clip } else { g };
            g = if g < -clip { -clip } else { g };
        }
        if self.weight_decay != 0.0 {
            g = self.weight_decay.mul_add(w, g);
        }
        if self.l1 != 0.0 {
            let sign = if w > 0.0 { 1.0 } else { 0.0 } - if w < 0.0 { 1.0 } else { 0.0 };
            g = self.l1.mul_add(sign, g);
        }
        g
    }
}
