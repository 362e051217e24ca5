//! Arrays give what the same data in a file gives.

use crate::{row, short, table};
use downhill::ndarray::{Array2, Array3, Axis, array, s};
use downhill::{Dataset, ErrorKind, Model, Run};

fn arrays(rows: usize) -> (Array2<f32>, Vec<&'static str>) {
    let features = Array2::from_shape_fn((rows, 2), |(index, column)| row(index).0[column]);
    (features, (0..rows).map(|index| row(index).1).collect())
}

#[test]
fn arrays_train_to_the_same_bits_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let run = short().set("data.validation", 0.2);
    let from_file = run.clone().set("data.train", table(folder.path(), "train.csv", 100)).train().unwrap();
    let (features, labels) = arrays(100);
    let transposed = features.t().as_standard_layout().into_owned();
    let named = Dataset::from_arrays(transposed.t(), labels).unwrap().with_feature_names(["a", "b"]).unwrap();
    let from_arrays = run.data(&named).train().unwrap();
    // The fingerprint includes a hash of all samples as encoded.
    assert_eq!(from_arrays.summary.fingerprint, from_file.summary.fingerprint);
    assert_eq!(from_arrays.summary.weights_sha256, from_file.summary.weights_sha256);
    assert_eq!(from_arrays.summary.validation, from_file.summary.validation);
    assert_eq!(from_arrays.model.class_names(), from_file.model.class_names());
    assert_eq!(from_arrays.model.feature_names(), from_file.model.feature_names());
}

#[test]
fn arrays_of_bytes_train_to_the_same_bits_as_images() {
    let folder = tempfile::tempdir().unwrap();
    let pixels = Array3::from_shape_fn((60, 3, 2), |(image, y, x)| (image * (31 + 7 * y + x) % 251) as u8);
    let labels: Vec<u8> = (0..60).map(|image| image % 3).collect();
    let idx = |name: &str, sizes: &[u32], content: &[u8]| {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(content);
        std::fs::write(folder.path().join(name), bytes).unwrap();
    };
    idx("images", &[60, 3, 2], pixels.as_slice().unwrap());
    idx("labels", &[60], &labels);
    let source = format!("idx:{0}/images,{0}/labels", folder.path().display());
    let run = short().set("train.batch", 20);
    let from_file = run.clone().data(&Dataset::open(&source).unwrap()).train().unwrap();
    let from_arrays = run.data(&Dataset::from_arrays(&pixels, labels).unwrap()).train().unwrap();
    assert_eq!(from_arrays.summary.fingerprint, from_file.summary.fingerprint);
    assert_eq!(from_arrays.summary.weights_sha256, from_file.summary.weights_sha256);
    // Each model predicts from the other's kind of data.
    let images = Dataset::from_features(&pixels);
    assert_eq!(from_file.model.predict(&images).unwrap(), from_arrays.model.predict(&images).unwrap());
}

#[test]
fn a_model_of_arrays_is_saved_with_its_preprocessing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let (mut features, labels) = arrays(80);
    features[[3, 1]] = f32::NAN;
    let data = Dataset::from_arrays(&features, labels).unwrap();
    let model = short().set("data.missing", "mean").data(&data).train().unwrap().model;
    model.save(&file).unwrap();
    let loaded = Model::load(&file).unwrap();
    assert_eq!(loaded.weights(), model.weights());
    assert_eq!(loaded.run_file(), model.run_file());
    assert_eq!(loaded.evaluate(&data).unwrap(), model.evaluate(&data).unwrap());
    let rows = Dataset::from_features(features.slice(s![..9, ..]));
    assert_eq!(loaded.predict(&rows).unwrap(), model.predict(&rows).unwrap());
}

#[test]
fn numbers_are_values_or_classes_as_the_model_asks() {
    let features = Array2::from_shape_fn((40, 1), |(row, _)| row as f32 / 40.0);
    let labels: Vec<f64> = (0..40).map(|row| if row < 25 { 10.0 } else { 9.0 }).collect();
    let data = Dataset::from_arrays(&features, labels).unwrap();
    let run = Run::new().data(&data).set("train.batch", 8).set("learning_rate.initial", 0.1);
    let classes = run.clone().set("model.kind", "logistic").train().unwrap().model;
    assert_eq!(classes.class_names(), ["9", "10"]);
    let predicted = classes.predict(&data).unwrap();
    assert!(predicted.values().sum_axis(Axis(1)).iter().all(|sum| (sum - 1.0).abs() < 1e-6));
    let values = run.set("model.kind", "linear").train().unwrap().model;
    let predicted = values.predict(&data).unwrap();
    assert_eq!((predicted.values().dim(), predicted.classes()), ((40, 1), None));
}

#[test]
fn arrays_that_do_not_fit_are_refused_with_their_location() {
    let error = Dataset::from_arrays(array![[1.0_f32], [2.0]], [1.0_f64]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Data, "there are 2 rows of features, but 1 labels".into())
    );

    let train = |features: Array2<f32>, labels: [f64; 2]| {
        let run = Run::new().data(&Dataset::from_arrays(features, labels).unwrap()).set("train.batch", 1);
        run.set("model.kind", "logistic").set("learning_rate.initial", 1).train()
    };
    let model = train(array![[1.0, 2.0], [3.0, 4.0]], [0.0, 1.0]).unwrap().model;
    let refused = |data: Dataset| model.evaluate(&data).unwrap_err().to_string();
    let with =
        |features: Array2<f32>, labels: [f64; 2]| refused(Dataset::from_arrays(features, labels).unwrap());
    for (error, expected) in [
        (
            train(array![[1.0, f32::NAN], [3.0, 4.0]], [0.0, 1.0]).unwrap_err().to_string(),
            "arrays:train: row 0: feature `1`: missing value (NaN); remove the row or set data.missing = \"mean\"",
        ),
        (
            train(array![[1.0], [2.0]], [0.0, f64::NAN]).unwrap_err().to_string(),
            "arrays:train: row 1: the label is missing (NaN); remove the row",
        ),
        (
            with(array![[1.0, f32::INFINITY], [3.0, 4.0]], [0.0, 1.0]),
            "arrays: row 0: feature `1`: inf is not finite",
        ),
        (
            with(array![[1.0, 1.0], [1.0, 1.0]], [0.0, 2.0]),
            "arrays: row 1: label `2` does not occur in the training data; the closest known label is `1`",
        ),
        (
            with(array![[1.0], [1.0]], [0.0, 1.0]),
            "arrays: the arrays have 1 features, but the training data has 2",
        ),
        (
            refused(Dataset::from_arrays(array![[1_u8, 2]], [0_u8]).unwrap()),
            "arrays: the features are bytes (pixels), but those of the training data are 32-bit floats",
        ),
        (refused(Dataset::from_features(array![[1.0_f32, 2.0]])), "arrays: the arrays have no labels"),
    ] {
        assert_eq!(error, expected);
    }
}
