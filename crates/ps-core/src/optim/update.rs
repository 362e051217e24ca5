//! The rules, elementwise, each in a written-out order of operations.

use super::norms::dot;
use super::{GRID, OptimizerConfig, OptimizerKind, PieceSums, Rule, Stride};
use crate::function::{self, pow};
use crate::kernel::Kernel;
use ps_plan::seed::{Purpose, random};

/// One step's settings, for parameters of one rule.
#[derive(Clone, Copy)]
pub struct Update {
    /// What becomes of an element of the mean gradient: decoupled decay is not in it.
    rule: Rule,
    samples: f32,
    rate: f32,
    /// What the mean gradient is multiplied by.
    scale: f32,
    noise: Option<Noise>,
    /// Decoupled weight decay, of adamw and lamb; L2 of ftrl.
    decay: f32,
    /// Threshold of ftrl.
    threshold: f32,
    /// 1 - beta1^count and the root of 1 - beta2^count.
    bias: [f32; 2],
}

/// Noise of one step.
#[derive(Clone, Copy)]
struct Noise {
    seed: u64,
    step: u64,
    deviation: f32,
}

impl Update {
    /// Plain descent, with or without momentum. The mean is over `samples` samples.
    pub fn plain(rule: Rule, samples: usize, rate: f32) -> Self {
        Update {
            rule,
            samples: samples as f32,
            rate,
            scale: 1.0,
            noise: None,
            decay: 0.0,
            threshold: 0.0,
            bias: [1.0; 2],
        }
    }

    /// A step of a tensor with this rule, whose rate is multiplied by `trust`.
    pub(super) fn of(config: &OptimizerConfig, rule: Rule, stride: &Stride, trust: f32, seed: u64) -> Self {
        use OptimizerKind::*;
        let mut gradient_rule = rule;
        if matches!(rule.kind, AdamW | Lamb | Ftrl) {
            gradient_rule.weight_decay = 0.0;
        }
        if rule.kind == Ftrl {
            gradient_rule.l1 = 0.0;
        }
        let count = stride.count as f64;
        let rest = |beta: f32| 1.0 - pow(f64::from(beta), count);
        let noise = config.noise.map(|noise| Noise {
            seed,
            step: stride.step,
            deviation: noise.deviation(stride.step),
        });
        Update {
            rate: stride.rate * rule.rate * trust,
            scale: stride.scale,
            noise,
            decay: rule.weight_decay,
            threshold: rule.l1,
            bias: match rule.kind {
                Adam | AdamW | Lamb => [rest(rule.beta1) as f32, rest(rule.beta2).sqrt() as f32],
                _ => [1.0; 2],
            },
            ..Update::plain(gradient_rule, stride.samples, stride.rate)
        }
    }

    /// Updates parameters `w`, the first of which is element `offset` of the flat vector, by their gradients' sums `g`.
    pub fn apply(&self, offset: usize, w: &mut [f32], g: &[f32], state: [&mut [f32]; 2]) -> Finite {
        if self.scale == 1.0 && self.noise.is_none() {
            return self.by_sum(w, g, state);
        }
        let [mut first, mut second] = state;
        let (mut finite, mut gradient) = (Finite::ALL, [0.0; GRID]);
        for (number, (w, g)) in w.chunks_mut(GRID).zip(g.chunks(GRID)).enumerate() {
            let gradient = &mut gradient[..g.len()];
            self.gradient(offset + number * GRID, g, gradient);
            let state =
                [&mut first, &mut second].map(|state| state.split_off_mut(..g.len()).unwrap_or_default());
            finite = finite.and(self.with_mean(w, gradient, state, |g| g));
        }
        finite
    }

    /// Updates parameters `w` by plain descent by their gradients' sums `g`; `v` is their velocity, or empty.
    #[inline]
    pub fn chunk(self, w: &mut [f32], g: &[f32], v: &mut [f32]) -> Finite {
        self.by_sum(w, g, [v, &mut []])
    }

    /// Which operations are there at all is decided here, once, so that the loop has no branches and is vectorised.
    #[inline]
    fn by_sum(self, w: &mut [f32], g: &[f32], state: [&mut [f32]; 2]) -> Finite {
        let samples = self.samples;
        // The inverse of a power of two is exact, and so the product with it is the quotient, in a fraction of the time.
        if samples.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1 {
            let inverse = samples.recip();
            self.with_mean(w, g, state, move |g| g * inverse)
        } else {
            self.with_mean(w, g, state, move |g| g / samples)
        }
    }

    #[inline(always)]
    fn with_mean(
        self,
        w: &mut [f32],
        g: &[f32],
        state: [&mut [f32]; 2],
        mean: impl Fn(f32) -> f32 + Copy,
    ) -> Finite {
        let Rule { clip, weight_decay, l1, kind, .. } = self.rule;
        let is_plain = matches!(kind, OptimizerKind::Sgd);
        match (is_plain, clip.is_some() || l1 != 0.0, weight_decay != 0.0) {
            (true, false, false) => self.run(w, g, state, mean, |_, g, _| g),
            (true, false, true) => {
                self.run(w, g, state, mean, |rule, g, w| rule.transform_by::<false, true, false>(g, w))
            }
            (true, true, _) => self.run(w, g, state, mean, |rule, g, w| rule.transform(g, w)),
            (false, false, false) => self.run_other(w, g, state, mean, |_, g, _| g),
            (false, _, _) => self.run_other(w, g, state, mean, |rule, g, w| rule.transform(g, w)),
        }
    }

    #[inline(always)]
    fn run(
        self,
        w: &mut [f32],
        g: &[f32],
        [v, _]: [&mut [f32]; 2],
        mean: impl Fn(f32) -> f32 + Copy,
        transform: impl Fn(&Rule, f32, f32) -> f32 + Copy,
    ) -> Finite {
        let Update { rule, rate, .. } = self;
        let momentum = rule.momentum;
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
                        step(w, g, transform(&rule, mean(g), *w));
                    }
                } else if rule.nesterov {
                    for ((w, &total), v) in w.iter_mut().zip(g).zip(v) {
                        let g = transform(&rule, mean(total), *w);
                        *v = momentum.mul_add(*v, g);
                        step(w, total, momentum.mul_add(*v, g));
                    }
                } else {
                    for ((w, &g), v) in w.iter_mut().zip(g).zip(v) {
                        *v = momentum.mul_add(*v, transform(&rule, mean(g), *w));
                        step(w, g, *v);
                    }
                }
                finite
            },
        )
    }

    /// The rules besides plain descent.
    #[inline(always)]
    fn run_other(
        self,
        w: &mut [f32],
        g: &[f32],
        [first, second]: [&mut [f32]; 2],
        mean: impl Fn(f32) -> f32 + Copy,
        transform: impl Fn(&Rule, f32, f32) -> f32 + Copy,
    ) -> Finite {
        use OptimizerKind::*;
        let Update { rule, rate, decay, threshold, .. } = self;
        let Rule { momentum, beta2, epsilon, .. } = rule;
        let gradient = move |g: f32, w: f32| transform(&rule, mean(g), w);
        match rule.kind {
            Sgd | Lars if first.is_empty() => {
                each(w, g, [first, second], move |w, g, _, _| (-rate).mul_add(gradient(g, w), w))
            }
            Sgd | Lars => each(w, g, [first, second], move |w, g, v, _| {
                *v = momentum.mul_add(*v, rate * gradient(g, w));
                w - *v
            }),
            Adagrad => each(w, g, [first, second], move |w, g, squares, _| {
                let g = gradient(g, w);
                *squares = g.mul_add(g, *squares);
                (-rate).mul_add(g / (squares.sqrt() + epsilon), w)
            }),
            RmsProp => {
                let rest = 1.0 - beta2;
                let has_velocity = !second.is_empty();
                each(w, g, [first, second], move |w, g, squares, v| {
                    let g = gradient(g, w);
                    *squares = beta2.mul_add(*squares, rest * (g * g));
                    let mut step = g / (squares.sqrt() + epsilon);
                    if has_velocity {
                        *v = momentum.mul_add(*v, step);
                        step = *v;
                    }
                    (-rate).mul_add(step, w)
                })
            }
            Adam | AdamW => {
                let kept = if rule.kind == AdamW { 1.0 - rate * decay } else { 1.0 };
                each(w, g, [first, second], move |w, g, m, s| {
                    let step = self.moments(gradient(g, w), m, s);
                    (-rate).mul_add(step, w * kept)
                })
            }
            Lamb => each(w, g, [first, second], move |w, g, m, s| {
                let step = decay.mul_add(w, self.moments(gradient(g, w), m, s));
                (-rate).mul_add(step, w)
            }),
            Ftrl => each(w, g, [first, second], move |w, g, z, n| {
                let g = gradient(g, w);
                let before = n.sqrt();
                *n = g.mul_add(g, *n);
                let root = n.sqrt();
                let sigma = (root - before) / rate;
                *z += (-sigma).mul_add(w, g);
                let sign = if *z < 0.0 { -1.0 } else { 1.0 };
                let over = threshold.mul_add(-sign, *z);
                let step = -over / ((epsilon + root) / rate + decay);
                if z.abs() <= threshold { 0.0 } else { step }
            }),
        }
    }

    /// Adam's step before the rate, after its moments have taken in `g`.
    #[inline(always)]
    fn moments(&self, g: f32, m: &mut f32, s: &mut f32) -> f32 {
        let Rule { beta1, beta2, epsilon, .. } = self.rule;
        let [first, second] = self.bias;
        *m = beta1.mul_add(*m, (1.0 - beta1) * g);
        *s = beta2.mul_add(*s, (1.0 - beta2) * (g * g));
        (*m / first) / (s.sqrt() / second + epsilon)
    }

    /// The mean gradient of the elements from `offset` on, scaled, with its noise.
    #[inline(always)]
    fn gradient(&self, offset: usize, g: &[f32], gradient: &mut [f32]) {
        let Update { samples, scale, noise, .. } = *self;
        for (out, &g) in gradient.iter_mut().zip(g) {
            *out = (g / samples) * scale;
        }
        if let Some(Noise { seed, step, deviation }) = noise {
            for (index, out) in gradient.iter_mut().enumerate() {
                *out = deviation.mul_add(normal(seed, step, (offset + index) as u64), *out);
            }
        }
    }

    /// The mean gradient with what is added to it, of at most [`GRID`] elements.
    #[inline(always)]
    pub(super) fn direction(&self, offset: usize, w: &[f32], g: &[f32], direction: &mut [f32]) {
        self.gradient(offset, g, direction);
        for (g, &w) in direction.iter_mut().zip(w) {
            *g = self.rule.transform(*g, w);
        }
    }

    /// The sums over a piece of at most [`GRID`] elements, before it is updated.
    pub(super) fn measure(&self, offset: usize, w: &[f32], g: &[f32], state: [&[f32]; 2]) -> PieceSums {
        let (mut mean, mut steps) = ([0.0; GRID], [0.0; GRID]);
        let (mean, steps) = (&mut mean[..g.len()], &mut steps[..g.len()]);
        Kernel::detect().vectorize(
            #[inline(always)]
            || self.direction(offset, w, g, steps),
        );
        if self.rule.kind == OptimizerKind::Lamb {
            let state = state[0].iter().zip(state[1]);
            for ((step, &w), (&m, &s)) in steps.iter_mut().zip(w).zip(state) {
                let (mut m, mut s) = (m, s);
                *step = self.decay.mul_add(w, self.moments(*step, &mut m, &mut s));
            }
        }
        let samples = self.samples;
        Kernel::detect().vectorize(
            #[inline(always)]
            || {
                for (mean, &g) in mean.iter_mut().zip(g) {
                    *mean = g / samples;
                }
                PieceSums { gradient: dot(mean, mean), weights: dot(w, w), step: dot(steps, steps) }
            },
        )
    }
}

/// Replaces each weight by what `step` makes of it, its gradient's sum and its state.
#[inline(always)]
fn each(
    w: &mut [f32],
    g: &[f32],
    [first, second]: [&mut [f32]; 2],
    step: impl Fn(f32, f32, &mut f32, &mut f32) -> f32 + Copy,
) -> Finite {
    Kernel::detect().vectorize(
        // Everything is moved in, so that nothing is read again for fear that a weight's change has changed it.
        #[inline(always)]
        move || {
            let mut finite = Finite::ALL;
            let mut update = |w: &mut f32, g: f32, a: &mut f32, b: &mut f32| {
                *w = step(*w, g, a, b);
                finite.gradient &= g.is_finite();
                finite.weights &= w.is_finite();
            };
            // Loops, not `for_each`: that is a function of its own, compiled for any processor.
            if first.is_empty() {
                for (w, &g) in w.iter_mut().zip(g) {
                    update(w, g, &mut 0.0, &mut 0.0);
                }
            } else if second.is_empty() {
                for ((w, &g), a) in w.iter_mut().zip(g).zip(first) {
                    update(w, g, a, &mut 0.0);
                }
            } else {
                for ((w, &g), (a, b)) in w.iter_mut().zip(g).zip(first.iter_mut().zip(second)) {
                    update(w, g, a, b);
                }
            }
            finite
        },
    )
}

/// A standard normal number (Box and Muller 1958) for an element and a step.
fn normal(seed: u64, step: u64, index: u64) -> f32 {
    let [radius, angle, ..] = random(seed, Purpose::Noise, step as u32, index);
    let unit = |word: u32| (word >> 8) as f32 * (1.0 / 16_777_216.0);
    // In (0, 1], whose logarithm is finite.
    let radius = (-2.0 * function::ln(1.0 - unit(radius))).sqrt();
    let turns = 2.0 * f64::from(unit(angle));
    let cosine = function::cos_pi(if turns > 1.0 { 2.0 - turns } else { turns });
    (f64::from(radius) * cosine) as f32
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

impl Rule {
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
