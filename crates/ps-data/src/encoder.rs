//! What the training data determines about other data, as a value that model files contain.

use crate::arrays::Arrays;
use crate::dataset::{Column, Image, Task};
use crate::encoding::columns::Columns;
use crate::encoding::labels::Classes;
use crate::encoding::{Encoding, Form};
use crate::error::DataError;
use crate::format::Source;
use crate::format::csv::Options;
use crate::load::NO_ARRAYS;
use crate::preparation::fill_missing;
use crate::progress::{ReadContext, ReadProgress};
use crate::raw::Raw;
use crate::split::{Preprocessing, Split, Standard};
use crate::unknown::NewData;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Encodes and preprocesses further data in the same way as the training data.
///
/// Created by [`Loaded::encoder`](crate::Loaded::encoder), or by deserializing one that was saved.
/// Deserialization checks everything that encoding relies on, so that an encoder from a forged file is as
/// good as any other. A source with other classes than the training data, or without one of its columns, is
/// an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Encoder {
    encoding: Encoding,
    preprocessing: Arc<Preprocessing>,
}

/// An encoder in a model file.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// What the model predicts.
    target: Task,
    /// The classes in ascending order, as numbers or as strings; empty for regression and counts.
    classes: Classes,
    /// What samples consist of.
    input: Form,
    preprocessing: Preprocessing,
}

impl From<Encoder> for Saved {
    fn from(Encoder { encoding, preprocessing }: Encoder) -> Self {
        let Encoding { task, form, classes, .. } = encoding;
        Saved { target: task, classes, input: form, preprocessing: Arc::unwrap_or_clone(preprocessing) }
    }
}

impl TryFrom<Saved> for Encoder {
    type Error = String;

    fn try_from(saved: Saved) -> Result<Self, String> {
        let Saved { target, classes, input, preprocessing } = saved;
        let encoding = Encoding::restored(target, input, classes)?;
        check(&preprocessing, &encoding)?;
        Ok(Encoder { encoding, preprocessing: Arc::new(preprocessing) })
    }
}

/// Checks preprocessing that was read from a model file.
fn check(preprocessing: &Preprocessing, encoding: &Encoding) -> Result<(), String> {
    let Preprocessing { fill, standard } = preprocessing;
    let (mean, inv_std) = standard.as_ref().map(|Standard { mean, inv_std }| (mean, inv_std)).unzip();
    let width = encoding.feature_names.len();
    for (name, values) in [("fill", fill.as_ref()), ("mean", mean), ("inv_std", inv_std)] {
        // Columns of a table may refuse missing cells.
        let may_be_unset = name == "fill" && matches!(encoding.form, Form::Table(_));
        let is_valid = |value: &f32| value.is_finite() || may_be_unset && value.is_nan();
        match values {
            Some(values) if values.len() != width => {
                return Err(format!("`{name}` has {} values for {width} features", values.len()));
            }
            Some(values) if !values.iter().all(is_valid) => {
                return Err(format!("`{name}` has a value that is not finite"));
            }
            _ => {}
        }
    }
    let is_partial = |fill: &Vec<f32>| {
        let is_unset = |feature: usize| fill[feature].is_nan();
        encoding.columns().into_iter().find(|column| {
            let first = is_unset(column.features.start);
            column.features.clone().any(|feature| is_unset(feature) != first)
        })
    };
    if let Some(column) = fill.as_ref().and_then(is_partial) {
        return Err(format!("column `{}`: `fill` has values for some of its features only", column.name));
    }
    match fill {
        Some(_) if encoding.are_pixels() => Err("bytes are never missing, and there is a `fill`".into()),
        _ => Ok(()),
    }
}

impl Encoder {
    pub(crate) fn new(encoding: Encoding, preprocessing: Arc<Preprocessing>) -> Self {
        Encoder { encoding, preprocessing }
    }

    /// The kind of target that the model was trained on.
    pub fn task(&self) -> Task {
        self.encoding.task
    }

    /// Name of each class; empty for regression and counts.
    pub fn class_names(&self) -> &[String] {
        &self.encoding.classes.names
    }

    /// The class labels as numbers, if all of them are; [`Encoder::class_names`] contains them as strings.
    pub fn class_numbers(&self) -> Option<&[f64]> {
        self.encoding.classes.numbers.as_deref()
    }

    /// Name of each feature.
    pub fn feature_names(&self) -> &[String] {
        &self.encoding.feature_names
    }

    /// The columns of sources without the label, in order, each with its features. Features are numbered as
    /// in [`Encoder::preprocessing`].
    pub fn columns(&self) -> Vec<Column> {
        self.encoding.columns()
    }

    /// Whether samples are rows of a table, with columns of numbers and of strings.
    pub fn is_table(&self) -> bool {
        matches!(self.encoding.form, Form::Table(_))
    }

    /// The strings that mark a missing cell of a table, among them the empty one; none for other sources.
    pub fn missing_markers(&self) -> Vec<String> {
        let Form::Table(columns) = &self.encoding.form else { return Vec::new() };
        columns.dialect().syntax().markers().all().into_iter().collect()
    }

    /// The values of those [`Encoder::missing_markers`] that are numbers, such as -999.
    pub fn missing_numbers(&self) -> Vec<f32> {
        let Form::Table(columns) = &self.encoding.form else { return Vec::new() };
        let syntax = columns.dialect().syntax();
        syntax.markers().all().iter().filter_map(|text| syntax.number(text)).collect()
    }

    /// Whether features are bytes, which stand for values from 0 to 1.
    pub fn are_pixels(&self) -> bool {
        self.encoding.are_pixels()
    }

    /// Height and width, if the samples are images.
    pub fn image(&self) -> Option<Image> {
        self.encoding.image()
    }

    /// How missing cells are filled, and how features are standardized.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Reads a source with the columns, categories, classes and preprocessing of the training data. If `new` is
    /// not labelled, labels are ignored and may be missing (a CSV file without the label column, or
    /// `idx:IMAGES` alone), and [`Split::has_targets`] is `false`.
    pub fn load(
        &self,
        source: &str,
        new: NewData,
        root: &Path,
        progress: &dyn ReadProgress,
    ) -> Result<Split, DataError> {
        let context = ReadContext { root, memory: None, arrays: &NO_ARRAYS, progress };
        let options = self.table(new).map_or_else(|| self.encoding.options(), |(_, options)| options);
        let raw = Source::parse(source)?.read(context, &options)?;
        self.encode(raw, source, new)
    }

    /// The columns and the options with which tables of new data are read, if the model was trained on a table.
    pub(crate) fn table(&self, new: NewData) -> Option<(&Columns, Options)> {
        let Form::Table(columns) = &self.encoding.form else { return None };
        let options = self.encoding.options();
        Some((columns, if new.is_labelled { options } else { options.without_label(columns.label()) }))
    }

    /// Like [`Encoder::load`], but for arrays with the features of the model. Error messages
    /// call them `name`.
    pub fn load_arrays(&self, arrays: &Arrays, name: &str, is_labelled: bool) -> Result<Split, DataError> {
        self.encode(Raw::Arrays(arrays.clone()), name, NewData { is_labelled, is_strict: false })
    }

    pub(crate) fn encode(&self, raw: Raw, source: &str, new: NewData) -> Result<Split, DataError> {
        let fill = self.preprocessing.fill.as_deref();
        let missing = self.encoding.missing(fill);
        let mut dataset = self.encoding.encode(raw, source, &missing, new.is_labelled, new.tolerance())?;
        fill_missing(&mut dataset, fill);
        Ok(Split::new(Arc::new(dataset), None, Arc::clone(&self.preprocessing)))
    }
}

/// The encoding in files of models trained on arrays, before files of all models contained an [`Encoder`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ArrayEncoding {
    feature_names: Vec<String>,
    #[serde(default)]
    image: Option<Image>,
    are_pixels: bool,
    preprocessing: Preprocessing,
}

impl ArrayEncoding {
    /// The encoder of a model with these classes.
    ///
    /// # Errors
    /// Returns what is wrong with the encoding.
    pub fn encoder(self, task: Task, class_names: Vec<String>) -> Result<Encoder, String> {
        let ArrayEncoding { feature_names, image, are_pixels, preprocessing } = self;
        let input = Form::Arrays { feature_names, are_pixels, image };
        Saved { target: task, classes: Classes::named(class_names), input, preprocessing }.try_into()
    }
}
