//! The encoding of sources: what the training data determines, and its application to every source.

pub(crate) mod columns;
pub(crate) mod labels;
mod pixels;

use crate::arrays::{self, ArrayLabels, Arrays};
use crate::config::{DataConfig, Missing};
use crate::dataset::{self, ColumnContent, Dataset, Features, Image, MissingCells, Task};
use crate::dialect::Decimal;
use crate::error::DataError;
use crate::format::csv::Options;
use crate::format::libsvm::Sparse;
use crate::raw::Raw;
use crate::syntax::CellSyntax;
use crate::table::Table;
use crate::unknown::{Tolerance, Unknown};
use columns::{ColumnSettings, Columns};
use labels::{Classes, Labels};
use ndarray::Array2;
use ps_host::Memory;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The encoding that the training source determines and that is applied to all sources.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoding {
    pub task: Task,
    pub form: Form,
    pub classes: Classes,
    /// Name of each feature, which `form` determines.
    pub feature_names: Vec<String>,
}

/// What sources consist of, in the terms of a model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Form {
    /// Bytes, with labels that are class numbers.
    Pixels {
        /// Number of bytes per sample.
        features: usize,
        image: Option<Image>,
    },
    /// Pairs of an index from 1 and a value.
    Sparse {
        /// The largest index.
        features: usize,
    },
    Table(Columns),
    Arrays {
        /// Name of each feature.
        feature_names: Vec<String>,
        are_pixels: bool,
        image: Option<Image>,
    },
}

impl Form {
    /// Name of each feature.
    fn feature_names(&self) -> Vec<String> {
        match self {
            Form::Pixels { image: Some(image), .. } => pixels::pixel_names(*image),
            Form::Pixels { image: None, features } => {
                (0..*features).map(|index| format!("value {index}")).collect()
            }
            Form::Sparse { features } => (1..=*features).map(|index| index.to_string()).collect(),
            Form::Table(columns) => columns.feature_names(),
            Form::Arrays { feature_names, .. } => feature_names.clone(),
        }
    }

    /// Checks a form that was read from a model file.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    fn check(&self) -> Result<(), String> {
        let (features, image) = match self {
            Form::Table(columns) => return columns.check(),
            Form::Sparse { features } => (*features, None),
            Form::Pixels { features, image } => (*features, *image),
            Form::Arrays { feature_names, image, .. } => (feature_names.len(), *image),
        };
        if !(1..=MAX_FEATURES).contains(&features) {
            return Err(format!("{features} features, and there must be from 1 to {MAX_FEATURES}"));
        }
        let pixels = |Image { height, width }| height.checked_mul(width);
        match image {
            Some(image) if pixels(image) != Some(features) => {
                Err(format!("images of {}x{} have no {features} pixels", image.height, image.width))
            }
            _ => Ok(()),
        }
    }
}

impl Encoding {
    fn new(task: Task, form: Form, classes: Classes) -> Self {
        Encoding { feature_names: form.feature_names(), task, form, classes }
    }

    /// Restores an encoding from the parts that a model file contains.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub(crate) fn restored(task: Task, form: Form, classes: Classes) -> Result<Self, String> {
        form.check()?;
        classes.check(task)?;
        let is_index = |(index, name): (usize, &String)| *name == index.to_string();
        if matches!(form, Form::Pixels { .. }) && !classes.names.iter().enumerate().all(is_index) {
            return Err("the classes of images must be 0, 1, 2, … without gaps".into());
        }
        Ok(Encoding::new(task, form, classes))
    }

    /// Determines the encoding from `raw`, the training source.
    pub(crate) fn learn(raw: &mut Raw, config: &DataConfig, task: Task) -> Result<Self, DataError> {
        let of_tables = [
            ("label", config.label.is_some()),
            ("skip_missing_target", config.skip_missing_target),
            ("separator", config.separator.is_some()),
            ("decimal", config.decimal != Decimal::Point),
            ("header", config.header.is_some()),
            ("names", config.names.is_some()),
            ("drop", config.drop.is_some()),
            ("use", config.only.is_some()),
            ("columns", !config.columns.is_empty()),
            ("missing_values", config.missing_values.is_some()),
        ];
        let unused = of_tables.into_iter().find(|(_, is_set)| *is_set && !matches!(raw, Raw::Table(_)));
        if let Some((key, _)) = unused {
            let problem =
                format!("it applies only to CSV sources, not to `{}`; remove the key", config.train);
            return Err(DataError::Option { key, problem });
        }
        let classes_of = |labels: &Labels<'_>, location: &str| {
            if !task.has_classes() {
                return Ok(Classes::default());
            }
            let classes = Classes::learn(labels)?;
            labels::check_classes(&classes.names, task, location)?;
            Ok(classes)
        };
        match raw {
            Raw::Pixels(pixels) => {
                let form = Form::Pixels { features: pixels.pixels.ncols(), image: pixels.image };
                Ok(Encoding::new(task, form, pixels::learn_classes(pixels, task)?))
            }
            Raw::Sparse(sparse) => {
                if sparse.largest.0 == 0 {
                    return Err(DataError::content(
                        &sparse.location,
                        "the file contains no index:value pairs",
                    ));
                }
                check_size(&sparse.location, sparse.rows(), sparse.largest.0 as usize)?;
                let classes = with_sparse_labels(sparse, |labels| classes_of(labels, &sparse.location))?;
                Ok(Encoding::new(task, Form::Sparse { features: sparse.largest.0 as usize }, classes))
            }
            Raw::Table(table) => {
                let label = table.label_column(config.label.as_deref())?;
                if config.skip_missing_target {
                    table.skip_missing(label)?;
                }
                let columns = Columns::learn(table, label, config)?;
                let classes = with_table_labels(table, label, |labels| classes_of(labels, &table.location))?;
                Ok(Encoding::new(task, Form::Table(columns), classes))
            }
            Raw::Arrays(arrays) => {
                let labels = required_labels(arrays, &config.train)?;
                let classes = match task.has_classes() {
                    true => Classes::learn_arrays(labels, &config.train)?,
                    false => Classes::default(),
                };
                if task.has_classes() {
                    labels::check_classes(&classes.names, task, &config.train)?;
                }
                let form = Form::Arrays {
                    feature_names: array_names(arrays, &config.train)?,
                    are_pixels: arrays.features.are_pixels(),
                    image: arrays.image,
                };
                Ok(Encoding::new(task, form, classes))
            }
        }
    }

    /// Height and width, if the samples are images.
    pub(crate) fn image(&self) -> Option<Image> {
        match self.form {
            Form::Pixels { image, .. } | Form::Arrays { image, .. } => image,
            Form::Sparse { .. } | Form::Table(_) => None,
        }
    }

    /// The options with which sources other than the training source are read.
    pub(crate) fn options(&self) -> Options {
        match &self.form {
            Form::Table(columns) => Options::of_other(columns.dialect()),
            Form::Pixels { .. } | Form::Sparse { .. } | Form::Arrays { .. } => Options::default(),
        }
    }

    /// Whether the features are bytes, which represent values from 0 to 1.
    pub(crate) fn are_pixels(&self) -> bool {
        match self.form {
            Form::Pixels { .. } => true,
            Form::Arrays { are_pixels, .. } => are_pixels,
            Form::Sparse { .. } | Form::Table(_) => false,
        }
    }

    /// Name of each class.
    pub(crate) fn class_names(&self) -> &[String] {
        &self.classes.names
    }

    /// Name and number of categories of each categorical column in a table.
    pub(crate) fn categories(&self) -> Vec<(String, usize)> {
        match &self.form {
            Form::Table(columns) => columns.categories(),
            Form::Pixels { .. } | Form::Sparse { .. } | Form::Arrays { .. } => Vec::new(),
        }
    }

    /// What the run file says about groups of features: the columns of a table, or all features of any other
    /// source.
    pub(crate) fn settings<'a>(&'a self, config: &'a DataConfig) -> Vec<(Range<usize>, ColumnSettings<'a>)> {
        match &self.form {
            Form::Table(columns) => columns.settings(config).collect(),
            Form::Pixels { .. } | Form::Sparse { .. } | Form::Arrays { .. } => {
                vec![(0..self.feature_names.len(), ColumnSettings::of_all(config))]
            }
        }
    }

    /// Whether cells may be missing if the features have the values `fill` for them (NaN for a feature
    /// without one): for each column of a table, or for all features of any other source.
    pub(crate) fn missing(&self, fill: Option<&[f32]>) -> Vec<Missing> {
        let allowed = |is_allowed| if is_allowed { Missing::Mean } else { Missing::Refuse };
        match (&self.form, fill) {
            (Form::Table(_), Some(fill)) => {
                let is_filled = |column: dataset::Column| !fill[column.features.start].is_nan();
                self.columns().into_iter().map(|column| allowed(is_filled(column))).collect()
            }
            (Form::Table(_), None) => vec![Missing::Refuse; self.columns().len()],
            (_, fill) => vec![allowed(fill.is_some())],
        }
    }

    /// Sets the bounds of the number column with the feature `feature`.
    pub(crate) fn set_clip(&mut self, feature: usize, bounds: [f32; 2]) {
        if let Form::Table(columns) = &mut self.form {
            columns.set_clip(feature, bounds);
        }
    }

    /// Encodes `raw`; `labelled` says whether to read targets. Cells may be missing where `missing` says so, as
    /// in [`Encoding::missing`], and tables may contain what `tolerance` allows.
    pub(crate) fn encode(
        &self,
        raw: Raw,
        source: &str,
        missing: &[Missing],
        labelled: bool,
        tolerance: Tolerance,
    ) -> Result<Dataset, DataError> {
        let (mut notes, mut unknown) = (Vec::new(), Unknown::default());
        // Splits list their rows as 32-bit numbers.
        if u32::try_from(raw.rows()).is_err() {
            return Err(DataError::unfit(source, "more than 2^32 samples"));
        }
        let (features, targets) = match (&self.form, raw) {
            (Form::Pixels { features, image }, Raw::Pixels(pixels)) => {
                pixels::check_shape(&pixels, *image, *features)?;
                let classes = self.classes.names.len();
                let targets = labelled.then(|| pixels::targets(&pixels, self.task, classes)).transpose()?;
                (Features::U8(pixels.pixels), targets)
            }
            (Form::Sparse { features }, Raw::Sparse(sparse)) => {
                let targets = labelled.then(|| with_sparse_labels(&sparse, |labels| self.targets(labels)));
                (Features::F32(dense(&sparse, *features)?), targets.transpose()?)
            }
            (Form::Table(columns), Raw::Table(mut table)) => {
                if labelled && columns.dialect().skip_missing_target {
                    let label = label_of(&table, columns.label())?;
                    table.skip_missing(label)?;
                }
                let features;
                (features, unknown) = columns.encode(&mut table, missing, tolerance)?;
                let targets =
                    labelled.then(|| self.table_targets(&mut table, columns.label())).transpose()?;
                notes = table.notes;
                (Features::F32(features), targets)
            }
            (_, Raw::Arrays(arrays)) => {
                let targets = labelled.then(|| {
                    let labels = required_labels(&arrays, source)?;
                    labels::array_targets(labels, source, self.task, &self.classes)
                });
                (self.array_features(arrays.features, source, missing[0])?, targets.transpose()?)
            }
            (form, _) => {
                let kind = match form {
                    Form::Arrays { .. } => "arrays",
                    Form::Pixels { .. } => "images (idx: or digits:)",
                    Form::Sparse { .. } => "a libsvm: source",
                    Form::Table(_) => "a csv: source",
                };
                return Err(DataError::Source {
                    source: source.into(),
                    problem: format!("it must be of the same kind as the training data, which is {kind}"),
                });
            }
        };
        Ok(Dataset {
            features,
            targets: targets.unwrap_or_default(),
            feature_names: self.feature_names.clone(),
            class_names: self.classes.names.clone(),
            image: self.image(),
            source: source.into(),
            missing: MissingCells::default(),
            notes,
            unknown,
        })
    }

    /// The columns of a source, each with the features that it becomes.
    pub(crate) fn columns(&self) -> Vec<dataset::Column> {
        let single = |(feature, name): (usize, String)| dataset::Column {
            name,
            content: ColumnContent::Number { clip: None },
            features: feature..feature + 1,
        };
        let names = self.feature_names.iter();
        match &self.form {
            Form::Pixels { .. } | Form::Arrays { .. } => names.cloned().enumerate().map(single).collect(),
            Form::Sparse { .. } => {
                names.map(|index| format!("feature {index}")).enumerate().map(single).collect()
            }
            Form::Table(columns) => columns.with_features(),
        }
    }

    /// The features of arrays, with a single bit pattern for all missing cells.
    fn array_features(
        &self,
        mut features: Features,
        source: &str,
        missing: Missing,
    ) -> Result<Features, DataError> {
        let (width, wanted) = (features.width(), self.feature_names.len());
        if width != wanted {
            let problem = format!("the arrays have {width} features, but the training data has {wanted}");
            return Err(DataError::unfit(source, problem));
        }
        if features.are_pixels() != self.are_pixels() {
            let what = |are_pixels| if are_pixels { "bytes (pixels)" } else { "32-bit floats" };
            let (here, there) = (what(features.are_pixels()), what(self.are_pixels()));
            return Err(DataError::unfit(
                source,
                format!("the features are {here}, but those of the training data are {there}"),
            ));
        }
        let Features::F32(values) = &mut features else { return Ok(features) };
        for (row, mut cells) in values.rows_mut().into_iter().enumerate() {
            let cells = cells.iter_mut().zip(&self.feature_names);
            for (cell, name) in cells.filter(|(cell, _)| !cell.is_finite()) {
                let bad = |problem| {
                    Err(DataError::content(
                        format!("{}: feature `{name}`", arrays::location(source, row)),
                        problem,
                    ))
                };
                match missing {
                    _ if cell.is_infinite() => return bad(format!("{cell} is not finite")),
                    Missing::Refuse => {
                        return bad(
                            "missing value (NaN); remove the row or set data.missing = \"mean\"".into()
                        );
                    }
                    Missing::Mean => *cell = f32::NAN,
                }
            }
        }
        Ok(features)
    }

    fn targets(&self, labels: &Labels<'_>) -> Result<Vec<f32>, DataError> {
        labels::targets(labels, self.task, &self.classes)
    }

    fn table_targets(&self, table: &mut Table, label: &str) -> Result<Vec<f32>, DataError> {
        let column = label_of(table, label)?;
        let (targets, note) = with_table_labels(table, column, |labels| {
            if !self.task.has_classes() || !labels::end_in_full_stops(labels, &self.classes) {
                return (self.targets(labels), None);
            }
            let text = |row| (labels.text)(row).map(|text| text.strip_suffix('.').unwrap_or(text));
            let first = (labels.text)(0).unwrap_or_default();
            let note = format!(
                "every label ends with a full stop, as in `{first}`, which those of the training data do not; \
                 it is ignored"
            );
            (self.targets(&Labels { text: &text, ..*labels }), Some(note))
        });
        table.notes.extend(note.map(|note| format!("{}: {note}", table.location)));
        targets
    }
}

/// The index of the column `label` in `table`.
fn label_of(table: &Table, label: &str) -> Result<usize, DataError> {
    table.column(label).ok_or_else(|| {
        DataError::content(table.first_location(), format!("the label column `{label}` is missing"))
    })
}

/// Calls `work` with the labels of a table.
pub(crate) fn with_table_labels<T>(table: &Table, column: usize, work: impl FnOnce(&Labels<'_>) -> T) -> T {
    work(&Labels {
        count: table.rows(),
        text: &|row| Some(table.cell(row, column)),
        location: &|row| table.location_of(row, column),
        syntax: &table.syntax,
    })
}

/// Calls `work` with the labels of a LIBSVM file.
pub(crate) fn with_sparse_labels<T>(sparse: &Sparse, work: impl FnOnce(&Labels<'_>) -> T) -> T {
    work(&Labels {
        count: sparse.rows(),
        text: &|row| sparse.label(row),
        location: &|row| sparse.location_of(row),
        // All existing labels are numbers, so there are no markers.
        syntax: &CellSyntax::plain(),
    })
}

fn required_labels<'a>(arrays: &'a Arrays, source: &str) -> Result<&'a ArrayLabels, DataError> {
    let samples = arrays.features.samples();
    match &arrays.labels {
        None => Err(DataError::unfit(source, "the arrays have no labels")),
        Some(labels) if labels.len() != samples => {
            let problem = format!("there are {samples} rows of features, but {} labels", labels.len());
            Err(DataError::unfit(source, problem))
        }
        Some(labels) => Ok(labels),
    }
}

/// The names of the features of arrays.
fn array_names(arrays: &Arrays, source: &str) -> Result<Vec<String>, DataError> {
    let width = arrays.features.width();
    match (&arrays.feature_names, arrays.image) {
        (Some(names), _) if names.len() != width => {
            let problem = format!("there are {width} features, but {} feature names", names.len());
            Err(DataError::unfit(source, problem))
        }
        (Some(names), _) => Ok(names.clone()),
        (None, Some(image)) => Ok(pixels::pixel_names(image)),
        (None, None) => Ok((0..width).map(|index| index.to_string()).collect()),
    }
}

fn dense(sparse: &Sparse, width: usize) -> Result<Array2<f32>, DataError> {
    let (largest, line) = sparse.largest;
    if largest as usize > width {
        let problem = format!("index {largest} is out of range: the training data has {width} features");
        return Err(DataError::content(format!("{}:{line}", sparse.location), problem));
    }
    let mut values = zeros(&sparse.location, sparse.rows(), width)?;
    for (row, mut slots) in values.rows_mut().into_iter().enumerate() {
        sparse.pairs(row).iter().for_each(|&(index, value)| slots[index as usize - 1] = value);
    }
    Ok(values)
}

/// Maximum number of features per sample.
const MAX_FEATURES: usize = 1 << 24;
/// Maximum number of values in dense rows: 16 GiB.
const MAX_VALUES: usize = 1 << 32;

/// Checks that dense rows fit into memory, before any memory is allocated for them.
fn check_size(location: &str, rows: usize, width: usize) -> Result<(), DataError> {
    fits(rows, width, Memory::detect()).map_err(|problem| DataError::unfit(location, problem))
}

/// Checks that dense rows fit into `memory`, if its size is known.
fn fits(rows: usize, width: usize, memory: Option<Memory>) -> Result<(), String> {
    let values = rows.checked_mul(width).filter(|&values| width <= MAX_FEATURES && values <= MAX_VALUES);
    let Some(values) = values else {
        return Err(format!(
            "{rows} rows of {width} features are too many for a dense table (at most {MAX_FEATURES} features and \
             {MAX_VALUES} values)"
        ));
    };
    let size = 4 * values as u64;
    // Asks the allocator, too: under a limit that `Memory` does not know, a failed allocation would abort the
    // process without a message.
    let is_granted = || Vec::<f32>::new().try_reserve_exact(values).is_ok();
    if memory.is_none_or(|memory| size <= memory.bytes) && is_granted() {
        return Ok(());
    }
    let size = ps_host::bytes(size.into());
    let memory =
        memory.map_or_else(|| "the memory that the system allows".to_owned(), |memory| memory.to_string());
    Err(format!("{rows} rows of {width} features need {size} as a dense table, more than {memory}"))
}

/// Allocates zeroed dense rows.
///
/// # Errors
/// Returns an error if the rows do not fit into memory.
pub(crate) fn zeros(location: &str, rows: usize, width: usize) -> Result<Array2<f32>, DataError> {
    check_size(location, rows, width)?;
    Ok(Array2::zeros((rows, width)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_host::Bound;

    #[test]
    fn a_table_that_is_larger_than_memory_is_refused_with_both_sizes() {
        let memory = |bytes| Some(Memory { bytes, bound: Bound::ControlGroup });
        assert_eq!(fits(1 << 10, 1 << 10, memory(4 << 20)), Ok(()));
        assert_eq!(
            fits(1 << 10, 1 << 10, memory((4 << 20) - 1)).unwrap_err(),
            "1024 rows of 1024 features need 4.0 MiB as a dense table, more than the control group's memory \
             limit of 4.0 MiB"
        );
        for (rows, width) in [(1, MAX_FEATURES + 1), (MAX_VALUES, 2), (usize::MAX, 2)] {
            assert!(fits(rows, width, None).unwrap_err().contains("too many for a dense table"));
        }
    }
}
