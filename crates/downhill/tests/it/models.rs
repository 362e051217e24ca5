//! Models are saved and loaded, and carry the names and the run file that they were trained with.

use crate::{row, short, table};
use downhill::ndarray::Array2;
use downhill::{Dataset, ErrorKind, LoadOptions, Model, Run, Scores};

fn is_for_threads<T: Send + Sync + Clone + 'static>() {}

#[test]
fn runs_data_sets_and_models_can_be_shared_between_threads() {
    is_for_threads::<Run>();
    is_for_threads::<Dataset>();
    is_for_threads::<Model>();
}

#[test]
fn a_model_is_loaded_from_its_results_folder_and_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path(), "train.csv", 60);
    let (out, file) = (folder.path().join("out"), folder.path().join("model.safetensors"));
    let trained = short().set("data.train", data.as_str()).out(&out).train().unwrap();
    trained.model.save(&file).unwrap();
    // A saved model is byte for byte the file in the results folder.
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(out.join("weights.safetensors")).unwrap());
    let data = Dataset::open(&data).unwrap();
    let evaluation = trained.model.evaluate(&data).unwrap();
    assert_eq!(evaluation.measures.samples, 60);
    let Scores::Classes(scores) = &evaluation.scores else { panic!("{evaluation:?}") };
    assert_eq!(scores.classes.iter().map(|class| class.samples).sum::<u64>(), 60);
    for path in [out, file] {
        assert_eq!(
            Model::load_with(path, &LoadOptions::new().threads(2)).unwrap().evaluate(&data).unwrap(),
            evaluation
        );
    }
}

#[test]
fn a_model_needs_nothing_but_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let [train, new] = ["train.csv", "new.csv"].map(|name| table(folder.path(), name, 60));
    let model = short().set("data.train", train.as_str()).train().unwrap().model;
    model.save(&file).unwrap();
    std::fs::remove_file(folder.path().join("train.csv")).unwrap();
    let (loaded, new) = (Model::load(&file).unwrap(), Dataset::open(&new).unwrap());
    assert_eq!(loaded.weights(), model.weights());
    assert_eq!(loaded.predict(&new).unwrap(), model.predict(&new).unwrap());
    assert_eq!(loaded.evaluate(&new).unwrap(), model.evaluate(&new).unwrap());
}

#[test]
fn a_file_that_is_not_a_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, "nothing").unwrap();
    let error = Model::load(&file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Files);
    assert!(error.to_string().contains("model.safetensors: no safetensors file"), "{error}");
}

/// Checks that intercept and coefficients give the prediction for raw rows, `[samples, features]`.
fn check_coefficients(model: &Model, rows: &Array2<f32>, data: &Dataset, of: fn(f64) -> f64) {
    let coefficients = model.coefficients().unwrap();
    let predicted = model.predict(data).unwrap();
    let function = &coefficients.functions[0];
    assert_eq!(function.coefficients.len(), rows.ncols());
    for (row, predicted) in rows.rows().into_iter().zip(predicted.values().rows()) {
        let terms = row.iter().zip(&function.coefficients);
        let sum = function.intercept + terms.map(|(&x, c)| f64::from(x) * c).sum::<f64>();
        let last = f64::from(predicted[predicted.len() - 1]);
        assert!((of(sum) - last).abs() < 1e-4, "{sum} {last}");
    }
}

#[test]
fn coefficients_are_in_the_units_of_the_data() {
    let rows = Array2::from_shape_fn((60, 2), |(index, column)| 100.0 + row(index).0[column] * 30.0);
    let values: Vec<f32> = rows.rows().into_iter().map(|row| row[0] / 50.0 - row[1] / 70.0).collect();
    let data = Dataset::from_arrays(rows.clone(), values).unwrap();
    let linear = short().data(&data).set("model.kind", "linear").set("learning_rate.initial", 0.1);
    let model = linear.set("train.epochs", 20).train().unwrap().model;
    check_coefficients(&model, &rows, &data, |sum| sum);
    assert_eq!(model.coefficients().unwrap().functions[0].class, None);

    let labels: Vec<&str> = (0..60).map(|index| row(index).1).collect();
    let data = Dataset::from_arrays(rows.clone(), labels).unwrap();
    let model = short().data(&data).set("model.kind", "logistic").train().unwrap().model;
    check_coefficients(&model, &rows, &data, |sum| 1.0 / (1.0 + (-sum).exp()));
    assert_eq!(model.coefficients().unwrap().functions[0].class.as_deref(), Some("low"));

    // Pixels are bytes, whose features are values from 0 to 1.
    let bytes = Array2::from_shape_fn((60, 4), |(index, column)| (index * (3 + column) * 37 % 256) as u8);
    let labels: Vec<&str> =
        bytes.rows().into_iter().map(|row| if row[0] < 128 { "dark" } else { "light" }).collect();
    let data = Dataset::from_arrays(bytes.clone(), labels).unwrap();
    let model = short().data(&data).set("model.kind", "logistic").train().unwrap().model;
    check_coefficients(&model, &bytes.mapv(f32::from), &data, |sum| 1.0 / (1.0 + (-sum).exp()));

    let hidden = short().data(&data).set("model.kind", "mlp").set("model.hidden", [3]).train().unwrap();
    assert_eq!(hidden.model.coefficients(), None);
}
