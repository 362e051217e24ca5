//! `downhill predict`: writes the predictions of a saved model for new samples as CSV.

use crate::failure::Failure;
use crate::output;
use downhill::Predictions;
use ps_config::LogArgs;
use ps_core::{Head, Samples};
use ps_run::{Style, counted};
use std::io::{self, Write};
use std::iter;
use std::path::PathBuf;
use std::process::ExitCode;

/// Predict with a trained model
///
/// Writes CSV with one line per sample, in the order of the source: the predicted class and the probability of each class, or
/// the predicted value or rate. The source needs no labels, and its labels are ignored. Nothing but the model file and the
/// source is read.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the run, or a model file
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Write to this file, which must not exist, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Source of the samples, such as csv:new.csv or idx:images.gz
    ///
    /// Relative paths start from the current folder, not from the run file's.
    #[arg(long = "data", value_name = "SOURCE", help_heading = "Data")]
    source: String,

    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill predict runs/digits-1 --data digits:100 --output predictions.csv
  downhill predict runs/digits-1 --data digits:100 | head";

/// Reads the samples and writes the predictions.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let style = Style::choose(&arguments.log);
    if let Some(path) = arguments.output.as_ref().filter(|path| path.exists()) {
        return Err(output::already_exists(path));
    }
    let model = super::open_model(&arguments.model)?;
    let split = super::read_data(&model, &arguments.source, false, style)?;
    let predictions = model.predict_encoded(&split);
    let head = model.network().head();
    let Some(path) = &arguments.output else {
        output::to_stdout(|out| write_table(&predictions, head, out))?;
        return Ok(ExitCode::SUCCESS);
    };
    output::write_new(path, |out| write_table(&predictions, head, out))?;
    if !arguments.log.quiet {
        output::note(&format!("{} written to {}", counted(split.len(), "prediction"), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a line for each sample: its value or rate, or the most probable class and all probabilities.
fn write_table(predictions: &Predictions, head: Head, out: &mut dyn Write) -> io::Result<()> {
    let (mut csv, names) = (csv::Writer::from_writer(out), predictions.class_names());
    let first = if head == Head::Poisson { "rate" } else { "prediction" };
    let header = names.iter().map(|name| format!("probability of {name}"));
    csv.write_record(iter::once(first.to_owned()).chain(header)).map_err(output::io_error)?;
    let classes = predictions.classes();
    for (sample, row) in predictions.values().rows().into_iter().enumerate() {
        let name = classes.as_ref().map(|classes| names[classes[sample]].clone());
        csv.write_record(name.into_iter().chain(row.iter().map(f32::to_string))).map_err(output::io_error)?;
    }
    csv.flush()
}
