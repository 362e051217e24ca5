//! The optimizer applied to the tensors of a model: settings that differ between tensors, norms
//! and trust ratios.

use super::norms::{self, pieces};
use super::{
    Finite, Norms, OptimizerConfig, OptimizerParams, PieceSums, State, StateMut, StateVector, TensorNorms,
    Update, UpdateNorms, split_front, vectors, vectors_mut,
};
use crate::model::Model;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// A tensor and the settings of its update.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// The tensor's elements in the flat vector.
    pub elements: Range<usize>,
    pub params: OptimizerParams,
    /// Whether this is a weight rather than a bias.
    pub is_weight: bool,
}

/// The optimizer of a run, applied to the tensors of its model.
///
/// All methods work on a range of the flat parameter vector, so that any number of shards and threads can
/// update their parts; the bits do not depend on how the vector is divided. The number of state vectors
/// depends on the optimizer.
#[derive(Clone, Debug)]
pub struct ModelOptimizer {
    seed: u64,
    groups: Arc<[Group]>,
    /// Whether all tensors have the same settings, so that one pass can update several.
    is_uniform: bool,
    config: Arc<OptimizerConfig>,
}

/// Inputs of one step that are the same for every part of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct StepParams {
    /// Number of the step, from 0.
    pub step: u64,
    /// Number of steps that the optimizer's state has seen, including this one; at least 1.
    pub count: u64,
    /// Number of samples that the gradient is summed over.
    pub samples: usize,
    /// The learning rate.
    pub rate: f32,
    /// Factor of the mean gradient; below 1 if the gradient is longer than `clip_norm`.
    pub scale: f32,
    /// For each tensor, the factor of the learning rate; empty if 1 for all.
    pub trust: Vec<f32>,
}

impl StepParams {
    /// A step without norms, in a run whose optimizer has seen every step.
    pub(crate) fn plain(step: u64, samples: usize, rate: f32) -> Self {
        StepParams { step, count: step + 1, samples, rate, scale: 1.0, trust: Vec::new() }
    }
}

impl ModelOptimizer {
    /// Applies an optimizer to a model. `seed` is the run's seed, from which noise is derived.
    pub fn new(config: impl Into<OptimizerConfig>, model: &Model, seed: u64) -> Self {
        let config = config.into();
        let group = |tensor: &crate::TensorSpec| {
            let is_weight = tensor.shape.len() > 1;
            let mut params = config.params;
            if !is_weight && !config.decay_biases {
                (params.weight_decay, params.l1) = (0.0, 0.0);
            }
            for (_, rate) in
                config.rates.iter().filter(|(name, _)| OptimizerConfig::matches(name, &tensor.name))
            {
                params.rate *= rate;
            }
            Group { elements: tensor.offset..tensor.offset + tensor.len(), params, is_weight }
        };
        let groups: Arc<[Group]> = model.layout().tensors().iter().map(group).collect();
        let is_uniform = groups.iter().all(|group| group.params == config.params);
        ModelOptimizer { seed, groups, is_uniform, config: config.into() }
    }

    /// The settings from the run file.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// The vectors of the optimizer's state, each `[parameters]` and initially 0.
    pub(crate) fn state(&self) -> &'static [StateVector] {
        self.config.params.optimizer.vectors()
    }

    /// Updates the elements from `offset` on by their gradient sums `g`.
    pub(crate) fn update(
        &self,
        step_params: &StepParams,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        mut state: StateMut<'_>,
    ) -> Finite {
        let mut finite = Finite::ALL;
        if self.is_uniform && step_params.trust.is_empty() {
            return Update::of(&self.config, self.config.params, step_params, 1.0, self.seed)
                .apply(offset, w, g, state);
        }
        let (mut w, mut g, mut at) = (w, g, offset);
        for (number, group) in self.groups.iter().enumerate() {
            if group.elements.end <= at || w.is_empty() {
                continue;
            }
            let size = w.len().min(group.elements.end - at);
            let trust = step_params.trust.get(number).copied().unwrap_or(1.0);
            let update = Update::of(&self.config, group.params, step_params, trust, self.seed);
            let (here, rest) = std::mem::take(&mut w).split_at_mut(size);
            finite = finite.and(update.apply(at, here, &g[..size], split_front(&mut state, size)));
            (w, g, at) = (rest, &g[size..], at + size);
        }
        finite
    }

    /// Adds up the sums over all pieces of the flat vector, which must be in order.
    pub fn norms(&self, sums: &[PieceSums]) -> Norms {
        Norms::new(&self.groups, sums)
    }

    /// Number of pieces in the elements `range`, which begins and ends on the grid or at the end
    /// of the vector.
    pub fn pieces(&self, range: Range<usize>) -> usize {
        pieces(&self.groups, range).count()
    }

    /// Appends to `sums` the sums over the pieces from element `offset` on, for weights before a step and
    /// their gradient sums.
    pub(crate) fn measure(
        &self,
        step_params: &StepParams,
        offset: usize,
        w: &[f32],
        g: &[f32],
        state: State<'_>,
        sums: &mut Vec<PieceSums>,
    ) {
        for (number, piece) in pieces(&self.groups, offset..offset + w.len()) {
            let at = piece.start - offset..piece.end - offset;
            let update = Update::of(&self.config, self.groups[number].params, step_params, 1.0, self.seed);
            let state = state.map(|state| state.get(at.clone()).unwrap_or_default());
            sums.push(update.measure(piece.start, &w[at.clone()], &g[at], state));
        }
    }

    /// What weight decay adds to the mean loss, such that the step is the gradient of the total.
    pub(crate) fn penalty(&self, norms: &Norms) -> f64 {
        let of =
            |(group, sums): (&Group, &PieceSums)| 0.5 * f64::from(group.params.weight_decay) * sums.weights;
        self.groups.iter().zip(&norms.tensors).map(of).fold(0.0, |sum, part| sum + part)
    }

    /// Writes the direction of a step, decay included, for the elements from `offset` on.
    pub(crate) fn direction(
        &self,
        step_params: &StepParams,
        offset: usize,
        w: &[f32],
        g: &[f32],
        direction: &mut [f32],
    ) {
        for (number, piece) in pieces(&self.groups, offset..offset + w.len()) {
            let at = piece.start - offset..piece.end - offset;
            let update = Update::of(&self.config, self.groups[number].params, step_params, 1.0, self.seed);
            update.direction(piece.start, &w[at.clone()], &g[at.clone()], &mut direction[at]);
        }
    }

    /// Appends to `sums` how far a step moved the weights of each piece from element `offset` on.
    pub fn measure_update(
        &self,
        samples: usize,
        offset: usize,
        [before, after]: [&[f32]; 2],
        g: &[f32],
        sums: &mut Vec<UpdateNorms>,
    ) {
        for (_, piece) in pieces(&self.groups, offset..offset + before.len()) {
            let at = piece.start - offset..piece.end - offset;
            sums.push(norms::update_norms(samples, [&before[at.clone()], &after[at.clone()]], &g[at]));
        }
    }

    /// Adds up the sums of all pieces: the predicted decrease of the loss and, for each layer, the norm of
    /// the weight's change divided by the weight's norm.
    pub(crate) fn update_norms(&self, sums: &[UpdateNorms]) -> (f64, Vec<f64>) {
        let mut tensors = vec![UpdateNorms::default(); self.groups.len()];
        let end = self.groups.last().map_or(0, |group| group.elements.end);
        for ((number, _), sums) in pieces(&self.groups, 0..end).zip(sums) {
            tensors[number].change += sums.change;
            tensors[number].weights += sums.weights;
            tensors[number].predicted += sums.predicted;
        }
        let ratio = |update_norms: &UpdateNorms| {
            let ratio = (update_norms.change / update_norms.weights).sqrt();
            // Weights of 0 have no ratio, and the JSON of a checkpoint no infinity.
            if ratio.is_finite() { ratio } else { 0.0 }
        };
        let weights = self.groups.iter().zip(&tensors).filter(|(group, _)| group.is_weight);
        (
            tensors.iter().fold(0.0, |sum, tensor| sum + tensor.predicted),
            weights.map(|(_, update_norms)| ratio(update_norms)).collect(),
        )
    }

    /// For each tensor, the factor of its learning rate, given the norms of a step; empty if 1 for all.
    pub(crate) fn trust(&self, norms: &Norms, scale: f32) -> Vec<f32> {
        let of = |(group, sums): (&Group, &PieceSums)| {
            let [weights, gradient, step] = [sums.weights, sums.gradient, sums.step].map(f64::sqrt);
            let norms = TensorNorms { weights, gradient: gradient * f64::from(scale), step };
            let OptimizerParams { optimizer, weight_decay, .. } = group.params;
            let trust = optimizer.trust(norms, weight_decay);
            // A norm of 0 gives no ratio, and biases are not scaled by layer.
            if group.is_weight && weights > 0.0 && trust.is_finite() { trust as f32 } else { 1.0 }
        };
        if self.config.params.optimizer.needs_norms() {
            self.groups.iter().zip(&norms.tensors).map(of).collect()
        } else {
            Vec::new()
        }
    }

    /// The factor of the mean gradient, given its norm.
    pub(crate) fn scale(&self, norms: &Norms) -> f32 {
        // The same epsilon as in PyTorch's `clip_grad_norm_`.
        self.config.clip_norm.map_or(1.0, |most| {
            let scale = f64::from(most) / (norms.gradient() + 1e-6);
            scale.min(1.0) as f32
        })
    }

    /// Updates all weights on the threads of the current rayon pool; `state` is `[vectors, parameters]`.
    pub(crate) fn update_all(&self, step_params: &StepParams, w: &mut [f32], g: &[f32], state: &mut [f32]) {
        assert_eq!(w.len(), g.len());
        let parameters = w.len();
        self.update_parts(step_params, 0, w, g, vectors_mut(state, parameters));
    }

    /// Halves the elements until each thread has at most [`PART`] of them.
    fn update_parts(
        &self,
        step_params: &StepParams,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        mut state: StateMut<'_>,
    ) {
        if w.len() <= PART {
            self.update(step_params, offset, w, g, state);
            return;
        }
        let half = w.len().div_ceil(PART).div_ceil(2) * PART;
        let ((w, w_rest), (g, g_rest)) = (w.split_at_mut(half), g.split_at(half));
        let front = split_front(&mut state, half);
        rayon::join(
            || self.update_parts(step_params, offset, w, g, front),
            || self.update_parts(step_params, offset + half, w_rest, g_rest, state),
        );
    }

    /// Computes the sums over the pieces of all weights.
    pub fn measure_all(
        &self,
        step_params: &StepParams,
        w: &[f32],
        g: &[f32],
        state: &[f32],
    ) -> Vec<PieceSums> {
        let state = vectors(state, w.len());
        // `PART` is a multiple of the grid, so no piece is cut.
        let parts: Vec<Vec<PieceSums>> = w
            .par_chunks(PART)
            .enumerate()
            .map(|(index, w)| {
                let at = index * PART..index * PART + w.len();
                let state = state.map(|state| state.get(at.clone()).unwrap_or_default());
                let mut sums = Vec::new();
                self.measure(step_params, at.start, w, &g[at], state, &mut sums);
                sums
            })
            .collect();
        parts.concat()
    }
}

/// Number of parameters that one thread updates at a time; fewer would not be worth waking another thread.
const PART: usize = 1 << 15;
