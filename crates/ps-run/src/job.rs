//! A run ready to start: its file, data, model and plan.

use crate::footprint::Footprint;
use ps_checkpoint::Fingerprint;
use ps_config::{ConfigError, RunConfig};
use ps_core::gradient::InPlace;
use ps_core::model::count_parameters;
use ps_core::params::weights_hash;
use ps_core::{
    Control, ControlConfig, Gradients, Head, Kernel, Model, NUMERICS_VERSION, OptimizerConfig, Rules,
    Samples, Schedule, Tally, Trainer,
};
use ps_data::{DataConfig, DataError, Loaded, Progress, Task};
use ps_host::Memory;
use ps_plan::BatchPlan;
use std::fmt;
use std::path::Path;

/// Everything that one run of one process needs, loaded and checked against each other.
pub struct Job {
    /// The run file, resolved.
    pub run: RunConfig,
    /// The samples.
    pub data: Loaded,
    /// The model that fits them.
    pub model: Model,
    /// How the training samples are cut into steps.
    pub plan: BatchPlan,
    /// The rate of each step.
    pub rate: Schedule,
    /// What a step does with the gradient.
    pub optimizer: OptimizerConfig,
    /// What is watched.
    pub control: ControlConfig,
    /// What other processes of the run must agree on.
    pub fingerprint: Fingerprint,
    /// The instruction set that products are computed with here.
    pub kernel: Kernel,
}

/// Why a run cannot start.
#[derive(Debug)]
pub enum JobError {
    /// The data is missing, damaged or unfit.
    Data(DataError),
    /// The run file does not fit the data.
    Config(ConfigError),
    /// The environment forces an instruction set that is not there.
    Kernel(String),
    /// No model can be built for the data, or it does not fit into memory.
    Unfit(String),
}

impl Job {
    /// Loads the data of `run`, in which relative paths start at `root`, and builds the model that fits it. The environment may
    /// force an instruction set. Nothing is fetched, see [`Job::load_local`].
    pub fn load(run: RunConfig, root: &Path, progress: &dyn Progress) -> Result<Job, JobError> {
        let local = run.data.clone();
        Job::load_local(run, &local, root, progress)
    }

    /// Like [`Job::load`], where `local` names the sources of the run file as they lie on this machine.
    pub fn load_local(
        run: RunConfig,
        local: &DataConfig,
        root: &Path,
        progress: &dyn Progress,
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

    /// The model of `run` for samples with so many features and classes.
    pub fn network(run: &RunConfig, features: usize, classes: usize) -> Result<Model, JobError> {
        let (hidden, head) = (run.model.hidden_layers(), run.model.head);
        run.check_features(features).map_err(JobError::Config)?;
        let parameters = count_parameters(features, &hidden, head, classes);
        Footprint::of_worker(parameters).check(Memory::here()).map_err(JobError::Unfit)?;
        Ok(Model::of_layers(features, &hidden, head, classes).with_precision(run.wire.weights))
    }

    /// The same run with another seed and the same validation part: other initial weights, another order of the samples.
    pub fn with_seed(&self, seed: u64) -> Job {
        let mut run = self.run.clone();
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
    /// The memory that is needed and available.
    pub fn check_memory(&self) -> Result<(), JobError> {
        let vectors = self.control().vectors().len();
        let footprint = Footprint::of_holder(self.model.parameters() as u128, vectors);
        footprint.check(Memory::here()).map_err(JobError::Unfit)
    }

    /// The holder of the weights, before the first step.
    pub fn trainer(&self) -> Trainer {
        Trainer::controlled(&self.model, self.control())
    }

    /// What decides about its steps.
    pub fn control(&self) -> Control {
        let rules = Rules::new(self.optimizer.clone(), &self.model, self.plan.seed);
        Control::new(self.control.clone(), rules, self.plan, &self.rate)
    }

    /// Whether all that a step does is an update by its own gradient, which is then made in place.
    pub fn updates_in_place(&self) -> bool {
        let watches = self.control != ControlConfig::default() || self.rate.watches();
        !watches && InPlace::suits(&self.model, &self.optimizer)
    }

    /// What computes gradients and evaluates, on the current rayon pool.
    pub fn gradients(&self) -> Gradients {
        Gradients::new(self.model.clone(), self.plan, self.kernel)
    }

    /// The training and the validation part; without one, the training part twice.
    pub fn parts(&self) -> [&dyn Samples; 2] {
        let train: &dyn Samples = &self.data.train;
        [train, self.data.validation.as_ref().map_or(train, |part| part)]
    }

    /// Whether there is a validation part.
    pub fn validates(&self) -> bool {
        self.data.validation.is_some()
    }

    /// A line with the number of categories of each category column, if there are any.
    pub fn categories(&self) -> Option<String> {
        let categories =
            self.data.categories().into_iter().map(|(column, count)| format!("{column} {count}"));
        let columns: Vec<String> = categories.collect();
        (!columns.is_empty()).then(|| format!("categories by column: {}", columns.join(", ")))
    }

    /// Loss and metrics of `weights` on the training part.
    pub fn measure(&self, weights: &[f32]) -> Tally {
        self.gradients().evaluate(weights, &self.data.train)
    }

    /// Loss and metrics of `weights` on the validation part, where there is one. They are rounded as for gradients, so that
    /// it is the same here and in a round.
    pub fn validate(&self, weights: &[f32]) -> Option<Tally> {
        let weights = self.model.precision().round(weights);
        self.data.validation.as_ref().map(|split| self.gradients().evaluate(&weights, split))
    }

    /// Loss and metrics of `weights` on the test source, where there is one.
    pub fn test(&self, weights: &[f32]) -> Option<Tally> {
        self.data.test.as_ref().map(|split| self.gradients().evaluate(weights, split))
    }

    /// SHA-256 of a gradient that costs next to nothing and goes through every layer: that of the first leaf
    /// of step 0. Two machines that give different ones would not compute the same bits.
    pub fn probe(&self) -> String {
        let mut weights = self.model.initial(self.run.seed);
        if self.model.dense_layers().count() == 1 {
            // These models start at 0, where every product is 0 on any machine.
            for (index, weight) in weights.iter_mut().enumerate() {
                *weight = (index % 17) as f32 / 1024.0 - 1.0 / 128.0;
            }
        }
        let mut sums = self.gradients().compute(&weights, &self.data.train, 0, 0..1);
        let mut gradient = sums.pop().map_or_else(Vec::new, |sum| sum.gradient);
        for element in gradient.iter_mut().filter(|element| element.is_nan()) {
            // The bits of a NaN are no part of the numbers.
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

/// What `head` needs of the targets.
pub fn task(head: Head) -> Task {
    match head {
        Head::SquaredError => Task::Regression,
        Head::Poisson => Task::Count,
        Head::Logistic => Task::Binary,
        Head::Softmax => Task::Classes,
    }
}

impl JobError {
    /// Whether the command line or the run file must change, rather than a file of data.
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
