//! Loss and metrics as sums, which are added in the same tree as gradients, in `f64`.

use serde::{Deserialize, Serialize};

/// Sums over samples from which loss, accuracy, errors per class and R² are computed.
///
/// The sums of different samples are combined with [`MetricSums::add`]. To reproduce a run's bits, they must
/// be added in the order of the step's tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricSums {
    /// Number of samples counted.
    pub samples: u64,
    /// Sum of the samples' losses.
    pub loss: f64,
    /// Samples whose class was predicted correctly (classification only).
    pub correct: u64,
    /// Per class, the number of samples of that class and how many of them were predicted as
    /// another (classification only).
    pub classes: Vec<[u64; 2]>,
    /// Per class, the number of samples predicted as that class (classification only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predicted: Vec<u64>,
    /// Sum of the targets (regression only).
    pub target: f64,
    /// Sum of the squared targets (regression only).
    pub target_squared: f64,
    /// Sum of the squared residuals (regression only).
    pub residual_squared: f64,
    /// Sum of the absolute residuals (regression only).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub residual_absolute: f64,
}

fn is_zero(sum: &f64) -> bool {
    *sum == 0.0
}

/// A sample's contribution to the metric sums, apart from its target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampleMetrics {
    /// Loss of the sample.
    pub loss: f32,
    /// The predicted class number, or for regression the prediction minus the target.
    pub detail: f32,
}

/// What was observed at the weights before a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Loss and metrics of the step's batch.
    pub train: MetricSums,
    /// Loss and metrics of the previous step's batch at the current weights, if that step was probed.
    pub last_batch: Option<MetricSums>,
    /// Loss and metrics of the validation set, if the previous step ended an epoch.
    pub validation: Option<MetricSums>,
}

impl MetricSums {
    /// Creates empty metric sums for `classes` classes (0 for regression).
    pub fn new(classes: usize) -> Self {
        MetricSums { classes: vec![[0; 2]; classes], predicted: vec![0; classes], ..MetricSums::default() }
    }

    /// Empties the sums and keeps the number of classes and the memory.
    pub fn clear(&mut self) {
        let mut classes = std::mem::take(&mut self.classes);
        let mut predicted = std::mem::take(&mut self.predicted);
        classes.fill([0; 2]);
        predicted.fill(0);
        *self = MetricSums { classes, predicted, ..MetricSums::default() };
    }

    /// Adds one sample.
    #[inline(always)]
    pub(crate) fn count(&mut self, target: f32, outcome: SampleMetrics) {
        self.samples += 1;
        self.loss += f64::from(outcome.loss);
        if self.classes.is_empty() {
            let (target, residual) = (f64::from(target), f64::from(outcome.detail));
            self.target += target;
            self.target_squared += target * target;
            self.residual_squared += residual * residual;
            self.residual_absolute += residual.abs();
        } else {
            let wrong = target != outcome.detail;
            self.correct += u64::from(!wrong);
            self.classes[target as usize][0] += 1;
            self.classes[target as usize][1] += u64::from(wrong);
            self.predicted[outcome.detail as usize] += 1;
        }
    }

    /// Adds `right`, the next node of the tree. Both must belong to the same model.
    pub fn add(&mut self, right: &MetricSums) {
        self.samples += right.samples;
        self.loss += right.loss;
        self.correct += right.correct;
        for (left, right) in self.classes.iter_mut().zip(&right.classes) {
            left[0] += right[0];
            left[1] += right[1];
        }
        // Sums of a checkpoint that an earlier version saved have no predictions.
        self.predicted.resize(self.predicted.len().max(right.predicted.len()), 0);
        self.predicted.iter_mut().zip(&right.predicted).for_each(|(left, right)| *left += right);
        self.target += right.target;
        self.target_squared += right.target_squared;
        self.residual_squared += right.residual_squared;
        self.residual_absolute += right.residual_absolute;
    }

    /// The sums that are not counts.
    pub fn floats(&self) -> [f64; 5] {
        [self.loss, self.target, self.target_squared, self.residual_squared, self.residual_absolute]
    }

    /// Mean loss per sample; NaN if there are no samples.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.samples as f64
    }

    /// Fraction of samples whose class was predicted correctly; `None` for regression and without samples.
    pub fn accuracy(&self) -> Option<f64> {
        (!self.classes.is_empty() && self.samples > 0).then(|| self.correct as f64 / self.samples as f64)
    }

    /// Per class, the fraction of its samples that were predicted as another class; `None` for a
    /// class without samples.
    pub fn class_errors(&self) -> Vec<Option<f64>> {
        self.classes.iter().map(|&[all, wrong]| (all > 0).then(|| wrong as f64 / all as f64)).collect()
    }

    /// The coefficient of determination R² = 1 - residual / total sum of squares, for regression.
    pub fn r_squared(&self) -> Option<f64> {
        let total = self.target_squared - self.target * self.target / self.samples as f64;
        (self.classes.is_empty() && total > 0.0).then(|| 1.0 - self.residual_squared / total)
    }
}
