//! Smoothing without lag.

/// Half the width of the window, as a share of the curve's extent.
const HALF_WIDTH: f64 = 0.03;

/// Smooths noisy `points`. Returns one value for each point, `None` where the point is `None`.
///
/// Each value comes from a straight line that is fitted to the points nearby, with larger weights for nearer
/// ones (Cleveland 1979). An exponential moving average would lag behind the data by its memory, which on a
/// logarithmic axis is a factor of 2 to 3 wherever a loss falls quickly. A fitted line does not lag, neither
/// inside the curve nor at its end, where a run adds points and half of the window is still empty.
///
/// Points are in drawing units, that is, logarithms on a logarithmic axis. There, an exponential decay is a
/// straight line, which is not changed, and a single spike has as much influence as it appears to have.
/// Points must be in ascending order of x. The window is a share of the curve's extent, so it covers the same
/// number of pixels for any number of points. It never reaches back further than halfway to the first point,
/// because a run makes most of its progress at the beginning.
pub(crate) fn smooth(points: &[Option<(f64, f64)>]) -> Vec<Option<(f64, f64)>> {
    let known: Vec<(f64, f64)> = points.iter().flatten().copied().collect();
    let [Some(first), Some(last)] = [known.first(), known.last()] else { return points.to_vec() };
    let widest = HALF_WIDTH * (last.0 - first.0);
    let mut begin = 0;
    let mut smooth_at = |at: usize| {
        let x = known[at].0;
        let half = widest.min((x - first.0) / 2.0);
        while begin < at && known[begin].0 < x - half {
            begin += 1;
        }
        let length = known[at..].iter().take_while(|point| point.0 <= x + half).count();
        (x, line_at(x, half, &known[begin..at + length]).unwrap_or(known[at].1))
    };
    let mut at = 0..known.len();
    points.iter().map(|point| point.and_then(|_| at.next()).map(&mut smooth_at)).collect()
}

/// Returns the value at `x` of the line that fits the points of a window best, clamped to the range of their
/// values; `None` if all points are at the window's edge, where their weight is 0.
fn line_at(x: f64, half: f64, window: &[(f64, f64)]) -> Option<f64> {
    let (mut weights, mut sum_x, mut sum_y, mut sum_xx, mut sum_xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (at, y) in window {
        let away = (at - x) / half;
        let weight = 1.0 - away.abs();
        if weight > 0.0 {
            weights += weight;
            sum_x += weight * away;
            sum_y += weight * y;
            sum_xx += weight * away * away;
            sum_xy += weight * away * y;
        }
    }
    if weights == 0.0 {
        return None;
    }
    let spread = weights * sum_xx - sum_x * sum_x;
    let value = if spread > 1e-9 * weights * weights {
        (sum_xx * sum_y - sum_x * sum_xy) / spread
    } else {
        sum_y / weights
    };
    let (low, high) = window
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    Some(value.clamp(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the points that are drawn for `values` at steps 1, 2, … on a logarithmic axis.
    fn logarithms(values: impl Iterator<Item = f64>) -> Vec<Option<(f64, f64)>> {
        values.zip(1..).map(|(value, step)| Some((f64::from(step), value.log10()))).collect()
    }

    /// Returns the largest factor by which the curves differ at any point.
    fn factor(smooth: &[Option<(f64, f64)>], truth: &[Option<(f64, f64)>]) -> f64 {
        let pairs = smooth.iter().flatten().zip(truth.iter().flatten());
        10_f64.powf(pairs.map(|(a, b)| (a.1 - b.1).abs()).fold(0.0, f64::max))
    }

    /// Reproducible noise from -0.5 to 0.5.
    fn noise(index: u32) -> f64 {
        let mixed = index.wrapping_mul(2_654_435_761);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d);
        f64::from((mixed ^ (mixed >> 13)) >> 8) / f64::from(1 << 24) - 0.5
    }

    #[test]
    fn an_exponential_decay_comes_out_unchanged() {
        for count in [200, 1000, 20_000] {
            let decay =
                logarithms((0..count).map(|step| 2.3 * (-20.0 * f64::from(step) / f64::from(count)).exp()));
            assert!(factor(&smooth(&decay), &decay) < 1.000_001, "{count}");
        }
    }

    #[test]
    fn an_initial_drop_of_the_loss_is_smoothed_within_a_factor() {
        // The shape of most runs: the loss falls mainly in the first percent of the steps.
        let of = |step: u32, noise: f64| (0.01 + 2.3 * (-f64::from(step) / 4.0).exp()) * (0.8 * noise).exp();
        let truth = logarithms((0..1000).map(|step| of(step, 0.0)));
        let noisy = logarithms((0..1000).map(|step| of(step, noise(step))));
        assert!(factor(&smooth(&truth), &truth) < 1.25, "{}", factor(&smooth(&truth), &truth));
        // The first points keep their noise; later, little of it remains, even at the end.
        let smooth = smooth(&noisy);
        assert!(factor(&smooth, &truth) < 1.5, "{}", factor(&smooth, &truth));
        assert!(factor(&noisy[100..], &truth[100..]) > 1.45);
        assert!(factor(&smooth[100..], &truth[100..]) < 1.25, "{}", factor(&smooth[100..], &truth[100..]));
    }

    #[test]
    fn gaps_stay_and_few_points_are_themselves() {
        let gap = [Some((1.0, 5.0)), None, Some((2.0, 3.0)), Some((3.0, 4.0))];
        assert_eq!(smooth(&gap), gap);
        assert_eq!(smooth(&[None, None]), [None, None]);
        assert_eq!(smooth(&[Some((7.0, 1.0)), Some((7.0, 2.0))]).len(), 2);
    }
}
