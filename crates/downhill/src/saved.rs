//! A finished run, opened again.

use crate::error::{Error, ErrorKind};
use crate::model::Model;
use crate::threads::Threads;
use ps_config::RunConfig;
use ps_run::{Job, JobError, SavedWeights, WEIGHTS_FILE, WeightsFile};
use std::path::Path;

/// A trained model with the job that it came from.
pub struct SavedRun {
    /// The run file, and the data that was read again.
    pub job: Job,
    /// The trained weights, with the encoding of the run's data.
    pub model: Model,
}

/// Opens the weights of a run, given its folder or its weights file.
pub(crate) fn open(path: &Path) -> Result<WeightsFile, Error> {
    let file = if path.is_dir() { path.join(WEIGHTS_FILE) } else { path.to_path_buf() };
    Ok(SavedWeights::open(&file)?)
}

/// Returns the run file that a weights file contains, with its keys overridden by `sets`.
pub(crate) fn run_file(file: &WeightsFile, path: &Path, sets: &[String]) -> Result<RunConfig, Error> {
    Ok(RunConfig::parse(&file.about.run, &format!("{}, its run file", path.display()), sets)?)
}

impl SavedRun {
    /// Opens a run, given its folder or its weights file. `sets` override keys of the run file, `data_root`
    /// is the folder of the data if it has moved, and `load` reads the data. The caller's threads compute.
    ///
    /// # Errors
    /// A file cannot be read or is not what it should be, or the training data has changed, so that
    /// predictions would differ.
    pub fn open(
        path: &Path,
        sets: &[String],
        data_root: Option<&Path>,
        load: impl FnOnce(RunConfig, &Path) -> Result<Job, JobError>,
    ) -> Result<Self, Error> {
        SavedRun::of(open(path)?, path, sets, data_root, Threads::of_caller(), load)
    }

    pub(crate) fn of(
        file: WeightsFile,
        path: &Path,
        sets: &[String],
        data_root: Option<&Path>,
        threads: Threads,
        load: impl FnOnce(RunConfig, &Path) -> Result<Job, JobError>,
    ) -> Result<Self, Error> {
        let run = run_file(&file, path, sets)?;
        let bad = |problem: String| Error::new(ErrorKind::Data, format!("{}: {problem}", path.display()));
        if run.data.train.starts_with("arrays:") {
            return Err(bad(
                "the run was trained on arrays, which are not saved with it; load the model with the \
                 library, `downhill::Model::load`"
                    .into(),
            ));
        }
        if run.data.reads_stdin() {
            return Err(bad(
                "the run was trained on standard input, which cannot be read again, and how samples are \
                 encoded depends on the training data; train from a file"
                    .into(),
            ));
        }
        let root = data_root.unwrap_or(&file.about.data_root);
        let job = load(run, root)?;
        if !file.about.fits(&job) {
            return Err(bad(format!(
                "the training data, `{}` in {}, is not what the run was trained on, and its columns, classes and \
                 preprocessing come from there; put it back, or name the folder of a copy with --data-root",
                job.run.data.train,
                root.display()
            )));
        }
        let model = Model::new(&job, file.weights(&job.model)?, threads);
        Ok(SavedRun { job, model })
    }

    /// Returns whether the validation or test data has changed since the run.
    pub fn data_changed(&self) -> bool {
        !self.model.is_of_data(&self.job)
    }
}
