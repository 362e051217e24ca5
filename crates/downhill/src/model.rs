//! A trained model.

use crate::coefficients::{self, Coefficients};
use crate::dataset::{Content, Dataset, refuse_urls};
use crate::error::{Error, ErrorKind};
use crate::threads::Threads;
use ndarray::{Array2, ArrayView2};
use ps_core::scores::most_probable;
use ps_core::{Gradients, Head, Kernel, Samples, Scores};
use ps_data::{Encoder, NewData, NoProgress, ReadProgress, Split};
use ps_onnx::Input as OnnxInput;
use ps_plan::BatchPlan;
use ps_run::{AboutModel, Job, Measures, SavedModel, model_path};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A trained model: the weights, and the encoding and preprocessing that turn samples into features.
///
/// Cloning is cheap. A model and its clones share one pool of threads, separate from rayon's global pool, and
/// may be used from several threads at once.
///
/// [`Run`](crate::Run) has an example.
#[derive(Clone, Debug)]
pub struct Model(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    network: ps_core::Model,
    weights: Vec<f32>,
    about: AboutModel,
    kernel: Kernel,
    threads: Threads,
}

impl Model {
    pub(crate) fn new(saved: SavedModel, kernel: Kernel, threads: Threads) -> Self {
        let SavedModel { network, weights, about, .. } = saved;
        Model(Arc::new(Inner { network, weights, about, kernel, threads }))
    }

    /// Loads a model from a file that [`Model::save`] wrote, from a run's results folder, or from the
    /// `model.safetensors` in such a folder. Nothing else is needed, neither the run nor its data.
    ///
    /// Files that were written before `model.safetensors` existed are read as well. If such a model was
    /// trained on a source, the source is read again, because the file does not say how samples are encoded.
    ///
    /// # Errors
    /// The file is damaged, is of a later version, or is not a model.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Model::load_with(path, &LoadOptions::default())
    }

    /// Like [`Model::load`], with options.
    ///
    /// # Errors
    /// As for [`Model::load`], or the system refuses threads.
    pub fn load_with(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, Error> {
        let threads = Threads::start(options.threads)?;
        let path = model_path(path.as_ref());
        let saved = threads.run(|| SavedModel::read(&path))?;
        Ok(Model::new(saved, Kernel::detect(), threads))
    }

    /// Like [`Model::load`], but computes with `kernel` on the caller's threads. Also returns the folder of
    /// the run's data that a file of an earlier version contains.
    #[doc(hidden)]
    pub fn open(path: &Path, kernel: Kernel) -> Result<(Self, Option<PathBuf>), Error> {
        let mut saved = SavedModel::read(&model_path(path))?;
        let data_root = saved.data_root.take();
        Ok((Model::new(saved, kernel, Threads::of_caller()), data_root))
    }

    /// Saves the model as a safetensors file, as in results folders. Replaces an existing file atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let Inner { network, weights, about, .. } = &*self.0;
        Ok(about.write(path.as_ref(), network, weights)?)
    }

    /// Returns the model as an ONNX file, including the encoding and preprocessing of samples. Its inputs are
    /// the columns of a table, pixels or features, as the training data was; its outputs are `label` and
    /// `probabilities`, or `variable` for regression and counts. `docs/onnx.md` describes them.
    ///
    /// ```
    /// use downhill::{Dataset, Run, ndarray::Array2};
    ///
    /// let rows = Array2::from_shape_fn((40, 3), |(row, column)| (row * (column + 2) % 7) as f32);
    /// let labels: Vec<&str> = (0..40).map(|row| if row % 7 < 3 { "low" } else { "high" }).collect();
    /// let data = Dataset::from_arrays(rows, labels)?;
    /// let run = Run::new()
    ///     .set("model.kind", "softmax")
    ///     .set("train.epochs", 5)
    ///     .set("train.batch", 8)
    ///     .set("learning_rate.initial", 0.1);
    /// let model = run.data(&data).train()?.model;
    /// let folder = tempfile::tempdir().expect("a folder");
    /// std::fs::write(folder.path().join("model.onnx"), model.to_onnx()?).expect("the file is written");
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// ONNX cannot express the model; [`ErrorKind::Unsupported`].
    pub fn to_onnx(&self) -> Result<Vec<u8>, Error> {
        self.to_onnx_with(OnnxInput::Columns)
    }

    /// Like [`Model::to_onnx`], but with a choice of inputs. With [`OnnxInput::Features`], the program that runs
    /// the model must encode categories itself, in the order of [`Model::feature_names`].
    ///
    /// # Errors
    /// As for [`Model::to_onnx`].
    pub fn to_onnx_with(&self, input: OnnxInput) -> Result<Vec<u8>, Error> {
        let Inner { network, weights, about, .. } = &*self.0;
        Ok(ps_onnx::to_onnx(network, weights, &about.encoding, input)?)
    }

    /// Predicts all samples of `data`. Labels are ignored and may be absent.
    ///
    /// Columns are matched by name. Those that the model does not use are ignored, and a category that is not
    /// in the training data counts as none of the known ones. A `tracing` event reports both.
    ///
    /// # Errors
    /// The data cannot be read or does not have the features of the training data.
    pub fn predict(&self, data: &Dataset) -> Result<Predictions, Error> {
        self.0.threads.run(|| {
            let split = self.read(data, false)?;
            Ok(self.predict_encoded(&split))
        })
    }

    /// Evaluates the model on `data`: loss and accuracy or R², and further [`Scores`].
    ///
    /// # Errors
    /// The data cannot be read, lacks features of the training data, has no labels, or has no samples.
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation, Error> {
        self.0.threads.run(|| {
            let split = self.read(data, true)?;
            match split.is_empty() {
                true => Err(Error::new(ErrorKind::Data, "there is no sample to measure on")),
                false => Ok(self.evaluate_encoded(&split)),
            }
        })
    }

    /// Like [`Model::encode`], but logs what is unusual about the data.
    fn read(&self, data: &Dataset, is_labelled: bool) -> Result<Split, Error> {
        let split = self.encode(data, NewData { is_labelled, is_strict: false }, &NoProgress)?;
        split.dataset().all_notes().iter().for_each(|note| tracing::warn!("{note}"));
        Ok(split)
    }

    /// Reads `data` and encodes its samples like those of the training data.
    #[doc(hidden)]
    pub fn encode(&self, data: &Dataset, new: NewData, progress: &dyn ReadProgress) -> Result<Split, Error> {
        let encoder = self.encoder();
        Ok(match &data.0 {
            Content::Source(source) => {
                refuse_urls([source.as_str()])?;
                encoder.load(source, new, Path::new("."), progress)?
            }
            Content::Arrays(arrays) => encoder.load_arrays(arrays, "arrays", new.is_labelled)?,
        })
    }

    /// Like [`Model::predict`], for data that is already encoded.
    #[doc(hidden)]
    pub fn predict_encoded(&self, split: &Split) -> Predictions {
        let values = self.gradients().predict(&self.0.weights, split);
        Predictions::new(self.0.network.head(), values, split.len(), self.class_names())
    }

    /// Like [`Model::evaluate`], for data that is already encoded.
    #[doc(hidden)]
    pub fn evaluate_encoded(&self, split: &Split) -> Evaluation {
        let mut gradients = self.gradients();
        let metric_sums = gradients.evaluate(&self.0.weights, split);
        let scores = gradients.score(&self.0.weights, split, self.class_names(), metric_sums.mean_loss());
        Evaluation { measures: Measures::new(&metric_sums, self.class_names()), scores }
    }

    /// The coefficients of a linear, logistic, softmax or Poisson regression, in the units of the data;
    /// `None` for a model with hidden layers.
    pub fn coefficients(&self) -> Option<Coefficients> {
        let Inner { network, weights, about, .. } = &*self.0;
        coefficients::coefficients(network, weights, &about.encoding)
    }

    /// Names of the classes, in the order of the columns of predictions; empty for regression and counts.
    pub fn class_names(&self) -> &[String] {
        self.encoder().class_names()
    }

    /// Names of the features, in the order of the columns of arrays.
    pub fn feature_names(&self) -> &[String] {
        self.encoder().feature_names()
    }

    /// The parameters as one vector, `[parameters]`, in the order of the tensors in the model file.
    pub fn weights(&self) -> &[f32] {
        &self.0.weights
    }

    /// SHA-256 of the parameters, in hexadecimal. Models with the same hash have bit-identical weights.
    pub fn weights_sha256(&self) -> &str {
        &self.0.about.weights_sha256
    }

    /// The number of steps that were applied to the weights.
    pub fn steps(&self) -> u64 {
        self.0.about.steps
    }

    /// The resolved run file that the model was trained with: all keys, including those with default values. Of
    /// paths and URLs, it contains only the last component.
    pub fn run_file(&self) -> &str {
        &self.0.about.provenance.run
    }

    /// Returns whether all data of `job` is the same as when the model was trained.
    pub(crate) fn is_of_data(&self, job: &Job) -> bool {
        self.0.about.fingerprint.data == job.fingerprint.data
    }

    /// The layers and the head.
    #[doc(hidden)]
    pub fn network(&self) -> &ps_core::Model {
        &self.0.network
    }

    /// How samples are encoded and preprocessed.
    #[doc(hidden)]
    pub fn encoder(&self) -> &Encoder {
        &self.0.about.encoding
    }

    /// The computation of gradients and predictions.
    #[doc(hidden)]
    pub fn gradients(&self) -> Gradients {
        // Nothing is trained, so the plan does not matter.
        let plan = BatchPlan::new(0, 1, 1, 1, 1, None);
        Gradients::new(self.0.network.clone(), plan, self.0.kernel).of_evaluation()
    }
}

/// Options of [`Model::load_with`]: the number of threads.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    threads: Option<NonZeroUsize>,
}

impl LoadOptions {
    /// The options of [`Model::load`].
    pub fn new() -> Self {
        LoadOptions::default()
    }

    /// Sets the number of threads to compute on. The default is one per processor; 0 counts as 1.
    pub fn threads(self, count: usize) -> Self {
        LoadOptions { threads: Some(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)) }
    }
}

/// The predictions for a data set, one row per sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    values: Array2<f32>,
    class_names: Vec<String>,
}

impl Predictions {
    fn new(head: Head, values: Vec<f32>, samples: usize, class_names: &[String]) -> Self {
        let columns = match head {
            Head::SquaredError | Head::Poisson => 1,
            Head::Logistic => 2,
            Head::Softmax => class_names.len(),
        };
        let values = Array2::from_shape_vec((samples, columns), head.probabilities(values));
        let values = values.expect("the network has an output for each column");
        Predictions { values, class_names: class_names.to_vec() }
    }

    /// Returns the predictions: `[samples, classes]` with the probability of each class, or `[samples, 1]`
    /// with the value for regression or the rate for counts.
    pub fn values(&self) -> ArrayView2<'_, f32> {
        self.values.view()
    }

    /// Like [`Predictions::values`], but returns the array itself, without a copy.
    pub fn into_values(self) -> Array2<f32> {
        self.values
    }

    /// Returns the index of the most probable class of each sample, the first one in a tie; `None` for
    /// regression and counts.
    pub fn classes(&self) -> Option<Vec<usize>> {
        let best = |row: ndarray::ArrayView1<'_, f32>| most_probable(row.to_slice().unwrap_or_default());
        let classes = self.values.rows().into_iter().map(best);
        (!self.class_names.is_empty()).then(|| classes.collect())
    }

    /// Names of the classes, in the order of the columns; empty for regression and counts.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }
}

/// The result of [`Model::evaluate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Means over the samples: loss, accuracy and R².
    pub measures: Measures,
    /// Scores by class, rankings and the confusion matrix, or the errors of predicted values.
    pub scores: Scores,
}
