//! Clips lines to the area of a plot.

use std::ops::RangeInclusive;

/// Returns the pieces of the polyline `points` that lie within the ranges `x` and `y`. If the line crosses an
/// edge, the piece ends at the crossing.
pub(crate) fn clip(
    points: &[(f64, f64)],
    x: &RangeInclusive<f64>,
    y: &RangeInclusive<f64>,
) -> Vec<Vec<(f64, f64)>> {
    if let [point] = points {
        let is_inside = x.contains(&point.0) && y.contains(&point.1);
        return if is_inside { vec![vec![*point]] } else { Vec::new() };
    }
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut goes_on = false;
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let Some((begin, end)) = visible(from, to, x, y) else {
            goes_on = false;
            continue;
        };
        // Endpoints of a complete segment are kept bit by bit.
        let at = |share: f64| match share {
            0.0 => from,
            1.0 => to,
            _ => (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1)),
        };
        match pieces.last_mut() {
            Some(piece) if goes_on && begin == 0.0 => piece.push(at(end)),
            _ => pieces.push(vec![at(begin), at(end)]),
        }
        goes_on = end == 1.0;
    }
    pieces
}

/// Returns the shares of a segment between which it is visible (Liang and Barsky 1984); `None` if it is not.
fn visible(
    from: (f64, f64),
    to: (f64, f64),
    x: &RangeInclusive<f64>,
    y: &RangeInclusive<f64>,
) -> Option<(f64, f64)> {
    let (mut begin, mut end) = (0.0_f64, 1.0_f64);
    for (from, to, range) in [(from.0, to.0, x), (from.1, to.1, y)] {
        if from == to {
            if !range.contains(&from) {
                return None;
            }
            continue;
        }
        let [first, second] = [*range.start(), *range.end()].map(|edge| (edge - from) / (to - from));
        begin = begin.max(first.min(second));
        end = end.min(first.max(second));
    }
    (begin <= end).then_some((begin, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clipped(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
        clip(points, &(0.0..=10.0), &(0.0..=10.0))
    }

    #[test]
    fn a_line_is_clipped_at_the_edges_of_the_plot() {
        let points = [(0.0, 5.0), (2.0, 5.0), (4.0, 15.0), (6.0, 15.0), (8.0, 5.0), (9.0, 5.0)];
        let pieces = [vec![(0.0, 5.0), (2.0, 5.0), (3.0, 10.0)], vec![(7.0, 10.0), (8.0, 5.0), (9.0, 5.0)]];
        assert_eq!(clipped(&points), pieces);
    }

    #[test]
    fn a_segment_with_both_ends_outside_may_cross_the_plot() {
        assert_eq!(clipped(&[(5.0, -10.0), (5.0, 30.0)]), [vec![(5.0, 0.0), (5.0, 10.0)]]);
        assert_eq!(clipped(&[(-1.0, 8.0), (3.0, 12.0)]), [vec![(0.0, 9.0), (1.0, 10.0)]]);
        assert!(clipped(&[(-1.0, 9.5), (3.0, 13.5)]).is_empty());
        assert!(clipped(&[(11.0, 5.0), (12.0, 5.0)]).is_empty());
    }

    #[test]
    fn points_inside_the_plot_are_unchanged() {
        let points = [(0.1, 0.2), (3.3, 9.9), (7.7, 0.1), (10.0, 10.0)];
        assert_eq!(clipped(&points), [points.to_vec()]);
        assert_eq!(clipped(&[(1.0, 1.0)]), [[(1.0, 1.0)]]);
        assert!(clipped(&[(1.0, 11.0)]).is_empty() && clipped(&[]).is_empty());
    }
}
