//! The metric that early stopping and the schedule `plateau` follow.

use crate::metrics::MetricSums;
use crate::scores::{ClassCounts, mean};
use serde::{Deserialize, Serialize};

/// A metric of the validation part. All of them follow from sums over samples, so that a step that is computed
/// on many machines can decide on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Monitor {
    /// Mean loss over the samples; smaller is better.
    #[default]
    Loss,
    /// Share of samples whose class was predicted.
    Accuracy,
    /// Mean recall of the classes that occur.
    BalancedAccuracy,
    /// Precision of the second of two classes, or the plain mean over the classes.
    Precision,
    /// Recall of the second of two classes, or the plain mean over the classes.
    Recall,
    /// F1 of the second of two classes, or the plain mean over the classes.
    F1,
    /// Root of the mean squared error.
    Rmse,
    /// Mean absolute error.
    Mae,
    /// Coefficient of determination R².
    RSquared,
}

impl Monitor {
    /// The metric in words.
    pub fn name(self) -> &'static str {
        match self {
            Monitor::Loss => "loss",
            Monitor::Accuracy => "accuracy",
            Monitor::BalancedAccuracy => "balanced accuracy",
            Monitor::Precision => "precision",
            Monitor::Recall => "recall",
            Monitor::F1 => "F1",
            Monitor::Rmse => "RMSE",
            Monitor::Mae => "MAE",
            Monitor::RSquared => "R²",
        }
    }

    /// Whether larger values are better.
    pub fn is_maximized(self) -> bool {
        !matches!(self, Monitor::Loss | Monitor::Rmse | Monitor::Mae)
    }

    /// Whether the metric exists for a model that predicts classes, or one that predicts values.
    pub fn suits(self, has_classes: bool) -> bool {
        match self {
            Monitor::Loss => true,
            Monitor::Rmse | Monitor::Mae | Monitor::RSquared => !has_classes,
            _ => has_classes,
        }
    }

    /// The metric's value; NaN where it is undefined.
    pub fn value(self, sums: &MetricSums) -> f64 {
        let samples = sums.samples as f64;
        match self {
            Monitor::Loss => sums.mean_loss(),
            Monitor::Accuracy => sums.accuracy().unwrap_or(f64::NAN),
            Monitor::BalancedAccuracy => {
                mean(sums.class_counts().filter(|c| c.samples > 0).map(ClassCounts::recall))
                    .unwrap_or(f64::NAN)
            }
            Monitor::Precision => sums.class_score(ClassCounts::precision),
            Monitor::Recall => sums.class_score(ClassCounts::recall),
            Monitor::F1 => sums.class_score(ClassCounts::f1),
            Monitor::Rmse => (sums.residual_squared / samples).sqrt(),
            Monitor::Mae => sums.residual_absolute / samples,
            Monitor::RSquared => sums.r_squared().unwrap_or(f64::NAN),
        }
    }

    /// The value that falls as the metric improves: its negative, if larger values are better. Applied to such
    /// a number, it returns the metric.
    pub(super) fn minimized(self, value: f64) -> f64 {
        if self.is_maximized() { -value } else { value }
    }
}

impl MetricSums {
    fn class_counts(&self) -> impl Iterator<Item = ClassCounts> {
        let counts = |(&[samples, wrong], &predicted): (&[u64; 2], &u64)| ClassCounts {
            samples,
            predicted,
            hits: samples - wrong,
        };
        self.classes.iter().zip(&self.predicted).map(counts)
    }

    /// The score of the second class if there are two, and otherwise the mean over the classes that occur or are
    /// predicted.
    fn class_score(&self, score: fn(ClassCounts) -> f64) -> f64 {
        let skipped = usize::from(self.classes.len() == 2);
        let counts = self.class_counts().skip(skipped);
        mean(counts.filter(|c| skipped == 1 || c.samples + c.predicted > 0).map(score)).unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::SampleMetrics;
    use crate::scores::{ClassificationScores, RegressionScores};

    fn sums(classes: usize, samples: impl Iterator<Item = (f32, f32)>) -> MetricSums {
        let mut sums = MetricSums::new(classes);
        samples.for_each(|(target, detail)| sums.count(target, SampleMetrics { loss: 0.5, detail }));
        sums
    }

    #[test]
    fn metrics_from_sums_are_the_scores() {
        for classes in [2_usize, 4] {
            let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
            let targets: Vec<f32> = (0..50).map(|n| (n * 7 % 5 % classes) as f32).collect();
            let predicted: Vec<usize> = (0..50).map(|n| n * 3 % 7 % classes.min(3)).collect();
            let one_hot = |&class: &usize| (0..classes).map(move |c| f32::from(u8::from(c == class)));
            let probabilities: Vec<f32> = predicted.iter().flat_map(one_hot).collect();
            let scores = ClassificationScores::new(&probabilities, &targets, &names, 0.5);
            let sums = sums(classes, targets.iter().zip(&predicted).map(|(&t, &p)| (t, p as f32)));
            let average = &scores.macro_average;
            let second = &scores.classes[1];
            let by_class = match classes {
                2 => [second.precision, second.recall, second.f1],
                _ => [average.precision, average.recall, average.f1],
            };
            let monitors = [Monitor::Precision, Monitor::Recall, Monitor::F1];
            assert_eq!(monitors.map(|monitor| monitor.value(&sums)), by_class);
            assert_eq!(Monitor::BalancedAccuracy.value(&sums), scores.balanced_accuracy);
            assert_eq!(Monitor::Accuracy.value(&sums), scores.accuracy);
        }
        let targets = [1.0, 2.0, 4.0, 0.5];
        let predicted = [1.5, 1.0, 4.0, 2.0];
        let scores = RegressionScores::new(&predicted, &targets, false);
        let sums = sums(0, targets.iter().zip(predicted).map(|(&t, p)| (t, p - t)));
        let monitors = [Monitor::Rmse, Monitor::Mae, Monitor::RSquared].map(|monitor| monitor.value(&sums));
        assert_eq!(monitors.map(Some), [Some(scores.rmse), Some(scores.mae), scores.r_squared]);
    }

    #[test]
    fn metrics_without_samples_are_nan_and_never_an_improvement() {
        for monitor in [Monitor::Loss, Monitor::Accuracy, Monitor::BalancedAccuracy, Monitor::Precision] {
            assert!(monitor.value(&MetricSums::new(3)).is_nan(), "{monitor:?}");
        }
        assert!(Monitor::RSquared.value(&MetricSums::new(0)).is_nan());
    }
}
