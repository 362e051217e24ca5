//! The run file that `downhill data inspect` proposes for a table.

use crate::failure::Failure;
use ps_config::{RunConfig, column_key, column_settings};
use ps_data::{
    ColumnConfig, ColumnKind, DataConfig, Decimal, Inspection, Source, USUAL_MARKERS, Validation, is_url,
};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// With more columns than this, only those that are more than plain numbers are listed.
const MAX_LISTED: usize = 200;
/// Labels that are numbers are classes if there are at most this many different ones.
const MAX_CLASSES: usize = 20;
/// Keys that say nothing when they have these values.
const DEFAULTS: [&str; 3] = ["skip_missing_target = false", "decimal = \".\"", "missing = \"refuse\""];

/// Formats the `[data]` table of `run` with what `found`, the content of its training source, suggests.
pub(super) fn data_table(run: &RunConfig, found: &Inspection) -> String {
    let mut run = run.clone();
    let data = &mut run.data;
    if let Some(labels) = &found.labels {
        // The name may be empty if lines end with a separator.
        data.label = Some(labels.name.clone()).filter(|name| !name.is_empty());
        data.skip_missing_target |= labels.missing > 0;
    }
    if !found.proposed.missing_values.is_empty() {
        let usual = || USUAL_MARKERS.map(String::from).to_vec();
        data.missing_values.get_or_insert_with(usual).extend(found.proposed.missing_values.clone());
    }
    data.columns.clear();
    let text = run.to_toml();
    let table = text.split("\n[").find(|table| table.starts_with("data]")).unwrap_or_default();
    let lines = table.lines().filter(|line| !DEFAULTS.contains(line));
    let mut text = format!("[{}\n\n[data.columns]\n", lines.collect::<Vec<_>>().join("\n"));
    for column in &found.columns {
        let is_plain = column.proposed == ColumnConfig::from(ColumnKind::Number);
        if is_plain && found.columns.len() > MAX_LISTED {
            continue;
        }
        let example = column.example.as_ref().map(|example| format!("such as {}", shown(example)));
        let missing = (column.missing > 0).then(|| format!("{} missing", column.missing));
        let notes = [example, Some(format!("{} distinct", column.distinct)), missing];
        let notes = notes.into_iter().flatten().chain(column.warnings.iter().cloned());
        text += &format!(
            "{} = {}  # {}\n",
            column_key(&column.name),
            column_settings(&column.proposed),
            notes.collect::<Vec<_>>().join("; ")
        );
    }
    text
}

/// Sets decimal commas, with which commas separate cells only on request.
pub(super) fn set_decimal_commas(data: &mut DataConfig, found: &Inspection) {
    data.decimal = Decimal::Comma;
    data.separator = data.separator.or(found.separator);
}

/// A cell in a comment.
fn shown(cell: &str) -> String {
    const LONGEST: usize = 24;
    let line: String = cell.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Formats a whole run file: `run` with the table `data`. Without a run file, the model follows from the
/// labels.
pub(super) fn run_file(run: &RunConfig, data: &str, found: &Inspection, is_run: bool) -> String {
    if is_run {
        let text = run.to_toml();
        let (before, rest) = text.split_once("\n[data]").unwrap_or((&text, ""));
        let after = rest.split_once("\n[").map_or(String::new(), |(_, after)| format!("\n[{after}"));
        return format!("{before}\n{data}{after}");
    }
    let classes = found.labels.as_ref().map_or(0, |labels| match labels.range {
        Some(_) if labels.counts.len() > MAX_CLASSES => 0,
        _ => labels.counts.len(),
    });
    let (kind, rate) = match classes {
        0 | 1 => ("linear", 0.01),
        2 => ("logistic", 0.1),
        _ => ("softmax", 0.1),
    };
    let batch = (found.samples / 2).clamp(1, 32);
    format!(
        "{data}\n[model]\nkind = \"{kind}\"\n\n[train]\nepochs = 20\nbatch = {batch}\n\n[learning_rate]\ninitial = {rate}\nschedule = \"cosine\"\n"
    )
}

/// Makes the paths of all sources absolute, unless `file` is in the folder `base`, where they start.
pub(super) fn move_sources(run: &mut RunConfig, base: &Path, file: &Path) -> Result<(), Failure> {
    let folder = |path: &Path| {
        if path.as_os_str().is_empty() { Path::new(".").canonicalize() } else { path.canonicalize() }
    };
    let (from, to) = (folder(base), folder(file.parent().unwrap_or(Path::new(""))));
    let (Ok(from), Ok(to)) = (from, to) else { return Ok(()) };
    if from == to {
        return Ok(());
    }
    let moved = |source: &str| -> Result<String, Failure> {
        let parsed = Source::parse(source)?;
        let path = |file: &str| match is_url(Path::new(file)) || parsed.reads_stdin() {
            true => file.to_owned(),
            false => from.join(file).display().to_string(),
        };
        let files: Vec<String> = parsed.files().into_iter().map(path).collect();
        Ok(if files.is_empty() { source.to_owned() } else { parsed.with_files(&files) })
    };
    run.data.train = moved(&run.data.train)?;
    if let Some(test) = &mut run.data.test {
        *test = moved(test)?;
    }
    if let Some(Validation::Source(source)) = &mut run.data.validation {
        *source = moved(source)?;
    }
    Ok(())
}

/// Writes a new file.
pub(super) fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot write {}: {error}", file.display()));
    let mut open = OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    open.write_all(text.as_bytes()).map_err(failed)
}
