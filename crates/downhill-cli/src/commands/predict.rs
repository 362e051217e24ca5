//! `downhill predict`: what saved weights say of new samples, as CSV.

use crate::failure::Failure;
use crate::output;
use crate::saved::SavedRun;
use ps_config::{DataArgs, LogArgs};
use ps_core::{Head, Samples};
use ps_data::{DataError, load_unlabelled};
use ps_run::{DataProgress, Style, counted};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Predict with the weights of a finished run
///
/// Writes CSV with one line per sample, in the order of the source: the predicted class and the probability of each class, or
/// the predicted value or rate. The source needs no labels, and its labels are ignored. The run's training data is read as well
/// and must not have changed, because it determines the columns and preprocessing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder of the run, or its weights.safetensors
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,

    /// Write to this file, which must not exist, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Source of the samples, such as csv:new.csv or idx:images.gz
    ///
    /// Relative paths start from the current folder, not from the run file's.
    #[arg(long = "data", value_name = "SOURCE", help_heading = "Data")]
    source: String,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill predict runs/digits-1 --data digits:100 --output predictions.csv
  downhill predict runs/digits-1 --data digits:100 | head";

/// Writes the predictions.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let style = Style::choose(&arguments.log);
    if let Some(path) = arguments.output.as_ref().filter(|path| path.exists()) {
        return Err(taken(path));
    }
    let run = SavedRun::open(&arguments.run, &[], arguments.data.data_root.as_deref(), style)?;
    let data = &run.job.data;
    let progress = DataProgress::new(style);
    let split = load_unlabelled(
        &ps_fetch::localized(&arguments.source, &progress)?,
        &run.job.run.data,
        data,
        Path::new("."),
        &progress,
    )?;
    drop(progress);
    let predictions = run.job.gradients().predict(&run.saved.weights, &split);
    let table =
        Table { head: run.job.model.head(), class_names: &data.class_names, predictions: &predictions };
    let Some(path) = &arguments.output else {
        output::to_stdout(|out| table.write(out))?;
        return Ok(ExitCode::SUCCESS);
    };
    write_new(path, |out| table.write(out))?;
    if !arguments.log.quiet {
        output::note(&format!("{} written to {}", counted(split.len(), "prediction"), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates the file `path`, whole or not at all; an existing file is never replaced.
fn write_new(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let failed = |error| Failure::from(DataError::File { path: path.into(), error });
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside = tempfile::Builder::new();
    // The permissions of any new file; by default only the owner could read a temporary one.
    #[cfg(unix)]
    aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let aside = aside.tempfile_in(folder).map_err(failed)?;
    let mut out = BufWriter::new(&aside);
    write(&mut out).and_then(|()| out.flush()).map_err(failed)?;
    drop(out);
    aside.as_file().sync_all().map_err(failed)?;
    aside.persist_noclobber(path).map(drop).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => taken(path),
        _ => failed(error.error),
    })
}

fn taken(path: &Path) -> Failure {
    Failure::Usage(format!(
        "{}: the file exists and nothing is written over; choose another --output",
        path.display()
    ))
}

/// Predictions, `[samples, outputs]` row-major, and what they mean.
struct Table<'a> {
    head: Head,
    class_names: &'a [String],
    predictions: &'a [f32],
}

impl Table<'_> {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        match self.head {
            Head::SquaredError => csv.write_record(["prediction"]).map_err(io_error)?,
            Head::Poisson => csv.write_record(["rate"]).map_err(io_error)?,
            Head::Logistic | Head::Softmax => {
                let names = self.class_names.iter().map(|name| format!("probability of {name}"));
                csv.write_record(["prediction".to_string()].into_iter().chain(names)).map_err(io_error)?;
            }
        }
        let outputs = if self.head == Head::Softmax { self.class_names.len() } else { 1 };
        for row in self.predictions.chunks_exact(outputs) {
            match self.head {
                Head::SquaredError | Head::Poisson => {
                    csv.write_record([row[0].to_string()]).map_err(io_error)?;
                }
                Head::Logistic => self.write_classes(&mut csv, &[1.0 - row[0], row[0]])?,
                Head::Softmax => self.write_classes(&mut csv, row)?,
            }
        }
        csv.flush()
    }

    /// The first most probable class, and all probabilities.
    fn write_classes(&self, csv: &mut csv::Writer<&mut dyn Write>, probabilities: &[f32]) -> io::Result<()> {
        let mut best = 0;
        for (class, probability) in probabilities.iter().enumerate() {
            if *probability > probabilities[best] {
                best = class;
            }
        }
        let name = self.class_names.get(best).cloned().unwrap_or_else(|| best.to_string());
        csv.write_record([name].into_iter().chain(probabilities.iter().map(f32::to_string))).map_err(io_error)
    }
}

/// The error as the writer below gave it, whose kind says whether a pipe was closed.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
