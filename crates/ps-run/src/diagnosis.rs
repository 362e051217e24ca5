//! What steps that were looked at closely say of the learning rate, in words.

use crate::lines::ProbeLine;
use crate::measures::short;
use serde::{Deserialize, Serialize};

/// Of the steps that were looked at closely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// How many there were.
    pub looked_at: usize,
    /// In how many of them the loss of the batch rose.
    pub rose: usize,
    /// The median of the actual decrease by the predicted one.
    pub median_ratio: f64,
    /// What that means.
    pub verdict: String,
}

/// A first-order prediction that holds this well says that a larger step would do, too.
const CAREFUL: f64 = 0.9;
/// Below this a smaller step would lower the loss by more: along a parabola the best step has a ratio of 1/2.
const EAGER: f64 = 0.25;
/// Of so many steps in a row most must have raised the loss for the rate to be called too large.
const RUN: usize = 3;

impl Diagnosis {
    /// Nothing without a step.
    pub fn of(probes: &[ProbeLine]) -> Option<Self> {
        // Where nothing was predicted, at a minimum or with the rate at 0, a ratio says nothing.
        let ratio = |probe: &ProbeLine| probe.actual_decrease / probe.predicted_decrease;
        let mut ratios: Vec<f64> = probes.iter().map(ratio).filter(|ratio| ratio.is_finite()).collect();
        ratios.sort_by(f64::total_cmp);
        let median = *ratios.get(ratios.len() / 2)?;
        let rose = |probe: &&ProbeLine| probe.actual_decrease < 0.0 || probe.actual_decrease.is_nan();
        let count = probes.iter().filter(rose).count();
        let verdict = match too_large_since(probes) {
            Some(probe) => format!(
                "rate too large since step {}: the loss of its batch rose by {} where {} less was predicted",
                probe.step,
                short(-probe.actual_decrease),
                short(probe.predicted_decrease)
            ),
            None if median >= CAREFUL => format!(
                "rate could be larger: the loss fell by {:.0} % of what the gradient predicts",
                100.0 * median
            ),
            None if median < EAGER => format!(
                "rate rather large: the loss fell by only {:.0} % of what the gradient predicts",
                100.0 * median
            ),
            None => {
                format!("rate fits: the loss fell by {:.0} % of what the gradient predicts", 100.0 * median)
            }
        };
        let mut verdict = format!("{verdict} (median of {} steps looked at)", ratios.len());
        // What is in the verdict already is not said again.
        let worst =
            probes.iter().filter(rose).max_by(|a, b| (-a.actual_decrease).total_cmp(&-b.actual_decrease));
        if let Some(worst) = worst.filter(|_| too_large_since(probes).is_none()) {
            verdict += &format!(
                "; it rose in {} of them, most at step {}, by {}",
                count,
                worst.step,
                short(-worst.actual_decrease)
            );
        }
        Some(Diagnosis { looked_at: probes.len(), rose: count, median_ratio: median, verdict })
    }
}

/// The first step from which on the loss mostly rose, to the end.
fn too_large_since(probes: &[ProbeLine]) -> Option<&ProbeLine> {
    let rises = |probe: &ProbeLine| probe.actual_decrease < 0.0 || probe.actual_decrease.is_nan();
    let mostly = |from: usize| {
        let rest = &probes[from..];
        2 * rest.iter().filter(|probe| rises(probe)).count() > rest.len()
    };
    let first = (0..probes.len()).find(|&from| rises(&probes[from]) && mostly(from))?;
    (probes.len() - first >= RUN).then(|| &probes[first])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(decreases: &[f64]) -> Vec<ProbeLine> {
        let probe = |(step, &actual): (usize, &f64)| ProbeLine {
            step: 10 * step as u64 + 1,
            learning_rate: 0.1,
            loss: 1.0,
            gradient_norm: 1.0,
            predicted_decrease: 0.02,
            actual_decrease: actual,
            update_ratios: vec![0.01],
        };
        decreases.iter().enumerate().map(probe).collect()
    }

    #[test]
    fn the_verdict_says_since_when_the_rate_is_too_large_or_how_well_the_prediction_holds() {
        let verdict = |decreases: &[f64]| Diagnosis::of(&probes(decreases)).unwrap().verdict;
        let rising = verdict(&[0.01, 0.012, -0.03, -0.01, 0.001, -0.05]);
        assert!(rising.starts_with(
            "rate too large since step 21: the loss of its batch rose by 0.0300 where 0.0200 less"
        ));
        assert!(verdict(&[0.01, 0.011, 0.009]).starts_with("rate fits: the loss fell by 50 %"));
        assert!(verdict(&[0.0198, 0.0199, 0.0197]).starts_with("rate could be larger"));
        let one = verdict(&[0.001, 0.002, -0.001, 0.001]);
        assert!(one.starts_with("rate rather large"), "{one}");
        assert!(one.ends_with("; it rose in 1 of them, most at step 21, by 0.0010"), "{one}");
        assert_eq!(Diagnosis::of(&[]), None);
    }
}
