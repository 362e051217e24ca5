//! The source of weights and the destination of sums, piece by piece.

use super::scratch::Spare;
use crate::fold::NodeSum;
use crate::metrics::MetricSums;
use ps_plan::Node;

/// Weights that arrive, and sums that leave, while a gradient is computed.
///
/// A forward pass needs the first layer's weights first, and a backward pass completes the last layer's
/// gradient first, so that communication overlaps with computation in both directions. All calls come
/// from one thread.
pub trait Flow {
    /// Waits until the first `needed` parameters have arrived. Returns how many have, and the vector of all
    /// of them, `[parameters]`, rounded to the model's precision; only the arrived part is valid. Returns
    /// `None` if the rest will not arrive.
    fn weights(&mut self, needed: usize) -> Option<(usize, &[f32])>;

    /// Starts the next node of those that cover the leaves, and returns where to write its metric sums. Nodes
    /// are numbered from 0 in the order of these calls.
    fn node(&mut self, node: Node) -> &mut MetricSums;

    /// The unfinished part of a node's gradient: all elements before the `from` of
    /// the last [`Flow::finished`].
    fn gradient(&mut self, number: usize) -> &mut [f32];

    /// Reports the metric sums of a node that was only evaluated. For such a node, [`Flow::gradient`] and
    /// [`Flow::finished`] are not called.
    fn evaluated(&mut self, node: Node, metric_sums: MetricSums) {
        *self.node(node) = metric_sums;
    }

    /// All elements of a node's gradient from `from` on are final. The node's metric sums are final from the
    /// first of these calls on.
    fn finished(&mut self, number: usize, from: usize);
}

/// A [`Flow`] whose weights are all there and whose sums are collected in a list.
pub(super) struct Whole<'a> {
    classes: usize,
    weights: &'a [f32],
    spare: &'a mut Spare,
    sums: &'a mut Vec<NodeSum>,
    /// Length of the list of sums before the first node.
    before: usize,
}

impl<'a> Whole<'a> {
    pub(super) fn new(
        classes: usize,
        weights: &'a [f32],
        spare: &'a mut Spare,
        sums: &'a mut Vec<NodeSum>,
    ) -> Self {
        Whole { classes, weights, spare, before: sums.len(), sums }
    }
}

impl Flow for Whole<'_> {
    fn weights(&mut self, _: usize) -> Option<(usize, &[f32])> {
        Some((self.weights.len(), self.weights))
    }

    fn node(&mut self, node: Node) -> &mut MetricSums {
        let number = self.sums.len();
        self.sums.push(self.spare.take_or_make(node, self.weights.len(), self.classes));
        &mut self.sums[number].metric_sums
    }

    fn gradient(&mut self, number: usize) -> &mut [f32] {
        &mut self.sums[self.before + number].gradient
    }

    fn finished(&mut self, _: usize, _: usize) {}
}
