//! The update: elementwise, in a written-out order of operations.

use crate::kernel::Kernel;
use rayon::prelude::*;
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

    /// One per parameter; empty without momentum.
    pub fn velocity(&self) -> &[f32] {
        &self.velocity
    }

    /// Goes on from a velocity that [`Optimizer::velocity`] gave.
    pub fn resume(&mut self, velocity: Vec<f32>) {
        assert_eq!(velocity.len(), self.velocity.len(), "it is of the same model and optimizer");
        self.velocity = velocity;
    }

    /// One step. `gradient` is the sum over `samples` samples, `[parameters]` like `weights`. Every element is
    /// on its own, so that large models are shared out among the threads of the current rayon pool.
    pub fn apply(&mut self, weights: &mut [f32], gradient: &[f32], samples: usize, rate: f32) {
        assert_eq!(weights.len(), gradient.len());
        let update = Update::new(self.config, samples, rate);
        if weights.len() <= CHUNK {
            update.chunk(weights, gradient, &mut self.velocity);
            return;
        }
        let chunks = weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        if self.velocity.is_empty() {
            chunks.for_each(|(w, g)| _ = update.chunk(w, g, &mut []));
        } else {
            let chunks = chunks.zip(self.velocity.par_chunks_mut(CHUNK));
            chunks.for_each(|((w, g), v)| _ = update.chunk(w, g, v));
        }
    }
}

/// Parameters that one thread updates at a time: more than a few make waking another thread worth it.
const CHUNK: usize = 1 << 15;

/// One step's settings.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    config: SgdConfig,
    samples: f32,
    rate: f32,
}

impl Update {
    /// The mean is over `samples` samples.
    pub fn new(config: SgdConfig, samples: usize, rate: f32) -> Self {
        Update { config, samples: samples as f32, rate }
    }

    /// Updates some parameters `w` by their gradients' sums `g`; `v` is their velocity, or empty. Which operations are
    /// there at all is decided here, once, so that the loop has no branches and is vectorised.
    #[inline]
    pub fn chunk(self, w: &mut [f32], g: &[f32], v: &mut [f32]) -> Finite {
        let samples = self.samples;
        // The inverse of a power of two is exact, and so the product with it is the quotient, in a fraction of the time.
        if samples.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1 {
            let inverse = samples.recip();
            self.with_mean(w, g, v, move |g| g * inverse)
        } else {
            self.with_mean(w, g, v, move |g| g / samples)
        }
    }

    #[inline(always)]
    fn with_mean(self, w: &mut [f32], g: &[f32], v: &mut [f32], mean: impl Fn(f32) -> f32 + Copy) -> Finite {
        let SgdConfig { clip, weight_decay, l1, .. } = self.config;
        match (clip.is_some() || l1 != 0.0, weight_decay != 0.0) {
            (false, false) => self.run(w, g, v, mean, |_, g, _| g),
            (false, true) => {
                self.run(w, g, v, mean, |config, g, w| config.transform_by::<false, true, false>(g, w))
            }
            (true, _) => self.run(w, g, v, mean, |config, g, w| config.transform(g, w)),
        }
    }

    #[inline(always)]
    fn run(
        self,
        w: &mut [f32],
        g: &[f32],
        v: &mut [f32],
        mean: impl Fn(f32) -> f32 + Copy,
        transform: impl Fn(&SgdConfig, f32, f32) -> f32 + Copy,
    ) -> Finite {
        let Update { config, rate, .. } = self;
        let momentum = config.momentum;
        Kernel::detect().vectorize(
            #[inline(always)]
            || {
                let mut finite = Finite::ALL;
                let mut step = |w: &mut f32, total: f32, step: f32| {
                    *w = (-rate).mul_add(step, *w);
                    finite.gradient &= total.is_finite();
                    finite.weights &= w.is_finite();
                };
                if v.is_empty() {
                    for (w, &g) in w.iter_mut().zip(g) {
                        step(w, g, transform(&config, mean(g), *w));
                    }
                } else if config.nesterov {
                    for ((w, &total), v) in w.iter_mut().zip(g).zip(v) {
                        let g = transform(&config, mean(total), *w);
                        *v = momentum.mul_add(*v, g);
                        step(w, total, momentum.mul_add(*v, g));
                    }
                } else {
                    for ((w, &g), v) in w.iter_mut().zip(g).zip(v) {
                        *v = momentum.mul_add(*v, transform(&config, mean(g), *w));
                        step(w, g, *v);
                    }
                }
                finite
            },
        )
    }
}

/// What an update saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finite {
    /// Whether every element of the gradient is finite.
    pub gradient: bool,
    /// Whether every new weight is.
    pub weights: bool,
}

impl Finite {
    /// Nothing that is not finite was seen yet.
    pub const ALL: Finite = Finite { gradient: true, weights: true };

    /// Of all that two updates saw.
    pub fn and(self, other: Finite) -> Finite {
        Finite { gradient: self.gradient & other.gradient, weights: self.weights & other.weights }
    }
}

impl SgdConfig {
    /// Clip, then weight decay, then L1, of an element of the mean gradient at weight `w`.
    #[inline(always)]
    fn transform(&self, g: f32, w: f32) -> f32 {
        match (self.clip.is_some(), self.weight_decay != 0.0, self.l1 != 0.0) {
            (false, false, false) => g,
            (false, true, false) => self.transform_by::<false, true, false>(g, w),
            (true, false, false) => self.transform_by::<true, false, false>(g, w),
            (true, true, false) => self.transform_by::<true, true, false>(g, w),
            (false, false, true) => self.transform_by::<false, false, true>(g, w),
            (false, true, true) => self.transform_by::<false, true, true>(g, w),
            (true, false, true) => self.transform_by::<true, false, true>(g, w),
            (true, true, true) => self.transform_by::<true, true, true>(g, w),
        }
    }

    /// The same, for settings known when it is compiled.
    #[inline(always)]
    fn transform_by<const CLIP: bool, const DECAY: bool, const L1: bool>(&self, mut g: f32, w: f32) -> f32 {
        if CLIP && let Some(clip) = self.clip {
            g = if g > clip { clip } else { g };
            g = if g < -clip { -clip } else { g };
        }
        if DECAY {
            g = self.weight_decay.mul_add(w, g);
        }
        if L1 {
            let sign = if w > 0.0 { 1.0 } else { 0.0 } - if w < 0.0 { 1.0 } else { 0.0 };
            g = self.l1.mul_add(sign, g);
        }
        g
    }
}
