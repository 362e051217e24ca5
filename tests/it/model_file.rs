//! `docs/model-file.md` describes the model file well enough that its lines of Python predict what we predict.

use downhill_tests::{downhill, outside, root, run};
use std::fs;
use std::process::Command;

const RUN: &str = r#"
[data]
train = "csv:train.csv"
missing = "mean"
standardize = true
[model]
kind = "mlp"
hidden = [5]
[train]
epochs = 20
batch = 20
[learning_rate]
initial = 0.2
"#;

/// The lines between the marks of the first block of Python.
fn python(page: &str) -> &str {
    let (_, rest) = page.split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_lines_of_the_page_predict_what_we_predict() {
    let Some(python_program) = outside("venv/bin/python") else { return };
    let dir = tempfile::tempdir().unwrap();
    let row = |row: usize| {
        let number =
            |value: usize| if value.is_multiple_of(11) { String::new() } else { format!("{}.5", value % 23) };
        let colour = ["red", "green", "", "blue"][row % 4];
        let class = ["low", "mid", "high"][(row * 7 % 23 + row % 4) / 9];
        format!("{},{colour},{},{class}\n", number(row * 7), number(row * 5))
    };
    let table =
        |rows: std::ops::Range<usize>| format!("a,colour,b,class\n{}", rows.map(row).collect::<String>());
    fs::write(dir.path().join("run.toml"), RUN).unwrap();
    fs::write(dir.path().join("train.csv"), table(0..200)).unwrap();
    fs::write(dir.path().join("new.csv"), table(200..260).replace("blue", "mauve")).unwrap();
    let path = |name: &str| dir.path().join(name);
    let trained = run(downhill(&["train"]).arg(path("run.toml")).arg("--out").arg(path("run")));
    assert!(trained.status.success(), "{trained}");
    fs::copy(path("run/model.safetensors"), path("model.safetensors")).unwrap();
    let ours = run(downhill(&["predict"]).arg(path("model.safetensors")).arg("--data").arg(path("new.csv")));
    assert!(ours.status.success(), "{ours}");

    let page = fs::read_to_string(root().join("docs/model-file.md")).unwrap();
    let script = format!("{}print(json.dumps(probabilities.tolist()))\n", python(&page));
    let theirs = Command::new(python_program).arg("-c").arg(script).current_dir(dir.path()).output().unwrap();
    assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
    let theirs: Vec<Vec<f64>> = serde_json::from_slice(&theirs.stdout).unwrap();
    let ours: Vec<Vec<f64>> = ours
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect())
        .collect();
    assert_eq!((theirs.len(), theirs[0].len()), (60, 3));
    assert_eq!(theirs.len(), ours.len());
    for (theirs, ours) in theirs.iter().flatten().zip(ours.iter().flatten()) {
        assert!((theirs - ours).abs() < 1e-6, "{theirs} {ours}");
    }
}
