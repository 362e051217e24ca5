//! `downhill diff`: compares two runs, and finds the first step at which they differ.

use crate::failure::Failure;
use crate::output;
use ps_run::{HashLine, Measures, PastRun, seconds};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compare two runs: run files, data, results and weights
///
/// A run records a hash of its weights after each of its first steps, and less often later. Runs with the
/// same run file, data and numerics version must have the same hashes on all machines. Where they do not, the
/// first step that differs shows where to look.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    /// Folder of a run
    #[arg(value_name = "RUN_DIR", value_hint = clap::ValueHint::DirPath)]
    first: PathBuf,

    /// Folder of another run
    #[arg(value_name = "RUN_DIR", value_hint = clap::ValueHint::DirPath)]
    second: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  downhill diff runs/digits-1 runs/digits-2
  downhill diff runs/digits-1 results && echo identical";

const EXIT_CODES: &str = "\
Exit codes:
  0  the weights are identical after every step recorded in both
  1  the weights differ
  2  the weights cannot be compared";

/// Compares the runs and prints the differences.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let [first, second] = [&arguments.first, &arguments.second].map(|folder| read(folder));
    let (first, second) = (first?, second?);
    let mut lines = configuration(&first, &second)?;
    lines.extend(results(&first, &second));
    let (told, code) = weights(&first, &second);
    lines.push(format!("{:<12} {told}", "weights"));
    output::lines(&lines)?;
    Ok(ExitCode::from(code))
}

fn read(folder: &Path) -> Result<PastRun, Failure> {
    PastRun::read(folder)?.ok_or_else(|| {
        Failure::Usage(format!(
            "{}: no run in this folder; give the folder that the run was written to",
            folder.display()
        ))
    })
}

/// Returns a line for each key of the run files that differs, and for differences of data and numerics.
fn configuration(first: &PastRun, second: &PastRun) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let (a, b) = (keys(first)?, keys(second)?);
    let none = || "not set".to_owned();
    let all: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for key in all.into_iter().filter(|key| a.get(*key) != b.get(*key)) {
        let [a, b] = [&a, &b].map(|keys| keys.get(key).cloned().unwrap_or_else(none));
        lines.push(format!("{key:<12} {a} | {b}"));
    }
    if lines.is_empty() {
        lines.push(format!("{:<12} the same", "run file"));
    }
    if let (Some(a), Some(b)) = (&first.summary, &second.summary) {
        let (a, b) = (&a.fingerprint, &b.fingerprint);
        lines.push(match a.data == b.data {
            true => format!("{:<12} the same", "data"),
            false => format!("{:<12} different: SHA-256 {} | {}", "data", short(&a.data), short(&b.data)),
        });
        if a.numerics != b.numerics {
            lines.push(format!("{:<12} version {} | {}", "numerics", a.numerics, b.numerics));
        }
    }
    Ok(lines)
}

/// Returns the keys of a run file with their values in TOML.
fn keys(run: &PastRun) -> Result<BTreeMap<String, String>, Failure> {
    let table: toml::Table = run.run.parse().map_err(|error| {
        Failure::Failed(format!("{}: cannot parse run.toml: {error}", run.folder.display()))
    })?;
    let mut keys = BTreeMap::new();
    flatten("", &table, &mut keys);
    Ok(keys)
}

fn flatten(before: &str, table: &toml::Table, keys: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if before.is_empty() { name.clone() } else { format!("{before}.{name}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, keys),
            value => {
                keys.insert(key, value.to_string());
            }
        }
    }
}

fn results(first: &PastRun, second: &PastRun) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, a: String, b: String| lines.push(format!("{name:<12} {a} | {b}"));
    let steps = |run: &PastRun| {
        let (made, all) = run.steps().unwrap_or_default();
        if made == all { format!("{made}") } else { format!("{made} of {all}") }
    };
    line(
        "state",
        format!("{}, steps {}", first.state(), steps(first)),
        format!("{}, steps {}", second.state(), steps(second)),
    );
    let (Some(a), Some(b)) = (&first.summary, &second.summary) else { return lines };
    let words =
        |measures: &Option<Measures>| measures.as_ref().map_or_else(|| "-".to_owned(), Measures::line);
    let parts = [
        ("training", &a.train, &b.train),
        ("validation", &a.validation, &b.validation),
        ("test", &a.test, &b.test),
    ];
    for (name, a, b) in parts.into_iter().filter(|(_, a, b)| a.is_some() || b.is_some()) {
        line(name, words(a), words(b));
    }
    line("took", seconds(a.seconds), seconds(b.seconds));
    lines
}

/// Describes at which step the weights diverged, and returns the exit code for that.
fn weights(first: &PastRun, second: &PastRun) -> (String, u8) {
    let other: BTreeMap<u64, &HashLine> = second.hashes().map(|line| (line.step, line)).collect();
    let common: Vec<(&HashLine, &HashLine)> =
        first.hashes().filter_map(|line| Some((line, *other.get(&line.step)?))).collect();
    let last_same = common.iter().take_while(|(a, b)| a.weights_sha256 == b.weights_sha256).last();
    let since = last_same.map_or_else(
        || "no earlier step is recorded in both".to_owned(),
        |(line, _)| {
            format!(
                "the same up \
                                                                                               to step {}",
                line.step
            )
        },
    );
    if let Some((a, b)) = common.iter().find(|(a, b)| a.weights_sha256 != b.weights_sha256) {
        let [x, y] = [a, b].map(|line| short(&line.weights_sha256));
        let known = match last_same {
            Some((line, _)) => format!("the same after {} steps, different after {}", line.step, a.step),
            None => format!("different after {} steps, the first recorded in both", a.step),
        };
        return (format!("{known}: SHA-256 {x} | {y}"), 1);
    }
    let finals = [first, second].map(|run| run.summary.as_ref());
    if let [Some(a), Some(b)] = finals
        && a.steps == b.steps
    {
        let [x, y] = [a, b].map(|summary| short(&summary.weights_sha256));
        return match a.weights_sha256 == b.weights_sha256 {
            true => (format!("the same after all {} steps: SHA-256 {x}", a.steps), 0),
            false => (format!("different at the end, {since}: SHA-256 {x} | {y}"), 1),
        };
    }
    match last_same {
        Some((line, _)) => (format!("the same after {} steps, the last recorded in both", line.step), 0),
        None => ("no step is recorded in both".into(), 2),
    }
}

/// Returns the first digits of a hash.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
