//! `downhill runs`: lists runs and their results.

use crate::failure::Failure;
use crate::output;
use ps_run::{Line, Measures, PastRun, escaped, seconds};
use ps_terminal::{Narrow, Table, clip_start, stdout_width};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// List runs and their results, newest first
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folders of runs, or folders that contain them
    #[arg(value_name = "DIR", default_value = "runs", value_hint = clap::ValueHint::DirPath)]
    folders: Vec<PathBuf>,

    /// Print one JSON object per run
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  downhill runs
  downhill runs runs results
  downhill runs --json | jq -r 'select(.state == \"unfinished\") .folder'";

/// Prints a table, or one JSON object per run.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut runs = Vec::new();
    for folder in &arguments.folders {
        find(folder, &mut runs)?;
    }
    if runs.is_empty() {
        let names: Vec<String> =
            arguments.folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(Failure::Failed(format!(
            "no run in {}; give the folder of a run, or a folder that contains runs",
            names.join(", ")
        )));
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run.written));
    let lines: Vec<String> = match arguments.json {
        true => runs.iter().map(as_json).collect(),
        false => table(&runs, stdout_width()),
    };
    output::lines(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Finds the run in `folder`, or the runs in its subfolders.
fn find(folder: &Path, runs: &mut Vec<PastRun>) -> Result<(), Failure> {
    if let Some(run) = PastRun::read(folder)? {
        runs.push(run);
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match PastRun::read(&path) {
            Ok(run) => runs.extend(run),
            // A run that cannot be read does not hide the others.
            Err(error) => output::warn(&error.to_string()),
        }
    }
    Ok(())
}

fn as_json(run: &PastRun) -> String {
    let since = run.written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (step, steps) = run.steps().unzip();
    json!({
        "folder": escaped(&run.folder), "state": run.state(), "step": step, "steps": steps, "written": since, "summary": run.summary,
    })
    .to_string()
}

const HEADINGS: [&str; 8] =
    ["run", "state", "steps", "training", "validation", "test", "took", "weights sha256"];
/// Results are most important: in a narrow terminal, the hash is abbreviated and omitted before them.
const NARROWING: [Narrow; 9] = [
    Narrow::Shorten(7, 8, |hash, digits| hash.chars().take(digits).collect()),
    Narrow::Drop(6),
    Narrow::Shorten(0, 30, clip_start),
    Narrow::Drop(7),
    Narrow::Drop(3),
    Narrow::Shorten(0, 20, clip_start),
    Narrow::Drop(5),
    Narrow::Shorten(0, 12, clip_start),
    Narrow::Drop(1),
];

fn table(runs: &[PastRun], width: Option<usize>) -> Vec<String> {
    let rows = runs.iter().map(|run| row(run).to_vec()).collect();
    Table { headings: &HEADINGS, rows, right: &[], narrowing: &NARROWING }.lines(width)
}

fn row(run: &PastRun) -> [String; 8] {
    let nothing = || "-".to_owned();
    let steps = match run.steps() {
        Some((made, all)) if made == all => all.to_string(),
        Some((made, all)) => format!("{made} of {all}"),
        None => nothing(),
    };
    let summary = run.summary.as_ref();
    let epochs = || {
        run.lines.iter().rev().find_map(|line| match line {
            Line::Epoch(line) => Some(line),
            _ => None,
        })
    };
    let (training, validation) = match summary {
        Some(summary) => (summary.train.clone(), summary.validation.clone()),
        None => epochs().map_or((None, None), |line| (Some(line.train.clone()), line.validation.clone())),
    };
    let in_short = |measures: Option<Measures>| measures.map_or_else(nothing, |measures| short(&measures));
    [
        run.folder.display().to_string(),
        run.state().into(),
        steps,
        in_short(training),
        in_short(validation),
        in_short(summary.and_then(|summary| summary.test.clone())),
        summary.map_or_else(nothing, |summary| seconds(summary.seconds)),
        summary.map_or_else(nothing, |summary| summary.weights_sha256.chars().take(12).collect()),
    ]
}

/// Formats the most important metrics.
fn short(measures: &Measures) -> String {
    match (measures.accuracy, measures.r_squared) {
        (Some(accuracy), _) => format!("{:.2} %", 100.0 * accuracy),
        (None, Some(r_squared)) => format!("R² {r_squared:.4}"),
        (None, None) => format!("loss {:.4}", measures.loss),
    }
}
