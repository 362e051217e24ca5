//! Describes the contents of a source, so that a person can check it before training.

use crate::arrays::NamedArrays;
use crate::column_config::{ColumnConfig, ColumnKind};
use crate::config::DataConfig;
use crate::dataset::Image;
use crate::dialect::Separator;
use crate::encoding::columns::{self, ColumnSettings, Content};
use crate::encoding::labels::Labels;
use crate::encoding::{with_sparse_labels, with_table_labels};
use crate::error::DataError;
use crate::format::Source;
use crate::format::csv::Options;
use crate::format::libsvm::Sparse;
use crate::progress::{NoProgress, ReadContext};
use crate::proposal;
use crate::raw::{Pixels, Raw};
use crate::syntax::Cell;
use crate::table::Table;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Maximum number of images in an inspection.
const IMAGES: usize = 8;
/// Numeric labels are listed one by one up to this number of distinct values.
const MAX_LISTED: usize = 100;

/// The contents of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// The source as given.
    pub source: String,
    /// Name of the format.
    pub format: &'static str,
    /// What separates the cells of a table.
    pub separator: Option<Separator>,
    /// What the user should know about how the source was read.
    pub notes: Vec<String>,
    /// Number of samples.
    pub samples: usize,
    /// Features per sample: pixels, columns other than the label, or the largest index.
    pub features: usize,
    /// Number of non-zero values, for a sparse format.
    pub non_zero: Option<usize>,
    /// Minimum and maximum of all numeric features.
    pub range: Option<[f32; 2]>,
    /// The columns of a table other than the label.
    pub columns: Vec<ColumnSummary>,
    /// Settings of the source that are proposed, apart from those of its columns.
    pub proposed: SourceProposal,
    /// The labels; `None` if there are none.
    pub labels: Option<LabelSummary>,
    /// Height and width, if the samples are images.
    pub image: Option<Image>,
    /// The first few images: label, and pixels row by row.
    pub images: Vec<(Option<u8>, Vec<u8>)>,
}

/// The cells of one column of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnSummary {
    /// Name of the column.
    pub name: String,
    /// Number of missing cells.
    pub missing: usize,
    /// Number of cells that are numbers.
    pub numbers: usize,
    /// Minimum, mean and maximum of the numbers.
    pub range: Option<[f32; 3]>,
    /// How often each string occurs; empty for a numeric column.
    pub texts: BTreeMap<String, usize>,
    /// Number of different strings among the cells that are not missing.
    pub distinct: usize,
    /// The first cell that is not missing.
    pub example: Option<String>,
    /// What the column would become in training.
    pub becomes: ColumnUse,
    /// The settings that are proposed for the column.
    pub proposed: ColumnConfig,
    /// What the user should look at: probable identifiers, and columns that alone predict the label.
    pub warnings: Vec<String>,
}

/// Settings of a table that are proposed, if they would help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceProposal {
    /// Strings that may stand for missing cells.
    pub missing_values: Vec<String>,
    /// Whether numbers seem to be written with decimal commas.
    pub has_decimal_commas: bool,
}

/// What a column would become in training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnUse {
    /// One feature with its numbers.
    #[default]
    Number,
    /// One feature for each of this number of categories.
    Categories(usize),
    /// One feature for each of this number of parts of a date.
    Dates(usize),
    /// No feature at all.
    Ignored,
    /// Training would fail with this error.
    Refused(String),
}

/// The labels of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelSummary {
    /// Name of the label column, or an empty string.
    pub name: String,
    /// Number of missing labels.
    pub missing: usize,
    /// Number of samples of each class, in class order; empty if there are too many distinct
    /// values for classes.
    pub counts: Vec<(String, usize)>,
    /// Minimum, mean and maximum, if all labels are numbers.
    pub range: Option<[f32; 3]>,
}

/// Inspects the rows `config.rows` of `source`. Keys of `config` such as `label` and `columns` determine how
/// a table is read.
pub fn inspect(source: &str, config: &DataConfig, root: &Path) -> Result<Inspection, DataError> {
    let parsed = Source::parse(source)?;
    let context = ReadContext { root, memory: None, arrays: &NamedArrays::new(), progress: &NoProgress };
    let mut raw = parsed.read(context, &Options::of_training(config))?;
    if let Some(rows) = config.rows {
        raw.select(rows, "rows", source)?;
    }
    let samples = raw.rows();
    let mut inspection = match raw {
        Raw::Pixels(pixels) => of_pixels(&pixels),
        Raw::Sparse(sparse) => of_sparse(&sparse),
        Raw::Arrays(_) => unreachable!("no source is read as arrays"),
        Raw::Table(table) => of_table(&table, table.label_column(config.label.as_deref())?, config),
    };
    inspection.source = source.into();
    inspection.format = parsed.format().name;
    inspection.samples = samples;
    Ok(inspection)
}

fn empty() -> Inspection {
    Inspection {
        source: String::new(),
        format: "",
        separator: None,
        notes: Vec::new(),
        samples: 0,
        features: 0,
        non_zero: None,
        range: None,
        columns: Vec::new(),
        proposed: SourceProposal::default(),
        labels: None,
        image: None,
        images: Vec::new(),
    }
}

fn of_pixels(pixels: &Pixels) -> Inspection {
    let extremes = |bytes: &mut dyn Iterator<Item = &u8>| {
        bytes.fold((u8::MAX, u8::MIN), |(low, high), &byte| (low.min(byte), high.max(byte)))
    };
    let (low, high) = extremes(&mut pixels.pixels.iter());
    let label = |row: usize| pixels.labels.as_ref().map(|labels| labels[row]);
    let first = pixels.pixels.rows().into_iter().take(IMAGES).enumerate();
    let labels = pixels.labels.as_ref().map(|labels| {
        let mut counts = [0_usize; 256];
        labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
        let counts = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let (low, high) = extremes(&mut labels.iter());
        let sum: u64 = labels.iter().map(|&label| u64::from(label)).sum();
        let mean = (sum as f64 / labels.len() as f64) as f32;
        LabelSummary {
            name: String::new(),
            missing: 0,
            counts: counts.map(|(class, &count)| (class.to_string(), count)).collect(),
            range: Some([f32::from(low), mean, f32::from(high)]),
        }
    });
    Inspection {
        features: pixels.pixels.ncols(),
        range: Some([f32::from(low), f32::from(high)]),
        labels,
        image: pixels.image,
        images: match pixels.image {
            Some(_) => first.map(|(row, bytes)| (label(row), bytes.to_vec())).collect(),
            None => Vec::new(),
        },
        ..empty()
    }
}

fn of_sparse(sparse: &Sparse) -> Inspection {
    let values = || (0..sparse.rows()).flat_map(|row| sparse.pairs(row)).map(|&(_, value)| value);
    // Values that are not listed are zero.
    let (low, high) = values().fold((0.0_f32, 0.0_f32), |(low, high), v| (low.min(v), high.max(v)));
    Inspection {
        features: sparse.largest.0 as usize,
        non_zero: Some(values().filter(|&value| value != 0.0).count()),
        range: Some([low, high]),
        labels: with_sparse_labels(sparse, |labels| label_summary(String::new(), labels)),
        ..empty()
    }
}

fn of_table(table: &Table, label: usize, config: &DataConfig) -> Inspection {
    let others = (0..table.width()).filter(|&column| column != label);
    let mut proposed = SourceProposal::default();
    let columns: Vec<ColumnSummary> = others
        .map(|column| {
            let proposal = proposal::propose(table, column, config);
            proposed.missing_values.extend(proposal.markers);
            proposed.has_decimal_commas |= proposal.has_decimal_commas;
            let leak = proposal::leak(table, column, label);
            ColumnSummary {
                proposed: proposal.column,
                warnings: proposal.warnings.into_iter().chain(leak).collect(),
                ..column_summary(table, column, config)
            }
        })
        .collect();
    proposed.missing_values.sort();
    proposed.missing_values.dedup();
    let numbers = columns.iter().filter(|column| column.becomes == ColumnUse::Number);
    let ranges = numbers.filter_map(|column| column.range);
    let range = ranges.map(|[low, _, high]| [low, high]);
    Inspection {
        separator: Some(table.separator),
        notes: table.notes.clone(),
        features: columns.len(),
        range: range.reduce(|all, one| [all[0].min(one[0]), all[1].max(one[1])]),
        columns,
        proposed,
        labels: with_table_labels(table, label, |labels| label_summary(table.header[label].clone(), labels)),
        ..empty()
    }
}

fn column_summary(table: &Table, column: usize, config: &DataConfig) -> ColumnSummary {
    let declared = ColumnSettings::of(config, &table.header[column]).kind();
    let becomes = match columns::content(table, column, config) {
        Ok(Some((Content::Number { .. }, _))) => ColumnUse::Number,
        Ok(Some((Content::Category { categories, other }, _))) => {
            ColumnUse::Categories(categories.count() + usize::from(other))
        }
        Ok(Some((Content::Date { parts, .. }, _))) => ColumnUse::Dates(parts.len()),
        Ok(None) => ColumnUse::Ignored,
        Err(error) => ColumnUse::Refused(error.to_string()),
    };
    let mut summary =
        ColumnSummary { name: table.header[column].clone(), becomes, ..ColumnSummary::default() };
    let mut values = Values::default();
    let mut distinct = BTreeSet::new();
    for row in 0..table.rows() {
        let cell = table.value(row, column);
        if cell != Cell::Missing {
            summary.example.get_or_insert_with(|| table.cell(row, column).to_owned());
            distinct.insert(table.cell(row, column));
        }
        match cell {
            Cell::Missing => summary.missing += 1,
            Cell::Number(value) if declared != Some(ColumnKind::Category) => values.add(value),
            _ => *summary.texts.entry(table.cell(row, column).into()).or_default() += 1,
        }
    }
    summary.distinct = distinct.len();
    summary.numbers = values.count;
    summary.range = values.range();
    summary
}

/// Returns `None` if no row has a label.
fn label_summary(name: String, labels: &Labels<'_>) -> Option<LabelSummary> {
    let mut values = Values::default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut missing, mut texts, mut present) = (0, 0, false);
    for row in 0..labels.count {
        let text = (labels.text)(row);
        present |= text.is_some();
        let text = text.unwrap_or_default();
        match labels.syntax.classify(text) {
            Cell::Missing => {
                missing += 1;
                continue;
            }
            Cell::Number(value) => values.add(value),
            Cell::Infinite | Cell::Text => texts += 1,
        }
        *counts.entry(text).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().map(|(text, n)| (text.into(), n)).collect();
    let number = |text: &str| text.parse::<f64>().unwrap_or(f64::NAN);
    if texts == 0 {
        counts.sort_by(|(a, _), (b, _)| number(a).total_cmp(&number(b)));
        counts.dedup_by(|next, kept| {
            let same = number(&next.0) == number(&kept.0);
            kept.1 += if same { next.1 } else { 0 };
            same
        });
        if counts.len() > MAX_LISTED {
            counts.clear();
        }
    }
    let range = if texts == 0 { values.range() } else { None };
    present.then_some(LabelSummary { name, missing, counts, range })
}

/// Running statistics of numbers.
#[derive(Default)]
struct Values {
    count: usize,
    sum: f64,
    extremes: [f32; 2],
}

impl Values {
    fn add(&mut self, value: f32) {
        let [low, high] = self.extremes;
        self.extremes = if self.count == 0 { [value; 2] } else { [low.min(value), high.max(value)] };
        self.count += 1;
        self.sum += f64::from(value);
    }

    /// Minimum, mean and maximum.
    fn range(&self) -> Option<[f32; 3]> {
        let mean = (self.sum / self.count as f64) as f32;
        (self.count > 0).then_some([self.extremes[0], mean, self.extremes[1]])
    }
}
