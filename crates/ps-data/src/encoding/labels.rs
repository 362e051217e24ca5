//! Conversion of labels to targets.

use crate::arrays::{self, ArrayLabels};
use crate::dataset::Task;
use crate::error::DataError;
use crate::number::nearest;
use crate::syntax::{Cell, CellSyntax};
use serde::{Deserialize, Serialize, Serializer};

/// The labels of a CSV or LIBSVM file, or the class names of arrays.
pub(crate) struct Labels<'a> {
    pub count: usize,
    /// Returns the label of a row as a string.
    pub text: &'a dyn Fn(usize) -> Option<&'a str>,
    /// Returns the position of a label, for error messages.
    pub location: &'a dyn Fn(usize) -> String,
    /// How labels are written.
    pub syntax: &'a CellSyntax,
}

/// The classes of the training data, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "SavedClasses", into = "SavedClasses")]
pub(crate) struct Classes {
    pub names: Vec<String>,
    /// The numeric values of the classes, if all are numbers. `1`, `+1` and `1.0` are then the same class.
    pub numbers: Option<Vec<f64>>,
}

/// The classes in a model file: a list of numbers or of strings.
#[derive(Clone, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a list of numbers or of strings")]
enum SavedClasses {
    Numbers(Vec<SavedNumber>),
    Names(Vec<String>),
}

/// A numeric class, which is saved as an integer if it is one.
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
struct SavedNumber(f64);

impl Serialize for SavedNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// All integers up to this magnitude are binary64 numbers.
        const MAX_INTEGER: f64 = (1_u64 << 53) as f64;
        match self.0 {
            value if value.fract() == 0.0 && value.abs() <= MAX_INTEGER => {
                serializer.serialize_i64(value as i64)
            }
            value => serializer.serialize_f64(value),
        }
    }
}

impl From<Classes> for SavedClasses {
    fn from(classes: Classes) -> Self {
        match classes.numbers {
            Some(numbers) => SavedClasses::Numbers(numbers.into_iter().map(SavedNumber).collect()),
            None => SavedClasses::Names(classes.names),
        }
    }
}

impl From<SavedClasses> for Classes {
    fn from(saved: SavedClasses) -> Self {
        match saved {
            SavedClasses::Numbers(numbers) if numbers.is_empty() => Classes::default(),
            SavedClasses::Numbers(numbers) => {
                // Adding 0 turns -0 into 0. The search compares by `total_cmp`, which distinguishes them.
                Classes::numbered(numbers.into_iter().map(|SavedNumber(number)| number + 0.0).collect())
            }
            SavedClasses::Names(names) => Classes { names, numbers: None },
        }
    }
}

impl Classes {
    /// Collects the distinct labels, sorted as numbers if all of them are numbers, otherwise in byte order.
    pub(crate) fn learn(labels: &Labels<'_>) -> Result<Self, DataError> {
        let mut names: Vec<&str> = Vec::new();
        for row in 0..labels.count {
            let name = known(labels, row)?;
            // Labels repeat, so the list stays short, and so does the search.
            if let Err(index) = names.binary_search(&name) {
                names.insert(index, name);
            }
        }
        match names.iter().map(|name| labels.syntax.double(name)).collect() {
            Some(numbers) => Ok(Classes::of_numbers(numbers)),
            None => Ok(Classes { names: names.into_iter().map(String::from).collect(), numbers: None }),
        }
    }

    /// Collects the distinct labels of arrays, in the order of [`Classes::learn`].
    pub(crate) fn learn_arrays(labels: &ArrayLabels, source: &str) -> Result<Self, DataError> {
        match labels {
            ArrayLabels::Numbers(values) => {
                let value = |(row, &value): (usize, &f64)| finite_label(value, source, row);
                values.iter().enumerate().map(value).collect::<Result<_, _>>().map(Classes::of_numbers)
            }
            ArrayLabels::Names(names) => with_names(names, source, Classes::learn),
        }
    }

    fn of_numbers(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        Classes::numbered(numbers)
    }

    /// Creates the classes with these names, which are numeric if all of them are numbers.
    pub(crate) fn named(names: Vec<String>) -> Self {
        let syntax = CellSyntax::plain();
        let numbers = names.iter().map(|name| syntax.double(name)).collect();
        Classes { numbers: if names.is_empty() { None } else { numbers }, names }
    }

    /// Creates numeric classes from distinct, ascending numbers.
    pub(super) fn numbered(numbers: Vec<f64>) -> Self {
        Classes { names: numbers.iter().map(f64::to_string).collect(), numbers: Some(numbers) }
    }

    /// Checks classes that were read from a model file for `task`.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub(crate) fn check(&self, task: Task) -> Result<(), String> {
        let is_sorted = match &self.numbers {
            Some(numbers) => {
                numbers.iter().all(|number| number.is_finite()) && numbers.is_sorted_by(|a, b| a < b)
            }
            None => self.names.is_sorted_by(|a, b| a < b),
        };
        match (task, self.names.len()) {
            _ if !is_sorted => Err("the classes are not distinct and in ascending order".into()),
            (Task::Regression | Task::Count, 0) | (Task::Binary, 2) | (Task::Classes, 2..) => Ok(()),
            (_, count) => Err(format!("{count} classes, which does not suit the target")),
        }
    }

    fn find(&self, text: &str, syntax: &CellSyntax) -> Option<usize> {
        match &self.numbers {
            Some(_) => self.find_number(syntax.double(text)?),
            None => self.names.binary_search_by(|name| name.as_str().cmp(text)).ok(),
        }
    }

    fn find_number(&self, value: f64) -> Option<usize> {
        self.numbers.as_ref()?.binary_search_by(|known| known.total_cmp(&value)).ok()
    }

    fn unknown(&self, text: &str, syntax: &CellSyntax) -> String {
        let near = match (&self.numbers, syntax.double(text)) {
            (Some(numbers), Some(value)) => {
                let distance = |class: &usize| (numbers[*class] - value).abs();
                let class = (0..numbers.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)));
                class.map_or(String::new(), |class| {
                    format!("; the closest known label is `{}`", self.names[class])
                })
            }
            _ => nearest(text, self.names.iter().map(String::as_str)),
        };
        format!("label `{text}` does not occur in the training data{near}")
    }
}

fn known<'a>(labels: &Labels<'a>, row: usize) -> Result<&'a str, DataError> {
    match (labels.text)(row) {
        None => {
            Err(DataError::content((labels.location)(row), "expected a label before the index:value pairs"))
        }
        Some(text) => match labels.syntax.classify(text) {
            Cell::Missing if text.is_empty() => Err(DataError::content(
                (labels.location)(row),
                "the label is missing; remove the row or set data.skip_missing_target = true",
            )),
            Cell::Missing => Err(DataError::content(
                (labels.location)(row),
                format!(
                    "the label is missing (`{text}`); remove the row or set data.skip_missing_target = true, or leave `{text}` out of \
                     data.missing_values"
                ),
            )),
            Cell::Infinite => {
                Err(DataError::content((labels.location)(row), format!("label `{text}` is not finite")))
            }
            _ => Ok(text),
        },
    }
}

/// The targets of all rows.
pub(crate) fn targets(labels: &Labels<'_>, task: Task, classes: &Classes) -> Result<Vec<f32>, DataError> {
    let target = |row: usize| {
        let text = known(labels, row)?;
        let value = if task.has_classes() {
            let class = classes.find(text, labels.syntax);
            class.map(|class| class as f32).ok_or_else(|| classes.unknown(text, labels.syntax))
        } else {
            value(text, task, labels.syntax)
        };
        value.map_err(|problem| DataError::content((labels.location)(row), problem))
    };
    (0..labels.count).map(target).collect()
}

/// Whether no label is a class, but each is one followed by a full stop, as in the test file of UCI Adult.
pub(crate) fn end_in_full_stops(labels: &Labels<'_>, classes: &Classes) -> bool {
    let is_class = |text: &str| classes.find(text, labels.syntax).is_some();
    let is_extended = |text: &str| !is_class(text) && text.strip_suffix('.').is_some_and(is_class);
    labels.count > 0 && (0..labels.count).all(|row| (labels.text)(row).is_some_and(is_extended))
}

/// The targets of all samples in arrays.
pub(crate) fn array_targets(
    labels: &ArrayLabels,
    source: &str,
    task: Task,
    classes: &Classes,
) -> Result<Vec<f32>, DataError> {
    let values = match labels {
        ArrayLabels::Names(names) => {
            return with_names(names, source, |labels| targets(labels, task, classes));
        }
        ArrayLabels::Numbers(values) => values,
    };
    let syntax = CellSyntax::plain();
    let target = |(row, &value): (usize, &f64)| {
        let value = finite_label(value, source, row)?;
        let bad = |problem| DataError::content(arrays::location(source, row), problem);
        let rounded = value as f32;
        match task {
            _ if task.has_classes() => {
                let class = match classes.numbers {
                    Some(_) => classes.find_number(value),
                    None => classes.find(&value.to_string(), &syntax),
                };
                let unknown = || bad(classes.unknown(&value.to_string(), &syntax));
                class.map(|class| class as f32).ok_or_else(unknown)
            }
            _ if !rounded.is_finite() => {
                Err(bad(format!("the target {value} is too large for a 32-bit float")))
            }
            Task::Count if value < 0.0 => Err(bad(negative(&value.to_string()))),
            _ => Ok(rounded),
        }
    };
    values.iter().enumerate().map(target).collect()
}

/// Calls `work` with labels that are strings in memory.
fn with_names<T>(names: &[String], source: &str, work: impl FnOnce(&Labels<'_>) -> T) -> T {
    work(&Labels {
        count: names.len(),
        text: &|row| Some(&names[row]),
        location: &|row| arrays::location(source, row),
        // Only an empty string counts as missing.
        syntax: &CellSyntax::plain(),
    })
}

/// Checks that a label is finite. -0 counts as 0.
fn finite_label(value: f64, source: &str, row: usize) -> Result<f64, DataError> {
    let bad = |problem: String| Err(DataError::content(arrays::location(source, row), problem));
    match value {
        _ if value.is_nan() => bad("the label is missing (NaN); remove the row".into()),
        _ if value.is_infinite() => bad(format!("label {value} is not finite")),
        _ => Ok(value + 0.0),
    }
}

fn negative(text: &str) -> String {
    format!("the target {text} is negative; counts start at 0")
}

fn value(text: &str, task: Task, syntax: &CellSyntax) -> Result<f32, String> {
    let value = syntax.finite(text).map_err(|problem| format!("invalid target: {problem}"))?;
    match task {
        Task::Count if value < 0.0 => Err(negative(text)),
        _ => Ok(value),
    }
}

/// Checks that the number of classes is one that the model allows.
pub(crate) fn check_classes(names: &[String], task: Task, location: &str) -> Result<(), DataError> {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 5 { ", …" } else { "" };
    let problem = match (task, names.len()) {
        (Task::Binary, 2) => return Ok(()),
        (Task::Binary, count) => format!(
            "the model needs exactly two classes, but the labels have {count} ({shown}{more}); for more \
             than two classes, use softmax"
        ),
        (_, 2..) => return Ok(()),
        (_, count) => {
            format!("a classifier needs at least two classes, but the labels have {count} ({shown})")
        }
    };
    Err(DataError::unfit(location, problem))
}
