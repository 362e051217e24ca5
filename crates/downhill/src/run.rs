//! A run, from its settings to a trained model.

use crate::dataset::{Dataset, refuse_urls};
use crate::error::Error;
use crate::local::{self, Finished};
use crate::model::Model;
use crate::threads::Threads;
use crate::value::Value;
use ps_config::{CheckpointArgs, ConfigError, RunConfig};
use ps_core::Kernel;
use ps_data::{NamedArrays, NoProgress};
use ps_run::{AboutModel, FolderError, Job, Observer, Recorder, RunFolder, SavedModel, Style, Summary, task};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A run: its settings, its data, and the folder for its results.
///
/// Settings are the keys of a run file. They come from such a file, from calls of [`Run::set`], or from both,
/// and are checked when the run is trained. Settings and data alone determine every bit of the weights; the
/// number of threads and the machine do not.
///
/// ```
/// use downhill::{Dataset, Model, Run};
/// use downhill::ndarray::{Array2, array};
///
/// // Points of two classes, on either side of a line.
/// let rows = Array2::from_shape_fn((200, 2), |(row, column)| ((row * (7 + column)) % 31) as f32 / 31.0);
/// let side = |sum: f32| if sum < 1.0 { "low" } else { "high" };
/// let labels: Vec<&str> = rows.rows().into_iter().map(|row| side(row.sum())).collect();
///
/// let trained = Run::new()
///     .data(&Dataset::from_arrays(rows, labels)?)
///     .set("model.kind", "logistic")
///     .set("train.epochs", 50)
///     .set("train.batch", 20)
///     .set("learning_rate.initial", 2.0)
///     .threads(2)
///     .train()?;
/// let accuracy = trained.summary.train.as_ref().and_then(|measures| measures.accuracy);
/// assert!(accuracy > Some(0.95), "{accuracy:?}");
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("points.safetensors");
/// trained.model.save(&file)?;
/// let model = Model::load(&file)?;
/// assert_eq!(model.weights_sha256(), trained.summary.weights_sha256);
///
/// let predicted = model.predict(&Dataset::from_features(array![[0.1_f32, 0.2], [0.9, 0.8]]))?;
/// assert_eq!(predicted.class_names(), ["high", "low"]);
/// assert_eq!(predicted.classes(), Some(vec![1, 0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Run {
    text: String,
    /// The name of `text` in error messages.
    origin: String,
    /// The folder at which relative paths in `text` start.
    base: PathBuf,
    sets: Vec<String>,
    data: [Option<Dataset>; 3],
    data_root: Option<PathBuf>,
    threads: Option<NonZeroUsize>,
    out: Option<PathBuf>,
    checkpoints: CheckpointArgs,
}

/// Forwards a run's messages to `tracing`.
struct TracingObserver;

impl Observer for TracingObserver {
    fn on_note(&mut self, text: &str) {
        tracing::info!("{text}");
    }

    fn on_warning(&mut self, text: &str) {
        tracing::warn!("{text}");
    }
}

/// Keys of `[data]` that [`Run::data`], [`Run::validation`] and [`Run::test`] replace.
const ROLES: [&str; 3] = ["train", "validation", "test"];

/// What [`Run::train`] returns.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The trained model.
    pub model: Model,
    /// The content of `summary.json`: how the run ended, its metrics and the hash of its weights.
    pub summary: Summary,
}

impl Default for Run {
    fn default() -> Self {
        Run::new()
    }
}

impl Run {
    /// Creates a run without settings.
    pub fn new() -> Self {
        Run::of(String::new(), "run".into(), ".".into())
    }

    /// Creates a run with the settings of a run file. Relative paths start at the folder of that file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = ps_host::read_text(path, ps_host::Ceiling::TEXT)
            .map_err(|error| ConfigError::File { path: path.into(), error })?;
        let base = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Run::of(text, path.display().to_string(), base.unwrap_or(Path::new(".")).into()))
    }

    /// Creates a run with the settings in `text`, a run file. Relative paths start at the current folder.
    pub fn from_toml(text: impl Into<String>) -> Self {
        Run::of(text.into(), "run".into(), ".".into())
    }

    fn of(text: String, origin: String, base: PathBuf) -> Self {
        Run {
            text,
            origin,
            base,
            sets: Vec::new(),
            data: [None, None, None],
            data_root: None,
            threads: None,
            out: None,
            checkpoints: CheckpointArgs::default(),
        }
    }

    /// Sets a key, such as `train.epochs`; `docs/run-file.md` lists all of them. A later call overrides an
    /// earlier one, and any call overrides the run file.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.sets.push(format!("{key}={}", value.into()));
        self
    }

    /// Unsets a key, so that it has its default as if the run file did not contain it.
    pub fn unset(mut self, key: &str) -> Self {
        self.sets.push(format!("{key}="));
        self
    }

    /// Trains on `data` instead of the source `data.train`.
    pub fn data(self, data: &Dataset) -> Self {
        self.with(0, data)
    }

    /// Validates on `data` after each epoch, instead of `data.validation`.
    pub fn validation(self, data: &Dataset) -> Self {
        self.with(1, data)
    }

    /// Evaluates the trained model on `data`, instead of the source `data.test`.
    pub fn test(self, data: &Dataset) -> Self {
        self.with(2, data)
    }

    fn with(mut self, role: usize, data: &Dataset) -> Self {
        self.data[role] = Some(data.clone());
        self
    }

    /// Sets the folder at which relative paths of sources start, instead of the run file's folder.
    pub fn data_root(self, folder: impl Into<PathBuf>) -> Self {
        Run { data_root: Some(folder.into()), ..self }
    }

    /// Sets the number of threads to compute on. The default is one per processor; 0 counts as 1. Every run
    /// starts its own threads, so runs may train concurrently.
    pub fn threads(self, count: usize) -> Self {
        Run { threads: Some(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)), ..self }
    }

    /// Sets the folder for results and checkpoints, with the files that `downhill train --out` writes. By
    /// default nothing is written. If the folder holds an unfinished run with the same settings and data,
    /// that run is resumed.
    pub fn out(self, folder: impl Into<PathBuf>) -> Self {
        Run { out: Some(folder.into()), ..self }
    }

    /// Saves a checkpoint every `steps` steps, in addition to one every minute. Without [`Run::out`], there
    /// are no checkpoints.
    pub fn checkpoint_every(mut self, steps: u64) -> Self {
        self.checkpoints.checkpoint_every = Some(steps.max(1));
        self
    }

    /// Checks all settings and returns the resolved run file: every key, including those with default values.
    ///
    /// # Errors
    /// A key is unknown or missing, has no effect, or has a value out of range.
    pub fn resolved(&self) -> Result<String, Error> {
        Ok(self.config()?.0.to_toml())
    }

    /// Trains the model.
    ///
    /// # Errors
    /// The settings or the data are invalid, the machine has too little memory, the loss diverged, or results
    /// cannot be written.
    pub fn train(&self) -> Result<Trained, Error> {
        self.train_observed(Vec::new())
    }

    /// Like [`Run::train`], but reports steps, epochs and events to `observers`, which may also stop the run.
    ///
    /// ```
    /// use downhill::{Observer, Requests, Run, StepMade};
    /// use std::sync::mpsc::{Sender, channel};
    ///
    /// /// Sends the loss of each step, and stops the run after the tenth.
    /// struct Losses(Sender<f64>);
    ///
    /// impl Observer for Losses {
    ///     fn on_step(&mut self, step: &StepMade<'_>, requests: &mut Requests) {
    ///         let _ = self.0.send(step.loss());
    ///         if step.step == 10 {
    ///             requests.stop();
    ///         }
    ///     }
    /// }
    ///
    /// let (sender, losses) = channel();
    /// let run = Run::new()
    ///     .set("data.train", "digits:200")
    ///     .set("model.kind", "softmax")
    ///     .set("learning_rate.initial", 0.5)
    ///     .set("train.epochs", 20)
    ///     .set("train.batch", 50);
    /// let trained = run.train_observed(vec![Box::new(Losses(sender))])?;
    /// let losses: Vec<f64> = losses.iter().collect();
    /// assert_eq!((losses.len(), trained.summary.steps), (10, 10));
    /// assert!(losses[9] < losses[0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Run::train`].
    pub fn train_observed(&self, observers: Vec<Box<dyn Observer>>) -> Result<Trained, Error> {
        let (config, arrays) = self.config()?;
        refuse_urls(config.data.sources())?;
        let root = self.data_root.as_deref().unwrap_or(&self.base);
        let threads = Threads::start(self.threads)?;
        let job = threads.run(|| {
            let (task, seed) = (task(config.model.head), config.seed);
            let data = ps_data::load_arrays(&config.data, task, seed, &arrays, root, &NoProgress)?;
            Job::new(config, data, Kernel::detect())
        })?;
        drop(arrays);
        job.check_memory()?;
        let mut recorder = self.recorder(&job)?;
        recorder.observe(Box::new(TracingObserver));
        observers.into_iter().for_each(|observer| recorder.observe(observer));
        let stop = AtomicBool::new(false);
        let Finished { weights, version, summary } =
            threads.run(|| local::run(&job, root, 1, &stop, recorder))?;
        let about = AboutModel::new(&job, None, &weights, version);
        let saved = SavedModel { network: job.model.clone(), weights, about, data_root: None };
        Ok(Trained { model: Model::new(saved, job.kernel, threads), summary })
    }

    /// Checks the settings, and returns them with the arrays that stand for sources in them.
    fn config(&self) -> Result<(RunConfig, NamedArrays), Error> {
        let (mut sets, mut arrays) = (self.sets.clone(), NamedArrays::new());
        for (role, data) in ROLES.iter().zip(&self.data) {
            if let Some(data) = data {
                sets.push(format!("data.{role}={}", Value::from(data.placeholder(role, &mut arrays)?)));
            }
        }
        Ok((RunConfig::parse(&self.text, &self.origin, &sets)?, arrays))
    }

    fn recorder(&self, job: &Job) -> Result<Recorder, FolderError> {
        let Some(out) = &self.out else { return Recorder::new(job, None, Style::Silent) };
        let folder = RunFolder::create(Some(out), "run", Some(&job.run))?;
        Recorder::with_checkpoints(job, folder, Style::Silent, &self.checkpoints)
    }
}
