//! Judges the learning rate by the steps that were probed.

use crate::lines::ProbeLine;
use crate::measures::short;
use serde::{Deserialize, Serialize};

/// A judgement of the learning rate, from the steps that were probed (`train.probe_every`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Number of probed steps.
    #[serde(rename = "looked_at")]
    pub probed: usize,
    /// Number of probed steps in which the loss of the batch rose.
    pub rose: usize,
    /// The median of the ratio of actual to predicted decrease.
    pub median_ratio: f64,
    /// The conclusion, as a sentence for the user.
    pub verdict: String,
}

/// If the first-order prediction holds this well, a larger step would also lower the loss.
const CONSERVATIVE_RATIO: f64 = 0.9;
/// Below this ratio, a smaller step is better: along a parabola, the best step has a ratio of 1/2.
const OVERSHOOT_RATIO: f64 = 0.25;
/// Minimum number of last probes, of which most raised the loss, for the rate to be called too large.
const RUN: usize = 3;

impl Diagnosis {
    /// Judges `probes`; `None` if no step has a ratio.
    pub fn of(probes: &[ProbeLine]) -> Option<Self> {
        // At a minimum or with a rate of 0, the predicted decrease is 0 and the ratio is meaningless.
        let ratio = |probe: &ProbeLine| probe.actual_decrease / probe.predicted_decrease;
        let mut ratios: Vec<f64> = probes.iter().map(ratio).filter(|ratio| ratio.is_finite()).collect();
        ratios.sort_by(f64::total_cmp);
        let median = *ratios.get(ratios.len() / 2)?;
        let rose = |probe: &&ProbeLine| probe.actual_decrease < 0.0 || probe.actual_decrease.is_nan();
        let count = probes.iter().filter(rose).count();
        let verdict = match too_large_since(probes) {
            Some(probe) => format!(
                "rate too large since step {}: the loss of its batch rose by {}, although it was predicted \
                 to fall by {}",
                probe.step,
                short(-probe.actual_decrease),
                short(probe.predicted_decrease)
            ),
            None if median >= CONSERVATIVE_RATIO => format!(
                "rate could be larger: the loss fell by {:.0} % of what the gradient predicts",
                100.0 * median
            ),
            None if median < OVERSHOOT_RATIO => format!(
                "rate somewhat large: the loss fell by only {:.0} % of what the gradient predicts",
                100.0 * median
            ),
            None => {
                format!("rate fits: the loss fell by {:.0} % of what the gradient predicts", 100.0 * median)
            }
        };
        let mut verdict = format!("{verdict} (median of {} probed steps)", ratios.len());
        // The verdict of a rate that is too large already names the rise.
        let worst =
            probes.iter().filter(rose).max_by(|a, b| (-a.actual_decrease).total_cmp(&-b.actual_decrease));
        if let Some(worst) = worst.filter(|_| too_large_since(probes).is_none()) {
            verdict += &format!(
                "; it rose in {} of them, the most at step {}, by {}",
                count,
                worst.step,
                short(-worst.actual_decrease)
            );
        }
        Some(Diagnosis { probed: probes.len(), rose: count, median_ratio: median, verdict })
    }
}

/// Returns the first step from which the loss rose in most probes until the end.
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
    fn the_diagnosis_names_the_step_or_the_quality_of_the_prediction() {
        let verdict = |decreases: &[f64]| Diagnosis::of(&probes(decreases)).unwrap().verdict;
        let rising = verdict(&[0.01, 0.012, -0.03, -0.01, 0.001, -0.05]);
        assert!(rising.starts_with(
            "rate too large since step 21: the loss of its batch rose by 0.0300, although it was predicted to fall by 0.0200"
        ));
        assert!(verdict(&[0.01, 0.011, 0.009]).starts_with("rate fits: the loss fell by 50 %"));
        assert!(verdict(&[0.0198, 0.0199, 0.0197]).starts_with("rate could be larger"));
        let one = verdict(&[0.001, 0.002, -0.001, 0.001]);
        assert!(one.starts_with("rate somewhat large"), "{one}");
        assert!(one.ends_with("; it rose in 1 of them, the most at step 21, by 0.0010"), "{one}");
        assert_eq!(Diagnosis::of(&[]), None);
    }
}
