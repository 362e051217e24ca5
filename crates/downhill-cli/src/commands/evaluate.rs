//! `downhill evaluate`: the metrics of saved weights.

use crate::failure::Failure;
use crate::output;
use crate::saved::SavedRun;
use ps_config::{DataArgs, LogArgs};
use ps_core::Samples;
use ps_data::load_like;
use ps_run::{DataProgress, Measures, Style, counted, grouped};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure the weights of a finished run
///
/// Without --data, this measures on the run's validation part and test source, as training does at its end. The run's training
/// data is read as well and must not have changed, because it determines the columns, classes and preprocessing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder of the run, or its weights.safetensors
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,

    /// Override a key of the run file; can be repeated
    ///
    /// For example, --set data.test=csv:other.csv. With nothing after the equals sign, as in --set data.test=, the key is
    /// unset: it has its default, as if it were not in the run file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,

    /// Measure on this source instead, such as csv:new.csv
    ///
    /// Relative paths start from the current folder, not from the run file's.
    #[arg(long = "data", value_name = "SOURCE", help_heading = "Data")]
    source: Option<String>,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill evaluate runs/digits-1
  downhill evaluate runs/digits-1 --data digits:1000
  downhill evaluate runs/digits-1/weights.safetensors --set data.test=digits:500";

/// Prints loss, accuracy or R², and the error of each class.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let style = Style::choose(&arguments.log);
    let run = SavedRun::open(&arguments.run, &arguments.sets, arguments.data.data_root.as_deref(), style)?;
    if run.data_changed() {
        output::warn(
            "the validation or test data is not that of the run, so the figures are not the run's own",
        );
    }
    let data = &run.job.data;
    let mut splits = Vec::new();
    if let Some(source) = &arguments.source {
        let progress = DataProgress::new(style);
        let split = load_like(
            &ps_fetch::localized(source, &progress)?,
            &run.job.run.data,
            data,
            Path::new("."),
            &progress,
        )?;
        splits.push((source.as_str(), split));
    } else {
        splits.extend(data.validation.clone().map(|split| ("validation", split)));
        splits.extend(data.test.clone().map(|split| ("test", split)));
    }
    if splits.is_empty() {
        return Err(Failure::Usage(
            "the run has neither validation part nor test source; name a source with --data".into(),
        ));
    }
    let mut gradients = run.job.gradients();
    let mut lines = Vec::new();
    for (name, split) in splits {
        let tally = gradients.evaluate(&run.saved.weights, &split);
        let measures = Measures::new(&tally, &data.class_names);
        lines.push(format!("{name:<12} {}  ({})", measures.line(), counted(split.len(), "sample")));
        lines.extend(class_lines(&data.class_names, &tally.classes));
    }
    lines.push(format!("weights sha256 {}", run.saved.about.weights_sha256));
    output::lines(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each class: how many samples it has and the share of them predicted as another.
fn class_lines(names: &[String], classes: &[[u64; 2]]) -> Vec<String> {
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let known = names.iter().zip(classes).filter(|(_, [all, _])| *all > 0);
    known
        .map(|(name, &[all, wrong])| {
            let share = 100.0 * wrong as f64 / all as f64;
            format!("  class {name:<width$}  {share:6.2} % wrong  of {}", grouped(all as f64))
        })
        .collect()
}
