//! Where weights come from and where sums go, piece by piece.

use super::scratch::Spare;
use crate::fold::NodeSum;
use crate::metrics::Tally;
use ps_plan::Node;

/// Weights that arrive while a gradient is computed, and sums that leave meanwhile: a forward pass needs the first
/// layer's weights first, a backward pass makes the last layer's gradient first. All calls come from one thread.
pub trait Flow {
    /// Waits until the first `least` parameters are here. Gives how many of the first ones are, and all of them,
    /// `[parameters]`, rounded to the model's precision; `None` if they will not come.
    fn weights(&mut self, least: usize) -> Option<(usize, &[f32])>;

    /// The next of the nodes that cover the leaves, which are numbered from 0 on. Gives the place of its tally.
    fn node(&mut self, node: Node) -> &mut Tally;

    /// The gradient of a node, as far as it is not final: all elements before the last `from`.
    fn gradient(&mut self, number: usize) -> &mut [f32];

    /// A node that has no gradient was evaluated. It has no number.
    fn evaluated(&mut self, node: Node, tally: Tally) {
        *self.node(node) = tally;
    }

    /// All elements of a node's gradient from `from` on are final; so is its tally, from the first call on.
    fn finished(&mut self, number: usize, from: usize);
}

/// All weights at once, and all sums.
pub(super) struct Whole<'a> {
    classes: usize,
    weights: &'a [f32],
    spare: &'a mut Spare,
    sums: &'a mut Vec<NodeSum>,
    /// Sums that were there before.
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

    fn node(&mut self, node: Node) -> &mut Tally {
        let number = self.sums.len();
        self.sums.push(self.spare.take_or_make(node, self.weights.len(), self.classes));
        &mut self.sums[number].tally
    }

    fn gradient(&mut self, number: usize) -> &mut [f32] {
        &mut self.sums[self.before + number].gradient
    }

    fn finished(&mut self, _: usize, _: usize) {}
}
