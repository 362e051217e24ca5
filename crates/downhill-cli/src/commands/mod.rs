//! The subcommands, one per file.

pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod coefficients;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod diff;
pub(crate) mod evaluate;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod find_lr;
pub(crate) mod launch;
pub(crate) mod man;
pub(crate) mod plot;
pub(crate) mod predict;
pub(crate) mod runs;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod train;
#[cfg(unix)]
pub(crate) mod verify;

use crate::failure::Failure;
use downhill::internal::SavedRun;
use downhill::{Dataset, Model};
use ps_config::RunConfig;
use ps_core::Kernel;
use ps_data::{NewData, ReadProgress, Split};
use ps_run::{DataProgress, Job, JobError, Style};
use std::path::Path;

/// Opens a model, given its file or the folder of its run.
fn open_model(path: &Path) -> Result<Model, Failure> {
    Ok(Model::open(path, Kernel::chosen().map_err(JobError::Kernel)?)?.0)
}

/// Opens a run, given its folder or the model file in it, and reads its data again. `sets` override keys of the
/// run file, and `data_root` is the folder of the data if it has moved.
fn open_run(
    path: &Path,
    sets: &[String],
    data_root: Option<&Path>,
    style: Style,
) -> Result<SavedRun, Failure> {
    let progress = DataProgress::new(style);
    let kernel = Kernel::chosen().map_err(JobError::Kernel)?;
    Ok(SavedRun::open(path, sets, data_root, kernel, |run, root| load(run, root, &progress))?)
}

/// Loads the data of a run. Sources with URLs are downloaded; relative paths start at `root`.
fn load(run: RunConfig, root: &Path, progress: &dyn ReadProgress) -> Result<Job, JobError> {
    let local = ps_fetch::localized_config(&run.data, progress)?;
    Job::load_local(run, &local, root, progress)
}

/// Reads the source of a flag and encodes it for `model`. Relative paths start at the current folder.
fn read_data(model: &Model, source: &str, new: NewData, style: Style) -> Result<Split, Failure> {
    let progress = DataProgress::new(style);
    let data = Dataset::open(&ps_fetch::localized(source, &progress)?)?;
    let split = model.encode(&data, new, &progress)?;
    drop(progress);
    split.dataset().all_notes().iter().for_each(|line| ps_run::note(style, line));
    Ok(split)
}

/// Sets up the global thread pool.
pub(crate) fn threads(threads: Option<u16>) -> Result<(), Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.map_or(0, usize::from));
    pool.build_global().map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))
}
