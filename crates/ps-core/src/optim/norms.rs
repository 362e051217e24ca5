//! Sums over whole tensors, in an order that does not depend on how the flat vector is divided.
//!
//! Each tensor is cut where the index in the flat vector is a multiple of [`GRID`]. A piece is summed in 16
//! lanes, which are added pairwise; the sum of a tensor is that of its pieces in order. A shard that holds
//! whole grid cells can therefore sum its pieces alone.

use super::tensors::Group;
use std::ops::Range;

/// Number of elements between two cuts. The size of a wire chunk is a multiple of it.
pub(crate) const GRID: usize = 1024;

/// Number of lanes of a piece's sum.
const LANES: usize = 16;

/// Sums over one piece, or over a whole tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PieceSums {
    /// Sum of the squares of the mean gradient.
    pub gradient: f64,
    /// Sum of the squares of the weights.
    pub weights: f64,
    /// Sum of the squares of the step before the learning rate, including decay but not momentum.
    pub step: f64,
}

/// How far a step moved the weights of one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateNorms {
    /// Sum of the squares of the weights' change.
    pub change: f64,
    /// Sum of the squares of the weights before the step.
    pub weights: f64,
    /// Sum of the products of the mean gradient and the negative change: the first-order decrease of
    /// the mean loss.
    pub predicted: f64,
}

/// Sums over each tensor of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Norms {
    /// The sums, in the order of the tensors.
    pub tensors: Vec<PieceSums>,
}

impl Norms {
    /// Adds up the sums of all pieces, which must be in order.
    pub(super) fn new(groups: &[Group], sums: &[PieceSums]) -> Self {
        let mut tensors = vec![PieceSums::default(); groups.len()];
        let end = groups.last().map_or(0, |group| group.elements.end);
        for ((number, _), sums) in pieces(groups, 0..end).zip(sums) {
            let tensor = &mut tensors[number];
            tensor.gradient += sums.gradient;
            tensor.weights += sums.weights;
            tensor.step += sums.step;
        }
        Norms { tensors }
    }

    /// The squared Euclidean norm of the whole gradient.
    pub(crate) fn gradient_squared(&self) -> f64 {
        self.tensors.iter().fold(0.0, |sum, tensor| sum + tensor.gradient)
    }

    /// The Euclidean norm of the whole gradient.
    pub(crate) fn gradient(&self) -> f64 {
        self.gradient_squared().sqrt()
    }
}

/// The pieces of the elements `range`, each with the index of its tensor. `range` begins and ends on the grid
/// or at the end of the vector.
pub(super) fn pieces(groups: &[Group], range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let first = groups.partition_point(|group| group.elements.end <= range.start);
    let (mut number, mut at) = (first, range.start);
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = groups[number].elements.end.min((at / GRID + 1) * GRID).min(range.end);
        let piece = (number, at..end);
        at = end;
        if at == groups[number].elements.end {
            number += 1;
        }
        Some(piece)
    })
}

/// The inner product of two vectors; each single product is exact. Element i is added to lane i mod 16, in
/// order; lane j is then added to lane j + 8, and so on by halves.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane += f64::from(a) * f64::from(b);
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Measures how far a step moved the weights `before` to `after`, with `g` the sum of their gradients.
pub(super) fn update_norms(samples: usize, [before, after]: [&[f32]; 2], g: &[f32]) -> UpdateNorms {
    let (mut change, mut mean) = ([0.0; GRID], [0.0; GRID]);
    let (change, mean) = (&mut change[..g.len()], &mut mean[..g.len()]);
    for ((change, before), after) in change.iter_mut().zip(before).zip(after) {
        *change = before - after;
    }
    mean.iter_mut().zip(g).for_each(|(mean, g)| *mean = g / samples as f32);
    UpdateNorms { change: dot(change, change), weights: dot(before, before), predicted: dot(mean, change) }
}
