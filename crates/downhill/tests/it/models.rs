//! Models are saved and loaded, and carry the names and the run file that they were trained with.

use crate::{row, short, table};
use downhill::ndarray::{Array2, array};
use downhill::{Dataset, ErrorKind, LoadOptions, Model, Run, Scores};
use serde_json::{Value, json};
use std::path::Path;

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
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(out.join("model.safetensors")).unwrap());
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

/// Returns the description in a model file.
fn description(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    serde_json::from_str(header["__metadata__"]["downhill"].as_str().unwrap()).unwrap()
}

/// Replaces the description in a model file.
fn describe(file: &Path, description: &Value) {
    let bytes = std::fs::read(file).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    header["__metadata__"]["downhill"] = description.to_string().into();
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(file, [&length, header.as_bytes(), tensors].concat()).unwrap();
}

#[test]
fn a_model_file_says_what_it_is_and_where_it_comes_from_without_local_paths() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let run = short().set("data.train", table(folder.path(), "train.csv", 60));
    run.out(folder.path().join("out")).train().unwrap().model.save(&file).unwrap();
    let about = description(&file);
    assert_eq!((&about["format"], &about["head"]), (&json!(1), &json!("softmax")));
    assert_eq!(about["layers"], json!([{ "kind": "dense", "units": 2 }]));
    assert_eq!(about["provenance"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(about["provenance"]["run"].as_str().unwrap().contains("train = \"csv:train.csv\""), "{about}");
    assert!(!about.to_string().contains(&*folder.path().to_string_lossy()), "{about}");
}

/// The description of the same model as versions without `format` wrote it.
fn old_description(about: &Value, run: &str, data_root: &Path, training_data: &str) -> Value {
    json!({
        "step": about["steps"],
        "class_names": ["high", "low"],
        "feature_names": ["a", "b"],
        "fingerprint": about["fingerprint"],
        "run": run,
        "data_root": data_root,
        "training_data": training_data,
        "weights_sha256": about["weights_sha256"],
    })
}

#[test]
fn files_of_earlier_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let data = Dataset::open(&table(folder.path(), "train.csv", 60)).unwrap();
    let run = short().set("data.train", "csv:train.csv").set("data.standardize", true);
    let run = run.data_root(folder.path());
    let model = run.train().unwrap().model;
    model.save(&file).unwrap();
    let about = description(&file);
    // A model of a source reads it again.
    let training_data = "64f6b7d1bb5e2c1bd9ea7ff1dd4bf8a3b3ac38d5f6a4d33dba7b66b8b0a3a4d2";
    describe(&file, &old_description(&about, &run.resolved().unwrap(), folder.path(), training_data));
    let error = Model::load(&file).unwrap_err();
    assert!(error.to_string().contains("has changed since"), "{error}");
    let mut old = old_description(&about, &run.resolved().unwrap(), folder.path(), "");
    old.as_object_mut().unwrap().remove("training_data");
    describe(&file, &old);
    let loaded = Model::load(folder.path()).unwrap();
    assert_eq!(loaded.evaluate(&data).unwrap(), model.evaluate(&data).unwrap());
    // A model of arrays needs nothing else.
    old["arrays"] = json!({
        "feature_names": ["a", "b"],
        "are_pixels": false,
        "preprocessing": about["encoding"]["preprocessing"],
    });
    describe(&file, &old);
    std::fs::remove_file(folder.path().join("train.csv")).unwrap();
    let loaded = Model::load(&file).unwrap();
    let rows = Dataset::from_features(array![[0.5_f32, 0.25], [0.1, 0.9]]);
    assert_eq!(loaded.predict(&rows).unwrap(), model.predict(&rows).unwrap());
    // Once saved, it is a file of the current version.
    loaded.save(&file).unwrap();
    assert_eq!(description(&file)["format"], 1);
}

#[test]
fn a_forged_damaged_or_later_file_is_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let run = short().set("data.train", table(folder.path(), "train.csv", 60));
    let run = run.set("model.kind", "mlp").set("model.head", "softmax").set("model.hidden", [3]);
    let model = run.train().unwrap().model;
    model.save(&file).unwrap();
    let (good, about) = (std::fs::read(&file).unwrap(), description(&file));
    for (pointer, forged, expected) in [
        ("/format", json!(2), "the file has format 2, and this version reads formats up to 1"),
        ("/format", json!(0), "there is no format 0"),
        ("/head", json!("logistic"), "the targets are not those of Logistic"),
        ("/layers", json!([]), "there are no layers"),
        ("/layers/2/units", json!(3), "the last layer does not have an output for each class"),
        ("/layers/0/units", json!(4), "tensor `layers.0.weight` is F32 [3, 2], but the model has F32 [4, 2]"),
        (
            "/layers/0/units",
            json!(1_000_000),
            "the layers have 5000002 parameters, more than the file contains",
        ),
        ("/layers/0/units", json!(0), "`units` of a layer: expected an integer from 1 to 1000000"),
        ("/layers/0/units", json!(2.5), "`units` of a layer: expected an integer from 1 to 1000000"),
        ("/layers/1", json!({ "kind": "residual", "over": 2 }), "layer 1: "),
        ("/layers/1/kind", json!("maxout"), "unknown kind of layer `maxout`"),
        ("/encoding/target", json!("binary"), "the targets are not those of Softmax"),
        ("/encoding/classes", json!(["no", "no"]), "the classes are not distinct and in ascending order"),
        ("/weights_sha256", json!("00"), "the weights are damaged"),
        ("/steps", json!(-1), "metadata `downhill`: invalid value"),
    ] {
        let mut forged_about = about.clone();
        *forged_about.pointer_mut(pointer).unwrap() = forged;
        std::fs::write(&file, &good).unwrap();
        describe(&file, &forged_about);
        let error = Model::load(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Files);
        assert!(error.to_string().contains(expected), "{pointer}: {error}");
    }
    for length in 0..good.len() {
        std::fs::write(&file, &good[..length]).unwrap();
        assert!(Model::load(&file).is_err(), "{length} of {} bytes", good.len());
    }
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
