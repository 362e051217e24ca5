//! `downhill evaluate`: measures saved weights.

use crate::failure::Failure;
use crate::output;
use downhill::{ClassErrors, Evaluation};
use ps_config::{DataArgs, LogArgs};
use ps_run::{Style, counted, grouped};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure the weights of a finished run
///
/// Without --data, this measures on the run's validation part and test source, as training does at its end. The run's training
/// data is read as well and must not have changed, because it determines the columns, classes and preprocessing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
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
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let style = Style::choose(&arguments.log);
    let run = super::open_run(&arguments.run, &arguments.sets, arguments.data.data_root.as_deref(), style)?;
    if run.data_changed() {
        output::warn(
            "the validation or test data is not that of the run, so the figures are not the run's own",
        );
    }
    let (model, data) = (&run.model, &run.job.data);
    let parts = [("validation", &data.validation), ("test", &data.test)];
    let evaluations: Vec<(&str, Evaluation)> = match &arguments.source {
        Some(source) => {
            let split = super::read_data(model, source, true, style)?;
            vec![(source.as_str(), model.evaluate_encoded(&split))]
        }
        None => {
            let parts = parts.into_iter().filter_map(|(name, split)| Some((name, split.as_ref()?)));
            parts.map(|(name, split)| (name, model.evaluate_encoded(split))).collect()
        }
    };
    if evaluations.is_empty() {
        return Err(Failure::Usage(
            "the run has neither validation part nor test source; name a source with --data".into(),
        ));
    }
    let mut lines = Vec::new();
    for (name, Evaluation { measures, classes }) in evaluations {
        let samples = counted(measures.samples as usize, "sample");
        lines.push(format!("{name:<12} {}  ({samples})", measures.line()));
        lines.extend(class_lines(&classes));
    }
    lines.push(format!("weights sha256 {}", model.weights_sha256()));
    output::lines(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns a line for each class with the number of its samples and its error rate.
fn class_lines(classes: &[ClassErrors]) -> Vec<String> {
    let width = classes.iter().map(|class| class.name.chars().count()).max().unwrap_or(0);
    let known = classes.iter().filter(|class| class.samples > 0);
    known
        .map(|ClassErrors { name, samples, wrong }| {
            let share = 100.0 * *wrong as f64 / *samples as f64;
            format!("  class {name:<width$}  {share:6.2} % wrong  of {}", grouped(*samples as f64))
        })
        .collect()
}
