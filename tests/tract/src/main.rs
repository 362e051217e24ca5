//! Runs exported models in tract and compares their outputs with Downhill's predictions.
//!
//! The only argument is a folder that `tests/it/onnx.rs` has filled. Prints a line for each model and kind of input,
//! like `tests/outside/onnx_models.py`, which runs the models in ONNX Runtime.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

/// Maximum difference of probabilities, and maximum relative difference of other predictions.
const TOLERANCE: f32 = 1e-5;

/// Names of the outputs. An input that would have one of them has the suffix `_input`.
const OUTPUTS: [&str; 3] = ["label", "probabilities", "variable"];

/// An item of `models.json`.
#[derive(serde::Deserialize)]
struct Exported {
    name: String,
    input: String,
    features: usize,
    classes: Vec<String>,
    labels: Vec<String>,
}

fn main() -> ExitCode {
    let folder = PathBuf::from(std::env::args().nth(1).expect("the folder of the models is the argument"));
    let list = std::fs::read(folder.join("models.json")).expect("the folder contains models.json");
    let list: Vec<Exported> = serde_json::from_slice(&list).expect("models.json is a list of models");
    let mut failures = 0;
    for exported in &list {
        for is_encoded in [false, true] {
            let (name, kind) = (&exported.name, if is_encoded { "features" } else { "columns" });
            match exported.check(&folder, is_encoded) {
                Ok(difference) => println!("ok {name} from {kind}: {difference:.1e}"),
                Err(error) => {
                    failures += 1;
                    println!("FAILED {name} from {kind}: {error:?}");
                }
            }
        }
    }
    println!("{} of {} agree", 2 * list.len() - failures, 2 * list.len());
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Exported {
    /// Returns the largest difference between the outputs of the model and what Downhill predicts.
    fn check(&self, folder: &Path, is_encoded: bool) -> TractResult<f32> {
        let width = self.classes.len().max(1);
        let expected = floats(&folder.join(format!("{}.expected.f32", self.name)))?;
        let suffix = if is_encoded { "features.onnx" } else { "onnx" };
        let mut model = onnx().model_for_path(folder.join(format!("{}.{suffix}", self.name)))?;
        let inputs: Vec<Tensor> = match self.input.ends_with(".csv") && !is_encoded {
            true => table(&folder.join(&self.input), &model)?,
            false => vec![self.rows(folder, is_encoded)?],
        };
        for (number, input) in inputs.iter().enumerate() {
            model.set_input_fact(number, InferenceFact::dt_shape(input.datum_type(), input.shape()))?;
        }
        let outputs = model
            .into_optimized()?
            .into_runnable()?
            .run(inputs.into_iter().map(Tensor::into_tvalue).collect())?;
        let values = outputs.last().expect("a model has outputs").cast_to::<f32>()?;
        let values = values.to_plain_array_view::<f32>()?;
        let values = values.as_slice().expect("outputs are row-major");
        ensure(values.len() == expected.len(), || {
            format!("{} values, not {}", values.len(), expected.len())
        })?;
        let scale = |wanted: f32| if self.classes.is_empty() { wanted.abs() } else { 1.0 };
        let differences: Vec<f32> = (values.iter().zip(&expected))
            .map(|(got, wanted)| (got - wanted).abs() / scale(*wanted))
            .collect();
        // A NaN fails this, too.
        let is_close = differences.iter().all(|&difference| difference <= TOLERANCE);
        let difference = differences.into_iter().fold(0.0, f32::max);
        ensure(is_close, || format!("difference {difference}"))?;
        if !self.classes.is_empty() {
            self.check_labels(&outputs[0], expected.chunks(width))?;
        }
        Ok(difference)
    }

    /// Compares labels, except where the two largest probabilities are nearly equal.
    fn check_labels<'a>(
        &self,
        labels: &Tensor,
        expected: impl Iterator<Item = &'a [f32]>,
    ) -> TractResult<()> {
        let names: Vec<String> = match labels.datum_type() {
            DatumType::I64 => labels.to_plain_array_view::<i64>()?.iter().map(i64::to_string).collect(),
            _ => labels.to_plain_array_view::<String>()?.iter().cloned().collect(),
        };
        for ((name, wanted), probabilities) in names.iter().zip(&self.labels).zip(expected) {
            let mut sorted = probabilities.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let is_certain = sorted[0] - sorted[1] >= TOLERANCE;
            ensure(name == wanted || !is_certain, || format!("label {name}, not {wanted}"))?;
        }
        Ok(())
    }

    /// The samples as a single tensor: bytes or numbers as they are, or encoded features.
    fn rows(&self, folder: &Path, is_encoded: bool) -> TractResult<Tensor> {
        let encoded = format!("{}.features.f32", self.name);
        let file = folder.join(if is_encoded { &encoded } else { &self.input });
        let shape = |values: usize| [values / self.features, self.features];
        if file.extension().is_some_and(|extension| extension == "u8") {
            let bytes = std::fs::read(file)?;
            return Tensor::from_shape(&shape(bytes.len()), &bytes);
        }
        let values = floats(&file)?;
        Tensor::from_shape(&shape(values.len()), &values)
    }
}

/// The inputs of a model for the rows of a CSV file.
fn table(path: &Path, model: &InferenceModel) -> TractResult<Vec<Tensor>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path)?;
    let header = reader.headers()?.clone();
    let rows = reader.records().collect::<Result<Vec<_>, _>>()?;
    let column = |outlet: &OutletId| {
        let name = model.node(outlet.node).name.as_str();
        let is_column = |name: &str| header.iter().position(|column| column == name);
        let place = is_column(name).filter(|_| !OUTPUTS.contains(&name));
        let place = place.or_else(|| is_column(name.trim_end_matches("_input")));
        let place =
            place.ok_or_else(|| TractError::msg(format!("{} has no column {name:?}", path.display())))?;
        let cells = rows.iter().map(|row| &row[place]);
        if model.outlet_fact(*outlet)?.datum_type.concretize() == Some(String::datum_type()) {
            return tensor1(&cells.map(String::from).collect::<Vec<String>>()).into_shape(&[rows.len(), 1]);
        }
        // A cell that is not a number marks a missing value.
        let numbers: Vec<f32> = cells.map(|cell| cell.parse().unwrap_or(f32::NAN)).collect();
        Tensor::from_shape(&[rows.len(), 1], &numbers)
    };
    model.input_outlets()?.iter().map(column).collect()
}

fn floats(path: &Path) -> TractResult<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn ensure(is_met: bool, problem: impl FnOnce() -> String) -> TractResult<()> {
    if is_met { Ok(()) } else { Err(TractError::msg(problem())) }
}
