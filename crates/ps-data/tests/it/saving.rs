//! An encoder is saved and restored, and a forged one is refused.

use crate::common::{Folder, LABELLED, idx, row};
use ps_core::Samples;
use ps_data::{
    ArrayEncoding, ArrayLabels, Arrays, ColumnConfig, ColumnKind, DataConfig, Decimal, Encoder, Features,
    Fill, Image, Loaded, Missing, NamedArrays, NoProgress, Quantile, Scale, Separator, Task, load_arrays,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The encoder of `loaded` after it was written to JSON and read again.
fn saved(loaded: &Loaded) -> Encoder {
    let text = serde_json::to_string(&loaded.encoder()).unwrap();
    let encoder: Encoder = serde_json::from_str(&text).unwrap();
    assert_eq!(encoder, loaded.encoder(), "{text}");
    encoder
}

/// Checks that an encoder that was saved encodes `source` to the bits of the training samples.
fn check(folder: &Folder, loaded: &Loaded, source: &str) {
    let split = saved(loaded).load(source, LABELLED, folder.path(), &NoProgress).unwrap();
    assert_eq!(split.len(), loaded.train.len());
    for index in 0..split.len() {
        let bits = |split| row(split, index).into_iter().map(f32::to_bits).collect::<Vec<u32>>();
        assert_eq!(bits(&split), bits(&loaded.train));
        assert_eq!(split.target(index), loaded.train.target(index));
    }
}

#[test]
fn a_saved_encoder_gives_the_same_bits_for_every_form_of_data() {
    let folder = Folder::new();
    folder
        .write("table", "colour;,size,id,kind\nred,0.1,a,2.50\nblue,-,b,1\nred,1e-30,c,+1\nnone,7,d,2.5\n")
        .write("bare", "red,1\nblue,2\nred,3\n")
        .write("german", "# half\n1,5;2;x;1,25\n2,5;3;y;NA\n2;1;z;0\n")
        .write("blanks", " 1  red 2\n 2\tblue  1\n3 red 1")
        .write(
            "full",
            "when,colour,size,y\n1.2.2013,red,5,1\n,blue,-0,2\n3.2.2013,,7,3\n29.2.2012,red,1,4\n1.1.2013,green,2,5\n",
        )
        .write("sparse", "1 2:0.3\n-1 1:7\n+1 5:1e9\n")
        .write("images", idx(&[3, 2, 1], &[1, 2, 3, 4, 5, 6]))
        .write("values", idx(&[3, 4], &[9; 12]))
        .write("labels", idx(&[3], &[0, 1, 2]));
    let table = DataConfig {
        missing: Missing::Mean,
        missing_values: Some(vec!["-".into()]),
        columns: [("id".to_owned(), ColumnKind::Ignore.into())].into(),
        standardize: true,
        ..DataConfig::new("csv:table")
    };
    for (config, task) in [
        (table.clone(), Task::Binary),
        (table.clone(), Task::Regression),
        (DataConfig { label: Some("colour;".into()), ..table }, Task::Classes),
        (DataConfig { header: Some(false), ..DataConfig::new("csv:bare") }, Task::Count),
        (
            DataConfig {
                names: Some(["a", "b", "c", "y"].map(String::from).to_vec()),
                only: Some(vec!["a".into(), "b".into()]),
                decimal: Decimal::Comma,
                skip_missing_target: true,
                standardize: true,
                ..DataConfig::new("csv:german")
            },
            Task::Regression,
        ),
        (
            DataConfig {
                standardize: true,
                columns: [
                    (
                        "size".to_owned(),
                        ColumnConfig {
                            clip: Some([0.1, 0.9].map(|q| Quantile::try_from(q).unwrap())),
                            scale: Some(Scale::None),
                            ..ColumnConfig::default()
                        },
                    ),
                    (
                        "colour".to_owned(),
                        ColumnConfig {
                            min_count: Some(2),
                            fill: Some(Fill::None),
                            ..ColumnConfig::default()
                        },
                    ),
                    (
                        "when".to_owned(),
                        ColumnConfig {
                            format: Some("%d.%m.%Y".into()),
                            fill: Some(Fill::Median),
                            ..ColumnConfig::default()
                        },
                    ),
                ]
                .into(),
                ..DataConfig::new("csv:full")
            },
            Task::Regression,
        ),
        (
            DataConfig {
                header: Some(false),
                separator: Some(Separator::Blanks),
                ..DataConfig::new("csv:blanks")
            },
            Task::Binary,
        ),
        (DataConfig { standardize: true, ..DataConfig::new("libsvm:sparse") }, Task::Binary),
        (DataConfig::new("libsvm:sparse"), Task::Regression),
        (DataConfig { standardize: true, ..DataConfig::new("idx:images,labels") }, Task::Classes),
        (DataConfig::new("idx:values,labels"), Task::Count),
        (DataConfig::new("digits:30"), Task::Classes),
    ] {
        check(&folder, &folder.load(&config, task).unwrap(), &config.train);
    }
}

#[test]
fn a_saved_encoder_of_arrays_encodes_arrays() {
    let features = Features::F32(ndarray::array![[1.0, f32::NAN], [0.3, 2.0], [5.0, 1.0]]);
    let labels = Some(ArrayLabels::Names(["b", "a", "b"].map(String::from).to_vec()));
    let arrays = Arc::new(Arrays { features, labels, feature_names: None, image: None });
    let named = NamedArrays::from([("arrays".to_owned(), Arc::clone(&arrays))]);
    let config = DataConfig { missing: Missing::Mean, standardize: true, ..DataConfig::new("arrays") };
    let loaded = load_arrays(&config, Task::Binary, 1, &named, "".as_ref(), &NoProgress).unwrap();
    let split = saved(&loaded).load_arrays(&arrays, "arrays", true).unwrap();
    assert_eq!((row(&split, 0), split.target(0)), (row(&loaded.train, 0), 1.0));
    assert_eq!(split.target(0), loaded.train.target(0));

    // Files once contained the encoding of arrays in this form.
    let old = json!({
        "feature_names": ["0", "1"],
        "are_pixels": false,
        "preprocessing": loaded.encoder().preprocessing(),
    });
    let old: ArrayEncoding = serde_json::from_str(&old.to_string()).unwrap();
    assert_eq!(old.encoder(Task::Binary, vec!["a".into(), "b".into()]), Ok(loaded.encoder()));
}

#[test]
fn class_labels_keep_their_type() {
    let folder = Folder::new();
    let classes = |labels: [&str; 3]| {
        let rows: Vec<String> = labels.iter().map(|label| format!("1,{label}\n")).collect();
        folder.write("file", format!("x,y\n{}", rows.concat()));
        let loaded = folder.load(&DataConfig::new("csv:file"), Task::Binary).unwrap();
        let encoder = saved(&loaded);
        let numbers = encoder.class_numbers().map(<[f64]>::to_vec);
        (serde_json::to_value(&encoder).unwrap()["classes"].clone(), numbers)
    };
    assert_eq!(classes(["10", "9.0", "9"]), (json!([9, 10]), Some(vec![9.0, 10.0])));
    assert_eq!(classes(["-0", "0.1", "0"]), (json!([0, 0.1]), Some(vec![0.0, 0.1])));
    assert_eq!(classes(["9", "x", "9"]), (json!(["9", "x"]), None));
}

#[test]
fn a_forged_encoder_is_refused_with_what_is_wrong() {
    let folder = Folder::new();
    folder.write("file", "colour,size,kind\nred,1,a\nblue,2,b\n");
    let config = DataConfig { missing: Missing::Mean, standardize: true, ..DataConfig::new("csv:file") };
    let table = serde_json::to_value(folder.load(&config, Task::Binary).unwrap().encoder()).unwrap();
    let images =
        serde_json::to_value(folder.load(&DataConfig::new("digits:20"), Task::Classes).unwrap().encoder())
            .unwrap();
    let refusal = |value: &Value| serde_json::from_value::<Encoder>(value.clone()).unwrap_err().to_string();
    for (of, pointer, forged, expected) in [
        (&table, "/target", json!("classes?"), "unknown variant `classes?`"),
        (&table, "/target", json!("count"), "2 classes, which does not suit the target"),
        (&table, "/classes", json!(["b", "a"]), "the classes are not distinct and in ascending order"),
        (&table, "/classes", json!([1, 1.0]), "the classes are not distinct and in ascending order"),
        (&table, "/classes", json!(["a", "b", "c"]), "3 classes, which does not suit the target"),
        (&table, "/classes", json!([1, "b"]), "expected a list of numbers or of strings"),
        (&table, "/input/columns", json!([]), "there is no column"),
        (&table, "/input/columns/1/name", json!("colour"), "two columns are named `colour`"),
        (&table, "/input/columns/1/name", json!("kind"), "two columns are named `kind`"),
        (&table, "/input/columns/1/kind", json!("date?"), "unknown variant `date?`"),
        (&table, "/input/columns/0/categories", json!([]), "column `colour`: it has no categories"),
        (
            &table,
            "/input/columns/0/categories",
            json!(["red", "blue"]),
            "column `colour`: its categories are not distinct and in byte order",
        ),
        (&table, "/input/columns/0/categories", json!(["a"]), "`fill` has 3 values for 2 features"),
        (&table, "/preprocessing/fill", json!([1.0]), "`fill` has 1 values for 3 features"),
        (&table, "/preprocessing/standard/mean/1", json!(1e300), "`mean` has a value that is not finite"),
        (&table, "/preprocessing/standard/inv_std/1", Value::Null, "invalid type: null"),
        (&images, "/preprocessing/fill", json!(vec![0.5; 784]), "bytes are never missing"),
        (&images, "/input/features", json!(785), "images of 28x28 have no 785 pixels"),
        (&images, "/input/image/height", json!(u64::MAX), "pixels"),
        (&images, "/input/features", json!(0), "0 features, and there must be from 1 to"),
        (&images, "/classes/9", json!(11), "the classes of images must be 0, 1, 2, … without gaps"),
        (&images, "/input/kind", json!("sound"), "unknown variant `sound`"),
    ] {
        let mut value = of.clone();
        *value.pointer_mut(pointer).unwrap() = forged;
        assert!(refusal(&value).contains(expected), "{pointer}: {}", refusal(&value));
    }
    let column = |content: Value| {
        let mut forged = table.clone();
        let name = json!({ "name": "size" });
        forged["input"]["columns"][1] = content;
        forged["input"]["columns"][1]["name"] = name["name"].clone();
        refusal(&forged)
    };
    for (content, expected) in [
        (json!({ "kind": "number", "clip": [2.0, 1.0] }), "column `size`: `clip` is not a range: 2 to 1"),
        (json!({ "kind": "number", "clip": [0.0, 1e300] }), "column `size`: `clip` is not a range"),
        (json!({ "kind": "number", "clip": [0.0] }), "invalid length 1"),
        (json!({ "kind": "date", "parts": [] }), "column `size`: it has no parts"),
        (json!({ "kind": "date", "parts": ["century"] }), "unknown variant `century`"),
        (json!({ "kind": "date", "parts": ["day"], "format": "%q" }), "`%q` is unknown"),
        (json!({ "kind": "date", "parts": ["day", "hour"] }), "`fill` has 3 values for 4 features"),
        (
            json!({ "kind": "category", "categories": ["a"], "other": true }),
            "`fill` has 3 values for 4 features",
        ),
    ] {
        assert!(column(content.clone()).contains(expected), "{content}: {}", column(content.clone()));
    }
    let mut partial = table.clone();
    partial["preprocessing"]["fill"][0] = Value::Null;
    assert!(
        refusal(&partial).contains("column `colour`: `fill` has values for some of its features only"),
        "{}",
        refusal(&partial)
    );
    let mut many = images.clone();
    many["input"] = json!({ "kind": "sparse", "features": (1_u64 << 24) + 1 });
    assert!(refusal(&many).contains("16777217 features, and there must be from 1 to 16777216"));
    assert_eq!(
        Image { height: 28, width: 28 },
        serde_json::from_value(images["input"]["image"].clone()).unwrap()
    );
}
