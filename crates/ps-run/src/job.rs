//! A run that is ready to start: its run file, data, model and plan.

use crate::footprint::Footprint;
use ps_checkpoint::Fingerprint;
use ps_config::{ConfigError, RunConfig};
use ps_core::gradient::InPlace;
use ps_core::model::count_parameters;
use ps_core::params::weights_hash;
use ps_core::{
    Control, ControlConfig, Gradients, Head, Kernel, MetricSums, Model, ModelOptimizer, NUMERICS_VERSION,
    OptimizerConfig, Samples, Schedule, Scores, Trainer,
};
use ps_data::{DataConfig, DataError, Loaded, ReadProgress, Task};
use ps_host::Memory;
use ps_plan::BatchPlan;
use std::fmt;
use std::path::Path;

/// Everything that a process needs to take part in a run, loaded and checked for consistency: the run file,
/// the data, the model and the settings that follow from them.
///
/// [`Job::load`] reads the sources that the run file names; [`Job::new`] takes data that is already in memory.
pub struct Job {
    /// The resolved run file.
    pub run: RunConfig,
    /// The samples, encoded and preprocessed.
    pub data: Loaded,
    /// The model, whose input and output widths follow from the data.
    pub model: Model,
    /// Which samples belong to which step.
    pub plan: BatchPlan,
    /// The learning rate of each step.
    pub rate: Schedule,
    /// The update rule and its parameters.
    pub optimizer: OptimizerConfig,
    /// The policies that watch the loss: guard, early stopping, plateau and others.
    pub control: ControlConfig,
    /// What all processes of the run must agree on.
    pub fingerprint: Fingerprint,
    /// The instruction set that this process uses for matrix products.
    pub kernel: Kernel,
}

/// Why a run cannot start.
#[derive(Debug)]
pub enum JobError {
    /// The data is missing, damaged or unsuitable.
    Data(DataError),
    /// The run file does not fit the data.
    Config(ConfigError),
    /// The environment forces an instruction set that this machine does not have.
    Kernel(String),
    /// No model can be built for the data, or it does not fit into memory.
    Unfit(String),
}

impl Job {
    /// Loads the data of `run`, whose relative paths start at `root`, and builds the model that fits it. The
    /// environment may force an instruction set. Nothing is downloaded; see [`Job::load_local`].
    pub fn load(run: RunConfig, root: &Path, progress: &dyn ReadProgress) -> Result<Job, JobError> {
        let local = run.data.clone();
        Job::load_local(run, &local, root, progress)
    }

    /// Like [`Job::load`], but reads the sources in `local`, where local files replace URLs of the run file.
    pub fn load_local(
        run: RunConfig,
        local: &DataConfig,
        root: &Path,
        progress: &dyn ReadProgress,
    ) -> Result<Job, JobError> {
        let kernel = Kernel::chosen().map_err(JobError::Kernel)?;
        let data = ps_data::load(local, task(run.model.head), run.seed, root, progress)?;
        Job::new(run, data, kernel)
    }

    /// Builds the model of `run` that fits `data`.
    pub fn new(run: RunConfig, data: Loaded, kernel: Kernel) -> Result<Job, JobError> {
        let model = Job::network(&run, data.train.features(), data.class_names.len())?;
        Job::of(run, data, model, kernel)
    }

    /// Builds the model of `run` for samples with this number of features and classes.
    pub fn network(run: &RunConfig, features: usize, classes: usize) -> Result<Model, JobError> {
        let (hidden, head) = (run.model.hidden_layers(), run.model.head);
        run.check_features(features).map_err(JobError::Config)?;
        let parameters = count_parameters(features, &hidden, head, classes);
        Footprint::of_worker(parameters).check(Memory::detect()).map_err(JobError::Unfit)?;
        Ok(Model::of_layers(features, &hidden, head, classes).with_precision(run.wire.weights))
    }

    /// Returns the same run with another seed but the same validation part: the initial weights and the order
    /// of the samples differ.
    pub fn with_seed(&self, seed: u64) -> Job {
        let mut run = self.run.clone();
        // Losses of several seeds can only be compared on the same validation part.
        run.data.validation_seed = Some(run.data.validation_seed.unwrap_or(run.seed));
        run.seed = seed;
        Job::of(run, self.data.clone(), self.model.clone(), self.kernel)
            .expect("nothing depends on the seed that is checked")
    }

    fn of(run: RunConfig, data: Loaded, model: Model, kernel: Kernel) -> Result<Job, JobError> {
        let samples = data.train.len();
        run.check_samples(samples).map_err(JobError::Config)?;
        if data.train.features() == 0 {
            return Err(JobError::Unfit(format!("{}: the samples have no features", run.data.train)));
        }
        let plan = run.plan(samples, data.validation.as_ref().map_or(0, |part| part.len()));
        let fingerprint = Fingerprint {
            run: run.fingerprint(),
            data: data.fingerprint.clone(),
            numerics: NUMERICS_VERSION,
        };
        let (rate, optimizer) = (run.rate(&plan).map_err(JobError::Config)?, run.optimizer.clone());
        let control = run.control(&plan);
        Ok(Job { run, data, model, plan, rate, optimizer, control, fingerprint, kernel })
    }

    /// Checks that there is enough memory to hold and save the weights.
    ///
    /// # Errors
    /// The error states the memory that is needed and available.
    pub fn check_memory(&self) -> Result<(), JobError> {
        let vectors = self.control().vectors().len();
        let footprint = Footprint::of_holder(self.model.parameters() as u128, vectors);
        footprint.check(Memory::detect()).map_err(JobError::Unfit)
    }

    /// Creates the holder of the weights, before the first step.
    pub fn trainer(&self) -> Trainer {
        Trainer::controlled(&self.model, self.control())
    }

    /// Creates the policies that decide on the run's steps.
    pub fn control(&self) -> Control {
        let optimizer = ModelOptimizer::new(self.optimizer.clone(), &self.model, self.plan.seed);
        Control::new(self.control.clone(), optimizer, self.plan, &self.rate)
    }

    /// Returns whether a step is just an update by its own gradient, so that it can be made in place.
    pub fn updates_in_place(&self) -> bool {
        // A policy needs the whole gradient before the first tile is updated, and may want to undo a step. In
        // place, neither is possible.
        let watches = self.control != ControlConfig::default() || self.rate.watches();
        !watches && InPlace::suits(&self.model, &self.optimizer)
    }

    /// Creates the computation of gradients and evaluations, on the current rayon pool.
    pub fn gradients(&self) -> Gradients {
        Gradients::new(self.model.clone(), self.plan, self.kernel)
    }

    /// The training and the validation part. Without a validation part, both are the training part.
    pub fn parts(&self) -> [&dyn Samples; 2] {
        let train: &dyn Samples = &self.data.train;
        [train, self.data.validation.as_ref().map_or(train, |part| part)]
    }

    /// Returns whether there is a validation part.
    pub fn validates(&self) -> bool {
        self.data.validation.is_some()
    }

    /// Returns a line with the number of categories of each categorical column, if there are any.
    pub fn notes(&self) -> Vec<String> {
        let categories =
            self.data.categories().into_iter().map(|(column, count)| format!("{column} {count}"));
        let columns: Vec<String> = categories.collect();
        let categories =
            (!columns.is_empty()).then(|| format!("categories by column: {}", columns.join(", ")));
        self.data.notes().chain(categories).collect()
    }

    /// Evaluates `weights` on the training part.
    pub fn measure(&self, weights: &[f32]) -> MetricSums {
        self.gradients().evaluate(weights, &self.data.train)
    }

    /// Evaluates `weights` on the validation part, if there is one. The weights are rounded as for gradients,
    /// so that the result is the same as in a round.
    pub fn validate(&self, weights: &[f32]) -> Option<MetricSums> {
        let weights = self.model.precision().round(weights);
        self.data.validation.as_ref().map(|split| self.gradients().evaluate(&weights, split))
    }

    /// Evaluates `weights` on the test source, if there is one.
    pub fn test(&self, weights: &[f32]) -> Option<MetricSums> {
        self.data.test.as_ref().map(|split| self.gradients().evaluate(weights, split))
    }

    /// Scores `weights`, whose mean loss is `loss`, on a part of the data.
    pub(crate) fn score(&self, weights: &[f32], part: &dyn Samples, loss: f64) -> Scores {
        self.gradients().score(weights, part, &self.data.class_names, loss)
    }

    /// SHA-256 of a cheap gradient that goes through every layer: that of the first leaf of step 0. If two
    /// machines return different hashes, they would not compute the same bits.
    pub fn probe(&self) -> String {
        let mut weights = self.model.initial(self.run.seed);
        if self.model.dense_layers().count() == 1 {
            // These models start with all weights at 0, which would hide differences between machines.
            for (index, weight) in weights.iter_mut().enumerate() {
                *weight = (index % 17) as f32 / 1024.0 - 1.0 / 128.0;
            }
        }
        let mut sums = self.gradients().compute(&weights, &self.data.train, 0, 0..1);
        let mut gradient = sums.pop().map_or_else(Vec::new, |sum| sum.gradient);
        for element in gradient.iter_mut().filter(|element| element.is_nan()) {
            // NaNs may differ in their bits, so they are made equal.
            *element = f32::NAN;
        }
        weights_hash(&gradient)
    }
}

impl From<DataError> for JobError {
    fn from(error: DataError) -> Self {
        JobError::Data(error)
    }
}

/// Returns the kind of targets that `head` needs.
pub fn task(head: Head) -> Task {
    match head {
        Head::SquaredError => Task::Regression,
        Head::Poisson => Task::Count,
        Head::Logistic => Task::Binary,
        Head::Softmax => Task::Classes,
    }
}

impl JobError {
    /// Returns whether the command line or the run file must change, rather than a data file.
    pub fn is_usage(&self) -> bool {
        match self {
            JobError::Data(error) => error.is_usage(),
            JobError::Config(_) | JobError::Kernel(_) => true,
            JobError::Unfit(_) => false,
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Data(error) => error.fmt(f),
            JobError::Config(error) => error.fmt(f),
            JobError::Kernel(problem) | JobError::Unfit(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for JobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JobError::Data(error) => Some(error),
            JobError::Config(error) => Some(error),
            JobError::Kernel(_) | JobError::Unfit(_) => None,
        }
    }
}
