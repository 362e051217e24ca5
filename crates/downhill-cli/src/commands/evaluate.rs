//! `downhill evaluate`: measures a saved model.

use crate::failure::Failure;
use crate::output;
use downhill::{ClassificationScores, Evaluation, Model, Scores};
use ps_config::{DataArgs, LogArgs};
use ps_data::NewData;
use ps_run::{Style, counted, grouped, short};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Evaluate a trained model
///
/// With --data, evaluates the model on that source, and needs only the model file. Without it, evaluates the
/// model on the validation part and the test source of its run, as training does at its end, and reads the
/// data that the run.toml next to the model file names.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the run, or a model file
    #[arg(value_name = "MODEL")]
    run: PathBuf,

    /// Override a key of the run file; can be repeated
    ///
    /// For example, --set data.test=csv:other.csv. With nothing after the equals sign, as in --set
    /// data.test=, the key has its default, as if it were not in the run file.
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "source")]
    sets: Vec<String>,

    /// Evaluate on this source instead, such as csv:new.csv
    ///
    /// Relative paths start from the current folder, not from the run file's.
    #[arg(long = "data", value_name = "SOURCE", help_heading = "Data")]
    source: Option<String>,

    /// Refuse columns that the model does not use, and unknown categories
    ///
    /// An unknown category is one that does not occur in the training data. Without this flag, such columns
    /// are ignored, and such categories count as none of the known ones; a note reports both.
    #[arg(long, requires = "source", help_heading = "Data")]
    strict: bool,

    /// Print a JSON object with all scores instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill evaluate runs/digits-1
  downhill evaluate runs/digits-1 --data digits:1000
  downhill evaluate runs/digits-1/model.safetensors --set data.test=digits:500";

/// Prints loss, accuracy or R², and further scores.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let style = Style::choose(&arguments.log);
    let (model, evaluations) = match &arguments.source {
        Some(source) => {
            let model = super::open_model(&arguments.run)?;
            let new = NewData { is_labelled: true, is_strict: arguments.strict };
            let split = super::read_data(&model, source, new, style)?;
            let evaluation = model.evaluate_encoded(&split);
            (model, vec![(source.as_str(), evaluation)])
        }
        None => evaluate_run(arguments, style)?,
    };
    if arguments.json {
        return print_json(&evaluations, model.weights_sha256());
    }
    let mut lines = Vec::new();
    for (name, Evaluation { measures, scores }) in evaluations {
        let samples = counted(measures.samples as usize, "sample");
        lines.push(format!("{name:<12} {}  ({samples})", measures.line()));
        lines.extend(score_lines(&scores));
    }
    lines.push(format!("weights sha256 {}", model.weights_sha256()));
    output::lines(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// The name of each source, and the metrics on it.
type Evaluations<'a> = Vec<(&'a str, Evaluation)>;

/// Evaluates the model of a run on the run's validation part and test source.
fn evaluate_run(arguments: &Arguments, style: Style) -> Result<(Model, Evaluations<'static>), Failure> {
    let data_root = arguments.data.data_root.as_deref();
    let run = super::open_run(&arguments.run, &arguments.sets, data_root, style)?;
    if run.data_changed() {
        output::warn("the data has changed since the run, so the metrics differ from the run's");
    }
    let parts = [("validation", &run.job.data.validation), ("test", &run.job.data.test)];
    let parts = parts.into_iter().filter_map(|(name, split)| Some((name, split.as_ref()?)));
    let evaluations: Vec<_> = parts.map(|(name, split)| (name, run.model.evaluate_encoded(split))).collect();
    match evaluations.is_empty() {
        true => Err(Failure::Usage(
            "the run has no validation part and no test source; give a source with --data".into(),
        )),
        false => Ok((run.model, evaluations)),
    }
}

/// Prints an object with the metrics of each part, by its name.
fn print_json(evaluations: &[(&str, Evaluation)], weights_sha256: &str) -> Result<ExitCode, Failure> {
    let part = |(name, Evaluation { measures, scores }): &(&str, Evaluation)| {
        let part = json!({ "samples": measures.samples, "loss": measures.loss, "scores": scores });
        ((*name).to_owned(), part)
    };
    let mut object: serde_json::Map<String, serde_json::Value> = evaluations.iter().map(part).collect();
    object.insert("weights_sha256".into(), weights_sha256.into());
    output::lines(&[format!("{:#}", serde_json::Value::Object(object))])?;
    Ok(ExitCode::SUCCESS)
}

/// Maximum number of classes of which the confusion matrix is printed.
const MAX_CONFUSION: usize = 10;
/// Maximum width of the name of a class, in columns.
const MAX_NAME: usize = 28;
/// Width of a line, in columns.
const WIDTH: usize = 80;

/// Returns the lines of the scores below those of the loss.
fn score_lines(scores: &Scores) -> Vec<String> {
    match scores {
        Scores::Classes(scores) => class_lines(scores),
        Scores::Values(scores) => {
            let mut line = format!("  RMSE {}  MAE {}", short(scores.rmse), short(scores.mae));
            if let Some(deviance) = scores.poisson_deviance {
                line += &format!("  mean deviance {}", short(deviance));
            }
            vec![line]
        }
    }
}

/// Returns a table with the scores of each class, and the confusion matrix if it is small.
fn class_lines(scores: &ClassificationScores) -> Vec<String> {
    let mut first = format!("  balanced accuracy {:.4}", scores.balanced_accuracy);
    for (name, score) in [("ROC-AUC", scores.roc_auc), ("average precision", scores.average_precision)] {
        if let Some(score) = score {
            first += &format!("  {name} {score:.4}");
        }
    }
    let names: Vec<String> = scores.classes.iter().map(|class| shortened(&class.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("weighted".len());
    let head = format!("  {:<width$}  precision  recall      F1  samples", "class");
    let mut lines = vec![first, head];
    let row = |name: &str, [precision, recall, f1]: [f64; 3], samples: u64| {
        let samples = grouped(samples as f64);
        format!("  {name:<width$}  {precision:9.4}  {recall:6.4}  {f1:6.4}  {samples:>7}")
    };
    for (name, class) in names.iter().zip(&scores.classes) {
        lines.push(row(name, [class.precision, class.recall, class.f1], class.samples));
    }
    let samples = scores.classes.iter().map(|class| class.samples).sum();
    for (name, mean) in [("mean", scores.macro_average), ("weighted", scores.weighted_average)] {
        lines.push(row(name, [mean.precision, mean.recall, mean.f1], samples));
    }
    lines.extend(confusion_lines(&names, width, &scores.confusion));
    lines
}

/// Returns the lines of the confusion matrix, or none if it is too large for the width of a line.
fn confusion_lines(names: &[String], width: usize, confusion: &[Vec<u64>]) -> Vec<String> {
    let cells = confusion.iter().flatten().map(|&count| grouped(count as f64).len());
    let cell = cells.chain(names.iter().map(|name| name.chars().count())).max().unwrap_or(0);
    if names.len() > MAX_CONFUSION || 2 + width + names.len() * (2 + cell) > WIDTH {
        return Vec::new();
    }
    let row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|text| format!("  {text:>cell$}")).collect();
        format!("  {name:<width$}{cells}")
    };
    let title = "  samples by actual class (row) and predicted class (column)".to_owned();
    let mut lines = vec![title, row("", &mut names.iter().cloned())];
    for (name, counts) in names.iter().zip(confusion) {
        lines.push(row(name, &mut counts.iter().map(|&count| grouped(count as f64))));
    }
    lines
}

/// Returns the name of a class, with its end replaced by an ellipsis if it is long.
fn shortened(name: &str) -> String {
    match name.chars().count() > MAX_NAME {
        true => name.chars().take(MAX_NAME - 1).chain(['…']).collect(),
        false => name.into(),
    }
}
