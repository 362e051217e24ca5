//! Scores: how good predictions are, beyond the loss.
//!
//! They are computed from all predictions at once, in the order of the samples and in `f64`, so the number of
//! threads changes no bit. The definitions, including those of empty cases, are those of scikit-learn.

use crate::model::Head;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Scores of predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scores {
    /// Scores of predicted classes and their probabilities.
    Classes(ClassificationScores),
    /// Scores of predicted values or rates.
    Values(RegressionScores),
}

/// Scores of predicted values, in the units of the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegressionScores {
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Coefficient of determination R²; `None` if all targets are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// Mean Poisson deviance, 2 (y ln(y / µ) - y + µ); only for counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poisson_deviance: Option<f64>,
}

/// Scores of predicted classes and their probabilities.
///
/// Averages over classes leave out classes that neither occur nor are predicted, as in scikit-learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassificationScores {
    /// Share of samples whose class was predicted.
    pub accuracy: f64,
    /// Mean recall of the classes that occur.
    pub balanced_accuracy: f64,
    /// Mean negative logarithm of the probability of the sample's class.
    pub log_loss: f64,
    /// Area under the receiver operating characteristic curve. With two classes, of the second one;
    /// otherwise the mean of every class against the rest. `None` if it is undefined for each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Average precision, the area under the precision-recall curve as a step function; of the same classes
    /// as `roc_auc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// Plain means of the scores of the classes.
    pub macro_average: ClassAverage,
    /// Means of the scores of the classes, weighted by their samples.
    pub weighted_average: ClassAverage,
    /// The scores of each class.
    pub classes: Vec<ClassScores>,
    /// The number of samples by actual class (outer) and predicted class (inner).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confusion: Vec<Vec<u64>>,
}

/// Means over classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassAverage {
    /// Mean of the precision of each class.
    pub precision: f64,
    /// Mean of the recall of each class.
    pub recall: f64,
    /// Mean of the F1 score of each class.
    pub f1: f64,
}

/// The scores of one class against the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Name of the class.
    pub name: String,
    /// Number of samples of the class.
    pub samples: u64,
    /// Number of samples that were predicted as the class.
    pub predicted: u64,
    /// Share of the samples predicted as the class that belong to it; 0 if there are none.
    pub precision: f64,
    /// Share of the samples of the class that were predicted as it; 0 if there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 if both are 0.
    pub f1: f64,
    /// Area under the receiver operating characteristic curve; `None` unless some samples belong to the
    /// class and some do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Average precision; `None` if no sample belongs to the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
}

impl Scores {
    /// Scores the `predictions` of a model with `head`, as [`crate::Gradients::predict`] returns them, for
    /// samples with these `targets`, `[samples]`. `loss` is the mean loss; see [`ClassificationScores::new`].
    pub fn new(
        head: Head,
        predictions: Vec<f32>,
        targets: &[f32],
        class_names: &[String],
        loss: f64,
    ) -> Self {
        match head {
            Head::SquaredError | Head::Poisson => {
                Scores::Values(RegressionScores::new(&predictions, targets, head == Head::Poisson))
            }
            Head::Logistic | Head::Softmax => {
                let probabilities = head.probabilities(predictions);
                Scores::Classes(ClassificationScores::new(&probabilities, targets, class_names, loss))
            }
        }
    }
}

impl RegressionScores {
    /// Scores `predictions` of `targets`, of which there must be as many. `are_counts` adds the deviance.
    pub fn new(predictions: &[f32], targets: &[f32], are_counts: bool) -> Self {
        let count = targets.len() as f64;
        let pairs = || predictions.iter().zip(targets).map(|(&p, &t)| (f64::from(p), f64::from(t)));
        let squared: f64 = pairs().map(|(predicted, target)| (predicted - target).powi(2)).sum();
        let absolute: f64 = pairs().map(|(predicted, target)| (predicted - target).abs()).sum();
        let mean = pairs().map(|(_, target)| target).sum::<f64>() / count;
        let total: f64 = pairs().map(|(_, target)| (target - mean).powi(2)).sum();
        let deviance = pairs().map(|(rate, target)| {
            let logarithm = if target == 0.0 { 0.0 } else { target * (target / rate).ln() };
            2.0 * (logarithm - target + rate)
        });
        RegressionScores {
            rmse: (squared / count).sqrt(),
            mae: absolute / count,
            r_squared: (total > 0.0).then(|| 1.0 - squared / total),
            poisson_deviance: are_counts.then(|| deviance.sum::<f64>() / count),
        }
    }
}

impl ClassificationScores {
    /// Scores `probabilities`, `[samples, classes]`, of the class numbers `targets`, `[samples]`. `log_loss`
    /// is the mean loss, which a model computes more exactly than its rounded probabilities allow.
    pub fn new(probabilities: &[f32], targets: &[f32], class_names: &[String], log_loss: f64) -> Self {
        let classes = class_names.len();
        let mut confusion = vec![vec![0_u64; classes]; classes];
        for (row, &target) in probabilities.chunks_exact(classes).zip(targets) {
            confusion[target as usize][most_probable(row)] += 1;
        }
        let scores: Vec<ClassScores> = (0..classes)
            .into_par_iter()
            .map(|class| {
                let samples: u64 = confusion[class].iter().sum();
                let predicted: u64 = confusion.iter().map(|row| row[class]).sum();
                let ranking = Ranking::new(probabilities, targets, classes, class);
                let counts = ClassCounts { samples, predicted, hits: confusion[class][class] };
                ClassScores {
                    name: class_names[class].clone(),
                    samples,
                    predicted,
                    precision: counts.precision(),
                    recall: counts.recall(),
                    f1: counts.f1(),
                    roc_auc: ranking.roc_auc(),
                    average_precision: ranking.average_precision(),
                }
            })
            .collect();
        let present: Vec<&ClassScores> = scores.iter().filter(|c| c.samples + c.predicted > 0).collect();
        let average = |weight: &dyn Fn(&ClassScores) -> f64| {
            let total: f64 = present.iter().map(|class| weight(class)).sum();
            let mean = |score: fn(&ClassScores) -> f64| {
                present.iter().map(|class| weight(class) * score(class)).sum::<f64>() / total
            };
            ClassAverage { precision: mean(|c| c.precision), recall: mean(|c| c.recall), f1: mean(|c| c.f1) }
        };
        let hits: u64 = (0..classes).map(|class| confusion[class][class]).sum();
        // With two classes, the second one is the event whose probability is ranked.
        let ranked = if classes == 2 { &scores[1..] } else { &scores[..] };
        ClassificationScores {
            accuracy: hits as f64 / targets.len() as f64,
            balanced_accuracy: mean(scores.iter().filter(|c| c.samples > 0).map(|c| c.recall))
                .unwrap_or(f64::NAN),
            log_loss,
            roc_auc: mean(ranked.iter().filter_map(|class| class.roc_auc)),
            average_precision: mean(ranked.iter().filter_map(|class| class.average_precision)),
            macro_average: average(&|_| 1.0),
            weighted_average: average(&|class| class.samples as f64),
            classes: scores,
            confusion,
        }
    }
}

impl ClassificationScores {
    /// F1 of the second class if there are two, and the plain mean over the classes otherwise.
    pub fn f1(&self) -> f64 {
        match &self.classes[..] {
            [_, second] => second.f1,
            _ => self.macro_average.f1,
        }
    }
}

/// Returns the index of the largest probability, the first one in a tie.
pub fn most_probable(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}

/// The counts of one class.
#[derive(Clone, Copy)]
pub(crate) struct ClassCounts {
    /// Samples of the class.
    pub samples: u64,
    /// Samples that were predicted as the class.
    pub predicted: u64,
    /// Samples of the class that were predicted as it.
    pub hits: u64,
}

impl ClassCounts {
    pub(crate) fn precision(self) -> f64 {
        ratio(self.hits, self.predicted)
    }

    pub(crate) fn recall(self) -> f64 {
        ratio(self.hits, self.samples)
    }

    pub(crate) fn f1(self) -> f64 {
        ratio(2 * self.hits, self.samples + self.predicted)
    }
}

/// Returns `part / whole`, or 0 if `whole` is 0.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// `None` if there are no values.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// The samples in descending order of the probability of a class, as groups of equal probability. Each group
/// is its number of samples that belong to the class, and that do not.
struct Ranking(Vec<[u64; 2]>);

impl Ranking {
    fn new(probabilities: &[f32], targets: &[f32], classes: usize, class: usize) -> Self {
        let row = |(row, &target): (&[f32], &f32)| (row[class], target as usize == class);
        let mut samples: Vec<(f32, bool)> =
            probabilities.chunks_exact(classes).zip(targets).map(row).collect();
        // Samples of equal probability become one group, so their order does not matter.
        samples.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let count = |group: &[(f32, bool)]| {
            let positive = group.iter().filter(|sample| sample.1).count() as u64;
            [positive, group.len() as u64 - positive]
        };
        Ranking(samples.chunk_by(|a, b| a.0 == b.0).map(count).collect())
    }

    fn totals(&self) -> [u64; 2] {
        self.0.iter().fold([0, 0], |sum, group| [sum[0] + group[0], sum[1] + group[1]])
    }

    /// The share of pairs of a sample of the class and another one that are ranked in this order; a tie
    /// counts as half. The pairs are counted in whole numbers.
    fn roc_auc(&self) -> Option<f64> {
        let [positive, negative] = self.totals();
        // Products of two counts may exceed 64 bits.
        let (mut above, mut halves) = (0_u128, 0_u128);
        for &[hits, misses] in &self.0 {
            halves += u128::from(misses) * (2 * above + u128::from(hits));
            above += u128::from(hits);
        }
        let pairs = u128::from(positive) * u128::from(negative);
        (pairs > 0).then(|| halves as f64 / (2 * pairs) as f64)
    }

    /// The mean precision over the samples of the class, each at the threshold that just includes it.
    fn average_precision(&self) -> Option<f64> {
        let positive = self.totals()[0];
        let (mut sum, mut hits, mut included) = (0.0, 0_u64, 0_u64);
        for group in &self.0 {
            hits += group[0];
            included += group[0] + group[1];
            sum += group[0] as f64 * (hits as f64 / included as f64);
        }
        (positive > 0).then(|| sum / positive as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| class.to_string()).collect()
    }

    /// The values are those of scikit-learn's `roc_auc_score` and `average_precision_score`.
    #[test]
    fn a_tie_counts_as_half_a_pair_and_as_one_threshold() {
        let second = [0.1, 0.4, 0.4, 0.8, 0.4];
        let probabilities: Vec<f32> = second.iter().flat_map(|&p| [1.0 - p, p]).collect();
        let scores = ClassificationScores::new(&probabilities, &[0.0, 0.0, 1.0, 1.0, 1.0], &names(2), 0.5);
        assert_eq!(scores.roc_auc, Some(5.0 / 6.0));
        assert_eq!(scores.average_precision, Some((1.0 + 2.0 * 0.75) / 3.0));
        assert_eq!(scores.confusion, [[2, 0], [2, 1]]);
        assert_eq!(
            (scores.classes[1].precision, scores.classes[1].recall, scores.classes[1].f1),
            (1.0, 1.0 / 3.0, 0.5)
        );
        assert_eq!(scores.log_loss, 0.5);
    }

    #[test]
    fn classes_that_neither_occur_nor_are_predicted_count_in_no_average() {
        let probabilities = [0.9, 0.1, 0.0, 0.2, 0.8, 0.0];
        let scores = ClassificationScores::new(&probabilities, &[0.0, 1.0], &names(3), 0.0);
        assert_eq!((scores.balanced_accuracy, scores.macro_average.f1, scores.accuracy), (1.0, 1.0, 1.0));
        assert_eq!((scores.classes[2].f1, scores.classes[2].roc_auc), (0.0, None));
        assert_eq!(scores.roc_auc, Some(1.0));
        // A predicted class without samples has a recall of 0, and counts.
        let scores = ClassificationScores::new(&[0.1, 0.0, 0.9, 0.2, 0.8, 0.0], &[0.0, 1.0], &names(3), 0.0);
        assert_eq!(scores.macro_average.precision, 1.0 / 3.0);
        assert_eq!(scores.balanced_accuracy, 0.5);
    }

    #[test]
    fn a_single_class_has_no_roc_auc() {
        let scores = ClassificationScores::new(&[0.3, 0.7, 0.6, 0.4], &[1.0, 1.0], &names(2), 0.0);
        assert_eq!((scores.roc_auc, scores.average_precision), (None, Some(1.0)));
    }

    #[test]
    fn regression_scores_have_the_units_of_the_target() {
        let scores = RegressionScores::new(&[1.0, 2.0, 4.0], &[1.0, 4.0, 4.0], false);
        assert_eq!((scores.rmse, scores.mae), ((4.0_f64 / 3.0).sqrt(), 2.0 / 3.0));
        assert_eq!((scores.r_squared, scores.poisson_deviance), (Some(1.0 - 4.0 / 6.0), None));
        assert_eq!(RegressionScores::new(&[1.0], &[2.0], false).r_squared, None);
    }

    #[test]
    fn the_deviance_of_a_count_of_0_is_twice_the_rate() {
        let scores = RegressionScores::new(&[0.5, 2.0], &[0.0, 2.0], true);
        assert_eq!(scores.poisson_deviance, Some(0.5));
    }
}
