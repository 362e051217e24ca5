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
    ///
    /// # Errors
    /// A file cannot be read or does not fit, or the training data has changed, so that predictions would be different.
    pub fn open(
        path: &Path,
        sets: &[String],
        data_root: Option<&Path>,
        style: Style,
    ) -> Result<Self, Failure> {
        let file = if path.is_dir() { path.join(WEIGHTS_FILE) } else { path.to_path_buf() };
        let file: WeightsFile = SavedWeights::open(&file)?;
        let run = RunConfig::parse(&file.about.run, &format!("{}, its run file", path.display()), sets)?;
        if run.data.reads_stdin() {
            return Err(Failure::Failed(format!(
                "{}: the run was trained on standard input, which cannot be read again, and how samples are encoded \
                 depends on the training data; train from a file",
                path.display()
            )));
        }
        let root = data_root.unwrap_or(&file.about.data_root);
        let job = Job::load(run, root, None, &DataProgress::new(style))?;
        if !file.about.fits(&job) {
            return Err(Failure::Failed(format!(
                "{}: the training data, `{}` in {}, is not what the run was trained on, and its columns, classes and \
                 preprocessing come from there; put it back, or name the folder of a copy with --data-root",
                path.display(),
                job.run.data.train,
                root.display()
            )));
        }
        let saved = file.weights(&job.model)?;
        Ok(SavedRun { job, saved })
    }

    /// Whether the validation or test data has changed since.
    pub fn data_changed(&self) -> bool {
        self.job.fingerprint.data != self.saved.about.fingerprint.data
    }
}
