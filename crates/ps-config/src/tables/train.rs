//! The `[train]` table: batches, and the length of the run.

use crate::document::{Document, Value as Toml};
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, Setting, named, quoted};
use crate::time::Time;
use ps_core::control::Monitor;

named!(Monitor {
    "loss" = Monitor::Loss,
    "accuracy" = Monitor::Accuracy,
    "balanced-accuracy" = Monitor::BalancedAccuracy,
    "precision" = Monitor::Precision,
    "recall" = Monitor::Recall,
    "f1" = Monitor::F1,
    "rmse" = Monitor::Rmse,
    "mae" = Monitor::Mae,
    "r-squared" = Monitor::RSquared,
});

/// The `[train]` table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainConfig {
    /// Number of passes over the training samples.
    pub epochs: u32,
    /// Number of samples of a step.
    pub batch: Batch,
    /// Number of samples of a leaf, the unit of work that is summed in one go.
    pub leaf: usize,
    /// Maximum number of steps, if that ends the run before its epochs do.
    pub steps: Option<u64>,
    /// Number of consecutive validations without improvement after which the run ends.
    pub early_stopping: Option<u64>,
    /// The metric that early stopping and `plateau` follow; `None` is the loss.
    pub monitor: Option<Monitor>,
    /// How far below the best a validation loss must be to count as an improvement.
    pub min_delta: Option<f64>,
    /// Time between two steps whose actual decrease of the loss is measured.
    pub probe_every: Option<Time>,
}

/// The number of samples of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// All samples of the training part.
    Full,
    /// A fixed number of samples.
    Of(usize),
}

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<TrainConfig>] = &[
    field!(epochs, "train.epochs", Integer(1, u32::MAX as u64), Value("5"), Always,
        "Number of passes over the training samples."),
    field!(batch, "train.batch", Accepts::Batch(MAX_SAMPLES), Value("128"), Always,
        "Number of samples per step; \"full\" is the whole training part."),
    field!(leaf, "train.leaf", Integer(1, MAX_SAMPLES), Described("32, or train.batch if that is smaller"), Always,
        "Number of samples per leaf, the unit in which work is distributed. It determines the order of \
         summation, so the result depends on it."),
    field!(steps, "train.steps", Integer(1, MAX_INTEGER), Described("none"), Always,
        "Stop after this many steps, even in the middle of an epoch. The learning-rate schedule covers \
         these steps only."),
    field!(early_stopping, "train.early_stopping", Integer(1, MAX_INTEGER), Described("none"), Always,
        "End the run after this many consecutive validations without improvement, and keep the best \
         weights; needs data.validation."),
    field!(monitor, "train.monitor", Name(Monitor::NAMES), Described("\"loss\""), Always,
        "Metric of the validation part that early_stopping and the schedule `plateau` follow. Larger values of \
         accuracies, precision, recall, F1 and R² count as better. Of two classes, precision, recall and F1 are those \
         of the second one; otherwise plain means over the classes."),
    field!(min_delta, "train.min_delta", NOT_NEGATIVE, Described("0"), Always,
        "Minimum improvement of the best validation loss, or of the monitored metric, that counts for early_stopping."),
    field!(probe_every, "train.probe_every", Accepts::Time(1), Described("none"), Always,
        "Time between two probes. A probe compares the decrease of the batch's loss, predicted to first \
         order, with the actual decrease, and costs a forward pass."),
];

/// Default number of samples of a leaf, or the whole batch if that is smaller.
const LEAF: usize = 32;

pub(crate) fn read(document: &Document) -> Result<TrainConfig, ConfigError> {
    let mut train = TrainConfig {
        epochs: 1,
        batch: Batch::Full,
        leaf: LEAF,
        steps: None,
        early_stopping: None,
        monitor: None,
        min_delta: None,
        probe_every: None,
    };
    document.read(FIELDS, &mut train)?;
    let Batch::Of(batch) = train.batch else { return Ok(train) };
    if !document.has("train.leaf") {
        train.leaf = LEAF.min(batch);
    } else if train.leaf > batch {
        let expected =
            format!("a leaf cannot be larger than a batch; expected at most train.batch = {batch}");
        return Err(document.bad_value("train.leaf", expected));
    }
    Ok(train)
}

impl Setting for Batch {
    fn read(accepts: Accepts, value: &Toml) -> Option<Self> {
        match (accepts, value) {
            (Accepts::Batch(_), Toml::Text(text)) => (text == "full").then_some(Batch::Full),
            (Accepts::Batch(most), value) => usize::read(Integer(1, most), value).map(Batch::Of),
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        match self {
            Batch::Full => Some(quoted("full")),
            Batch::Of(batch) => batch.write(),
        }
    }
}
