//! Transforms of the gradient before the optimizer's step: mean, scaling, noise, clipping, weight decay and
//! L1, in this order.

use crate::function::{self, pow};
use ps_plan::seed::{Purpose, random};
use serde::{Deserialize, Serialize};

/// Gaussian noise on the gradient (Neelakantan et al. 2015) with variance `scale / (1 + step)^decay`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The variance at step 0.
    pub scale: f64,
    /// Exponent of the decay; the paper uses 0.55.
    pub decay: f64,
}

impl Noise {
    /// Standard deviation of the noise in a step.
    fn deviation(&self, step: u64) -> f32 {
        (self.scale / pow(1.0 + step as f64, self.decay)).sqrt() as f32
    }
}

/// Turns a step's gradient sums into their mean, scaled and with noise.
#[derive(Clone, Copy)]
pub(super) struct Mean {
    samples: f32,
    /// Factor of the mean.
    scale: f32,
    noise: Option<StepNoise>,
}

#[derive(Clone, Copy)]
struct StepNoise {
    seed: u64,
    step: u64,
    deviation: f32,
}

impl Mean {
    pub(super) fn over(samples: usize) -> Self {
        Mean { samples: samples as f32, scale: 1.0, noise: None }
    }

    pub(super) fn scaled(self, scale: f32) -> Self {
        Mean { scale, ..self }
    }

    pub(super) fn with_noise(self, noise: Option<Noise>, seed: u64, step: u64) -> Self {
        let noise = noise.map(|noise| StepNoise { seed, step, deviation: noise.deviation(step) });
        Mean { noise, ..self }
    }

    /// The number of samples, if the mean is neither scaled nor has noise.
    pub(super) fn plain(&self) -> Option<f32> {
        (self.scale == 1.0 && self.noise.is_none()).then_some(self.samples)
    }

    pub(super) fn samples(&self) -> f32 {
        self.samples
    }

    /// Writes the mean for the sums `g`, the first of which is element `offset` of the flat vector.
    #[inline(always)]
    pub(super) fn write(&self, offset: usize, g: &[f32], mean: &mut [f32]) {
        let Mean { samples, scale, noise } = *self;
        for (mean, &g) in mean.iter_mut().zip(g) {
            *mean = (g / samples) * scale;
        }
        if let Some(StepNoise { seed, step, deviation }) = noise {
            for (index, mean) in mean.iter_mut().enumerate() {
                *mean = deviation.mul_add(normal(seed, step, (offset + index) as u64), *mean);
            }
        }
    }
}

/// The transforms of an element of the mean gradient.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub clip: Option<f32>,
    pub weight_decay: f32,
    pub l1: f32,
}

impl Chain {
    /// Clips the gradient `g` of an element with weight `w`, then adds weight decay and L1. Which of these
    /// are enabled is the same for all elements, so the compiler hoists the choice out of a loop.
    #[inline(always)]
    pub(super) fn apply(&self, g: f32, w: f32) -> f32 {
        match (self.clip.is_some(), self.weight_decay != 0.0, self.l1 != 0.0) {
            (false, false, false) => g,
            (false, true, false) => self.apply_only::<false, true, false>(g, w),
            (true, false, false) => self.apply_only::<true, false, false>(g, w),
            (true, true, false) => self.apply_only::<true, true, false>(g, w),
            (false, false, true) => self.apply_only::<false, false, true>(g, w),
            (false, true, true) => self.apply_only::<false, true, true>(g, w),
            (true, false, true) => self.apply_only::<true, false, true>(g, w),
            (true, true, true) => self.apply_only::<true, true, true>(g, w),
        }
    }

    /// Like [`Chain::apply`], but with only the transforms that are enabled at compile time.
    #[inline(always)]
    pub(super) fn apply_only<const CLIP: bool, const DECAY: bool, const L1: bool>(
        &self,
        mut g: f32,
        w: f32,
    ) -> f32 {
        if CLIP && let Some(clip) = self.clip {
            g = if g > clip { clip } else { g };
            g = if g < -clip { -clip } else { g };
        }
        if DECAY {
            g = self.weight_decay.mul_add(w, g);
        }
        if L1 {
            // The sign of 0 is 0 here, while `signum` would return 1 or -1.
            let sign = if w > 0.0 { 1.0 } else { 0.0 } - if w < 0.0 { 1.0 } else { 0.0 };
            g = self.l1.mul_add(sign, g);
        }
        g
    }
}

/// A standard normal number for an element and a step (Box and Muller 1958).
fn normal(seed: u64, step: u64, index: u64) -> f32 {
    let [radius, angle, ..] = random(seed, Purpose::Noise, step as u32, index);
    let unit = |word: u32| (word >> 8) as f32 * (1.0 / 16_777_216.0);
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * function::ln(1.0 - unit(radius))).sqrt();
    let turns = 2.0 * f64::from(unit(angle));
    // `cos_pi` is defined up to half a turn, about which the cosine is symmetric.
    let cosine = function::cos_pi(if turns > 1.0 { 2.0 - turns } else { turns });
    (f64::from(radius) * cosine) as f32
}
