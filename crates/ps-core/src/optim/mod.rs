//! What a step does with the gradient: the rules of the optimizers, which parameters they hold for, and what belongs to
//! a run's state besides its weights.
//!
//! A rule is elementwise (`update.rs`). Where it needs more than one element, a norm, that is summed in a fixed order
//! (`norms.rs`), so that the weights may be cut into chunks and shards anywhere on its grid.

mod norms;
mod update;

pub use norms::{GRID, Moved, Norms, PieceSums, pieces};
pub use update::{Finite, Update};

use crate::model::Model;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// The optimizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent, with momentum if that is not 0.
    #[default]
    Sgd,
    /// Duchi et al. 2011.
    Adagrad,
    /// Hinton 2012 (lecture 6e of "Neural networks for machine learning").
    RmsProp,
    /// Kingma and Ba 2015.
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Layer-wise adaptive rates (You et al. 2017).
    Lars,
    /// Layer-wise adaptive moments (You et al. 2020).
    Lamb,
    /// Follow the regularised leader, proximal (McMahan et al. 2013).
    Ftrl,
}

/// What happens to an element of the mean gradient, and how its parameter follows it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The optimizer.
    pub kind: OptimizerKind,
    /// Share of the last step's velocity that is kept; 0 is plain descent. Of sgd, rmsprop and lars.
    pub momentum: f32,
    /// Whether the gradient is taken ahead of the velocity (Nesterov 1983, as in Sutskever et al. 2013). Of sgd.
    pub nesterov: bool,
    /// L2: `weight_decay * w` is added to the gradient; of adamw and lamb to the step.
    pub weight_decay: f32,
    /// L1: `l1 * sign(w)` is added to the gradient; of ftrl the threshold of its proximal step.
    pub l1: f32,
    /// Each element of the mean gradient is cut to ±this before all else.
    pub clip: Option<f32>,
    /// Share of the first moment that is kept, of adam, adamw and lamb.
    pub beta1: f32,
    /// Share of the second moment that is kept, likewise, and of rmsprop.
    pub beta2: f32,
    /// Added to the root of the second moment; beta of ftrl.
    pub epsilon: f32,
    /// What a layer's rate is of the ratio of its norms, of lars.
    pub trust: f32,
    /// What the rate is multiplied by.
    pub rate: f32,
}

impl Default for Rule {
    fn default() -> Self {
        Rule {
            kind: OptimizerKind::Sgd,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            l1: 0.0,
            clip: None,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            trust: 0.001,
            rate: 1.0,
        }
    }
}

impl Rule {
    /// The vectors of state that it keeps, each as long as the weights and 0 at first.
    pub fn state(&self) -> &'static [&'static str] {
        use OptimizerKind::*;
        match self.kind {
            Sgd | Lars if self.momentum == 0.0 => &[],
            Sgd | Lars => &["velocity"],
            Adagrad => &["squares"],
            RmsProp if self.momentum == 0.0 => &["squares"],
            RmsProp => &["squares", "velocity"],
            Adam | AdamW | Lamb => &["mean", "squares"],
            Ftrl => &["sums", "squares"],
        }
    }
}

/// Normal noise on the gradient (Neelakantan et al. 2015): of variance `scale / (1 + step)^decay`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The variance at step 0.
    pub scale: f64,
    /// How fast it goes; they use 0.55.
    pub decay: f64,
}

impl Noise {
    /// The standard deviation at a step.
    pub fn deviation(&self, step: u64) -> f32 {
        (self.scale / crate::function::pow(1.0 + step as f64, self.decay)).sqrt() as f32
    }
}

/// The optimizer of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The rule of all parameters, as far as the others do not change it.
    pub rule: Rule,
    /// Whether weight decay and L1 hold for biases.
    pub decay_biases: bool,
    /// Factors of the rate of the parameters that a name stands for, see [`OptimizerConfig::matches`]. They are multiplied in this
    /// order, which is that of the names, ascending.
    pub rates: Vec<(String, f32)>,
    /// The mean gradient is scaled down to this Euclidean norm where it is longer (Pascanu et al. 2013).
    pub clip_norm: Option<f32>,
    /// Noise on the gradient.
    pub noise: Option<Noise>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Rule::default().into()
    }
}

impl From<Rule> for OptimizerConfig {
    fn from(rule: Rule) -> Self {
        OptimizerConfig { rule, decay_biases: true, rates: Vec::new(), clip_norm: None, noise: None }
    }
}

impl OptimizerConfig {
    /// Whether `name` means the tensor `tensor`: it is `weights`, `biases`, or the tensor's name or its beginning, such as
    /// `layers.0`.
    pub fn matches(name: &str, tensor: &str) -> bool {
        match name {
            "weights" => tensor.ends_with(".weight"),
            "biases" => tensor.ends_with(".bias"),
            _ => tensor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        }
    }

    /// Whether a step needs norms of the whole gradient before any weight is updated.
    pub fn needs_norms(&self) -> bool {
        self.clip_norm.is_some() || matches!(self.rule.kind, OptimizerKind::Lars | OptimizerKind::Lamb)
    }

    /// Whether it is plain descent, with momentum or without, the same for all parameters: what
    /// [`crate::gradient::InPlace`] can do.
    pub fn is_plain(&self) -> bool {
        self.rule.kind == OptimizerKind::Sgd
            && self.decay_biases
            && self.rates.is_empty()
            && self.clip_norm.is_none()
            && self.noise.is_none()
    }
}

/// A tensor and its rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its elements in the flat vector.
    pub elements: Range<usize>,
    /// What its elements follow.
    pub rule: Rule,
    /// Whether it is a weight rather than a bias.
    pub is_weight: bool,
}

/// The optimizer of a run, for the tensors of its model.
#[derive(Clone, Debug)]
pub struct Rules {
    seed: u64,
    groups: Arc<[Group]>,
    /// Whether all tensors have the same rule, so that none need be told from another.
    is_uniform: bool,
    config: Arc<OptimizerConfig>,
}

/// What one step goes by, besides its gradient: the same in every part of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Stride {
    /// The step.
    pub step: u64,
    /// Steps that the optimizer's state has seen with this one, from 1.
    pub count: u64,
    /// Samples that the gradient is summed over.
    pub samples: usize,
    /// The learning rate.
    pub rate: f32,
    /// What the mean gradient is multiplied by: below 1 where it is longer than it may be.
    pub scale: f32,
    /// Of each tensor what its rate is multiplied by; empty if 1 for all.
    pub trust: Vec<f32>,
}

impl Stride {
    /// A step without anything special.
    pub fn plain(step: u64, samples: usize, rate: f32) -> Self {
        Stride { step, count: step + 1, samples, rate, scale: 1.0, trust: Vec::new() }
    }
}

impl Rules {
    /// Of a run with this seed.
    pub fn new(config: impl Into<OptimizerConfig>, model: &Model, seed: u64) -> Self {
        let config = config.into();
        let group = |tensor: &crate::TensorSpec| {
            let is_weight = tensor.shape.len() > 1;
            let mut rule = config.rule;
            if !is_weight && !config.decay_biases {
                (rule.weight_decay, rule.l1) = (0.0, 0.0);
            }
            for (_, rate) in
                config.rates.iter().filter(|(name, _)| OptimizerConfig::matches(name, &tensor.name))
            {
                rule.rate *= rate;
            }
            Group { elements: tensor.offset..tensor.offset + tensor.len(), rule, is_weight }
        };
        let groups: Arc<[Group]> = model.layout().tensors().iter().map(group).collect();
        let is_uniform = groups.iter().all(|group| group.rule == config.rule);
        Rules { seed, groups, is_uniform, config: config.into() }
    }

    /// What the run file says.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// The tensors.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The vectors of state, each `[parameters]` and 0 at first.
    pub fn state(&self) -> &'static [&'static str] {
        self.config.rule.state()
    }

    /// Updates the elements from `offset` on by their gradients' sums `g`; `state` are theirs, one after the other.
    pub fn update(
        &self,
        stride: &Stride,
        offset: usize,
        w: &mut [f32],
        g: &[f32],
        state: [&mut [f32]; 2],
    ) -> Finite {
        let mut finite = Finite::ALL;
        if self.is_uniform && stride.trust.is_empty() {
            return Update::of(&self.config, self.config.rule, stride, 1.0, self.seed)
                .apply(offset, w, g, state);
        }
        let [mut first, mut second] = state;
        let (mut w, mut g, mut at) = (w, g, offset);
        for (number, group) in self.groups.iter().enumerate() {
            if group.elements.end <= at || w.is_empty() {
                continue;
            }
            let size = w.len().min(group.elements.end - at);
            let trust = stride.trust.get(number).copied().unwrap_or(1.0);
            let update = Update::of(&self.config, group.rule, stride, trust, self.seed);
            let (here, rest) = std::mem::take(&mut w).split_at_mut(size);
            let states =
                [&mut first, &mut second].map(|state| state.split_off_mut(..size).unwrap_or_default());
            finite = finite.and(update.apply(at, here, &g[..size], states));
            (w, g, at) = (rest, &g[size..], at + size);
        }
        finite
    }

    /// What the sums over the pieces of the whole vector, in order, come to.
    pub fn norms(&self, sums: &[PieceSums]) -> Norms {
        Norms::new(&self.groups, sums)
    }

    /// How many pieces the elements `range` have, which begins and ends on the grid or at the end of the vector.
    pub fn pieces(&self, range: Range<usize>) -> usize {
        pieces(&self.groups, range).count()
    }

    /// The sums over the pieces from element `offset` on, of weights before a step and their gradients' sums, appended to
    /// `sums`.
    pub fn measure(
        &self,
        stride: &Stride,
        offset: usize,
        w: &[f32],
        g: &[f32],
        state: [&[f32]; 2],
        sums: &mut Vec<PieceSums>,
    ) {
        for (number, piece) in pieces(&self.groups, offset..offset + w.len()) {
            let at = piece.start - offset..piece.end - offset;
            let update = Update::of(&self.config, self.groups[number].rule, stride, 1.0, self.seed);
            let state = state.map(|state| state.get(at.clone()).unwrap_or_default());
            sums.push(update.measure(piece.start, &w[at.clone()], &g[at], state));
        }
    }

    /// What weight decay adds to the mean loss, so that the step is the gradient of the sum.
    pub fn penalty(&self, norms: &Norms) -> f64 {
        let of =
            |(group, sums): (&Group, &PieceSums)| 0.5 * f64::from(group.rule.weight_decay) * sums.weights;
        self.groups.iter().zip(&norms.tensors).map(of).fold(0.0, |sum, part| sum + part)
    }

    /// The direction of a step from elements `offset` on, decay included.
    pub fn direction(&self, stride: &Stride, offset: usize, w: &[f32], g: &[f32], direction: &mut [f32]) {
        for (number, piece) in pieces(&self.groups, offset..offset + w.len()) {
            let at = piece.start - offset..piece.end - offset;
            let update = Update::of(&self.config, self.groups[number].rule, stride, 1.0, self.seed);
            update.direction(piece.start, &w[at.clone()], &g[at.clone()], &mut direction[at]);
        }
    }

    /// The sums over the pieces from element `offset` on of how far its weights went, appended to `sums`.
    pub fn measure_way(
        &self,
        samples: usize,
        offset: usize,
        [before, after]: [&[f32]; 2],
        g: &[f32],
        sums: &mut Vec<Moved>,
    ) {
        for (_, piece) in pieces(&self.groups, offset..offset + before.len()) {
            let at = piece.start - offset..piece.end - offset;
            sums.push(norms::moved(samples, [&before[at.clone()], &after[at.clone()]], &g[at]));
        }
    }

    /// What these sums of all pieces come to: the predicted decrease, and for each layer how far its weight went by its
    /// norm.
    pub fn moved(&self, sums: &[Moved]) -> (f64, Vec<f64>) {
        let mut tensors = vec![Moved::default(); self.groups.len()];
        let end = self.groups.last().map_or(0, |group| group.elements.end);
        for ((number, _), sums) in pieces(&self.groups, 0..end).zip(sums) {
            tensors[number].way += sums.way;
            tensors[number].weights += sums.weights;
            tensors[number].predicted += sums.predicted;
        }
        let ratio = |moved: &Moved| {
            let ratio = (moved.way / moved.weights).sqrt();
            if ratio.is_finite() { ratio } else { 0.0 }
        };
        let weights = self.groups.iter().zip(&tensors).filter(|(group, _)| group.is_weight);
        (
            tensors.iter().fold(0.0, |sum, tensor| sum + tensor.predicted),
            weights.map(|(_, moved)| ratio(moved)).collect(),
        )
    }

    /// Of each tensor what its rate is multiplied by, by the norms of a step; empty if 1 for all.
    pub fn trust(&self, norms: &Norms, scale: f32) -> Vec<f32> {
        let of = |(group, sums): (&Group, &PieceSums)| {
            let [weight, gradient, step] = [sums.weights, sums.gradient, sums.step].map(f64::sqrt);
            let Rule { trust, weight_decay, .. } = group.rule;
            let ratio = match group.rule.kind {
                OptimizerKind::Lars => {
                    let gradient = gradient * f64::from(scale);
                    f64::from(trust) * weight / (gradient + f64::from(weight_decay) * weight)
                }
                OptimizerKind::Lamb => weight / step,
                _ => 1.0,
            };
            // Where a norm is 0 there is nothing to go by, and a bias is no layer.
            if group.is_weight && weight > 0.0 && ratio.is_finite() { ratio as f32 } else { 1.0 }
        };
        match self.config.rule.kind {
            OptimizerKind::Lars | OptimizerKind::Lamb => {
                self.groups.iter().zip(&norms.tensors).map(of).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the mean gradient is multiplied by, by its norm.
    pub fn scale(&self, norms: &Norms) -> f32 {
        // As in PyTorch's clip_grad_norm_.
        self.config.clip_norm.map_or(1.0, |most| {
            let scale = f64::from(most) / (norms.gradient() + 1e-6);
            scale.min(1.0) as f32
        })
    }

    /// Updates all weights, on the threads of the current rayon pool; `state` is `[vectors, parameters]`.
    pub fn update_all(&self, stride: &Stride, w: &mut [f32], g: &[f32], state: &mut [f32]) {
        assert_eq!(w.len(), g.len());
        let parameters = w.len();
        let [first, second] = vectors_mut(state, parameters);
        if parameters <= CHUNK {
            self.update(stride, 0, w, g, [first, second]);
            return;
        }
        let part = |index: usize, w: &mut [f32], g: &[f32], state: [&mut [f32]; 2]| {
            self.update(stride, index * CHUNK, w, g, state);
        };
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).enumerate();
        match (first.is_empty(), second.is_empty()) {
            (true, _) => chunks.for_each(|(i, (w, g))| part(i, w, g, [&mut [], &mut []])),
            (false, true) => {
                let chunks = chunks.zip(first.par_chunks_mut(CHUNK));
                chunks.for_each(|((i, (w, g)), v)| part(i, w, g, [v, &mut []]));
            }
            (false, false) => {
                let chunks = chunks.zip(first.par_chunks_mut(CHUNK)).zip(second.par_chunks_mut(CHUNK));
                chunks.for_each(|(((i, (w, g)), v), s)| part(i, w, g, [v, s]));
            }
        }
    }

    /// The sums over the pieces of all weights.
    pub fn measure_all(&self, stride: &Stride, w: &[f32], g: &[f32], state: &[f32]) -> Norms {
        let state = vectors(state, w.len());
        let parts: Vec<Vec<PieceSums>> = w
            .par_chunks(CHUNK)
            .enumerate()
            .map(|(index, w)| {
                let at = index * CHUNK..index * CHUNK + w.len();
                let state = state.map(|state| state.get(at.clone()).unwrap_or_default());
                let mut sums = Vec::new();
                self.measure(stride, at.start, w, &g[at], state, &mut sums);
                sums
            })
            .collect();
        self.norms(&parts.concat())
    }
}

/// Parameters that one thread updates at a time: more than a few make waking another thread worth it.
const CHUNK: usize = 1 << 15;

/// The first two of the vectors of `size` elements each that lie in `state` one after the other; empty where there are
/// fewer.
pub fn vectors_mut(state: &mut [f32], size: usize) -> [&mut [f32]; 2] {
    let mut chunks = state.chunks_exact_mut(size.max(1));
    [chunks.next().unwrap_or_default(), chunks.next().unwrap_or_default()]
}

/// The same to be read.
pub fn vectors(state: &[f32], size: usize) -> [&[f32]; 2] {
    let mut chunks = state.chunks_exact(size.max(1));
    [chunks.next().unwrap_or_default(), chunks.next().unwrap_or_default()]
}
