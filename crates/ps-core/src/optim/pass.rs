//! The pass over elements: the transforms of the gradient and the optimizer's elementwise step, in one loop.

use super::chain::{Chain, Mean};
use super::norms::dot;
use super::{GRID, MAX_VECTORS, Optimizer, OptimizerConfig, OptimizerParams, PieceSums, StepParams};
use crate::kernel::Kernel;

/// The state of some elements: one slice for each vector that the optimizer keeps, then empty slices.
pub(crate) type StateMut<'a> = [&'a mut [f32]; MAX_VECTORS];

/// Like [`StateMut`], but read-only.
pub(crate) type State<'a> = [&'a [f32]; MAX_VECTORS];

/// Inputs of an elementwise step, the same for all elements of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpdateParams {
    /// The learning rate, multiplied by the tensor's factor and trust ratio.
    pub rate: f32,
    /// Number of steps that the optimizer's state has seen, including this one; at least 1.
    pub count: u64,
    /// Weight decay, for optimizers that include it in their step.
    pub weight_decay: f32,
    /// L1 penalty, for optimizers that include it in their step.
    pub l1: f32,
}

/// A loop over elements in one step, which an optimizer calls with its formula.
pub(super) trait Pass {
    /// Replaces each weight by the result of `step`, which receives the weight, its gradient and its elements
    /// of the first `N` state vectors and updates the latter in place.
    fn each<const N: usize>(self, step: impl Fn(f32, f32, &mut [f32; N]) -> f32 + Copy) -> Finite;
}

/// The update of one step, for elements of tensors with the same settings.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    optimizer: Optimizer,
    params: UpdateParams,
    mean: Mean,
    chain: Chain,
}

impl Update {
    /// A step whose gradient is neither scaled nor has noise. The mean is over `samples` samples.
    pub(crate) fn plain(params: OptimizerParams, samples: usize, rate: f32) -> Self {
        let step_params = StepParams::plain(0, samples, rate);
        Update::new(params, &step_params, rate, Mean::over(samples))
    }

    /// A step of one tensor, whose rate is multiplied by `trust`.
    pub(super) fn of(
        config: &OptimizerConfig,
        params: OptimizerParams,
        step_params: &StepParams,
        trust: f32,
        seed: u64,
    ) -> Self {
        let mean = Mean::over(step_params.samples).scaled(step_params.scale);
        let mean = mean.with_noise(config.noise, seed, step_params.step);
        Update::new(params, step_params, step_params.rate * params.rate * trust, mean)
    }

    fn new(params: OptimizerParams, step_params: &StepParams, rate: f32, mean: Mean) -> Self {
        let OptimizerParams { optimizer, weight_decay, l1, clip, .. } = params;
        Update {
            optimizer,
            params: UpdateParams { rate, count: step_params.count, weight_decay, l1 },
            mean,
            chain: Chain {
                clip,
                weight_decay: if optimizer.owns_decay() { 0.0 } else { weight_decay },
                l1: if optimizer.owns_l1() { 0.0 } else { l1 },
            },
        }
    }

    /// Updates the parameters `w` by their gradient sums `g`. The first is element `offset` of
    /// the flat vector.
    pub(crate) fn apply(&self, offset: usize, w: &mut [f32], g: &[f32], state: StateMut<'_>) -> Finite {
        let Some(samples) = self.mean.plain() else {
            let pass = Buffered { update: self, offset, w, g, state };
            return self.optimizer.update(&self.params, pass);
        };
        // The inverse of a power of two is exact, so the product with it equals the quotient, in a fraction
        // of the time.
        if samples.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1 {
            let inverse = samples.recip();
            self.apply_mean(w, g, state, move |g| g * inverse)
        } else {
            self.apply_mean(w, g, state, move |g| g / samples)
        }
    }

    /// Like [`Update::apply`], but for plain gradient descent. `v` is the velocity, or empty.
    pub(crate) fn chunk(&self, w: &mut [f32], g: &[f32], v: &mut [f32]) -> Finite {
        let mut state = StateMut::default();
        state[0] = v;
        self.apply(0, w, g, state)
    }

    /// Selects the transforms once, so that the loop has no branches and is vectorised. Weight decay alone is
    /// common enough for a separate loop.
    #[inline(always)]
    fn apply_mean(
        &self,
        w: &mut [f32],
        g: &[f32],
        state: StateMut<'_>,
        mean: impl Fn(f32) -> f32 + Copy,
    ) -> Finite {
        let (optimizer, params, chain) = (&self.optimizer, &self.params, self.chain);
        match (chain.clip.is_some() || chain.l1 != 0.0, chain.weight_decay != 0.0) {
            (false, false) => optimizer.update(params, Fused { w, g, state, gradient: move |g, _| mean(g) }),
            (false, true) => {
                let gradient = move |g, w| chain.apply_only::<false, true, false>(mean(g), w);
                optimizer.update(params, Fused { w, g, state, gradient })
            }
            (true, _) => {
                let gradient = move |g, w| chain.apply(mean(g), w);
                optimizer.update(params, Fused { w, g, state, gradient })
            }
        }
    }

    /// Writes the mean gradient of at most [`GRID`] elements, after all transforms.
    #[inline(always)]
    pub(super) fn direction(&self, offset: usize, w: &[f32], g: &[f32], direction: &mut [f32]) {
        self.mean.write(offset, g, direction);
        for (g, &w) in direction.iter_mut().zip(w) {
            *g = self.chain.apply(*g, w);
        }
    }

    /// The sums over a piece of at most [`GRID`] elements, before the update.
    pub(super) fn measure(&self, offset: usize, w: &[f32], g: &[f32], state: State<'_>) -> PieceSums {
        let (mut mean, mut steps) = ([0.0; GRID], [0.0; GRID]);
        let (mean, steps) = (&mut mean[..g.len()], &mut steps[..g.len()]);
        Kernel::detect().vectorize(
            #[inline(always)]
            || self.direction(offset, w, g, steps),
        );
        self.optimizer.predict(&self.params, w, &state, steps);
        // `clip_norm` limits the mean gradient itself, so its norm is without scaling, noise and decay.
        let samples = self.mean.samples();
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

/// A pass that computes the gradient of an element in the same loop as its step.
struct Fused<'a, G> {
    w: &'a mut [f32],
    g: &'a [f32],
    state: StateMut<'a>,
    /// Computes an element's gradient from its sum and its weight.
    gradient: G,
}

impl<G: Fn(f32, f32) -> f32 + Copy> Pass for Fused<'_, G> {
    #[inline(always)]
    fn each<const N: usize>(self, step: impl Fn(f32, f32, &mut [f32; N]) -> f32 + Copy) -> Finite {
        let Fused { w, g, state, gradient } = self;
        each(
            w,
            g,
            first(state),
            #[inline(always)]
            move |w, g, state| step(w, gradient(g, w), state),
        )
    }
}

/// A pass that first writes the mean gradients of [`GRID`] elements to a buffer; needed for
/// scaling and noise.
struct Buffered<'a> {
    update: &'a Update,
    offset: usize,
    w: &'a mut [f32],
    g: &'a [f32],
    state: StateMut<'a>,
}

impl Pass for Buffered<'_> {
    fn each<const N: usize>(self, step: impl Fn(f32, f32, &mut [f32; N]) -> f32 + Copy) -> Finite {
        let Buffered { update: Update { mean, chain, .. }, offset, w, g, mut state } = self;
        let (mut finite, mut buffer, chain) = (Finite::ALL, [0.0; GRID], *chain);
        for (number, (w, g)) in w.chunks_mut(GRID).zip(g.chunks(GRID)).enumerate() {
            let gradient = &mut buffer[..g.len()];
            mean.write(offset + number * GRID, g, gradient);
            let state = first(split_front(&mut state, g.len()));
            finite = finite.and(each(
                w,
                gradient,
                state,
                #[inline(always)]
                move |w, g, state| step(w, chain.apply(g, w), state),
            ));
        }
        finite
    }
}

/// The first `N` state vectors.
#[inline(always)]
fn first<const N: usize>(state: StateMut<'_>) -> [&mut [f32]; N] {
    let mut vectors = state.into_iter();
    std::array::from_fn(|_| vectors.next().expect("no optimizer keeps more than the most"))
}

/// Replaces each weight by the result of `step` for it, its element of `g` and its elements of `vectors`.
#[inline(always)]
fn each<const N: usize>(
    w: &mut [f32],
    g: &[f32],
    vectors: [&mut [f32]; N],
    step: impl Fn(f32, f32, &mut [f32; N]) -> f32 + Copy,
) -> Finite {
    Kernel::detect().vectorize(
        // Everything is moved into the closure, so that nothing is read again in case the write to a
        // weight changed it.
        #[inline(always)]
        move || {
            let (mut finite, mut vectors) = (Finite::ALL, vectors);
            let mut update = |w: &mut f32, g: f32, state: &mut [f32; N]| {
                *w = step(*w, g, state);
                finite.gradient &= g.is_finite();
                finite.weights &= w.is_finite();
            };
            let mut state = [0.0; N];
            // These are loops rather than `for_each`, because the latter is a separate function that is
            // compiled for the baseline processor. They run over zipped slices, one arm for each number of
            // vectors in use, because indexing each vector halves the speed.
            match &mut vectors[..] {
                [] => {
                    for (w, &g) in w.iter_mut().zip(g) {
                        update(w, g, &mut state);
                    }
                }
                [a] => {
                    for ((w, &g), a) in w.iter_mut().zip(g).zip(a.iter_mut()) {
                        state[0] = *a;
                        update(w, g, &mut state);
                        *a = state[0];
                    }
                }
                [a, b] => {
                    for ((w, &g), (a, b)) in w.iter_mut().zip(g).zip(a.iter_mut().zip(b.iter_mut())) {
                        (state[0], state[1]) = (*a, *b);
                        update(w, g, &mut state);
                        (*a, *b) = (state[0], state[1]);
                    }
                }
                vectors => {
                    for (i, (w, &g)) in w.iter_mut().zip(g).enumerate() {
                        state.iter_mut().zip(&*vectors).for_each(|(element, vector)| *element = vector[i]);
                        update(w, g, &mut state);
                        state.iter().zip(&mut *vectors).for_each(|(element, vector)| vector[i] = *element);
                    }
                }
            }
            finite
        },
    )
}

/// Splits the first `len` elements off each vector; an empty vector gives an empty slice.
pub(crate) fn split_front<'a>(state: &mut StateMut<'a>, len: usize) -> StateMut<'a> {
    state.each_mut().map(|vector| vector.split_off_mut(..len).unwrap_or_default())
}

/// Splits `state` into vectors of `size` elements each; the remaining ones are empty.
pub(crate) fn vectors_mut(state: &mut [f32], size: usize) -> StateMut<'_> {
    let mut vectors = state.chunks_exact_mut(size.max(1));
    std::array::from_fn(|_| vectors.next().unwrap_or_default())
}

/// Like [`vectors_mut`], but read-only.
pub(crate) fn vectors(state: &[f32], size: usize) -> State<'_> {
    let mut vectors = state.chunks_exact(size.max(1));
    std::array::from_fn(|_| vectors.next().unwrap_or_default())
}

/// What an update found out about its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finite {
    /// Whether every element of the gradient is finite.
    pub gradient: bool,
    /// Whether every new weight is finite.
    pub weights: bool,
}

impl Finite {
    /// The initial value: nothing non-finite was found.
    pub(crate) const ALL: Finite = Finite { gradient: true, weights: true };

    /// Combines the findings of two updates.
    pub(crate) fn and(self, other: Finite) -> Finite {
        Finite { gradient: self.gradient & other.gradient, weights: self.weights & other.weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_changes_any_number_of_vectors_as_a_plain_loop_does() {
        fn check<const N: usize>() {
            let values = |salt: usize| (0..37).map(|i| (i * 7 + salt) as f32 / 8.0).collect::<Vec<_>>();
            let step = |w: f32, g: f32, state: &mut [f32; N]| {
                state.iter_mut().enumerate().for_each(|(n, element)| *element += g * (n + 2) as f32);
                w + state.iter().sum::<f32>()
            };
            let (g, mut w, mut vectors) = (values(1), values(2), std::array::from_fn::<_, N, _>(values));
            let (mut wanted, mut wanted_vectors) = (w.clone(), vectors.clone());
            for i in 0..w.len() {
                let mut state = std::array::from_fn(|n| wanted_vectors[n][i]);
                wanted[i] = step(wanted[i], g[i], &mut state);
                wanted_vectors.iter_mut().zip(state).for_each(|(vector, element)| vector[i] = element);
            }
            assert_eq!(each(&mut w, &g, vectors.each_mut().map(|vector| &mut vector[..]), step), Finite::ALL);
            assert_eq!((w, vectors), (wanted, wanted_vectors), "{N} vectors");
        }
        check::<0>();
        check::<1>();
        check::<2>();
        check::<3>();
        check::<4>();
    }
}
