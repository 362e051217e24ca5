//! Checkpoints of a tiny model, whose content follows from the step.

use ps_checkpoint::{Error, Fingerprint, Progress, Snapshot, Store, StoreOptions};
use ps_core::{Layout, MetricSums};
use std::path::Path;

pub(crate) fn open(folder: &Path) -> Result<Store, Error> {
    let mut layout = Layout::default();
    layout.push("layers.0.weight".into(), vec![2, 3]);
    layout.push("layers.0.bias".into(), vec![2]);
    let fingerprint = Fingerprint { run: "r".into(), data: "d".into(), numerics: 1 };
    Store::open(folder, StoreOptions::new(fingerprint, layout, vec!["velocity"], 2))
}

pub(crate) fn snapshot(step: u64) -> Snapshot {
    let metric_sums = MetricSums { samples: step, loss: 0.1 + step as f64, ..MetricSums::new(3) };
    let progress =
        Progress { step, epoch: 1, seconds: 1.5, samples: 10 * step, metric_sums, ..Progress::default() };
    let values = |from: f32| (0..8).map(|index| from + step as f32 + index as f32 / 7.0).collect();
    Snapshot { progress, weights: values(0.1), state: values(-0.3) }
}

/// Returns the step of the newest checkpoint, after checking that every bit is as it was saved. It is an
/// error if there is none, or only a damaged one.
pub(crate) fn newest(folder: &Path) -> Result<u64, String> {
    let found = open(folder).and_then(|store| store.newest(false)).map_err(|error| error.to_string())?;
    if !found.problems.is_empty() {
        return Err(found.problems.join("; "));
    }
    let found = found.snapshot.ok_or("there is none")?;
    let step = found.progress.step;
    if found == snapshot(step) { Ok(step) } else { Err(format!("what is loaded is not step {step}")) }
}
