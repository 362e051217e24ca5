//! Activations that an adjacent dense layer applies while a tile is in registers or in cache.

use super::{Activation, Layer};
use crate::block::{Boundary, Delta};

/// What a layer computes for its neighbours, and what they compute for it. Fusion affects speed only, not
/// a single bit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fusion {
    /// The activation that the layer applies to its output.
    pub after: Option<Activation>,
    /// The activation whose derivative the layer applies to the delta at its input.
    pub before: Option<Activation>,
    /// Whether the previous layer applies this one.
    pub is_forward_done: bool,
    /// Whether the next layer applies this one's derivative.
    pub is_backward_done: bool,
}

/// The fusions of a list of layers, found by looking at adjacent pairs.
pub(crate) fn fuse(layers: &[Layer], boundaries: &[Boundary]) -> Vec<Fusion> {
    let mut fusions = vec![Fusion::default(); layers.len()];
    // A source's delta is added to before it goes back through the activation, so it cannot be fused.
    let is_source = |k| layers.iter().any(|layer| layer.source() == Some(k));
    for (k, pair) in layers.windows(2).enumerate() {
        match pair {
            // The dense layer replaces its output by the activation, so nothing else may read that output.
            [Layer::Dense(_), Layer::Activation(activation)] if boundaries[k + 2].overwrites_value => {
                fusions[k].after = Some(*activation);
                fusions[k + 1].is_forward_done = true;
            }
            [Layer::Activation(activation), Layer::Dense(_)]
                if boundaries[k + 1].delta != Delta::None && !is_source(k + 1) =>
            {
                fusions[k + 1].before = Some(*activation);
                fusions[k].is_backward_done = true;
            }
            _ => {}
        }
    }
    fusions
}
