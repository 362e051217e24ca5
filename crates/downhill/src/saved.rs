//! A finished run, found again.

use crate::failure::Failure;
use ps_config::RunConfig;
use ps_run::{DataProgress, Job, SavedWeights, Style, WEIGHTS_FILE, WeightsFile};
use std::path::Path;

/// Weights with the job that they came from.
pub struct SavedRun {
    /// Model and data.
    pub job: Job,
    /// The weights and what they say of themselves.
    pub saved: SavedWeights,
}

impl SavedRun {
    /// Opens a run's folder or its file of weights. `sets` override keys of the run file, `data_root` says
    /// where the data lies now, if not where it lay then.
    pub fn open(
        path: &Path,
        sets: &[String],
        data_root: Option<&Path>,
        style: Style,
    ) -> Result<Self, Failure> {
        let file = if path.is_dir() { path.join(WEIGHTS_FILE) } else { path.to_path_buf() };
        let file: WeightsFile = SavedWeights::open(&file)?;
        let run = RunConfig::parse(&file.about.run, &format!("{}, its run file", path.display()), sets)?;
        let root = data_root.unwrap_or(&file.about.data_root);
        let job = Job::load(run, root, None, &DataProgress::new(style))?;
        let saved = file.weights(&job.model)?;
        if saved.about.class_names != job.data.class_names {
            return Err(Failure::Failed(format!(
                "{}: the weights tell apart the classes {:?}, the training data now holds {:?}; \
                 use the data that the run was trained on",
                path.display(),
                saved.about.class_names,
                job.data.class_names
            )));
        }
        Ok(SavedRun { job, saved })
    }

    /// Whether the training data has changed since, which changes preprocessing and validation part.
    pub fn data_changed(&self) -> bool {
        self.job.fingerprint.data != self.saved.about.fingerprint.data
    }
}
