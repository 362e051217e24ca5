//! What a run file could say about the columns of a table, judged by their cells.

use crate::column_config::{ColumnConfig, ColumnKind, Fill};
use crate::config::{DataConfig, Missing};
use crate::date::{Date, DateFormat, DatePart};
use crate::dialect::Decimal;
use crate::encoding::columns::ColumnSettings;
use crate::number::{have_decimal_commas, resembles_number};
use crate::syntax::Cell;
use crate::table::Table;
use std::collections::BTreeMap;

/// If a table has fewer rows than this, it means little that values differ or agree.
const FEW_ROWS: usize = 20;
/// A column with more strings than this is proposed with a minimum count, if that leaves some.
const MANY_CATEGORIES: usize = 50;
/// The minimum count that is proposed.
const MIN_COUNT: usize = 10;
/// Patterns of dates that are tried. If two fit, none is proposed.
const PATTERNS: [&str; 9] = [
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y",
    "%d-%b-%Y",
];
const TIMES: [&str; 3] = ["", " %H:%M", " %H:%M:%S"];

/// The settings that are proposed for a column, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Proposal {
    pub column: ColumnConfig,
    /// What the user should look at.
    pub warnings: Vec<String>,
    /// Strings among numbers, which may stand for missing cells.
    pub markers: Vec<String>,
    /// Whether all cells are numbers if commas are decimal points.
    pub has_decimal_commas: bool,
}

/// Proposes settings for `column`.
pub(crate) fn propose(table: &Table, column: usize, config: &DataConfig) -> Proposal {
    let name = &table.header[column];
    let settings = ColumnSettings::of(config, name);
    let declared = config.columns.get(name).cloned().unwrap_or_default();
    let cells = Cells::of(table, column);
    let mut proposal = Proposal { column: declared, ..Proposal::default() };
    let kind = settings.kind().unwrap_or_else(|| cells.kind(table, config, &mut proposal));
    proposal.column.kind = Some(kind);
    let has_gaps = cells.missing > 0 || !proposal.markers.is_empty();
    if has_gaps && proposal.column.fill.is_none() && config.missing == Missing::Refuse {
        proposal.column.fill = match proposal.column.kind {
            Some(ColumnKind::Number | ColumnKind::Date) => Some(Fill::Median),
            Some(ColumnKind::Category) => Some(Fill::None),
            Some(ColumnKind::Ignore) | None => None,
        };
    }
    proposal
}

/// The cells of a column that are not missing.
struct Cells<'a> {
    /// How often each string occurs.
    counts: BTreeMap<&'a str, usize>,
    known: usize,
    missing: usize,
}

impl<'a> Cells<'a> {
    fn of(table: &'a Table, column: usize) -> Self {
        let mut cells = Cells { counts: BTreeMap::new(), known: 0, missing: 0 };
        for row in 0..table.rows() {
            match table.value(row, column) {
                Cell::Missing => cells.missing += 1,
                _ => {
                    cells.known += 1;
                    *cells.counts.entry(table.cell(row, column)).or_default() += 1;
                }
            }
        }
        cells
    }

    fn kind(&self, table: &Table, config: &DataConfig, proposal: &mut Proposal) -> ColumnKind {
        let warnings = &mut proposal.warnings;
        if self.known == 0 {
            warnings.push("no cell has a value".into());
            return ColumnKind::Ignore;
        }
        let is_number = |text: &str| matches!(table.syntax.classify(text), Cell::Number(_));
        let texts: Vec<&str> = self.counts.keys().copied().filter(|text| !is_number(text)).collect();
        let is_unique = self.counts.len() == self.known && self.known >= FEW_ROWS;
        if texts.is_empty() {
            let is_id = is_unique && self.counts.keys().all(|text| text.parse::<i64>().is_ok());
            if is_id && self.is_consecutive() {
                warnings.push("numbers the rows, and is probably an identifier".into());
                return ColumnKind::Ignore;
            }
            return ColumnKind::Number;
        }
        if let Some(date) = self.dates() {
            match date {
                Ok((format, parts)) => {
                    (proposal.column.format, proposal.column.parts) = (format, Some(parts));
                    return ColumnKind::Date;
                }
                Err(formats) => {
                    warnings.push(format!("dates that can be read as {formats}; set `format`"));
                    return ColumnKind::Ignore;
                }
            }
        }
        if config.decimal == Decimal::Point && have_decimal_commas(self.counts.keys().copied()) {
            proposal.has_decimal_commas = true;
            return ColumnKind::Number;
        }
        let with_text: usize = texts.iter().map(|text| self.counts[text]).sum();
        let numbers = self.counts.len() - texts.len();
        if 2 * with_text < self.known
            && texts.len() <= 3
            && numbers > texts.len()
            && !texts.iter().any(|text| resembles_number(text))
        {
            warnings.push(format!("`{}` may stand for a missing value", texts.join("`, `")));
            proposal.markers = texts.into_iter().map(String::from).collect();
            return ColumnKind::Number;
        }
        if 10 * self.counts.len() >= 9 * self.known && self.known >= FEW_ROWS {
            warnings.push(format!(
                "{} distinct strings in {} cells, probably an identifier or free text",
                self.counts.len(),
                self.known
            ));
            return ColumnKind::Ignore;
        }
        let frequent = self.counts.values().filter(|count| **count >= MIN_COUNT).count();
        if self.counts.len() > MANY_CATEGORIES && frequent > 0 {
            proposal.column.min_count = Some(MIN_COUNT as u64);
        }
        ColumnKind::Category
    }

    /// Whether the cells are consecutive integers, in any order.
    fn is_consecutive(&self) -> bool {
        let numbers = self.counts.keys().filter_map(|text| text.parse::<i64>().ok());
        let (low, high) = numbers.fold((i64::MAX, i64::MIN), |(low, high), n| (low.min(n), high.max(n)));
        high.checked_sub(low) == i64::try_from(self.counts.len() - 1).ok()
    }

    /// How the cells are written, if all of them are dates, and the parts that vary. The error lists several
    /// patterns that fit.
    #[allow(clippy::type_complexity, reason = "the caller destructures it at once")]
    fn dates(&self) -> Option<Result<(Option<String>, Vec<DatePart>), String>> {
        let read = |pattern: Option<&str>| -> Option<Vec<Date>> {
            let format = DateFormat::new(pattern).ok()?;
            self.counts.keys().map(|text| format.parse(text)).collect()
        };
        if let Some(dates) = read(None) {
            return Some(Ok((None, varying(&dates))));
        }
        let patterns = PATTERNS.iter().flat_map(|date| TIMES.iter().map(move |time| format!("{date}{time}")));
        let fitting: Vec<(String, Vec<Date>)> =
            patterns.filter_map(|pattern| read(Some(&pattern)).map(|dates| (pattern, dates))).collect();
        match &fitting[..] {
            [] => None,
            [(pattern, dates)] => Some(Ok((Some(pattern.clone()), varying(dates)))),
            _ => {
                let patterns = fitting.iter().map(|(pattern, _)| format!("`{pattern}`"));
                Some(Err(patterns.collect::<Vec<_>>().join(" or ")))
            }
        }
    }
}

/// The parts that tell these dates apart, of those that are usually worth it.
fn varying(dates: &[Date]) -> Vec<DatePart> {
    let parts = [DatePart::Year, DatePart::Month, DatePart::Day, DatePart::Weekday, DatePart::Hour];
    let varies = |part: &DatePart| dates.iter().any(|date| date.part(*part) != dates[0].part(*part));
    let varying: Vec<DatePart> = parts.into_iter().filter(varies).collect();
    if varying.is_empty() { vec![DatePart::Year] } else { varying }
}

/// Explains how `column` alone predicts the label, if it does.
pub(crate) fn leak(table: &Table, column: usize, label: usize) -> Option<String> {
    let rows: Vec<usize> = (0..table.rows())
        .filter(|&row| table.value(row, label) != Cell::Missing && table.value(row, column) != Cell::Missing)
        .collect();
    if rows.len() < FEW_ROWS {
        return None;
    }
    let number = |row: &usize, column: usize| match table.value(*row, column) {
        Cell::Number(value) => Some(f64::from(value)),
        _ => None,
    };
    let numbers = |column: usize| rows.iter().map(|row| number(row, column)).collect::<Option<Vec<f64>>>();
    let mut classes = BTreeMap::<&str, usize>::new();
    rows.iter().for_each(|&row| *classes.entry(table.cell(row, label)).or_default() += 1);
    let targets = numbers(label).filter(|_| classes.len() > FEW_ROWS);
    if let Some(targets) = targets {
        let correlation = correlation(&numbers(column)?, &targets);
        return (correlation.abs() >= 0.999)
            .then(|| format!("alone predicts the label: their correlation is {correlation:.4}"));
    }
    // The label has classes: what is the most frequent one for each value of the column?
    let mut by_value = BTreeMap::<&str, BTreeMap<&str, usize>>::new();
    for &row in &rows {
        let counts = by_value.entry(table.cell(row, column)).or_default();
        *counts.entry(table.cell(row, label)).or_default() += 1;
    }
    let most = |counts: &BTreeMap<&str, usize>| counts.values().copied().max().unwrap_or(0);
    let wrong = rows.len() - by_value.values().map(most).sum::<usize>();
    let by_default = rows.len() - most(&classes);
    if 5 * by_value.len() <= rows.len() && by_default > 0 && 50 * wrong <= by_default {
        let right = 100.0 * (rows.len() - wrong) as f64 / rows.len() as f64;
        return Some(format!("alone predicts the label: {right:.1} % of the rows"));
    }
    let values = numbers(column)?;
    let mut sorted: Vec<(f64, &str)> =
        values.into_iter().zip(rows.iter().map(|&row| table.cell(row, label))).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    let changes = sorted.windows(2).filter(|pair| pair[0].1 != pair[1].1);
    let is_clean = sorted.windows(2).all(|pair| pair[0].1 == pair[1].1 || pair[0].0 != pair[1].0);
    (classes.len() > 1 && is_clean && changes.count() + 1 == classes.len())
        .then(|| "alone predicts the label: each class has a range of values".into())
}

/// The correlation coefficient of two lists; 0 if one of them is constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let product = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| of(a - mean_a, b - mean_b)).sum()
    };
    let scale = (product(&|a, _| a * a) * product(&|_, b| b * b)).sqrt();
    if scale == 0.0 { 0.0 } else { product(&|a, b| a * b) / scale }
}
