//! `downhill predict`: writes the predictions of a saved model for new samples as CSV or JSON Lines.

use crate::failure::Failure;
use crate::output;
use downhill::{Model, Predictions};
use ps_config::LogArgs;
use ps_core::Head;
use ps_data::{DataError, Kept, NewData, RowBlocks, RowFormat};
use ps_run::{Style, counted};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Predict with a trained model
///
/// Writes one line per sample, in the order of the source: the predicted class and the probability of each
/// class, or the predicted value or rate. Only the model file and the source are read. Labels in the source are
/// ignored, and may be absent.
///
/// Rows of a table are read and predicted in blocks, so a table can be larger than the memory. Columns are
/// matched by name. Columns that the model does not use are ignored, and a category that is not in the training
/// data counts as none of the known ones; a note reports both.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the run, or a model file
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Write to this file, which must not exist, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the output [default: that of --output or of the input]
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<Format>,

    /// Columns of a table to copy to the output, before the prediction
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    keep: Vec<String>,

    /// Samples to predict, such as new.csv; - for standard input
    ///
    /// The format of a file follows from --format or from its extension, such as .csv or .jsonl. Other
    /// sources are written as in run files, such as csv:new or idx:images.gz. Relative paths start from the
    /// current folder, not from the run file's.
    #[arg(long = "data", value_name = "SOURCE", default_value = "-", help_heading = "Data")]
    source: String,

    /// Format of a table [default: by the extension of the file, or csv]
    #[arg(long, value_name = "FORMAT", help_heading = "Data")]
    format: Option<Format>,

    /// Refuse columns that the model does not use, and unknown categories
    #[arg(long, help_heading = "Data")]
    strict: bool,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// Comma-separated values with a header
    Csv,
    /// A JSON object per line, whose keys are the names of columns
    Jsonl,
}

const EXAMPLES: &str = "\
Examples:
  downhill predict runs/digits-1 --data digits:100 --output predictions.csv
  downhill predict runs/adult-1 --data new.csv --keep id --output out.csv
  zcat new.jsonl.gz | downhill predict runs/adult-1 --format jsonl > out.jsonl";

impl Format {
    /// Returns the format that the extension of a file suggests.
    fn of(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "csv" | "tsv" | "txt" | "data" => Some(Format::Csv),
            "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
            _ => None,
        }
    }
}

/// Reads the samples and writes the predictions.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let style = Style::choose(&arguments.log);
    if let Some(path) = arguments.output.as_ref().filter(|path| path.exists()) {
        return Err(output::already_exists(path));
    }
    check_kept(&arguments.keep)?;
    let model = super::open_model(&arguments.model)?;
    let new = NewData { is_labelled: false, is_strict: arguments.strict };
    match rows(arguments, style)? {
        Some((input, location, format)) => {
            let row_format = match format {
                Format::Csv => RowFormat::Csv,
                Format::Jsonl => RowFormat::JsonLines,
            };
            let keep = arguments.keep.clone();
            let mut blocks =
                RowBlocks::new(model.encoder().clone(), input, &location, row_format, keep, new)?;
            let next = || {
                let block = blocks.next_block()?;
                Ok(block.map(|block| (model.predict_encoded(&block.split), block.kept)))
            };
            let written = write(arguments, &model, format, next);
            blocks.notes().iter().for_each(|note| ps_run::note(style, note));
            written
        }
        // Only tables are read in blocks. The samples of all other formats are predicted at once.
        None => {
            if !arguments.keep.is_empty() {
                return Err(Failure::Usage(format!("--keep: {} has no columns to keep", arguments.source)));
            }
            let split = super::read_data(&model, &arguments.source, new, style)?;
            let mut predictions = Some((model.predict_encoded(&split), Vec::new()));
            write(arguments, &model, Format::Csv, || Ok(predictions.take()))
        }
    }
}

/// Checks that no two columns of the output have the same name.
fn check_kept(keep: &[String]) -> Result<(), Failure> {
    for (index, name) in keep.iter().enumerate() {
        if ["prediction", "probabilities", "rate"].contains(&name.as_str()) {
            let problem = "the output has a column of this name; rename the column of the input";
            return Err(Failure::Usage(format!("--keep {name}: {problem}")));
        }
        if keep[..index].contains(name) {
            return Err(Failure::Usage(format!("--keep {name}: the column is named twice")));
        }
    }
    Ok(())
}

/// A table whose rows can be read in blocks, its name and its format.
type Rows = (Box<dyn Read>, String, Format);

/// Opens the source if it is a table.
fn rows(arguments: &Arguments, style: Style) -> Result<Option<Rows>, Failure> {
    let source = arguments.source.as_str();
    let (file, prefix) = match source.split_once(':') {
        Some(("csv", _)) => {
            let local = ps_fetch::localized(source, &ps_run::DataProgress::new(style))?;
            (local.split_once(':').map_or_else(String::new, |(_, path)| path.to_owned()), Some(Format::Csv))
        }
        Some(("jsonl", path)) => (path.to_owned(), Some(Format::Jsonl)),
        Some((prefix, _)) if ps_data::FORMATS.iter().any(|format| format.prefix == prefix) => {
            return match arguments.format {
                None => Ok(None),
                Some(_) => Err(Failure::Usage(format!("--format: {source} is not a table"))),
            };
        }
        _ => (source.to_owned(), None),
    };
    if let (Some(prefix), Some(format)) = (prefix, arguments.format)
        && prefix != format
    {
        return Err(Failure::Usage(format!("--format contradicts the source, {source}")));
    }
    let path = Path::new(&file);
    let format = arguments.format.or(prefix);
    if file == "-" {
        let format = format.unwrap_or(Format::Csv);
        return Ok(Some((Box::new(io::stdin().lock()), "standard input".into(), format)));
    }
    let format = format.or_else(|| Format::of(path)).ok_or_else(|| {
        Failure::Usage(format!("--data {source}: the extension does not show the format; set --format"))
    })?;
    let opened = ps_host::open(path).map_err(|error| DataError::File { path: path.into(), error })?;
    Ok(Some((Box::new(opened), file, format)))
}

/// Predictions for some samples, and the cells of the columns that are copied.
type Predicted = (Predictions, Vec<Kept>);

/// Writes all predictions. On standard output, those before an error are written.
fn write(
    arguments: &Arguments,
    model: &Model,
    input: Format,
    mut next: impl FnMut() -> Result<Option<Predicted>, DataError>,
) -> Result<ExitCode, Failure> {
    let format =
        arguments.output_format.or_else(|| Format::of(arguments.output.as_deref()?)).unwrap_or(input);
    let (mut count, mut failure) = (0, None);
    // The number of predictions that are not finite, and the first such row, from 1.
    let mut infinite = (0, 0);
    // Returns the error that ended the predictions, if any.
    let mut write_all = |out: &mut dyn Write| {
        let mut writer = Writer::new(out, format, model, &arguments.keep)?;
        let failure = loop {
            match next() {
                Ok(Some((predictions, kept))) => {
                    for (row, values) in predictions.values().rows().into_iter().enumerate() {
                        if !values.iter().all(|value| value.is_finite()) {
                            infinite =
                                (infinite.0 + 1, if infinite.0 == 0 { count + row + 1 } else { infinite.1 });
                        }
                    }
                    count += writer.write(&predictions, &kept)?;
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        writer.flush().map(|()| failure)
    };
    let warn_of_infinite = |(rows, first): (usize, usize)| {
        if rows > 0 {
            let rows = counted(rows, "prediction");
            output::warn(&format!(
                "{rows} not finite, first in row {first}: the features there are too large"
            ));
        }
    };
    let Some(path) = &arguments.output else {
        output::to_stdout(|out| write_all(out).map(|error| failure = error))?;
        warn_of_infinite(infinite);
        return failure.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()));
    };
    let written = output::write_new(path, |out| {
        failure = write_all(out)?;
        // An incomplete file must not remain.
        failure.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.to_string())))
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    written?;
    warn_of_infinite(infinite);
    if !arguments.log.quiet {
        output::note(&format!("{} written to {}", counted(count, "prediction"), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a line for each sample: the columns that are copied, and its value or rate, or the most probable class and
/// all probabilities.
struct Writer<'a> {
    format: Lines<'a>,
    keep: &'a [String],
    /// The name of the prediction.
    name: &'static str,
    classes: Vec<Value>,
    class_names: &'a [String],
}

enum Lines<'a> {
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
    Json(&'a mut dyn Write),
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut dyn Write, format: Format, model: &'a Model, keep: &'a [String]) -> io::Result<Self> {
        let class_names = model.class_names();
        let classes = match model.encoder().class_numbers() {
            Some(numbers) => numbers.iter().map(|&number| class_number(number)).collect(),
            None => class_names.iter().map(|name| Value::from(name.as_str())).collect(),
        };
        let name = if model.network().head() == Head::Poisson { "rate" } else { "prediction" };
        let format = match format {
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(out);
                let probabilities = class_names.iter().map(|name| format!("probability of {name}"));
                let header = keep.iter().cloned().chain([name.to_owned()]).chain(probabilities);
                csv.write_record(header).map_err(output::io_error)?;
                Lines::Csv(Box::new(csv))
            }
            Format::Jsonl => Lines::Json(out),
        };
        Ok(Writer { format, keep, name, classes, class_names })
    }

    /// Returns the number of lines.
    fn write(&mut self, predictions: &Predictions, kept: &[Kept]) -> io::Result<usize> {
        let classes = predictions.classes();
        for (sample, row) in predictions.values().rows().into_iter().enumerate() {
            let class = classes.as_ref().map(|classes| classes[sample]);
            match &mut self.format {
                Lines::Csv(csv) => {
                    let kept = kept.iter().map(|column| text(&column.cells[sample], column.are_json));
                    let class = class.map(|class| self.class_names[class].clone());
                    let cells = kept.chain(class).chain(row.iter().map(f32::to_string));
                    csv.write_record(cells).map_err(output::io_error)?;
                }
                Lines::Json(out) => {
                    out.write_all(b"{")?;
                    for (name, column) in self.keep.iter().zip(kept) {
                        let cell = &column.cells[sample];
                        let cell = if column.are_json {
                            cell.clone()
                        } else {
                            Value::from(cell.as_str()).to_string()
                        };
                        write!(out, "{}:{cell},", Value::from(name.as_str()))?;
                    }
                    match class {
                        Some(class) => {
                            let (names, label) = (self.class_names.iter().zip(&row), &self.classes[class]);
                            let pair = |(name, value): (&String, &f32)| {
                                format!("{}:{}", Value::from(name.as_str()), json(*value))
                            };
                            let pairs = names.map(pair).collect::<Vec<_>>().join(",");
                            writeln!(out, "\"prediction\":{label},\"probabilities\":{{{pairs}}}}}")?;
                        }
                        None => writeln!(out, "\"{}\":{}}}", self.name, json(row[0]))?,
                    }
                }
            }
        }
        Ok(predictions.values().nrows())
    }

    fn flush(self) -> io::Result<()> {
        match self.format {
            Lines::Csv(mut csv) => csv.flush(),
            Lines::Json(out) => out.flush(),
        }
    }
}

/// Returns a numeric class as JSON, as an integer if it is one.
fn class_number(number: f64) -> Value {
    match number as i64 {
        integer if integer as f64 == number => integer.into(),
        _ => number.into(),
    }
}

/// Returns a number as JSON, with as many digits as identify it; `null` if it is not finite.
fn json(value: f32) -> String {
    if value.is_finite() { value.to_string() } else { "null".into() }
}

/// Returns the cell of a CSV file for a value that is copied.
fn text(cell: &str, is_json: bool) -> String {
    match is_json.then(|| serde_json::from_str::<Value>(cell)) {
        Some(Ok(Value::String(text))) => text,
        Some(Ok(Value::Null)) => String::new(),
        _ => cell.to_owned(),
    }
}
