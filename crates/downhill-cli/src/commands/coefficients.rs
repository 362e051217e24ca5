//! `downhill coefficients`: prints the coefficients of a linear model.

use crate::failure::Failure;
use crate::output;
use downhill::{Coefficients, Model};
use ps_config::LogArgs;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the coefficients of a linear model
///
/// Prints the intercept and a coefficient for each feature of a linear, logistic, softmax or Poisson
/// regression, in the units of the data: standardization is already taken into account. Each category of a
/// column is a feature that is 1 or 0. With two classes, the coefficients are those of the log-odds of the
/// second class; with more, each class has its own coefficients. For a Poisson regression, they are those of
/// the logarithm of the rate.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the run, or a model file
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Format of the output
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Aligned columns
    Table,
    /// Comma-separated values with a header
    Csv,
    /// A JSON object with the feature names and a function for each output
    Json,
}

const EXAMPLES: &str = "\
Examples:
  downhill coefficients runs/housing-1
  downhill coefficients runs/housing-1 --format csv > coefficients.csv";

/// Loads the model and prints its coefficients.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let model = Model::load(&arguments.model)?;
    let Some(coefficients) = model.coefficients() else {
        return Err(Failure::Usage(format!(
            "{}: the model has hidden layers, so its features have no coefficients",
            arguments.model.display()
        )));
    };
    match arguments.format {
        Format::Table => output::lines(&table(&coefficients))?,
        Format::Csv => output::to_stdout(|out| {
            let mut csv = csv::Writer::from_writer(out);
            records(&coefficients)
                .iter()
                .try_for_each(|record| csv.write_record(record))
                .map_err(output::io_error)?;
            csv.flush()
        })?,
        Format::Json => output::lines(&[format!("{:#}", object(&coefficients))])?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A header and a record for each feature of each function, with the intercepts first.
fn records(coefficients: &Coefficients) -> Vec<Vec<String>> {
    let has_classes = coefficients.functions.iter().any(|function| function.class.is_some());
    let record = |class: Option<&str>, feature: &str, value: String| {
        let class = class.map(str::to_owned).filter(|_| has_classes);
        class.into_iter().chain([feature.to_owned(), value]).collect()
    };
    let mut records = vec![record(Some("class"), "feature", "coefficient".into())];
    for function in &coefficients.functions {
        let class = function.class.as_deref();
        records.push(record(class, "(intercept)", function.intercept.to_string()));
        let features = coefficients.feature_names.iter().zip(&function.coefficients);
        records.extend(features.map(|(feature, value)| record(class, feature, value.to_string())));
    }
    records
}

/// The lines of the table, with the coefficients in columns of equal width.
fn table(coefficients: &Coefficients) -> Vec<String> {
    let mut records = records(coefficients);
    for record in records.iter_mut().skip(1) {
        if let Some(value) = record.last_mut() {
            *value = value.parse().map_or_else(|_| value.clone(), |number: f64| significant(number));
        }
    }
    let widths: Vec<usize> = (0..records[0].len())
        .map(|column| records.iter().map(|record| record[column].chars().count()).max().unwrap_or(0))
        .collect();
    let last = widths.len() - 1;
    let line = |record: &Vec<String>| {
        let cell = |(column, text): (usize, &String)| match column == last {
            true => format!("{text:>width$}", width = widths[column]),
            false => format!("{text:<width$}  ", width = widths[column]),
        };
        record.iter().enumerate().map(cell).collect()
    };
    records.iter().map(line).collect()
}

/// Formats a number with six significant digits.
fn significant(number: f64) -> String {
    let magnitude = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    match magnitude {
        -4..=5 => format!("{number:.digits$}", digits = (5 - magnitude) as usize),
        _ => format!("{number:.5e}"),
    }
}

fn object(coefficients: &Coefficients) -> serde_json::Value {
    let function = |function: &downhill::LinearFunction| {
        json!({
            "class": function.class,
            "intercept": function.intercept,
            "coefficients": function.coefficients,
        })
    };
    let functions: Vec<serde_json::Value> = coefficients.functions.iter().map(function).collect();
    json!({ "features": coefficients.feature_names, "functions": functions })
}
