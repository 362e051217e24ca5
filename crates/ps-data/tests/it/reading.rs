//! Samples in memory match the contents of the files.

use crate::common::{Folder, counts, gz, idx, row};
use ps_core::Samples;
use ps_data::{DataConfig, Features, Missing, ReadProgress, Task, Validation, load};
use ps_plan::SampleOrder;
use std::path::Path;
use std::sync::Mutex;

#[test]
fn csv_quotes_line_ends_and_byte_order_marks_are_understood() {
    let folder = Folder::new();
    let plain = "a,b,y\n1,\"x, y\",0.5\n-2e1,z,1\n";
    for (name, content) in [
        ("plain", plain.to_string()),
        ("crlf", plain.replace('\n', "\r\n")),
        ("bom", format!("\u{feff}{plain}")),
        ("unfinished", plain.trim_end().into()),
        ("blanks", "a, b,y\n\n 1,\"x, y\" ,0.5\n-2e1, z,1\n\n".into()),
    ] {
        folder.write(name, content);
        let loaded = folder.load(&DataConfig::new(format!("csv:{name}")), Task::Regression).unwrap();
        assert_eq!(loaded.feature_names, ["a", "b=x, y", "b=z"], "{name}");
        assert_eq!(row(&loaded.train, 0), [1.0, 1.0, 0.0], "{name}");
        assert_eq!(row(&loaded.train, 1), [-20.0, 0.0, 1.0], "{name}");
        assert_eq!((loaded.train.target(0), loaded.train.target(1)), (0.5, 1.0), "{name}");
    }
}

#[test]
fn label_columns_go_by_name_or_number() {
    let folder = Folder::new();
    folder.write("t", "a,b,c\n1,2,3\n4,5,6\n");
    for (label, target, features) in [
        (None, 3.0, [1.0, 2.0]),
        (Some("b"), 2.0, [1.0, 3.0]),
        (Some("0"), 1.0, [2.0, 3.0]),
        (Some("-2"), 2.0, [1.0, 3.0]),
    ] {
        let config = DataConfig { label: label.map(String::from), ..DataConfig::new("csv:t") };
        let train = folder.load(&config, Task::Regression).unwrap().train;
        assert_eq!((train.target(0), row(&train, 0)), (target, features.to_vec()), "{label:?}");
    }
    let config: DataConfig = toml::from_str("train = \"csv:t\"\nlabel = -1\nvalidation = 0.25").unwrap();
    assert_eq!((config.label.as_deref(), config.validation), (Some("-1"), Some(Validation::Share(0.25))));
    let config: DataConfig =
        toml::from_str("train = \"csv:t\"\nvalidation = \"csv:v\"\nmissing = \"mean\"").unwrap();
    assert_eq!(
        (config.validation, config.missing),
        (Some(Validation::Source("csv:v".into())), Missing::Mean)
    );
}

#[test]
fn classes_sort_as_numbers_or_as_bytes() {
    let folder = Folder::new();
    folder.write("n", "10 1:1\n+9 1:2\n9.0 1:3\n-1 1:4 # comment 5:x\n");
    let loaded = folder.load(&DataConfig::new("libsvm:n"), Task::Classes).unwrap();
    assert_eq!(loaded.class_names, ["-1", "9", "10"]);
    assert_eq!((0..4).map(|i| loaded.train.target(i)).collect::<Vec<_>>(), [2.0, 1.0, 1.0, 0.0]);
    folder.write("t", "x,y\n1,b\n2,a10\n3,a9\n");
    let loaded = folder.load(&DataConfig::new("csv:t"), Task::Classes).unwrap();
    assert_eq!(loaded.class_names, ["a10", "a9", "b"]);
}

#[test]
fn missing_cells_take_the_mean_of_the_training_part() {
    let folder = Folder::new();
    folder.write("t", "x,c,y\n1,a,0\n?,a,0\n4,NA,0\n,b,0\n").write("e", "x,c,y\nNA,?,1\n");
    let config =
        DataConfig { missing: Missing::Mean, test: Some("csv:e".into()), ..DataConfig::new("csv:t") };
    let loaded = folder.load(&config, Task::Regression).unwrap();
    let third = 1.0_f32 / 3.0;
    assert_eq!(row(&loaded.train, 1), [2.5, 1.0, 0.0]);
    assert_eq!(row(&loaded.train, 2), [4.0, 2.0_f32 / 3.0, third]);
    assert_eq!(row(&loaded.test.unwrap(), 0), [2.5, 2.0_f32 / 3.0, third]);
}

#[test]
fn columns_know_their_features_and_samples_which_of_them_are_missing() {
    let folder = Folder::new();
    folder.write("t", "x,c,y,z\n1,a,0,5\n?,b,0,6\n4,NA,0,7\n3,b,0,8\n").write("s", "1 2:3\n0 1:1\n");
    let config = DataConfig {
        missing: Missing::Mean,
        standardize: true,
        label: Some("y".into()),
        ..DataConfig::new("csv:t")
    };
    let loaded = folder.load(&config, Task::Regression).unwrap();
    let columns: Vec<_> = loaded
        .columns()
        .into_iter()
        .map(|it| (it.name.clone(), it.categories().to_vec(), it.features))
        .collect();
    let categories = vec!["a".to_string(), "b".to_string()];
    let expected = [("x", vec![], 0..1), ("c", categories, 1..3), ("z", vec![], 3..4)];
    assert_eq!(
        columns,
        expected.map(|(name, categories, features)| (name.to_string(), categories, features))
    );
    let train = &loaded.train;
    let missing: Vec<(usize, usize)> = (0..4)
        .flat_map(|row| (0..4).map(move |feature| (row, feature)))
        .filter(|at| train.is_missing(at.0, at.1))
        .collect();
    assert_eq!(missing, [(1, 0), (2, 1), (2, 2)]);
    let mut raw = [0.0; 4];
    train.write_raw_row(3, &mut raw);
    assert_eq!(raw, [3.0, 0.0, 1.0, 8.0]);
    assert_ne!(row(train, 3), raw);
    let sparse = folder.load(&DataConfig::new("libsvm:s"), Task::Binary).unwrap();
    let names: Vec<String> = sparse.columns().into_iter().map(|column| column.name).collect();
    assert_eq!(names, ["feature 1", "feature 2"]);
    assert!(!sparse.train.is_missing(1, 1));
}

#[test]
fn standardisation_comes_from_the_training_part_only() {
    let folder = Folder::new();
    folder.write("t", "x,k,y\n1,0.1,0\n3,0.1,0\n5,0.1,0\n").write("v", "x,k,y\n100,7.1,0\n");
    let config = DataConfig {
        standardize: true,
        validation: Some(Validation::Source("csv:v".into())),
        ..DataConfig::new("csv:t")
    };
    let loaded = folder.load(&config, Task::Regression).unwrap();
    let inv_std = (1.0 / (8.0_f64 / 3.0).sqrt()) as f32;
    let standard = loaded.train.preprocessing().standard.clone().unwrap();
    assert_eq!((standard.mean, standard.inv_std), (vec![3.0, 0.1], vec![inv_std, 1.0]));
    assert_eq!(row(&loaded.train, 0), [-2.0 * inv_std, 0.0]);
    assert_eq!(row(&loaded.validation.unwrap(), 0), [97.0 * inv_std, 7.1 - 0.1_f32]);
}

#[test]
fn a_share_takes_the_last_positions_of_the_validation_order() {
    let config = DataConfig { validation: Some(Validation::Share(0.25)), ..DataConfig::new("digits:50") };
    let loaded = load(&config, Task::Classes, 7, Path::new("."), &ps_data::NoProgress).unwrap();
    let validation = loaded.validation.unwrap();
    let order = SampleOrder::validation(7, 50);
    // 12.5 rounds to 13.
    let mut expected: Vec<usize> = (37..50).map(|position| order.at(position)).collect();
    expected.sort_unstable();
    assert_eq!((0..validation.len()).map(|index| validation.row(index)).collect::<Vec<_>>(), expected);
    let train: Vec<usize> = (0..loaded.train.len()).map(|index| loaded.train.row(index)).collect();
    assert!(train.is_sorted() && train.len() == 37 && train.iter().all(|row| !expected.contains(row)));
}

#[test]
fn pixels_stay_bytes_and_gzip_does_not_matter() {
    let folder = Folder::new();
    let (images, labels) = (idx(&[2, 1, 3], &[0, 51, 255, 1, 2, 3]), idx(&[2], &[1, 0]));
    folder.write("i", &images).write("l", &labels).write("i.gz", gz(&images)).write("l.gz", gz(&labels));
    let plain = folder.load(&DataConfig::new("idx:i,l"), Task::Binary).unwrap();
    let packed = folder.load(&DataConfig::new("idx:i.gz,l.gz"), Task::Binary).unwrap();
    assert!(matches!(plain.train.dataset().features, Features::U8(_)));
    assert_eq!(row(&plain.train, 0), [0.0, 0.2, 1.0]);
    assert_eq!(plain.fingerprint, packed.fingerprint);
}

#[test]
fn the_fingerprint_follows_content_and_options_but_not_names() {
    let folder = Folder::new();
    let table = "x,y\n1,2\n3,4\n";
    folder.write("a", table).write("b", "other,names\n1,2\n3,4\n").write("c", "x,y\n1,2\n3,4.0000005\n");
    let hash = |config: &DataConfig| folder.load(config, Task::Regression).unwrap().fingerprint;
    let a = DataConfig::new("csv:a");
    assert_eq!(hash(&a), hash(&DataConfig::new("csv:b")));
    let others = [
        DataConfig::new("csv:c"),
        DataConfig { standardize: true, ..a.clone() },
        DataConfig { missing: Missing::Mean, ..a.clone() },
        DataConfig { test: Some("csv:a".into()), ..a.clone() },
        DataConfig { validation: Some(Validation::Source("csv:a".into())), ..a.clone() },
        DataConfig { validation: Some(Validation::Share(0.5)), ..a.clone() },
        DataConfig { validation: Some(Validation::Share(0.25)), ..a.clone() },
    ];
    let mut hashes: Vec<String> = others.iter().chain([&a]).map(hash).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), others.len() + 1);
}

#[test]
fn the_training_fingerprint_follows_what_encoding_and_preprocessing_come_from() {
    let folder = Folder::new();
    folder.write("a", "x,y\n1,2\n3,4\n5,6\n").write("changed", "x,y\n1,2\n3,4\n5,7\n");
    let hash = |config: &DataConfig| folder.load(config, Task::Regression).unwrap().training_fingerprint;
    let a = DataConfig::new("csv:a");
    let whole = hash(&a);
    for other in [
        DataConfig { test: Some("csv:changed".into()), ..a.clone() },
        DataConfig { validation: Some(Validation::Source("csv:changed".into())), ..a.clone() },
        DataConfig { header: Some(true), ..a.clone() },
        DataConfig { missing_values: Some(vec!["-".into()]), ..a.clone() },
    ] {
        assert_eq!(hash(&other), whole, "{other:?}");
    }
    let share =
        |seed| DataConfig { validation: Some(Validation::Share(0.4)), validation_seed: seed, ..a.clone() };
    let others = [
        DataConfig::new("csv:changed"),
        DataConfig { standardize: true, ..a.clone() },
        DataConfig { missing: Missing::Mean, ..a.clone() },
        share(None),
        share(Some(9)),
    ];
    let mut hashes: Vec<String> = others.iter().chain([&a]).map(hash).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), others.len() + 1);
    // The hash depends on the seed of a fraction, whether it is set or that of the run.
    assert_eq!(hash(&share(None)), hash(&share(Some(1))));
}

#[test]
fn drawings_never_change() {
    let fingerprint = |source: &str| {
        load(&DataConfig::new(source), Task::Classes, 1, Path::new("."), &ps_data::NoProgress)
            .unwrap()
            .fingerprint
    };
    assert_eq!(fingerprint("digits:100"), "c4381f75954a006600b67ea131ab2a963f460ac6c9e69fdec939dbbd38eb91d8");
    assert_ne!(fingerprint("digits:100"), fingerprint("digits:100,seed=2"));
}

#[test]
fn drawings_are_balanced_and_a_longer_series_begins_like_a_shorter_one() {
    let series = |source: &str| {
        load(&DataConfig::new(source), Task::Classes, 1, Path::new("."), &ps_data::NoProgress).unwrap().train
    };
    let (long, short) = (series("digits:1000"), series("digits:30"));
    assert_eq!(counts(&long), [100; 10]);
    for index in 0..30 {
        assert_eq!((row(&long, index), long.target(index)), (row(&short, index), short.target(index)));
    }
    // Every ten drawings contain each digit, in varying order.
    assert_ne!(
        (0..10).map(|i| long.target(i)).collect::<Vec<_>>(),
        (10..20).map(|i| long.target(i)).collect::<Vec<_>>()
    );
    // With few drawings, some classes have no sample, but they remain classes.
    assert_eq!(series("digits:3").dataset().class_names.len(), 10);
}

#[test]
fn progress_reports_every_byte() {
    #[derive(Default)]
    struct RecordedProgress(Mutex<Vec<(String, u64, u64)>>);
    impl ReadProgress for RecordedProgress {
        fn file(&self, name: &str, done: u64, total: u64) {
            self.0.lock().unwrap().push((name.into(), done, total));
        }
    }
    let folder = Folder::new();
    folder.write("a", "x,y\n1,2\n");
    let recorded = RecordedProgress::default();
    let config = DataConfig { test: Some("csv:a".into()), ..DataConfig::new("csv:a") };
    load(&config, Task::Regression, 1, folder.path(), &recorded).unwrap();
    load(&DataConfig::new("digits:100"), Task::Classes, 1, folder.path(), &recorded).unwrap();
    let recorded = recorded.0.into_inner().unwrap();
    assert!(recorded.iter().any(|(name, done, total)| name.ends_with("/a") && (*done, *total) == (8, 8)));
    assert!(
        recorded.iter().any(|(name, done, total)| name == "digits:" && done == total && *total == 78_400)
    );
}
