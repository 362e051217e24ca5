//! The results of a run are complete and correct, and what is computed from them later does not change
//! silently.
#![allow(clippy::unwrap_used)] // The helpers below are part of the tests.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RUN: &str = r#"
[data]
train = "csv:train.csv"
validation = "csv:validation.csv"
standardize = true
[model]
kind = "softmax"
[train]
epochs = 4
batch = 16
leaf = 4
[learning_rate]
initial = 0.5
"#;

/// A temporary folder with a run file and its data.
struct TestDir {
    folder: PathBuf,
    _parent: tempfile::TempDir,
}

impl TestDir {
    fn new() -> Self {
        TestDir::called("place".as_ref())
    }

    fn called(name: &std::ffi::OsStr) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(name);
        fs::create_dir(&folder).unwrap();
        let place = TestDir { folder, _parent: parent };
        place.write("run.toml", RUN).write("train.csv", &table(100)).write("validation.csv", &table(30));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
        command.current_dir(&self.folder).args(arguments.split_whitespace()).env_remove("DOWNHILL_LOG");
        command.output().unwrap()
    }

    /// Returns the standard output and error of a command, which must succeed.
    fn succeed(&self, arguments: &str) -> [String; 2] {
        let output = self.run(arguments);
        let [out, error] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success(), "downhill {arguments}: {error}");
        [out, error]
    }

    /// Returns the standard error of a command, which must exit with `code`.
    fn fail(&self, arguments: &str, code: i32) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "downhill {arguments}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        error
    }
}

/// Two classes that a line does not quite separate, with a column of three categories.
fn table(rows: u32) -> String {
    let row = |row: u32| {
        let (a, b) = (row * 7 % 23, row * 5 % 19);
        let class = if a + b + row % 7 > 24 { "high" } else { "low" };
        format!("{a},{b},{},{class}\n", ["red", "green", "blue"][(row % 3) as usize])
    };
    format!("a,b,colour,class\n{}", (0..rows).map(row).collect::<String>())
}

fn summary(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn weights_that_are_restored_are_measured_on_the_whole_training_part() {
    let place = TestDir::new();
    // No validation improves on the first one by enough, so the run stops early, or goes back after its last
    // step.
    for (out, patience) in [("stopped", 2), ("restored", 50)] {
        let sets = format!("--set train.early_stopping={patience} --set train.min_delta=100");
        let [stdout, _] = place.succeed(&format!("train run.toml --out {out} {sets}"));
        let summary = summary(&place.path(out));
        let [evaluated, _] = place.succeed(&format!("evaluate {out} --data csv:train.csv"));
        let evaluated = evaluated.lines().next().unwrap();
        let measured =
            evaluated.strip_prefix("csv:train.csv").unwrap().trim().strip_suffix("  (100 samples)").unwrap();
        let said = stdout.lines().find_map(|line| line.strip_prefix("training ")).unwrap().trim();
        assert_eq!(said, measured, "{out}: {stdout}");
        assert_eq!(summary["train"]["samples"], 100, "{out}: {summary}");
        let accuracy = format!("{:.2} %", 100.0 * summary["train"]["accuracy"].as_f64().unwrap());
        assert!(measured.ends_with(&accuracy), "{measured}: {accuracy}");
        let [listed, _] = place.succeed(&format!("runs {out}"));
        assert!(listed.contains(&accuracy), "{listed}: {accuracy}");
    }
    assert_eq!(summary(&place.path("stopped"))["steps_planned"], 28);
    assert_ne!(summary(&place.path("stopped"))["steps"], 28);
    assert_eq!(summary(&place.path("restored"))["steps"], 28);
}

#[test]
fn only_the_model_file_and_new_data_are_needed_unless_the_data_of_the_run_is_asked_for() {
    let place = TestDir::new();
    place.succeed("train run.toml --out run --set data.validation=0.2");
    place.write("new.csv", "b,colour,a\n3,red,9\n18,blue,20\n");
    let new_data = [
        "predict run --data csv:new.csv",
        "evaluate run --data csv:validation.csv",
        "explain run --sample 0 --data csv:validation.csv",
    ];
    let commands = [&new_data[..], &["evaluate run", "explain run --sample 0 --part validation"]].concat();
    let before: Vec<[String; 2]> = commands.iter().map(|command| place.succeed(command)).collect();
    let good = table(100);
    let changes = [
        ("a row more", table(101)),
        ("another cell", good.replacen("0,0,red", "1,0,red", 1)),
        ("columns of other names", good.replacen("a,b,", "b,a,", 1)),
        ("other names of classes", good.replace("high", "huge")),
        ("other names of categories", good.replace("blue", "azure")),
    ];
    for (what, changed) in changes {
        assert_ne!(changed, good);
        place.write("train.csv", &changed);
        for command in &commands[new_data.len()..] {
            let output = place.run(command);
            let said = String::from_utf8_lossy(&output.stderr);
            let expected = match output.status.success() {
                // The cell belongs to the validation part, which no sample's encoding depends on.
                true if what == "another cell" => "the data has changed since the run",
                _ => "`csv:train.csv` in ",
            };
            assert!(said.contains(expected), "{what}: {command}: {said}");
        }
    }
    // The model file alone gives the same answers, in any folder.
    fs::remove_file(place.path("train.csv")).unwrap();
    fs::rename(place.path("run"), place.path("kept")).unwrap();
    fs::rename(place.path("kept/model.safetensors"), place.path("model.safetensors")).unwrap();
    for (command, before) in new_data.iter().zip(&before) {
        assert_eq!(place.succeed(&command.replace(" run ", " model.safetensors ")), *before, "{command}");
    }
    let error = place.fail("evaluate model.safetensors", 1);
    assert!(error.contains("train.csv: No such file"), "{error}");
    fs::rename(place.path("run.toml"), place.path("moved.toml")).unwrap();
    let error = place.fail("evaluate model.safetensors", 1);
    assert!(error.contains("no run.toml beside it"), "{error}");
    fs::rename(place.path("model.safetensors"), place.path("kept/model.safetensors")).unwrap();
    fs::rename(place.path("kept"), place.path("run")).unwrap();
    place.write("train.csv", &good);
    let error = place.fail("evaluate run --set data.standardize=false", 1);
    assert!(error.contains("is not what the run was trained on"), "{error}");
    // The same content in another format gives the same results; so does a copy in another folder.
    place.write("train.csv", &good.replace('\n', "\r\n"));
    for (command, before) in commands.iter().zip(&before) {
        assert_eq!(place.succeed(command), *before, "{command}");
    }
    fs::create_dir(place.path("copy")).unwrap();
    place.write("copy/train.csv", &good).write("train.csv", "gone");
    assert_eq!(place.succeed("evaluate run --data-root copy"), before[new_data.len()]);
    // Another test source is measured, and a note says so.
    place.write("train.csv", &good).write("test.csv", &table(20));
    let [_, note] = place.succeed("evaluate run --set data.test=csv:test.csv");
    assert!(note.contains("changed since the run"), "{note}");
}

#[cfg(unix)]
#[test]
fn a_folder_whose_name_is_not_unicode_works() {
    use std::os::unix::ffi::OsStrExt;
    let place = TestDir::called(std::ffi::OsStr::from_bytes(b"d\xff \x80"));
    let [stdout, _] = place.succeed("train run.toml");
    let hash = stdout.lines().last().unwrap().to_string();
    let [evaluated, _] = place.succeed("evaluate runs/run-1");
    assert_eq!(evaluated.lines().last(), Some(hash.as_str()));
    // From another folder, with an absolute path.
    let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
    let output = command.arg("evaluate").arg(place.path("runs/run-1")).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(env!("CARGO_BIN_EXE_downhill"))
        .args(["runs", "--json"])
        .arg(place.path("runs"))
        .current_dir("/")
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(listed["folder"].as_str().unwrap().ends_with("/d%FF%20%80/runs/run-1"), "{listed}");
    // The temporary file is created in the output's folder, whose name is not valid Unicode. A lossy
    // conversion would name a folder that does not exist.
    let output = Command::new(env!("CARGO_BIN_EXE_downhill"))
        .arg("predict")
        .arg(place.path("runs/run-1"))
        .args(["--data", "csv:train.csv", "--output"])
        .arg(place.path("predicted.csv"))
        .current_dir(&place.folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(place.path("predicted.csv")).unwrap().lines().count(), 101);
}

#[test]
fn a_model_is_exported_to_a_new_file_and_never_over_another() {
    let place = TestDir::new();
    place.succeed("train run.toml --out run");
    let [_, stderr] = place.succeed("export run --output model.onnx");
    assert_eq!(stderr, "model written to model.onnx\n");
    let size = |name: &str| fs::metadata(place.path(name)).unwrap().len();
    let written = size("model.onnx");
    let output = place.run("export run --format onnx --input features --output model.onnx");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("model.onnx: the file exists"), "{output:?}");
    assert_eq!(size("model.onnx"), written);
    place.succeed("export run --input features --output features.onnx");
    assert!(size("features.onnx") < written, "the network alone is smaller");
}

#[test]
fn training_and_inspect_report_the_number_of_categories() {
    let place = TestDir::new();
    let [_, stderr] = place.succeed("train run.toml");
    assert!(stderr.contains("categories by column: colour 3\n"), "{stderr}");
    let [_, stderr] = place.succeed("train run.toml --log-format json");
    let noted = r#"{"kind":"note","text":"categories by column: colour 3"}"#;
    assert!(stderr.lines().any(|line| line == noted), "{stderr}");
    let [stdout, _] = place.succeed("data inspect run.toml");
    assert!(stdout.contains("3 categories: ") && !stdout.contains("refuses"), "{stdout}");

    let named = |row: usize| format!("person {row},\"{},500\",{row}\n", row + 1);
    place.write("named.csv", &format!("name,pay,age\n{}", (0..20).map(named).collect::<String>()));
    let [stdout, _] = place.succeed("data inspect csv:named.csv");
    assert!(
        stdout.contains("data.columns.name = \"ignore\"") && stdout.contains("data.columns.pay"),
        "{stdout}"
    );
    let [stdout, _] = place
        .succeed("data inspect csv:named.csv --set data.columns.name=ignore --set data.columns.pay=category");
    assert!(stdout.contains("ignored: ") && stdout.contains("20 categories: "), "{stdout}");
    let refused = place.fail("train run.toml --set data.train=csv:named.csv", 1);
    assert!(refused.contains("named.csv:2: column `name`: `person 0` is one of 20 distinct"), "{refused}");
    place.write("headless.csv", "red,1\nblue,2\n");
    let refused = place.fail("data inspect csv:headless.csv", 1);
    assert!(
        refused.contains("headless.csv:1: cannot tell whether the first row is a header")
            && refused.contains("data.header"),
        "{refused}"
    );
    let [stdout, _] = place.succeed("data inspect csv:headless.csv --set data.header=false");
    assert!(stdout.contains("samples    2"), "{stdout}");
}

#[test]
fn inspect_proposes_settings_and_writes_them_to_a_new_file() {
    let place = TestDir::new();
    let row = |row: usize| {
        let (kind, class) = if row.is_multiple_of(3) { ("u", "no") } else { ("v", "yes") };
        let price = if row == 7 { String::new() } else { format!("{}.5", row * row % 31) };
        let size = if row == 4 { "-".into() } else { (row * 7 % 11).to_string() };
        format!(
            "{row};person {row};2024-{:02}-{:02};{price};{size};{kind};{class}\n",
            1 + row % 12,
            1 + row % 28
        )
    };
    let rows = (0..60).map(row).collect::<String>();
    place.write("people.csv", &format!("id;name;when;price;size;kind;target\n{rows}"));
    let [stdout, _] = place.succeed("data inspect csv:people.csv --write people.toml");
    for line in [
        "  separator  semicolons",
        "    id: numbers the rows, and is probably an identifier",
        "    name: 60 distinct strings in 60 cells, probably an identifier or free text",
        "    size: `-` may stand for a missing value",
        "    kind: alone predicts the label: 100.0 % of the rows",
        "label = \"target\"",
        "id = \"ignore\"  # such as 0; 60 distinct; numbers the rows, and is probably an identifier",
        "when = { kind = \"date\", parts = [\"month\", \"day\", \"weekday\"] }  # such as 2024-01-01; 60 distinct",
        "price = { kind = \"number\", fill = \"median\" }  # such as 0.5; 16 distinct; 1 missing",
    ] {
        assert!(stdout.lines().any(|shown| shown == line), "{line}\n{stdout}");
    }
    let written = fs::read_to_string(place.path("people.toml")).unwrap();
    assert!(written.contains("kind = \"logistic\"") && written.contains("\"-\""), "{written}");
    let refused = place.fail("data inspect csv:people.csv --write people.toml", 1);
    assert!(refused.contains("people.toml"), "{refused}");
    assert_eq!(fs::read_to_string(place.path("people.toml")).unwrap(), written);
    place.succeed("train people.toml --out people");
    // What is settled is proposed again.
    let [stdout, _] = place.succeed("data inspect people.toml --write again.toml");
    assert!(stdout.contains("size = { kind = \"number\", fill = \"median\" }  # such as 0; "), "{stdout}");
    let row = |row: usize| format!("{},{row};{},5\n", row % 9, row);
    place.write("rents.csv", &format!("size;rent\n{}", (0..60).map(row).collect::<String>()));
    let [stdout, _] = place.succeed("data inspect csv:rents.csv --write rents.toml");
    assert!(
        stdout.contains("decimal = \",\"") && stdout.contains("size = \"number\"  # such as 0,0; "),
        "{stdout}"
    );
    assert!(fs::read_to_string(place.path("rents.toml")).unwrap().contains("kind = \"linear\""));
    place.succeed("train rents.toml --quiet");
    let hash = |file: &str| place.succeed(&format!("train {file} --quiet"))[0].clone();
    assert_eq!(hash("again.toml"), hash("people.toml"));
}

#[test]
fn evaluate_prints_a_table_of_classes_or_all_scores_as_json() {
    let place = TestDir::new();
    place.succeed("train run.toml --out run --set data.validation=0.2");
    let [table, _] = place.succeed("evaluate run");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].starts_with("  balanced accuracy "), "{table}");
    let row = |name: &str| lines.iter().find(|line| line.trim_start().starts_with(name)).unwrap();
    assert!(row("class ").ends_with("precision  recall      F1  samples"), "{table}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{table}");

    let [text, _] = place.succeed("evaluate run --json");
    let object: Value = serde_json::from_str(&text).unwrap();
    let scores = &object["validation"]["scores"];
    let class = &scores["classes"][0];
    assert!(row("high").contains(&format!("{:.4}", class["recall"].as_f64().unwrap())), "{table}{text}");
    assert_eq!(object["weights_sha256"], summary(&place.path("run"))["weights_sha256"]);
    assert_eq!(*scores, summary(&place.path("run"))["validation"]["scores"]);
}

#[test]
fn coefficients_are_printed_as_a_table_csv_or_json() {
    let place = TestDir::new();
    place.succeed("train run.toml --out run");
    let [table, _] = place.succeed("coefficients run");
    let [csv, _] = place.succeed("coefficients run --format csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[1][rows[1].len() - 2], "(intercept)", "{csv}");
    assert_eq!(table.lines().count(), rows.len(), "{table}{csv}");
    let [json, _] = place.succeed("coefficients run --format json");
    let object: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["functions"][0]["intercept"].to_string(), *rows[1].last().unwrap());
    assert!(object["features"].as_array().unwrap().contains(&"colour=red".into()), "{json}");

    place.succeed("train run.toml --out deep --set model.kind=mlp --set model.hidden=[3]");
    let error = place.fail("coefficients deep", 2);
    assert!(error.contains("hidden layers"), "{error}");
}

#[test]
fn cells_with_terminal_escapes_do_not_reach_the_terminal() {
    let place = TestDir::new();
    place.write("escapes.csv", "a,b\n\u{1b}[31mred,1\nblue,2\n\u{1b}[31mred,3\n");
    let texts = place.succeed("data inspect csv:escapes.csv --set data.label=b");
    assert!(
        texts[0].contains("\u{fffd}[31mred") && texts.iter().all(|text| !text.contains('\u{1b}')),
        "{texts:?}"
    );
}
