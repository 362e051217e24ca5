//! Draws the loss around the weights of a run: along the gradient, and over a plane through the path of the
//! weights.

use super::name;
use crate::failure::Failure;
use crate::output;
use downhill::internal::SavedRun;
use ps_core::{Gradients, Samples};
use ps_data::Split;
use ps_plan::BatchPlan;
use ps_plot::{Axis, Field, Figure, Lines, Mark, Panel, Series, Style};
use ps_run::{checkpoint_weights, counted, grouped};
use std::path::Path;

/// Number of points of a curve along the gradient.
const POINTS: usize = 61;
/// Limit on doubling or halving the length of a step until the loss at its end is as high as at its start.
const DOUBLINGS: usize = 40;
/// Margin around the path, as a share of its extent.
const ROOM: f64 = 0.35;
/// Number of power iterations. More would be pointless, because the directions only serve to choose a plane
/// to look at.
const ROUNDS: usize = 200;

/// Computes losses and gradients on a fixed set of samples.
struct LossSurface {
    gradients: Gradients,
    plan: BatchPlan,
    split: Split,
}

/// A label and the weights that it describes.
type Waypoint = (String, Vec<f32>);

/// Draws the curves and the plane. `folder` contains the checkpoints.
pub(super) fn figure(
    folder: &Path,
    run: &SavedRun,
    samples: usize,
    grid: usize,
    tells: bool,
) -> Result<Figure, Failure> {
    let job = &run.job;
    let split = job.data.train.head(samples);
    let count = split.len();
    let plan = BatchPlan::new(job.run.seed, count, count, job.plan.leaf.min(count), 1, None);
    let mut surface =
        LossSurface { gradients: Gradients::new(job.model.clone(), plan, job.kernel), plan, split };
    let start = job.model.initial(job.run.seed);
    let end = run.model.weights();
    let last = run.model.steps();
    let mut path: Vec<Waypoint> = vec![("start".into(), start.clone())];
    for (step, weights) in
        checkpoint_weights(folder, &job.model)?.into_iter().filter(|(step, _)| *step < last)
    {
        path.push((grouped(step as f64), weights));
    }
    path.push((format!("end, step {}", grouped(last as f64)), end.to_vec()));
    if tells {
        output::note(&format!(
            "computing {} losses over {} along a path of {}",
            grouped((grid * grid + 2 * POINTS) as f64),
            counted(count, "sample"),
            counted(path.len(), "point")
        ));
    }
    let rate = f64::from(job.rate.at(0));
    let down = surface.down(&start);
    let first = along(&mut surface, "along the gradient at the start", &start, &down, rate);
    let (own, rate) = (surface.down(end), f64::from(job.rate.at(last.saturating_sub(1))));
    let second = along(&mut surface, "along the gradient at the end", end, &own, rate);
    let plane = plane(&mut surface, path, &down, grid);
    let panels = [first, second, plane].into_iter().flatten().collect();
    let title = format!("{}: mean loss of {}", name(folder), counted(count, "training sample"));
    Ok(Figure { title, columns: 3, panel: (520, 420), panels })
}

impl LossSurface {
    /// Returns the mean loss at `weights`.
    fn loss(&mut self, weights: &[f32]) -> f64 {
        self.gradients.evaluate(weights, &self.split).mean_loss()
    }

    /// Returns the negative gradient of the mean loss at `weights`.
    fn down(&mut self, weights: &[f32]) -> Vec<f64> {
        let leaves = 0..self.plan.step(0).tree().leaves();
        let sum = self.gradients.compute(weights, &self.split, 0, leaves).pop();
        let count = self.plan.samples as f64;
        sum.map_or_else(Vec::new, |sum| sum.gradient.iter().map(|g| -f64::from(*g) / count).collect())
    }
}

/// Draws the loss from `from` in the direction `down`, and its linear approximation at the start.
fn along(surface: &mut LossSurface, title: &str, from: &[f32], down: &[f64], rate: f64) -> Option<Panel> {
    let begin = surface.loss(from);
    let steepness = dot(down, down);
    if !begin.is_finite() || !steepness.is_finite() || steepness == 0.0 {
        return None;
    }
    let mut at = |length: f64| surface.loss(&displaced(from, &[(length, down)]));
    // Starts where the linear approximation has fallen by a tenth, and doubles or halves the distance until the
    // loss there crosses its value at the start.
    let mut far = 0.1 * begin.abs().max(f64::MIN_POSITIVE) / steepness;
    let rises = |loss: f64| loss.is_nan() || loss >= begin;
    let rose = rises(at(far));
    for _ in 0..DOUBLINGS {
        let next = if rose { far / 2.0 } else { far * 2.0 };
        if rises(at(next)) != rose {
            far = far.max(next);
            break;
        }
        far = next;
    }
    let far = 1.1 * far;
    let lengths = (0..POINTS).map(|point| far * point as f64 / (POINTS - 1) as f64);
    let points: Vec<(f64, f64)> = lengths.map(|length| (length, at(length))).collect();
    let low = points.iter().map(|point| point.1).fold(begin, f64::min);
    let tangent =
        [0.0, (begin - low).max(begin * 1e-3) * 1.15 / steepness].map(|x| (x, begin - x * steepness));
    let series = |name: &str, color, style, points: Vec<(f64, f64)>| Series {
        name: name.into(),
        color,
        style,
        points,
    };
    let in_sight = (rate > 0.01 * far && rate <= far).then(|| Mark {
        at: rate,
        label: "learning rate of the run".into(),
        color: 2,
    });
    Some(Panel::Lines(Lines {
        title: title.into(),
        x: Axis::linear("step length (learning rate)"),
        y: Axis::linear(""),
        series: vec![
            series("loss", 0, Style::Solid, points),
            series("first order: slope −‖g‖²", 1, Style::Dashed, tangent.to_vec()),
        ],
        marks: in_sight.into_iter().collect(),
    }))
}

/// Draws the loss over the plane that best contains the path of the weights. Its origin is the end of the
/// path. A path with two points is a line; the plane then also contains the direction `down` at its start.
fn plane(surface: &mut LossSurface, path: Vec<Waypoint>, down: &[f64], grid: usize) -> Option<Panel> {
    let end = path.last()?.1.clone();
    let offsets: Vec<Vec<f64>> = path.iter().map(|(_, weights)| difference(weights, &end)).collect();
    let first = principal(&offsets, &[])?;
    let second = principal(&offsets, &[&first]).or_else(|| principal(&[down.to_vec()], &[&first]));
    // On a path straight along `down`, any other direction will do; a fixed one makes the picture reproducible.
    let second =
        second.or_else(|| principal(&[(0..end.len()).map(|i| (i as f64).sin()).collect()], &[&first]))?;
    let at: Vec<[f64; 2]> =
        offsets.iter().map(|offset| [dot(offset, &first), dot(offset, &second)]).collect();
    let widest = range(&at, 0);
    let extent = widest[1] - widest[0];
    let room = |[low, high]: [f64; 2]| {
        // If the path barely leaves the first direction, the second one is widened so that the plane is still
        // drawn.
        let missing = (0.5 * extent - (high - low)).max(0.0) / 2.0;
        let room = (high - low) * ROOM + missing;
        [low - room, high + room]
    };
    let (x, y) = (room(widest), room(range(&at, 1)));
    let place =
        |range: [f64; 2], index: usize| range[0] + (range[1] - range[0]) * index as f64 / (grid - 1) as f64;
    let mut values = Vec::with_capacity(grid * grid);
    for row in 0..grid {
        for column in 0..grid {
            let weights = displaced(&end, &[(place(x, column), &first), (place(y, row), &second)]);
            values.push(surface.loss(&weights));
        }
    }
    let many = path.len() > 8;
    let label = |index: usize, label: &str| {
        let is_end = index == 0 || index + 1 == path.len();
        if is_end || !many { label.to_string() } else { String::new() }
    };
    let path = path.iter().zip(&at).enumerate();
    let path = path.map(|(index, ((text, _), at))| (at[0], at[1], label(index, text))).collect();
    Some(Panel::Field(Field {
        title: "plane through the path of the weights".into(),
        x: ("distance along the main direction".into(), x),
        y: ("distance across it".into(), y),
        columns: grid,
        values,
        path,
    }))
}

fn range(at: &[[f64; 2]], which: usize) -> [f64; 2] {
    let values = at.iter().map(|at| at[which]);
    [values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max)]
}

/// Returns the direction that contains most of `offsets`, of length 1 and orthogonal to `others`, by power
/// iteration; `None` if nothing remains of `offsets`.
fn principal(offsets: &[Vec<f64>], others: &[&[f64]]) -> Option<Vec<f64>> {
    let whole = offsets.iter().map(|offset| dot(offset, offset)).fold(0.0, f64::max).sqrt();
    let offsets: Vec<Vec<f64>> = offsets
        .iter()
        .map(|offset| {
            let mut rest = offset.clone();
            for other in others {
                let part = dot(&rest, other);
                rest.iter_mut().zip(*other).for_each(|(rest, other)| *rest -= part * other);
            }
            rest
        })
        .collect();
    let products: Vec<Vec<f64>> =
        offsets.iter().map(|a| offsets.iter().map(|b| dot(a, b)).collect()).collect();
    let mut shares: Vec<f64> = products.iter().enumerate().map(|(index, row)| row[index]).collect();
    for _ in 0..ROUNDS {
        let next: Vec<f64> = products.iter().map(|row| dot(row, &shares)).collect();
        let length = dot(&next, &next).sqrt();
        if length == 0.0 || !length.is_finite() {
            return None;
        }
        shares = next.into_iter().map(|share| share / length).collect();
    }
    let mut direction = vec![0.0; offsets.first()?.len()];
    for (share, offset) in shares.iter().zip(&offsets) {
        direction.iter_mut().zip(offset).for_each(|(sum, element)| *sum += share * element);
    }
    let length = dot(&direction, &direction).sqrt();
    // A remainder of the size of rounding errors has no meaningful direction.
    (length > 1e-5 * whole && length > 0.0).then(|| direction.into_iter().map(|it| it / length).collect())
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
}

fn displaced(from: &[f32], offsets: &[(f64, &[f64])]) -> Vec<f32> {
    let element = |(index, weight): (usize, &f32)| {
        offsets.iter().fold(f64::from(*weight), |sum, (length, offset)| sum + length * offset[index]) as f32
    };
    from.iter().enumerate().map(element).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plane_of_a_path_holds_its_longest_ways() {
        let offsets = [vec![3.0, 0.0, 4.0, 0.0], vec![0.0, 1.0, 0.0, 0.0], vec![0.0; 4]];
        let first = principal(&offsets, &[]).unwrap();
        let second = principal(&offsets, &[&first]).unwrap();
        assert!((dot(&first, &[0.6, 0.0, 0.8, 0.0]).abs() - 1.0).abs() < 1e-9, "{first:?}");
        assert!((second[1].abs() - 1.0).abs() < 1e-9 && dot(&first, &second).abs() < 1e-9, "{second:?}");
        assert_eq!(principal(&offsets[..1], &[&first]), None);
    }
}
