//! `downhill export`: writes models in the formats of other programs.

use crate::failure::Failure;
use crate::output;
use downhill::{Model, OnnxInput};
use ps_config::LogArgs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Export a model to a format that other programs can run
///
/// With --format onnx, writes an ONNX file that contains the preprocessing. It has an input for each column of the training
/// table, or one for pixels or features, and the outputs `label` and `probabilities` of a classifier or `variable` of a
/// regression.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the run, or a model file
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Format of the file
    #[arg(long, value_name = "FORMAT", default_value = "onnx")]
    format: Format,

    /// Inputs of the exported model
    ///
    /// With features, there is a single input of numbers instead: a column for each feature, where a category
    /// is a column of 0 or 1 for each of its values, before clipping, filling and standardization. Runtimes
    /// without strings, and models with columns of dates, need this.
    #[arg(long, value_name = "INPUT", default_value = "columns")]
    input: Input,

    /// File to write, which must not exist
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Onnx,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Input {
    Columns,
    Features,
}

const EXAMPLES: &str = "\
Examples:
  downhill export runs/digits-1 --format onnx --output digits.onnx
  downhill export runs/digits-1 --input features --output features.onnx";

/// Writes the file.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    if arguments.output.exists() {
        return Err(output::already_exists(&arguments.output));
    }
    let model = Model::load(&arguments.model)?;
    let input = match arguments.input {
        Input::Columns => OnnxInput::Columns,
        Input::Features => OnnxInput::Features,
    };
    let bytes = match arguments.format {
        Format::Onnx => model.to_onnx_with(input)?,
    };
    output::write_new(&arguments.output, |out| out.write_all(&bytes))?;
    if !arguments.log.quiet {
        output::note(&format!("model written to {}", arguments.output.display()));
    }
    Ok(ExitCode::SUCCESS)
}
