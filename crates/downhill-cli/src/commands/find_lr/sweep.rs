//! The range test: proposes a rate from the losses of a run whose rate grows by a constant factor (Smith
//! 2017).

use ps_plot::number;

/// Decay of the exponential moving average of the loss.
const KEPT: f64 = 0.9;
/// The loss has exploded when its moving average exceeds this multiple of the best one. A best loss below a
/// tenth of the first one counts as that tenth.
const EXPLODED: f64 = 4.0;
/// Number of steps until the moving average is meaningful.
const SETTLED: usize = 10;
/// Minimum relative decrease of the loss for it to count as having fallen.
const FALLEN: f64 = 0.05;
/// The slope of the curve is computed over this share of its points.
const WINDOW: f64 = 0.05;

/// The losses of a range test, in ascending order of the rate.
#[derive(Default)]
pub(super) struct Sweep {
    points: Vec<Point>,
    mean: f64,
    has_exploded: bool,
}

/// A step of the range test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Learning rate of the step.
    pub rate: f64,
    /// Mean loss of the step's batch, before the update.
    pub loss: f64,
    /// Exponential moving average of the loss.
    pub smooth: f64,
}

/// A proposed learning rate.
#[derive(Debug, PartialEq)]
pub(super) struct Proposal {
    /// The rate, rounded to two digits.
    pub rate: f64,
    /// Why this rate is proposed, as a sentence for the user.
    pub reason: String,
}

impl Sweep {
    /// Adds a step at `rate`. `loss` is the mean loss of its batch before the update, and not finite if the
    /// step could not be made. Returns whether further steps make sense.
    pub(super) fn push(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            self.has_exploded = true;
            return false;
        }
        self.mean = KEPT * self.mean + (1.0 - KEPT) * loss;
        // The average starts at 0; the division corrects that bias, as in Adam.
        let smooth = self.mean / (1.0 - KEPT.powi(self.points.len() as i32 + 1));
        self.points.push(Point { rate, loss, smooth });
        let best = self.points.iter().map(|point| point.smooth).fold(f64::INFINITY, f64::min);
        self.has_exploded = smooth > EXPLODED * best.max(0.1 * self.first());
        !self.has_exploded
    }

    /// Returns all steps, including those that [`Sweep::points`] omits.
    pub(super) fn steps(&self) -> &[Point] {
        &self.points
    }

    /// Returns the steps to draw. Steps after the minimum with losses so high that the minimum would look
    /// flat are omitted.
    pub(super) fn points(&self) -> &[Point] {
        let smooth = |point: &Point| point.smooth;
        let lowest = self.points.iter().map(smooth).enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let lowest = lowest.map_or(0, |(place, _)| place);
        let wall = self.points[..lowest].iter().map(smooth).fold(0.0, f64::max);
        let end = self.points[lowest..].iter().position(|point| wall > 0.0 && point.smooth > 1.5 * wall);
        &self.points[..end.map_or(self.points.len(), |end| lowest + end)]
    }

    /// Returns whether the loss has exploded in the last step.
    pub(super) fn has_exploded(&self) -> bool {
        self.has_exploded
    }

    /// Mean loss of the first steps, whose rates are too small to change it.
    fn first(&self) -> f64 {
        let first = &self.points[..self.points.len().min(SETTLED)];
        first.iter().map(|point| point.loss).sum::<f64>() / first.len().max(1) as f64
    }

    /// Proposes a learning rate.
    ///
    /// # Errors
    /// The curve does not suggest a rate; the error says why and what to do.
    pub(super) fn proposal(&self) -> Result<Proposal, String> {
        let Some(last) = self.points.last().filter(|_| self.points.len() > SETTLED) else {
            return Err(self.at_once());
        };
        let (first, settled) = (self.first(), &self.points[SETTLED..]);
        let lowest = settled.iter().copied().min_by(|a, b| a.smooth.total_cmp(&b.smooth)).unwrap_or(*last);
        let place = self.points.iter().position(|point| point.rate == lowest.rate).unwrap_or(0);
        if lowest.smooth > (1.0 - FALLEN) * first {
            let [first, lowest, rate] = [first, lowest.smooth, last.rate].map(number);
            return Err(if self.has_exploded && self.points.len() < 3 * SETTLED {
                self.at_once()
            } else if self.has_exploded {
                format!(
                    "the loss does not fall before it explodes at rate {rate}: it starts at {first} and \
                     reaches {lowest} at best; check the data (data.standardize) and the model, or set \
                     optimizer.clip_norm"
                )
            } else {
                format!(
                    "the loss does not fall at any rate up to {rate}: it starts at {first} and reaches \
                     {lowest} at best; raise --to if these rates are too small, otherwise check the data \
                     and the model"
                )
            });
        }
        if !self.has_exploded && place + SETTLED / 2 >= self.points.len() {
            return Err(format!(
                "the loss is still falling at the highest rate, {}; raise --to",
                number(last.rate)
            ));
        }
        let steepest = self.steepest(place);
        let reason = format!(
            "the geometric mean of {}, where the loss falls fastest, and {}, where it is lowest{}",
            number(rounded(steepest.rate)),
            number(rounded(lowest.rate)),
            if self.has_exploded {
                format!("; it explodes at {}", number(rounded(last.rate)))
            } else {
                String::new()
            }
        );
        Ok(Proposal { rate: rounded((steepest.rate * lowest.rate).sqrt()), reason })
    }

    fn at_once(&self) -> String {
        let (steps, rate) = (self.points.len(), self.points.last().map_or(0.0, |point| point.rate));
        format!(
            "the loss explodes within {steps} steps, at rate {}; lower --from, or check the data \
             (data.standardize)",
            number(rate)
        )
    }

    /// Returns the point before the minimum at which the moving average falls most steeply, by the logarithm
    /// of the rate.
    fn steepest(&self, lowest: usize) -> Point {
        let half = ((self.points.len() as f64 * WINDOW / 2.0) as usize).max(1);
        let slope = |at: usize| {
            let (low, high) = (at.saturating_sub(half), (at + half).min(self.points.len() - 1));
            (self.points[high].smooth - self.points[low].smooth) / (high - low) as f64
        };
        let at = (SETTLED / 2..=lowest).min_by(|a, b| slope(*a).total_cmp(&slope(*b)));
        self.points[at.unwrap_or(lowest)]
    }
}

/// Rounds a rate to two significant digits.
pub(super) fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a sweep over rates from 1e-5 to 10 in 200 steps, until it ends. `loss` maps the logarithm of the
    /// rate to a loss.
    fn swept(loss: impl Fn(f64) -> f64) -> Sweep {
        let mut sweep = Sweep::default();
        for step in 0..200 {
            let exponent = -5.0 + 6.0 * f64::from(step) / 199.0;
            if !sweep.push(10_f64.powf(exponent), loss(exponent)) {
                break;
            }
        }
        sweep
    }

    /// A loss that falls from 2.3 to 0.3 around a rate of 1e-2, and rises beyond a rate of 0.3.
    fn valley(exponent: f64) -> f64 {
        0.3 + 2.0 / (1.0 + (6.0 * (exponent + 2.0)).exp()) + (8.0 * (exponent + 0.2)).exp()
    }

    #[test]
    fn a_valley_proposes_a_rate_between_its_wall_and_its_bottom() {
        let sweep = swept(valley);
        assert!(sweep.has_exploded());
        let proposal = sweep.proposal().unwrap();
        assert!((0.012..0.12).contains(&proposal.rate), "{proposal:?}");
        assert!(proposal.reason.contains("it explodes"), "{proposal:?}");
    }

    #[test]
    fn a_curve_without_a_valley_yields_a_reason_instead_of_a_proposal() {
        let refused = |loss: &dyn Fn(f64) -> f64| swept(loss).proposal().unwrap_err();
        let at_once = refused(&|exponent| 2.3 * (20.0 * (exponent + 5.0)).exp());
        assert!(at_once.contains("explodes within") && at_once.contains("--from"), "{at_once}");
        let no_number = refused(&|exponent| if exponent > -4.9 { f64::NAN } else { 1.0 });
        assert!(no_number.contains("explodes within"), "{no_number}");
        let flat = refused(&|_| 2.3);
        assert!(flat.contains("does not fall"), "{flat}");
        let wall = refused(&|exponent| 2.3 + (3.0 * exponent).exp());
        assert!(wall.contains("does not fall"), "{wall}");
        let falling = refused(&|exponent| 5.0 - exponent);
        assert!(falling.contains("still falling") && falling.contains("--to"), "{falling}");
    }
}
