//! Models as ONNX: valid for the checker of ONNX, and in ONNX Runtime with the predictions of Downhill.

use crate::numerics::block;
use downhill::ndarray::{Array2, ArrayView2};
use downhill::{Dataset, ErrorKind, Labels, Model, OnnxInput, Rows, Run};
use downhill_tests::{downhill, outside, root, run, shared};
use ps_core::{Activation, LayerSpec, Samples, model};
use ps_data::{DataConfig, Features, NewData, NoProgress, Split, Task};
use ps_plan::seed::{Purpose, Stream};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Number of samples that a model predicts.
const SAMPLES: usize = 300;
/// Number of models with random lists of layers.
const RANDOM: u64 = 30;

/// Exported models and what they must predict, in a folder that `tests/outside/onnx_models.py` and
/// `tests/tract` read.
struct Models {
    folder: PathBuf,
    list: Vec<serde_json::Value>,
}

/// The input of an exported model: a CSV file, or a file of bytes or of binary32.
enum Cells<'a> {
    Table(&'a Path),
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

impl Models {
    /// Exports `model`, and writes its input and its predictions for the samples of `split`.
    fn add(&mut self, name: &str, model: &Model, split: &Split, cells: Cells) {
        let path = |suffix: &str| self.folder.join(format!("{name}.{suffix}"));
        fs::write(path("onnx"), model.to_onnx().unwrap()).unwrap();
        fs::write(path("features.onnx"), model.to_onnx_with(OnnxInput::Features).unwrap()).unwrap();
        let input = match cells {
            Cells::Table(file) => file.to_path_buf(),
            Cells::Bytes(bytes) => {
                fs::write(path("u8"), bytes).unwrap();
                path("u8")
            }
            Cells::Floats(values) => write_floats(&path("f32"), values.into_iter()),
        };
        let width = model.feature_names().len();
        let (mut row, mut encoded) = (vec![0.0; width], Vec::new());
        for sample in 0..split.len() {
            split.write_raw_row(sample, &mut row);
            let cell = |feature| if split.is_missing(sample, feature) { f32::NAN } else { row[feature] };
            encoded.extend((0..width).map(cell));
        }
        write_floats(&path("features.f32"), encoded.into_iter());
        let predictions = model.predict_encoded(split);
        write_floats(&path("expected.f32"), predictions.values().iter().copied());
        let classes = model.class_names();
        let labels = predictions.classes().unwrap_or_default();
        let labels: Vec<&String> = labels.into_iter().map(|class| &classes[class]).collect();
        let input = input.file_name().unwrap().to_str();
        let can_lack_values = matches!(split.dataset().features, Features::F32(_));
        self.list.push(json!({
            "name": name,
            "input": input,
            "features": width,
            "classes": classes,
            "labels": labels,
            "refuses_missing": can_lack_values && split.preprocessing().fill.is_none(),
        }));
    }

    /// Trains on the source of `settings` and adds predictions for the first samples of `source`.
    fn add_source(&mut self, name: &str, settings: &str, source: &str) {
        let model = train(Run::from_toml(settings), name);
        let split = model
            .encode(&Dataset::open(source).unwrap(), NewData::default(), &NoProgress)
            .unwrap()
            .head(SAMPLES);
        let cells = match (&split.dataset().features, source.strip_prefix("csv:")) {
            (_, Some(path)) => Cells::Table(&head_of_csv(&self.folder, name, Path::new(path))),
            (Features::U8(bytes), None) => {
                Cells::Bytes(bytes.iter().copied().take(split.len() * split.features()).collect())
            }
            (Features::F32(values), None) => {
                Cells::Floats(values.iter().copied().take(split.len() * split.features()).collect())
            }
        };
        self.add(name, &model, &split, cells);
    }

    /// Trains on arrays of binary32 and adds predictions for the same samples.
    fn add_floats(&mut self, name: &str, run: Run, rows: ArrayView2<'_, f32>, labels: impl Into<Labels>) {
        let data = Dataset::from_arrays(rows, labels).unwrap();
        let model = train(run.data(&data), name);
        let split = model.encode(&data, NewData::default(), &NoProgress).unwrap();
        self.add(name, &model, &split, Cells::Floats(rows.iter().copied().collect()));
    }
}

fn write_floats(path: &Path, values: impl Iterator<Item = f32>) -> PathBuf {
    fs::write(path, values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    path.to_path_buf()
}

/// Writes the header and the first rows of a CSV file without line breaks in cells.
fn head_of_csv(folder: &Path, name: &str, path: &Path) -> PathBuf {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().take(1 + SAMPLES).collect();
    let head = folder.join(format!("{name}.csv"));
    fs::write(&head, lines.join("\n") + "\n").unwrap();
    head
}

fn train(run: Run, name: &str) -> Model {
    run.train().unwrap_or_else(|error| panic!("{name}: {error}")).model
}

/// The settings of all runs: few steps, but enough that no weight is 0.
const STEPS: &str = "train.batch = 64\nlearning_rate.initial = 0.05\ntrain.epochs = 2\n";

/// Models of the shared data sets: by name, the source to train on, the source to predict, and settings.
const SHARED: &[(&str, &str, &str, &str)] = &[
    ("iris", "csv:iris/iris.csv", "", "model.kind = 'softmax'\ndata.standardize = true"),
    (
        "penguins",
        "csv:penguins/penguins.csv",
        "",
        "model = { kind = 'mlp', hidden = [8], activation = 'tanh' }\ndata.label = 'species'\ndata.missing = 'mean'\n\
         data.standardize = true",
    ),
    (
        "adult",
        "csv:adult/adult_train.csv",
        "csv:adult/adult_test.csv",
        "model.kind = 'logistic'\ndata.missing = 'mean'\ndata.standardize = true",
    ),
    (
        "adult-mlp",
        "csv:adult/adult_train.csv",
        "csv:adult/adult_test.csv",
        "model = { kind = 'mlp', hidden = [16, 8], head = 'logistic', activation = 'sigmoid' }\ndata.missing = 'mean'\n\
         data.standardize = true\ndata.columns = { education_num = 'category', fnlwgt = 'ignore' }",
    ),
    (
        "housing",
        "csv:california-housing/housing.csv",
        "",
        "model.kind = 'linear'\ndata.label = 'median_house_value'\ndata.missing = 'mean'\ndata.standardize = true",
    ),
    ("diabetes", "csv:diabetes/diabetes.csv", "", "model.kind = 'linear'\ndata.standardize = true"),
    (
        "breast-cancer",
        "csv:breast-cancer/breast_cancer.csv",
        "",
        "model.kind = 'logistic'\ndata.standardize = true",
    ),
    (
        "handwriting",
        "csv:digits/digits.csv",
        "",
        "model = { kind = 'mlp', hidden = [32] }\ndata.standardize = true",
    ),
    ("a9a", "libsvm:a9a/a9a.t", "", "model.kind = 'logistic'"),
    (
        "agaricus",
        "libsvm:agaricus/agaricus.txt.train",
        "libsvm:agaricus/agaricus.txt.test",
        "model.kind = 'softmax'",
    ),
    (
        "mnist",
        "idx:mnist/t10k-images-idx3-ubyte.gz,mnist/t10k-labels-idx1-ubyte.gz",
        "",
        "model = { kind = 'mlp', hidden = [32] }",
    ),
    (
        "fashion",
        "idx:fashion-mnist/t10k-images-idx3-ubyte.gz,fashion-mnist/t10k-labels-idx1-ubyte.gz",
        "",
        "data.standardize = true\nmodel = { kind = 'mlp', layers = [{ kind = 'dense', units = 24 }, { kind = 'tanh' }, \
         { kind = 'dropout', rate = 0.2 }, { kind = 'dense', units = 24 }, { kind = 'residual', over = 3 }] }",
    ),
];

/// Returns the source with absolute paths, if its files are there.
fn located(source: &str) -> Option<String> {
    let (format, paths) = source.split_once(':').unwrap();
    let paths: Option<Vec<String>> =
        paths.split(',').map(|path| Some(shared(path)?.display().to_string())).collect();
    Some(format!("{format}:{}", paths?.join(",")))
}

fn add_shared(models: &mut Models) {
    for &(name, train, predict, settings) in SHARED {
        let Some(source) = located(train) else { continue };
        let predict = if predict.is_empty() { source.clone() } else { located(predict).unwrap() };
        models.add_source(name, &format!("data.train = '{source}'\n{settings}\n{STEPS}"), &predict);
    }
}

/// A table of numbers from 0 to 1, in which every 7th value of every 2nd column is missing if `has_gaps`.
fn table(rows: usize, columns: usize, has_gaps: bool, random: &mut Stream) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(row, column)| {
        let value = random.unit() * (1 + column % 3) as f32;
        if has_gaps && column % 2 == 0 && row % 7 == 3 { f32::NAN } else { value }
    })
}

/// Every kind of model and every type of label, on generated samples.
fn add_generated(models: &mut Models) {
    let mut random = Stream::new(1, Purpose::Simulation, 0);
    let rows = table(200, 5, true, &mut random);
    let known = |row: usize| rows[[row, 1]] + rows[[row, 3]];
    let gaps = |kind: &str| {
        Run::from_toml(STEPS)
            .set("data.missing", "mean")
            .set("data.standardize", true)
            .set("model.kind", kind)
    };
    let values: Vec<f32> = (0..200).map(|row| 3.0 + known(row)).collect();
    models.add_floats("linear", gaps("linear"), rows.view(), &values[..]);
    let counts: Vec<f32> = (0..200).map(|row| (2.0 * known(row)).round()).collect();
    models.add_floats("poisson", gaps("poisson"), rows.view(), &counts[..]);
    let classes = |name: fn(usize) -> &'static str| -> Vec<String> {
        (0..200).map(|row| name(known(row) as usize % 3).into()).collect()
    };
    models.add_floats("names", gaps("softmax"), rows.view(), classes(|class| ["é", "b c", "A"][class]));
    models.add_floats("integers", gaps("softmax"), rows.view(), classes(|class| ["10", "-2", "007"][class]));
    models.add_floats("fractions", gaps("softmax"), rows.view(), classes(|class| ["1.5", "2", "3"][class]));
    let two = |row| f64::from(u8::from(known(row) > 2.0));
    let two: Vec<f64> = (0..200).map(two).collect();
    models.add_floats("binary", gaps("logistic"), rows.view(), &two[..]);
    for (name, head, labels) in
        [("mlp-linear", "squared-error", &values), ("mlp-poisson", "poisson", &counts)]
    {
        let run = gaps("mlp")
            .set("model.head", head)
            .set("model.hidden", vec![7])
            .set("model.activation", "sigmoid");
        models.add_floats(name, run, rows.view(), &labels[..]);
    }

    // Without any preprocessing.
    let plain = table(200, 4, false, &mut random);
    let run = Run::from_toml(STEPS)
        .set("model.kind", "mlp")
        .set("model.hidden", vec![6])
        .set("model.activation", "tanh");
    models.add_floats("plain", run, plain.view(), classes(|class| ["a", "b", "c"][class]));

    let bytes = Array2::from_shape_fn((200, 12), |_| random.below(256) as u8);
    let data = Dataset::from_arrays(Rows::from(&bytes), classes(|class| ["a", "b", "c"][class])).unwrap();
    let model = train(Run::from_toml(STEPS).set("model.kind", "softmax").data(&data), "bytes");
    let split = model.encode(&data, NewData::default(), &NoProgress).unwrap();
    models.add("bytes", &model, &split, Cells::Bytes(bytes.iter().copied().collect()));

    models.add_source(
        "drawings",
        &format!("data.train = 'digits:500'\nmodel = {{ kind = 'mlp', hidden = [16] }}\n{STEPS}"),
        "digits:100,seed=3",
    );

    // Columns with the names of other values in the graph, and categories that look like something else.
    let names =
        ["label", "probabilities", "fill", "mean", "layers.0.weight", "classes", "a b/code", "a b", ""];
    let mut text = format!("{},target\n", names.join(","));
    for row in 0..120 {
        let numbers = (0..6).map(|_| random.unit().to_string());
        let category = |choices: &[&str]| choices[row * 5 % choices.len()].to_string();
        let categories = [
            category(&["1", "2.0", "true"]),
            category(&["x y", "é", "X", "NA", "", "nAn"]),
            category(&["l", "r"]),
        ];
        let cells: Vec<String> = numbers.chain(categories).collect();
        text += &format!("{},{}\n", cells.join(","), ["no", "yes"][row % 7 % 2]);
    }
    let settings = "data.header = true\ndata.columns = { 'a b/code' = 'category' }";
    add_table(models, "columns", &text, "", settings);

    // Markers that are numbers, and categories that would be markers by default.
    let mut text = String::from("a,b,c,target\n");
    for row in 0..90 {
        let (a, b) = (["-999", "0.5", "1e0", "-1"][row % 4], ["1.5", "2", "-7"][row % 3]);
        text += &format!("{a},{b},{},{}\n", ["NA", "unknown", "", "x"][row % 5 % 4], row % 2);
    }
    let markers = "data.missing_values = ['-999', '-7', 'unknown']\ndata.header = true";
    add_table(models, "markers", &text, "0.5,2,unknown,0\n0.5,2,never seen,1\n", markers);

    // Columns with settings of their own: `a` is never missing, and `c` has rare categories.
    let mut text = String::from("a,b,c,target\n");
    for row in 0..120 {
        let b = if row % 8 == 5 { String::new() } else { random.unit().to_string() };
        let c = if row % 9 == 4 { format!("rare {row}") } else { ["x", "y", ""][row % 3].into() };
        text += &format!("{},{b},{c},{}\n", random.unit(), row % 2);
    }
    let columns = "data.header = true\ndata.columns = { \
                   a = { kind = 'number', fill = 'refuse', scale = 'none', clip = [0.2, 0.7] }, \
                   b = { kind = 'number', fill = 'median', clip = [0.1, 0.9] }, \
                   c = { kind = 'category', min_count = 10 } }";
    add_table(models, "settings", &text, "0.9,-5,never seen,0\n", columns);
}

/// A logistic regression on a table, whose missing cells are filled. It predicts the rows that it was trained on,
/// and the rows `others`.
fn add_table(models: &mut Models, name: &str, text: &str, others: &str, settings: &str) {
    let [source, predicted] =
        ["train", "predict"].map(|role| models.folder.join(format!("{name}-{role}.csv")));
    fs::write(&source, text).unwrap();
    fs::write(&predicted, format!("{text}{others}")).unwrap();
    let [source, predicted] = [source, predicted].map(|file| format!("csv:{}", file.display()));
    let settings = format!(
        "data.train = '{source}'\ndata.missing = 'mean'\ndata.standardize = true\nmodel.kind = 'logistic'\n{settings}\n{STEPS}"
    );
    models.add_source(name, &settings, &predicted);
}

/// Models with random lists of layers.
fn add_random(models: &mut Models) {
    for seed in 0..RANDOM {
        let random = &mut Stream::new(seed, Purpose::Simulation, 1);
        let (layers, features, classes) =
            (random_layers(random), 1 + random.below(9) as usize, 2 + random.below(4));
        println!("layers of seed {seed}: {layers:?}");
        if model::check_layers(Some(features), &layers).is_err() {
            panic!("seed {seed}: {layers:?} do not fit together");
        }
        let rows = table(64, features, false, random);
        let labels: Vec<f64> = (0..64).map(|row| f64::from(row % classes)).collect();
        let layers: Vec<String> = layers.iter().map(LayerSpec::to_string).collect();
        let head = match random.below(4) {
            0 if classes == 2 => "logistic",
            0 | 1 => "softmax",
            2 => "squared-error",
            _ => "poisson",
        };
        let settings =
            format!("model = {{ kind = 'mlp', head = '{head}', layers = [{}] }}\n{STEPS}", layers.join(", "));
        let run =
            Run::from_toml(settings).set("seed", seed as i64).set("data.standardize", random.below(2) == 0);
        models.add_floats(&format!("random-{seed}"), run, rows.view(), &labels[..]);
    }
}

/// One to ten layers that fit together, for inputs of unknown width.
fn random_layers(random: &mut Stream) -> Vec<LayerSpec> {
    let (mut layers, mut widths) = (Vec::new(), vec![None]);
    for _ in 0..1 + random.below(10) {
        let width = widths[widths.len() - 1];
        let sources: Vec<usize> = (0..layers.len()).filter(|&source| widths[source] == width).collect();
        let layer = match random.below(7) {
            0 => LayerSpec::Activation(Activation::Relu),
            1 => LayerSpec::Activation(Activation::Tanh),
            2 => LayerSpec::Activation(Activation::Sigmoid),
            3 => LayerSpec::Dropout { rate: 0.5 * random.unit() },
            4 if !sources.is_empty() => {
                let source = sources[random.below(sources.len() as u32) as usize];
                LayerSpec::Residual { over: layers.len() - source }
            }
            _ => LayerSpec::Dense { units: [3, 5, 17][random.below(3) as usize] },
        };
        widths.push(if let LayerSpec::Dense { units } = layer { Some(units) } else { width });
        layers.push(layer);
    }
    layers
}

/// Set `ONNX_MODELS` to a folder to keep the models there; `tests/tract` reads them.
#[test]
fn onnx_runtime_predicts_what_downhill_predicts() {
    let Some(python) = outside("venv/bin/python") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("ONNX_MODELS").map(|folder| root().join(folder));
    let folder = kept.unwrap_or_else(|| temporary.path().to_path_buf());
    fs::create_dir_all(&folder).unwrap();
    let mut models = Models { folder, list: Vec::new() };
    add_generated(&mut models);
    add_random(&mut models);
    add_shared(&mut models);
    fs::write(models.folder.join("models.json"), serde_json::to_string(&models.list).unwrap()).unwrap();
    let ended =
        run(Command::new(python).arg(root().join("tests/outside/onnx_models.py")).arg(&models.folder));
    println!("{ended}");
    assert!(ended.status.success());
    let passed = ended.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(passed, 2 * models.list.len(), "each with both kinds of input");
}

#[test]
fn the_example_of_the_documentation_prints_what_it_shows() {
    let Some(python) = outside("venv/bin/python") else { return };
    let page = fs::read_to_string(root().join("docs/onnx.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for line in block(&page, "sh").lines() {
        let words = line.strip_prefix("downhill ").unwrap().split(' ');
        let words = words.map(|word| match word.strip_prefix("examples/") {
            Some(_) => root().join(word).display().to_string(),
            None => word.to_string(),
        });
        let ended = run(downhill(&words.collect::<Vec<String>>()).current_dir(folder.path()));
        assert!(ended.status.success(), "{line}\n{ended}");
    }
    let ended = run(Command::new(python).args(["-c", block(&page, "python")]).current_dir(folder.path()));
    assert!(ended.status.success(), "{ended}");
    assert_eq!(ended.stdout, block(&page, "text"), "docs/onnx.md right, program left\n{ended}");
}

#[test]
fn a_column_of_dates_is_refused_unless_features_are_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let rows = (0..64).map(|row| format!("2026-01-{:02},{row},{}\n", 1 + row % 28, row % 2));
    let file = folder.path().join("dates.csv");
    fs::write(&file, format!("when,size,target\n{}", rows.collect::<String>())).unwrap();
    let run = Run::from_toml(STEPS)
        .set("data.train", format!("csv:{}", file.display()))
        .set("data.columns.when", "date")
        .set("model.kind", "logistic");
    let model = train(run, "dates");
    let error = model.to_onnx().unwrap_err();
    assert_eq!((error.kind(), error.is_usage()), (ErrorKind::Unsupported, true));
    let text = error.to_string();
    assert!(
        text.starts_with("column `when`: ONNX has no operator") && text.contains("--input features"),
        "{text}"
    );
    model.to_onnx_with(OnnxInput::Features).unwrap();
}

#[test]
fn equal_models_give_equal_files() {
    let export = || {
        let run = Run::from_toml(STEPS).set("data.train", "digits:100").set("model.kind", "softmax");
        train(run, "digits").to_onnx().unwrap()
    };
    assert!(export() == export());
}

#[test]
fn a_model_too_large_for_the_format_is_refused() {
    let data = DataConfig::new("digits:10");
    let data = ps_data::load(&data, Task::Classes, 0, Path::new("."), &NoProgress).unwrap();
    let network = ps_core::Model::new(784, &[800_000], Activation::Relu, ps_core::Head::Softmax, 10);
    // The system provides zeros as memory only when they are read, and they never are.
    let weights = vec![0.0; network.parameters()];
    let error = ps_onnx::to_onnx(&network, &weights, &data.encoder(), OnnxInput::Features).unwrap_err();
    assert!(error.to_string().starts_with("the model has 636000010 weights"), "{error}");
}
