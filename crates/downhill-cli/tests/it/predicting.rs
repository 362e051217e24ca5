//! Predictions for rows from standard input and from files.

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const RUN: &str = r#"
[data]
train = "csv:train.csv"
missing = "mean"
standardize = true
columns = { id = "ignore" }
[model]
kind = "mlp"
hidden = [4]
[train]
epochs = 3
batch = 16
[learning_rate]
initial = 0.3
"#;

/// A temporary folder with a model of a table.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let dir = TestDir(tempfile::tempdir().unwrap());
        let row = |row: u32| {
            let colour = ["red", "green", "blue"][(row % 3) as usize];
            format!("{},{},{colour},{},{}\n", row * 7 % 23, row * 5 % 19, row + 100, 1 + row * row % 3)
        };
        let rows: String = (0..120).map(row).collect();
        fs::write(dir.path("train.csv"), format!("a,b,colour,id,class\n{rows}")).unwrap();
        fs::write(dir.path("run.toml"), RUN).unwrap();
        assert!(dir.run("train run.toml --out run --quiet", "").status.success());
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_downhill"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).env_remove("DOWNHILL_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &str, input: &str) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Returns the standard output and error of a command, which must exit with `code`.
    fn predict(&self, arguments: &str, input: &str, code: i32) -> [String; 2] {
        let output = self.run(&format!("predict run {arguments}"), input);
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(code), "{arguments}: {texts:?}");
        texts
    }
}

const NEW: &str = "id,colour,extra,b,a\nx-1,red,,3,9\n\"x,2\",green,,18,20.5\nx-3,mauve,,,1\n";

/// The rows of [`NEW`] as JSON Lines.
const NEW_JSON: &str = r#"{"id": "x-1", "colour": "red", "extra": null, "b": 3, "a": "9"}
{"a": 20.5, "b": 18, "colour": "green", "id": "x,2", "extra": [1]}

{"a": 1, "b": null, "colour": "mauve", "id": "x-3", "extra": {}}
"#;

#[test]
fn rows_come_from_standard_input_or_a_file_and_go_to_standard_output_or_a_file() {
    let dir = TestDir::new();
    fs::write(dir.path("new.csv"), NEW).unwrap();
    fs::write(dir.path("new.jsonl"), NEW_JSON).unwrap();
    let [csv, notes] = dir.predict("--keep id", NEW, 0);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "id,prediction,probability of 1,probability of 2");
    assert!(lines.len() == 4 && lines[2].starts_with("\"x,2\","), "{csv}");
    for note in [
        "standard input: ignored columns that the model does not use: `extra`",
        "standard input: column `colour`: 1 cell contains a category that is not in the training data, such as `mauve`",
    ] {
        assert!(notes.contains(note), "{notes}");
    }
    for arguments in
        ["--data csv:new.csv", "--data new.csv", "--data new.jsonl --output-format csv", "--data csv:-"]
    {
        assert_eq!(dir.predict(&format!("{arguments} --keep id"), NEW, 0)[0], csv, "{arguments}");
    }
    assert_eq!(dir.predict("--format jsonl --output-format csv --keep id", NEW_JSON, 0)[0], csv);
    let [said, _] = dir.predict("--data new.jsonl --keep id --output out.csv", "", 0);
    assert_eq!((said.as_str(), fs::read_to_string(dir.path("out.csv")).unwrap()), ("", csv.clone()));

    // JSON has the same numbers, and class labels and kept values with their types.
    let [json_lines, _] = dir.predict("--data jsonl:new.jsonl --keep id,a", "", 0);
    let objects: Vec<Value> = json_lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (object, line) in objects.iter().zip(&lines[1..]) {
        let cells: Vec<&str> = line.rsplitn(4, ',').collect();
        assert_eq!(object["prediction"].to_string(), cells[2]);
        assert_eq!(object["probabilities"]["2"].to_string(), cells[0]);
    }
    assert_eq!((&objects[0]["a"], &objects[1]["a"]), (&json!("9"), &json!(20.5)));
    let [from_csv, _] = dir.predict("--data new.csv --output-format jsonl --keep id", "", 0);
    assert_eq!(serde_json::from_str::<Value>(from_csv.lines().next().unwrap()).unwrap()["id"], "x-1");
}

#[test]
fn rows_before_an_invalid_one_are_predicted_and_the_error_names_its_line() {
    let dir = TestDir::new();
    let rows: String = (0..50).map(|row| format!("{row},1,red\n")).collect();
    let input = format!("a,b,colour\n{rows}x,1,red\n{rows}");
    let [stdout, stderr] = dir.predict("", &input, 1);
    assert_eq!(stdout.lines().count(), 51);
    assert!(stderr.contains("standard input:52: column `a`: expected a number, found `x`"), "{stderr}");
    let [_, stderr] = dir.predict("--output out.csv", &input, 1);
    assert!(stderr.contains("standard input:52") && !dir.path("out.csv").exists(), "{stderr}");
    for (arguments, input, code, expected) in [
        ("", "a,colour\n1,red\n", 1, "standard input:1: column `b`, which the training data has, is missing"),
        ("--strict", NEW, 1, "standard input:1: column `extra` does not occur in the training data"),
        ("--strict", "a,b,colour\n1,2,mauve\n", 1, "standard input:2: column `colour`: category `mauve`"),
        ("--keep key", NEW, 1, "standard input:1: column `key`, which is to be kept, is missing"),
        ("--format jsonl", "[1]", 1, "standard input:1: the line is not a JSON object"),
        ("--data new.parquet", "", 2, "set --format"),
        ("--data csv:new.csv --format jsonl", "", 2, "--format contradicts the source"),
        ("--data digits:10 --keep id", "", 2, "has no columns to keep"),
        ("--data digits:10", "", 2, "of the same kind as the training data"),
    ] {
        let [_, stderr] = dir.predict(arguments, input, code);
        assert!(stderr.contains(expected), "{arguments}: {stderr}");
    }
    let [_, stderr] = dir.predict("--strict --keep extra", "extra,a,b,colour\n0,1,2,red\n", 0);
    assert_eq!(stderr, "");
}

/// The largest amount of memory that a process has used so far, in bytes.
#[cfg(target_os = "linux")]
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_number_of_rows() {
    const ROWS: usize = 16_000;
    let dir = TestDir::new();
    for format in ["csv", "jsonl"] {
        let mut command =
            dir.command(&format!("predict run --keep id --format {format} --output-format csv"));
        let mut child = command.spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let id = "x".repeat(200);
        let row = match format {
            "csv" => format!("1,2,red,{id}\n"),
            _ => format!("{{\"a\": 1, \"b\": 2, \"colour\": \"red\", \"id\": \"{id}\"}}\n"),
        };
        let some = row.repeat(ROWS);
        if format == "csv" {
            stdin.write_all(b"a,b,colour,id\n").unwrap();
        }
        let mut read = 0;
        // Returns the peak after `rows` rows have been predicted; some more may have been read.
        let mut after = |rows: usize| {
            let mut buffer = [0; 1 << 16];
            while read < rows * id.len() {
                read += stdout.read(&mut buffer).unwrap();
            }
            peak(child.id())
        };
        let writer = std::thread::spawn(move || {
            (0..10).for_each(|_| stdin.write_all(some.as_bytes()).unwrap());
        });
        let first = after(ROWS);
        let last = after(8 * ROWS);
        // The rows between the two take 24 MB.
        assert!(last < first + 8_000_000, "{format}: {first} bytes at first, {last} at last");
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        writer.join().unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn files_without_a_header_are_predicted_like_those_with_one() {
    let dir = TestDir::new();
    let with_header = fs::read_to_string(dir.path("train.csv")).unwrap();
    let (_, rows) = with_header.split_once('\n').unwrap();
    fs::write(dir.path("train.csv"), rows).unwrap();
    let names = r#"--set data.names=["a","b","colour","id","class"]"#;
    assert!(dir.run(&format!("train run.toml --out named --quiet {names}"), "").status.success());
    let predict = |input: &str| {
        let output = dir.run("predict named --data csv:-", input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = dir.predict("--data csv:-", &with_header, 0)[0].clone();
    assert_eq!((expected.lines().count(), predict(rows)), (121, expected.clone()));
    assert_eq!(predict(&with_header), expected);
}

#[test]
fn predictions_that_are_not_finite_are_warned_of() {
    let dir = TestDir::new();
    // Without a hidden layer, and with features far beyond those of training, the rate overflows.
    let poisson = "--set model.kind=poisson --set model.hidden= --set learning_rate.initial=0.01";
    assert!(dir.run(&format!("train run.toml --out rates --quiet {poisson}"), "").status.success());
    let rows = "a,b,colour\n1,2,red\n3e38,3e38,red\n-3e38,-3e38,red\n";
    let output = dir.run("predict rates", rows);
    let [csv, notes] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success() && csv.lines().any(|line| line == "inf"), "{csv}{notes}");
    assert!(notes.contains("1 prediction not finite, first in row "), "{notes}");
}

#[test]
fn columns_that_would_have_the_name_of_another_are_not_kept() {
    let dir = TestDir::new();
    for (keep, expected) in [("prediction", "has a column of this name"), ("id,id", "named twice")] {
        let [_, error] = dir.predict(&format!("--keep {keep}"), NEW, 2);
        assert!(error.contains(expected), "{error}");
    }
}
