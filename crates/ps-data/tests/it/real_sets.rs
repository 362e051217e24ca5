//! Well-known data sets, if they are available.

use crate::common::{counts, row, shared};
use ps_core::Samples;
use ps_data::{ColumnUse, DataConfig, Features, Image, Loaded, Missing, NoProgress, Task, inspect, load};
use std::path::Path;

fn read(root: &Path, config: &DataConfig, task: Task) -> Loaded {
    load(config, task, 1, root, &NoProgress).unwrap_or_else(|error| panic!("{error}"))
}

fn csv(path: &str, label: Option<&str>) -> DataConfig {
    DataConfig { label: label.map(String::from), ..DataConfig::new(format!("csv:{path}")) }
}

#[test]
fn mnist_is_stored_as_bytes() {
    let Some(root) = shared() else { return };
    let config = DataConfig {
        test: Some("idx:mnist/t10k-images-idx3-ubyte.gz,mnist/t10k-labels-idx1-ubyte.gz".into()),
        ..DataConfig::new("idx:mnist/train-images-idx3-ubyte.gz,mnist/train-labels-idx1-ubyte.gz")
    };
    let loaded = read(&root, &config, Task::Classes);
    assert_eq!(counts(&loaded.train), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    let test = loaded.test.unwrap();
    assert_eq!(counts(&test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    assert_eq!(loaded.image, Some(Image { height: 28, width: 28 }));
    let Features::U8(bytes) = &loaded.train.dataset().features else { panic!("pixels became floats") };
    assert_eq!(bytes.dim(), (60_000, 784));
    let values = row(&loaded.train, 59_999);
    assert!(values.iter().zip(bytes.row(59_999)).all(|(value, &byte)| *value == f32::from(byte) / 255.0));
}

#[test]
fn a9a_takes_its_width_from_the_training_data() {
    let Some(root) = shared() else { return };
    let config = DataConfig { test: Some("libsvm:a9a/a9a.t".into()), ..DataConfig::new("libsvm:a9a/a9a") };
    let loaded = read(&root, &config, Task::Binary);
    assert_eq!((loaded.train.features(), loaded.class_names.join(" ")), (123, "-1 1".into()));
    assert_eq!(counts(&loaded.train), [24_720, 7_841]);
    let test = loaded.test.unwrap();
    assert_eq!((test.features(), counts(&test)), (123, vec![12_435, 3_846]));
    let seen = inspect("libsvm:a9a/a9a", &DataConfig::new(""), &root).unwrap();
    assert_eq!((seen.samples, seen.features, seen.non_zero), (32_561, 123, Some(451_592)));
    assert_eq!(seen.labels.unwrap().counts, [("-1".to_string(), 24_720), ("+1".to_string(), 7_841)]);
}

#[test]
fn agaricus_has_labels_0_and_1() {
    let Some(root) = shared() else { return };
    let config = DataConfig {
        test: Some("libsvm:agaricus/agaricus.txt.test".into()),
        ..DataConfig::new("libsvm:agaricus/agaricus.txt.train")
    };
    let loaded = read(&root, &config, Task::Binary);
    assert_eq!((counts(&loaded.train), counts(&loaded.test.unwrap())), (vec![3373, 3140], vec![835, 776]));
    assert_eq!(loaded.train.features(), 126);
}

#[test]
fn housing_lacks_207_cells_that_the_mean_can_fill() {
    let Some(root) = shared() else { return };
    let path = "california-housing/housing.csv";
    let refuse = csv(path, Some("median_house_value"));
    let error = load(&refuse, Task::Regression, 1, &root, &NoProgress).unwrap_err().to_string();
    assert!(
        error.contains("housing.csv:292: column `total_bedrooms`: missing value (an empty cell)"),
        "{error}"
    );
    let fill = DataConfig { missing: Missing::Mean, standardize: true, ..refuse };
    let loaded = read(&root, &fill, Task::Regression);
    assert_eq!((loaded.train.len(), loaded.train.features()), (20_640, 13));
    assert_eq!(loaded.feature_names[8], "ocean_proximity=<1H OCEAN");
    // Row 290 is the first with a missing cell; after standardisation the mean is nearly zero.
    assert!(row(&loaded.train, 290)[4].abs() < 1e-6);
    assert!(row(&loaded.train, 5).iter().all(|value| value.is_finite()));
    let seen = inspect(&format!("csv:{path}"), &csv(path, Some("-2")), &root).unwrap();
    let bedrooms = seen.columns.iter().find(|column| column.name == "total_bedrooms").unwrap();
    assert_eq!((bedrooms.missing, bedrooms.numbers), (207, 20_433));
    assert_eq!(seen.columns.last().unwrap().texts.len(), 5);
    assert_eq!(seen.columns.last().unwrap().becomes, ColumnUse::Categories(5));
    assert!(seen.columns[..8].iter().all(|column| column.becomes == ColumnUse::Number));
    let labels = seen.labels.unwrap();
    assert!(labels.counts.is_empty() && labels.range.unwrap()[2] == 500_001.0);
}

#[test]
fn adult_test_labels_end_in_a_full_stop_that_is_ignored() {
    let Some(root) = shared() else { return };
    let config = DataConfig { missing: Missing::Mean, ..csv("adult/adult_train.csv", None) };
    let loaded = read(&root, &config, Task::Binary);
    assert_eq!(loaded.class_names, ["<=50K", ">50K"]);
    assert_eq!(counts(&loaded.train), [24_720, 7_841]);
    let categories: Vec<String> =
        loaded.categories().iter().map(|(column, count)| format!("{column} {count}")).collect();
    assert_eq!(
        categories.join(", "),
        "workclass 8, education 16, marital_status 7, occupation 14, relationship 6, race 5, sex 2, native_country 41"
    );
    // On its own, the other file can also be read without the key.
    read(&root, &DataConfig { train: "csv:adult/adult_test.csv".into(), ..config.clone() }, Task::Binary);
    let with_test = DataConfig { test: Some("csv:adult/adult_test.csv".into()), ..config };
    let loaded = read(&root, &with_test, Task::Binary);
    assert_eq!(counts(loaded.test.as_ref().unwrap()), [12_435, 3_846]);
    let notes: Vec<String> = loaded.notes().collect();
    let note = "adult_test.csv: every label ends with a full stop, as in `<=50K.`, which those of the training data do not; \
         it is ignored";
    assert!(notes.len() == 1 && notes[0].ends_with(note), "{notes:?}");
}

#[test]
fn small_tables_are_read() {
    let Some(root) = shared() else { return };
    let penguins = DataConfig { missing: Missing::Mean, ..csv("penguins/penguins.csv", Some("species")) };
    let penguins = read(&root, &penguins, Task::Classes);
    assert_eq!(penguins.class_names, ["Adelie", "Chinstrap", "Gentoo"]);
    assert_eq!(counts(&penguins.train), [152, 68, 124]);
    let seen = inspect("csv:penguins/penguins.csv", &csv("", Some("species")), &root).unwrap();
    assert_eq!(seen.columns.iter().map(|column| column.missing).sum::<usize>(), 2 * 4 + 11);

    let iris = read(&root, &csv("iris/iris.csv", None), Task::Classes);
    assert_eq!((counts(&iris.train), iris.train.features()), (vec![50; 3], 4));
    let digits = read(&root, &csv("digits/digits.csv", Some("digit")), Task::Classes);
    assert_eq!((digits.train.len(), digits.train.features(), digits.class_names.len()), (1797, 64, 10));
    let cancer = DataConfig { standardize: true, ..csv("breast-cancer/breast_cancer.csv", None) };
    let cancer = read(&root, &cancer, Task::Binary);
    assert_eq!((counts(&cancer.train), cancer.train.features()), (vec![357, 212], 30));
    // Standardised features have mean 0 and mean square 1.
    for feature in 0..30 {
        let values: Vec<f64> = (0..569).map(|index| f64::from(row(&cancer.train, index)[feature])).collect();
        let mean = values.iter().sum::<f64>() / 569.0;
        let square = values.iter().map(|value| value * value).sum::<f64>() / 569.0;
        assert!(mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-5, "{feature}: {mean} {square}");
    }
    let diabetes = read(&root, &csv("diabetes/diabetes.csv", None), Task::Regression);
    assert_eq!((diabetes.train.len(), diabetes.train.features()), (442, 10));
}

#[test]
fn inspecting_drawings_shows_the_first_few() {
    let seen = inspect("digits:40", &DataConfig::new(""), Path::new(".")).unwrap();
    assert_eq!((seen.samples, seen.features, seen.format), (40, 784, "digits"));
    assert_eq!(seen.image, Some(Image { height: 28, width: 28 }));
    assert!(
        seen.images.len() == 8
            && seen.images.iter().all(|(label, bytes)| label.is_some() && bytes.len() == 784)
    );
    assert!(seen.labels.unwrap().counts.iter().all(|(_, count)| *count == 4));
}
