//! `downhill data`: shows the content of data sources.

mod proposal;

use crate::failure::Failure;
use crate::{drawing, output};
use ps_config::{DataArgs, RunConfig};
use ps_data::{
    ColumnSummary, ColumnUse, DataConfig, Inspection, LabelSummary, NoProgress, Validation, inspect,
};
use ps_run::{counted, grouped};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Inspect data sources
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Inspect(InspectArguments),
}

/// Show what a data source contains
///
/// Shows the number of samples, the features with their ranges, the classes, missing values, and a few
/// images.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArguments {
    /// A source such as csv:PATH, or a run file to show all sources of
    #[arg(value_name = "SOURCE|RUN.toml")]
    what: String,

    /// Label column of a CSV source, by name or number [default: the last]
    ///
    /// Numbers start from 0; negative numbers count from the end. For a run file, the default is its
    /// data.label.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    label: Option<String>,

    /// Override a key of the run file
    ///
    /// For a source without a run file, it sets a key, such as data.header=false. The flag can be given
    /// several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,

    /// Write a run file with the proposed [data] table; FILE must not exist
    ///
    /// For a source, the file also has the other tables that training needs. For a run file, it has those of that file.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill data inspect digits:
  downhill data inspect csv:housing.csv --label median_house_value
  downhill data inspect csv:people.csv --set data.columns.name=ignore
  downhill data inspect csv:people.csv --write people.toml
  downhill data inspect idx:images.gz,labels.gz
  downhill data inspect examples/digits.toml";

/// The keys besides `data` that a run file needs, for sources without one.
const REST: &str = "model.kind = \"linear\"\nlearning_rate.initial = 1";
/// Maximum number of columns, classes and values of a column that are listed.
const MAX_COLUMNS: usize = 60;
const MAX_CLASSES: usize = 30;
const MAX_TEXTS: usize = 5;

/// Prints a description of each source.
pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::Inspect(arguments) = command;
    let path = PathBuf::from(&arguments.what);
    let is_run = path.extension().is_some_and(|ending| ending == "toml");
    let mut run = if is_run {
        RunConfig::load(&path, &arguments.sets)?
    } else {
        let run = format!("data.train = {}\n{REST}", toml::Value::from(arguments.what.as_str()));
        RunConfig::parse(&run, &arguments.what, &arguments.sets)?
    };
    run.data.label = arguments.label.clone().or(run.data.label);
    let data = run.data.clone();
    let validation = match &data.validation {
        Some(Validation::Source(source)) => Some(source.as_str()),
        _ => None,
    };
    let sources = [
        ("training", Some(data.train.as_str()), data.rows),
        ("validation", validation, data.validation_rows),
        ("test", data.test.as_deref(), data.test_rows),
    ];
    let base = path.parent().filter(|_| is_run).unwrap_or(Path::new(""));
    let mut lines = Vec::new();
    let mut training = None;
    for (role, source, rows) in sources {
        let Some(source) = source else { continue };
        let data = DataConfig { rows, ..data.clone() };
        let source = ps_fetch::localized(source, &NoProgress)?;
        let found = inspect(&source, &data, arguments.data.root(base))?;
        describe(&found, Some(role).filter(|_| is_run), &mut lines);
        training.get_or_insert((source, found));
    }
    let training = training.map(|(source, found)| -> Result<Inspection, Failure> {
        if !found.proposed.has_decimal_commas {
            return Ok(found);
        }
        // The kinds of labels and columns follow from numbers, so they are looked at again.
        proposal::set_decimal_commas(&mut run.data, &found);
        Ok(inspect(&source, &run.data, arguments.data.root(base))?)
    });
    let Some(found) = training.transpose()?.filter(|found| !found.columns.is_empty()) else {
        output::lines(&lines)?;
        return match &arguments.write {
            Some(_) => Err(Failure::Usage("--write proposes the columns of a CSV source only".into())),
            None => Ok(ExitCode::SUCCESS),
        };
    };
    if !is_run {
        // Scaled features suit most models, and tables that were already described have their own settings.
        run.data.standardize = true;
        run.data.validation.get_or_insert(Validation::Share(0.2));
    }
    let proposed = proposal::data_table(&run, &found);
    lines.extend([String::new(), "proposed settings:".into(), String::new()]);
    lines.extend(proposed.lines().map(String::from));
    output::lines(&lines)?;
    if let Some(file) = &arguments.write {
        proposal::move_sources(&mut run, base, file)?;
        let proposed = proposal::data_table(&run, &found);
        proposal::write(file, &proposal::run_file(&run, &proposed, &found, is_run))?;
    }
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
    if let Some(separator) = found.separator {
        row(lines, "separator", &separator.described());
    }
    row(lines, "samples", &grouped(found.samples as f64));
    row(lines, "features", &features);
    if let Some(non_zero) = found.non_zero {
        let share = 100.0 * non_zero as f64 / (found.samples * found.features).max(1) as f64;
        row(lines, "non-zero", &format!("{} ({share:.2} %)", grouped(non_zero as f64)));
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
        lines.extend(drawing::side_by_side(&found.images, image));
    }
}

fn describe_labels(labels: &LabelSummary, lines: &mut Vec<String>) {
    let name = if labels.name.is_empty() { String::new() } else { format!("column `{}`, ", labels.name) };
    let values = match labels.range {
        Some([low, mean, high]) => format!("{} to {}, mean {}", number(low), number(high), number(mean)),
        None => format!("{} distinct values", labels.counts.len()),
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
        let what = match &column.becomes {
            ColumnUse::Number | ColumnUse::Refused(_) => String::new(),
            ColumnUse::Categories(1) => "1 category: ".into(),
            ColumnUse::Categories(count) => format!("{} categories: ", grouped(*count as f64)),
            ColumnUse::Dates(parts) => format!("{} of dates: ", counted(*parts, "part")),
            ColumnUse::Ignored => "ignored: ".into(),
        };
        let missing = match column.missing {
            0 => String::new(),
            missing => format!(", {} missing", grouped(missing as f64)),
        };
        let example = match &column.example {
            Some(example) if column.texts.is_empty() => {
                format!(", {} distinct, such as {example}", grouped(column.distinct as f64))
            }
            _ if column.texts.len() > MAX_TEXTS => format!(", {} distinct", grouped(column.distinct as f64)),
            _ => String::new(),
        };
        lines.push(format!("    {:<width$}  {what}{}{example}{missing}", column.name, cells(column)));
    }
    if columns.len() > MAX_COLUMNS {
        lines.push(format!("    and {} more", columns.len() - MAX_COLUMNS));
    }
    let warnings = columns
        .iter()
        .flat_map(|column| column.warnings.iter().map(|warning| format!("    {}: {warning}", column.name)));
    let warnings: Vec<String> = warnings.collect();
    if !warnings.is_empty() {
        row(lines, "look at:", "");
        lines.extend(warnings);
    }
    let refused = |column: &ColumnSummary| match &column.becomes {
        ColumnUse::Refused(error) => Some(error.clone()),
        _ => None,
    };
    let refused: Vec<String> = columns.iter().filter_map(refused).collect();
    if !refused.is_empty() {
        row(lines, "training would fail:", "");
        lines.extend(refused.iter().map(|error| format!("    {error}")));
    }
}

/// Describes the numbers and the most frequent strings of a column.
fn cells(column: &ColumnSummary) -> String {
    let mut parts = Vec::new();
    if let Some([low, mean, high]) = column.range {
        let beside = match column.texts.is_empty() {
            true => String::new(),
            false => format!("{}, ", counted(column.numbers, "number")),
        };
        parts.push(format!("{beside}{} to {}, mean {}", number(low), number(high), number(mean)));
    }
    let mut counts: Vec<_> = column.texts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = counts.iter().take(MAX_TEXTS).map(|(text, count)| format!("{text} ({count})"));
    let mut shown: Vec<String> = shown.collect();
    if counts.len() > MAX_TEXTS {
        shown.push("…".into());
    }
    if !shown.is_empty() {
        parts.push(shown.join(", "));
    }
    parts.join("; ")
}

fn row(lines: &mut Vec<String>, name: &str, value: &str) {
    lines.push(format!("  {name:<10} {value}").trim_end().to_string());
}

/// Formats a value with four significant digits.
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
