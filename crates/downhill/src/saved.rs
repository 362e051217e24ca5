//! A finished run, opened again with its data.

use crate::error::{Error, ErrorKind};
use crate::model::Model;
use ps_config::RunConfig;
use ps_core::Kernel;
use ps_run::{Job, JobError, RUN_FILE, model_path};
use std::path::{Path, PathBuf};

/// A trained model with the job that it came from.
pub struct SavedRun {
    /// The run file, and the data that was read again.
    pub job: Job,
    /// The trained model.
    pub model: Model,
}

impl SavedRun {
    /// Opens a run, given its results folder or the model file in it, and reads the data of its run file
    /// again. `sets` override keys of the run file, `data_root` is the folder of the data if it has moved, and
    /// `load` reads the data. The caller's threads compute.
    ///
    /// # Errors
    /// A file cannot be read or is not what it should be, or the training data encodes samples in another way
    /// than when the model was trained.
    pub fn open(
        path: &Path,
        sets: &[String],
        data_root: Option<&Path>,
        kernel: Kernel,
        load: impl FnOnce(RunConfig, &Path) -> Result<Job, JobError>,
    ) -> Result<Self, Error> {
        let file = model_path(path);
        let (model, old_root) = Model::open(&file, kernel)?;
        let bad = |problem: &str| Error::new(ErrorKind::Data, format!("{}: {problem}", path.display()));
        let folder = file.parent().unwrap_or(Path::new("."));
        let run_file = folder.join(RUN_FILE);
        if !run_file.is_file() {
            return Err(bad(
                "the file has no run.toml beside it, which would name the run's data; give a source with --data",
            ));
        }
        let run = RunConfig::load(&run_file, sets)?;
        if run.data.train.starts_with("arrays:") {
            return Err(bad(
                "the run was trained on arrays, which are not saved with it; give a source with --data",
            ));
        }
        if run.data.reads_stdin() {
            return Err(bad(
                "the run read standard input, which cannot be read again; give a source with --data",
            ));
        }
        let root: PathBuf = match data_root {
            Some(root) => root.into(),
            None => ps_run::data_root(folder).or(old_root).unwrap_or_else(|| folder.into()),
        };
        let job = load(run, &root)?;
        // Only the encoding has to agree. Other validation or test data gives other metrics, but the same
        // predictions.
        if job.data.encoder() != *model.encoder() {
            return Err(bad(&format!(
                "the training data, `{}` in {}, is not what the run was trained on: its columns, classes or preprocessing \
                 differ; put it back, name the folder of a copy with --data-root, or give a source with --data",
                job.run.data.train,
                root.display()
            )));
        }
        Ok(SavedRun { job, model })
    }

    /// Returns whether any of the data has changed since the run.
    pub fn data_changed(&self) -> bool {
        !self.model.is_of_data(&self.job)
    }
}
