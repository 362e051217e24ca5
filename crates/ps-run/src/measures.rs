//! Metrics as result files and people need them.

use ps_core::{MetricSums, Scores};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Means over a number of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Number of samples.
    pub samples: u64,
    /// Mean loss of a sample: the negative log-likelihood.
    pub loss: f64,
    /// Share of samples that were classified correctly; only in classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Error rate by class name: the share of the class's samples that were predicted as another. Only in
    /// classification, and only for classes that occur.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub class_errors: BTreeMap<String, f64>,
    /// Coefficient of determination R²; only in regression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// Further scores; only of final weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Box<Scores>>,
}

/// Maximum number of classes of which a summary contains the confusion matrix.
const MAX_CONFUSION: usize = 100;

impl Measures {
    /// Computes the means from sums.
    pub fn new(metric_sums: &MetricSums, class_names: &[String]) -> Self {
        let errors = class_names.iter().cloned().zip(metric_sums.class_errors());
        Measures {
            samples: metric_sums.samples,
            loss: metric_sums.mean_loss(),
            accuracy: metric_sums.accuracy(),
            class_errors: errors.filter_map(|(name, error)| Some((name, error?))).collect(),
            r_squared: metric_sums.r_squared(),
            scores: None,
        }
    }

    /// Adds further scores, without the confusion matrix if there are many classes.
    pub(crate) fn with_scores(self, mut scores: Scores) -> Self {
        if let Scores::Classes(scores) = &mut scores
            && scores.confusion.len() > MAX_CONFUSION
        {
            scores.confusion.clear();
        }
        Measures { scores: Some(Box::new(scores)), ..self }
    }

    /// Formats the metrics on one line: `loss 0.0812  accuracy 97.55 %  F1 0.9751  ROC-AUC 0.9995`.
    pub fn line(&self) -> String {
        let mut line = format!("loss {}", short(self.loss));
        if let Some(accuracy) = self.accuracy {
            line += &format!("  accuracy {}", percent(accuracy));
        }
        if let Some(r_squared) = self.r_squared {
            line += &format!("  R² {r_squared:.4}");
        }
        match self.scores.as_deref() {
            None => {}
            Some(Scores::Classes(scores)) => {
                line += &format!("  F1 {:.4}", scores.f1());
                if let Some(area) = scores.roc_auc {
                    line += &format!("  ROC-AUC {area:.4}");
                }
            }
            Some(Scores::Values(scores)) => {
                line += &format!("  RMSE {}  MAE {}", short(scores.rmse), short(scores.mae));
                if let Some(deviance) = scores.poisson_deviance {
                    line += &format!("  deviance {}", short(deviance));
                }
            }
        }
        line
    }
}

/// Formats a loss or rate with few characters.
pub fn short(value: f64) -> String {
    if value == 0.0 || (0.001..100_000.0).contains(&value.abs()) {
        format!("{value:.4}")
    } else {
        format!("{value:.3e}")
    }
}

/// Formats a share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Formats a whole number with its thousands separated.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a count with its noun: `1 worker`, `2 workers`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(count as f64), if count == 1 { "" } else { "s" })
}

/// Formats a time in seconds with as many digits as are useful.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{}m {:02}s", s as u64 / 60, s as u64 % 60),
        s => format!("{}h {:02}m", s as u64 / 3600, s as u64 / 60 % 60),
    }
}
