//! `downhill data`: what a source holds.

use crate::failure::Failure;
use crate::{drawing, output};
use ps_config::{DataArgs, RunConfig};
use ps_data::{ColumnSummary, Inspection, LabelSummary, NoProgress, Validation, inspect};
use ps_run::{counted, grouped};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Inspect data sources
#[derive(clap::Subcommand)]
pub enum Command {
    Inspect(InspectArguments),
}

/// Show what a data source contains
///
/// Shows the number of samples, the features with their ranges, the classes, missing values, and a few images.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArguments {
    /// A source such as csv:PATH, or a run file to show all sources of
    #[arg(value_name = "SOURCE|RUN.toml")]
    what: String,

    /// Label column of a CSV source, by name or number [default: the last]
    ///
    /// Numbers start from 0; negative numbers count from the end. For a run file, the default is its data.label.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    label: Option<String>,

    #[command(flatten)]
    data: DataArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill data inspect digits:
  downhill data inspect csv:housing.csv --label median_house_value
  downhill data inspect idx:images.gz,labels.gz
  downhill data inspect examples/digits.toml";

/// At most this many columns, classes and texts of a column are listed.
const MAX_COLUMNS: usize = 60;
const MAX_CLASSES: usize = 30;
const MAX_TEXTS: usize = 5;

/// Prints what was found.
pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::Inspect(arguments) = command;
    let mut lines = Vec::new();
    let label = arguments.label.as_deref();
    if Path::new(&arguments.what).extension().is_some_and(|ending| ending == "toml") {
        let path = PathBuf::from(&arguments.what);
        let run = RunConfig::load(&path, &[])?;
        let base = path.parent().unwrap_or(Path::new(""));
        let root = arguments.data.root(base);
        let validation = match &run.data.validation {
            Some(Validation::Source(source)) => Some(source.clone()),
            _ => None,
        };
        let sources =
            [("training", Some(run.data.train)), ("validation", validation), ("test", run.data.test)];
        for (role, source) in sources {
            let Some(source) = source else { continue };
            let source = ps_fetch::localized(&source, &NoProgress)?;
            let found = inspect(&source, label.or(run.data.label.as_deref()), root)?;
            describe(&found, Some(role), &mut lines);
        }
    } else {
        let root = arguments.data.root(Path::new(""));
        let source = ps_fetch::localized(&arguments.what, &NoProgress)?;
        describe(&inspect(&source, label, root)?, None, &mut lines);
    }
    output::lines(&lines)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Inspection, role: Option<&str>, lines: &mut Vec<String>) {
    if !lines.is_empty() {
        lines.push(String::new());
    }
    let role = role.map_or_else(String::new, |role| format!("{role}: "));
    lines.push(format!("{role}{}  ({})", found.source, found.format));
    let mut features = grouped(found.features as f64);
    if let Some(image) = found.image {
        features += &format!(", images of {} x {}", image.height, image.width);
    }
    row(lines, "samples", &grouped(found.samples as f64));
    row(lines, "features", &features);
    if let Some(non_zero) = found.non_zero {
        let share = 100.0 * non_zero as f64 / (found.samples * found.features).max(1) as f64;
        row(lines, "not zero", &format!("{} ({share:.2} %)", grouped(non_zero as f64)));
    }
    if let Some([low, high]) = found.range {
        row(lines, "values", &format!("{} to {}", number(low), number(high)));
    }
    match &found.labels {
        Some(labels) => describe_labels(labels, lines),
        None => row(lines, "labels", "none"),
    }
    if !found.columns.is_empty() {
        describe_columns(&found.columns, lines);
    }
    if let Some(image) = found.image {
        lines.push(String::new());
        lines.extend(drawing::sheet(&found.images, image));
    }
}

fn describe_labels(labels: &LabelSummary, lines: &mut Vec<String>) {
    let name = if labels.name.is_empty() { String::new() } else { format!("column `{}`, ", labels.name) };
    let values = match labels.range {
        Some([low, mean, high]) => format!("{} to {}, mean {}", number(low), number(high), number(mean)),
        None => format!("{} different texts", labels.counts.len()),
    };
    let missing = if labels.missing > 0 { format!(", {} missing", labels.missing) } else { String::new() };
    row(lines, "labels", &format!("{name}{values}{missing}"));
    let width = labels.counts.iter().map(|(class, _)| class.chars().count()).max().unwrap_or(0);
    let most = labels.counts.iter().map(|(_, count)| *count).max().unwrap_or(1);
    for (class, count) in labels.counts.iter().take(MAX_CLASSES) {
        let bar = "█".repeat((30 * count).div_ceil(most));
        lines.push(format!("    {class:<width$}  {:>9}  {bar}", grouped(*count as f64)));
    }
    if labels.counts.len() > MAX_CLASSES {
        lines.push(format!("    and {} more", labels.counts.len() - MAX_CLASSES));
    }
}

fn describe_columns(columns: &[ColumnSummary], lines: &mut Vec<String>) {
    row(lines, "columns", "");
    let width = columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0);
    for column in columns.iter().take(MAX_COLUMNS) {
        let mut text = match column.range {
            Some([low, mean, high]) if column.texts.is_empty() => {
                format!("{} to {}, mean {}", number(low), number(high), number(mean))
            }
            _ => texts(column),
        };
        if column.missing > 0 {
            text += &format!(", {} missing", grouped(column.missing as f64));
        }
        lines.push(format!("    {:<width$}  {text}", column.name));
    }
    if columns.len() > MAX_COLUMNS {
        lines.push(format!("    and {} more", columns.len() - MAX_COLUMNS));
    }
}

/// The commonest texts of a column.
fn texts(column: &ColumnSummary) -> String {
    let mut counts: Vec<_> = column.texts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = counts.iter().take(MAX_TEXTS).map(|(text, count)| format!("{text} ({count})"));
    let more = if counts.len() > MAX_TEXTS { ", …" } else { "" };
    let mixed =
        if column.numbers > 0 { format!(" beside {} numbers", column.numbers) } else { String::new() };
    let shown: Vec<String> = shown.collect();
    format!("{}{mixed}: {}{more}", counted(counts.len(), "text"), shown.join(", "))
}

fn row(lines: &mut Vec<String>, name: &str, value: &str) {
    lines.push(format!("  {name:<10} {value}").trim_end().to_string());
}

/// A value with four digits that count.
fn number(value: f32) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (value.fract() == 0.0 && magnitude < 1e7) {
        return format!("{value}");
    }
    if !(1e-3..1e7).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.decimals$}")
}
