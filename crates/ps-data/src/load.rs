//! Loading of a run's sources: reading, encoding and splitting.

use crate::arrays::NamedArrays;
use crate::config::{DataConfig, Missing, Validation};
use crate::dataset::{Column, Dataset, Image, Task};
use crate::dialect::RowRange;
use crate::encoder::Encoder;
use crate::encoding::Encoding;
use crate::error::DataError;
use crate::fingerprint::fingerprints;
use crate::format::Source;
use crate::format::csv::{Dialect, Options};
use crate::preparation;
use crate::progress::{NoProgress, ReadContext, ReadProgress};
use crate::raw::Raw;
use crate::split::{Preprocessing, Split};
use crate::unknown::Tolerance;
use ps_plan::SampleOrder;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The data of a run, as [`load`] returns it.
///
/// Training, validation and test set share one encoding, which the training source determines.
/// [`Loaded::encoder`] applies the same encoding to further sources, for predictions.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The training set.
    pub train: Split,
    /// The validation set, on which progress is measured.
    pub validation: Option<Split>,
    /// The test set, on which the final model is measured.
    pub test: Option<Split>,
    /// SHA-256 of all data, in lower-case hexadecimal. The processes of a run compare it to check that they
    /// hold the same data.
    pub fingerprint: String,
    /// SHA-256 of what determines encoding and preprocessing: the training source, the options and the
    /// validation fraction. If this hash and the names of features and classes are the same, a model gives
    /// the same predictions.
    pub training_fingerprint: String,
    /// The kind of target that the model needs.
    pub task: Task,
    /// Name of each class; empty for regression and counts.
    pub class_names: Vec<String>,
    /// Name of each feature.
    pub feature_names: Vec<String>,
    /// Height and width, if the samples are images.
    pub image: Option<Image>,
    encoding: Encoding,
}

impl Loaded {
    /// What the user should know about how the sources were read.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        // A validation share is part of the training source.
        let validation = self.validation.as_ref().filter(|split| !split.is_of_same_dataset(&self.train));
        let splits = [Some(&self.train), validation, self.test.as_ref()].into_iter().flatten();
        splits.flat_map(|split| split.dataset().all_notes())
    }

    /// The columns of the training source without its label, in order. Every source of the run has them.
    pub fn columns(&self) -> Vec<Column> {
        self.encoding.columns()
    }

    /// Name and number of categories of each categorical column of a table; a column becomes one
    /// feature per category.
    pub fn categories(&self) -> Vec<(String, usize)> {
        self.encoding.categories()
    }

    /// An encoder that treats other data like this training data.
    pub fn encoder(&self) -> Encoder {
        Encoder::new(self.encoding.clone(), Arc::clone(self.train.preprocessing()))
    }
}

/// Reads the sources that `config` names. Relative paths start at `root`. `seed` selects the validation
/// fraction unless `config` has a seed for it.
pub fn load(
    config: &DataConfig,
    task: Task,
    seed: u64,
    root: &Path,
    progress: &dyn ReadProgress,
) -> Result<Loaded, DataError> {
    load_arrays(config, task, seed, &NO_ARRAYS, root, progress)
}

/// Like [`load`], but the sources in `config` that are keys of `arrays` stand for these arrays.
pub fn load_arrays(
    config: &DataConfig,
    task: Task,
    seed: u64,
    arrays: &NamedArrays,
    root: &Path,
    progress: &dyn ReadProgress,
) -> Result<Loaded, DataError> {
    load_from(config, task, seed, ReadContext { root, memory: None, arrays, progress })
}

/// Like [`load`], but with all files in memory, by the paths that `config` uses. No other file is read.
pub fn load_from_memory(
    config: &DataConfig,
    task: Task,
    seed: u64,
    files: &BTreeMap<PathBuf, Vec<u8>>,
) -> Result<Loaded, DataError> {
    let (root, memory) = (Path::new(""), Some(files));
    load_from(config, task, seed, ReadContext { root, memory, arrays: &NO_ARRAYS, progress: &NoProgress })
}

pub(crate) const NO_ARRAYS: NamedArrays = NamedArrays::new();

fn load_from(config: &DataConfig, task: Task, seed: u64, from: ReadContext<'_>) -> Result<Loaded, DataError> {
    if let Some(Validation::Share(share)) = config.validation
        && !(share > 0.0 && share < 1.0)
    {
        let problem = format!("expected a share above 0 and below 1, found {share}");
        return Err(DataError::Option { key: "validation", problem });
    }
    let texts: Vec<&str> = config.sources().collect();
    let mut raws = read_all(config, from)?.into_iter().zip(texts);
    let (mut raw, text) = raws.next().expect("one raw source for each text");
    let mut encoding = Encoding::learn(&mut raw, config, task)?;
    let missing: Vec<Missing> =
        encoding.settings(config).into_iter().map(|(_, settings)| settings.missing()).collect();
    let mut train = encoding.encode(raw, text, &missing, true, Tolerance::NOTHING)?;
    let mut next = |wanted: bool| -> Result<Option<Dataset>, DataError> {
        let Some((raw, text)) = wanted.then(|| raws.next()).flatten() else { return Ok(None) };
        encoding.encode(raw, text, &missing, true, Tolerance::CATEGORIES).map(Some)
    };
    let mut validation = next(config.validation_source().is_some())?;
    let mut test = next(config.test.is_some())?;
    let share_seed = config.validation_seed.unwrap_or(seed);
    let settings = encoding.settings(config);
    // Before bounds and fills change the features: the hash covers the values as they were read, and the
    // settings that determine the rest.
    let fingerprints =
        fingerprints(config, &settings, share_seed, &train, validation.as_ref(), test.as_ref());

    let (train_rows, validation_rows) = match config.validation {
        Some(Validation::Share(share)) => {
            let (train, validation) =
                split_off_validation(share_seed, share, train.samples(), &config.train)?;
            (train, Some(validation))
        }
        _ => ((0..train.samples() as u32).collect(), None),
    };
    // Bounds, fills and scales in this order, as in docs/numerics.md: each of them is determined by what the
    // one before has made of the training rows.
    let clips = preparation::clips(&settings, &train, &train_rows)?;
    for dataset in [Some(&mut train), validation.as_mut(), test.as_mut()].into_iter().flatten() {
        preparation::clip(dataset, &clips);
    }
    let fill = preparation::fill_values(&settings, &train, &train_rows)?;
    for dataset in [Some(&mut train), validation.as_mut(), test.as_mut()].into_iter().flatten() {
        preparation::fill_missing(dataset, fill.as_deref());
    }
    let standard = preparation::scales(&settings, &train, &train_rows);
    for (feature, bounds) in clips {
        encoding.set_clip(feature, bounds);
    }
    let preprocessing = Arc::new(Preprocessing { fill, standard });
    let split = |dataset: Dataset| Split::new(Arc::new(dataset), None, Arc::clone(&preprocessing));
    let whole = split(train);
    Ok(Loaded {
        validation: match &validation_rows {
            Some(rows) => Some(whole.of_rows(rows)),
            None => validation.map(&split),
        },
        train: if validation_rows.is_some() { whole.of_rows(&train_rows) } else { whole },
        test: test.map(&split),
        fingerprint: fingerprints.all,
        training_fingerprint: fingerprints.training,
        task,
        class_names: encoding.class_names().to_vec(),
        feature_names: encoding.feature_names.clone(),
        image: encoding.image(),
        encoding,
    })
}

/// Reads all sources in parallel, the training source first. If several fail, returns the error of the first
/// one in order.
fn read_all(config: &DataConfig, from: ReadContext<'_>) -> Result<Vec<Raw>, DataError> {
    let validation = config.validation_source();
    if config.validation_rows.is_some() && validation.is_none() {
        let problem = "it selects rows of a separate validation source; set data.validation to one".into();
        return Err(DataError::Option { key: "validation_rows", problem });
    }
    if config.test_rows.is_some() && config.test.is_none() {
        let problem = "there is no test source; set data.test".into();
        return Err(DataError::Option { key: "test_rows", problem });
    }
    let dialect = Dialect::new(config);
    let sources = [
        (Some(config.train.as_str()), Options::of_training(config), config.rows, "rows"),
        (validation, Options::of_other(&dialect), config.validation_rows, "validation_rows"),
        (config.test.as_deref(), Options::of_other(&dialect), config.test_rows, "test_rows"),
    ];
    let read = |(source, options, rows, key): &(Option<&str>, Options, Option<RowRange>, &'static str)| {
        let source = (*source)?;
        let raw = match from.arrays.get(source) {
            Some(arrays) => Ok(Raw::Arrays((**arrays).clone())),
            None => Source::parse(source).and_then(|parsed| parsed.read(from, options)),
        };
        Some(raw.and_then(|mut raw| {
            rows.map_or(Ok(()), |rows| raw.select(rows, key, source))?;
            Ok(raw)
        }))
    };
    // All sources are parsed before the first one is read.
    config
        .sources()
        .filter(|text| !from.arrays.contains_key(*text))
        .try_for_each(|text| Source::parse(text).map(drop))?;
    // This uses the caller's rayon pool, which also draws and converts sources.
    // If several sources have errors, the first source is reported, however the threads were scheduled.
    let read: Vec<Result<Raw, DataError>> = sources.par_iter().filter_map(read).collect();
    read.into_iter().collect()
}

/// Divides the rows into training and validation rows, both ascending. The validation rows are those at the
/// last round(share * n) positions of the validation order, but at least one.
fn split_off_validation(
    seed: u64,
    share: f64,
    n: usize,
    source: &str,
) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    let count = ((share * n as f64).round() as usize).max(1);
    if count >= n {
        let problem =
            format!("a share of {share} of the {n} samples of `{source}` leaves no training samples");
        return Err(DataError::Option { key: "validation", problem });
    }
    let order = SampleOrder::validation(seed, n);
    let mut apart = vec![false; n];
    (n - count..n).for_each(|position| apart[order.at(position)] = true);
    let (validation, train) = (0..n as u32).partition(|&row| apart[row as usize]);
    Ok((train, validation))
}
