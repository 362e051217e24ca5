//! `downhill find-lr`, `plot` and `explain`: their output, their pictures and their errors.

use downhill_tests::{Ended, downhill, run};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const RUN: &str = r#"
seed = 1
[data]
train = "digits:800"
validation = 0.2
[model]
kind = "mlp"
hidden = [24]
[train]
epochs = 6
batch = 32
probe_every = 5
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.1
schedule = "plateau"
factor = 0.5
patience = 0
threshold = 0.2
"#;

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        let dir = TestDir(tempfile::tempdir().unwrap());
        fs::write(dir.path("run.toml"), RUN).unwrap();
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Trains a run and returns its folder.
    fn trained(&self, name: &str, flags: &[&str]) -> PathBuf {
        let out = self.path(name);
        run(downhill(&["train"]).arg(self.path("run.toml")).arg("--out").arg(&out).args(flags)).hash();
        out
    }

    fn find(&self, flags: &[&str]) -> Ended {
        run(downhill(&["find-lr"]).arg(self.path("run.toml")).args(flags))
    }
}

fn succeeds<S: AsRef<OsStr>>(arguments: &[S]) -> Ended {
    run(&mut downhill(arguments))
}

/// Returns width and height of a PNG file, after checking its signature.
fn png(path: &Path) -> (u32, u32) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n", "{}", path.display());
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn find_lr_proposes_the_same_rate_on_any_threads_and_training_with_it_learns() {
    let dir = TestDir::new();
    let picture = dir.path("curve.png");
    let found = dir.find(&["--threads", "1", "--output", &picture.display().to_string()]);
    assert!(found.status.success(), "{found}");
    assert_eq!(png(&picture), (1440, 868));
    assert_eq!(dir.find(&["--threads", "3"]).stdout, found.stdout);
    let flag = found.stdout.lines().last().unwrap();
    assert!(flag.starts_with("--set learning_rate.initial=0."), "{found}");
    assert!(found.stdout.contains("falls fastest"), "{found}");
    let quiet = dir.find(&["--quiet"]);
    assert_eq!(quiet.stdout.trim_end(), flag);
    let out = dir.trained("found", &flag.split(' ').collect::<Vec<_>>());
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    assert!(summary["validation"]["accuracy"].as_f64().unwrap() > 0.75, "{summary}");
}

#[test]
fn find_lr_scales_the_rate_to_for_batch() {
    let dir = TestDir::new();
    let rate = |ended: &Ended| -> f64 {
        ended.stdout.lines().last().unwrap().rsplit('=').next().unwrap().parse().unwrap()
    };
    let plain = dir.find(&[]);
    let scaled = dir.find(&["--set", "learning_rate.for_batch=8"]);
    assert!((rate(&plain) / rate(&scaled) - 4.0).abs() < 0.2, "{plain}{scaled}");
}

#[test]
fn find_lr_reports_that_it_has_nothing_to_propose() {
    let dir = TestDir::new();
    let refused = |flags: &[&str], code: i32, words: &str| {
        let ended = dir.find(flags);
        assert_eq!(ended.status.code(), Some(code), "{ended}");
        assert!(ended.stderr.contains(words) && !ended.stdout.contains("--set"), "{words}: {ended}");
    };
    refused(&["--from", "50", "--to", "5000"], 1, "explodes within");
    refused(&["--from", "1e-9", "--to", "1e-7"], 1, "does not fall");
    refused(&["--from", "1e-4", "--to", "2e-2"], 1, "still falling");
    refused(&["--from", "1", "--to", "2"], 2, "ten times");
    refused(&["--from", "0"], 2, "above 0");
    refused(&["--output", "curve.pdf"], 2, ".png or .svg");
}

#[test]
fn plot_draws_one_or_several_runs() {
    let dir = TestDir::new();
    let runs = [dir.trained("slow", &["--set", "learning_rate.initial=0.01"]), dir.trained("quick", &[])];
    let drawn = succeeds(&[OsStr::new("plot"), runs[1].as_os_str()]);
    assert_eq!(drawn.stdout.trim_end(), runs[1].join("plot.png").display().to_string(), "{drawn}");
    let (width, height) = png(&runs[1].join("plot.png"));
    assert!(width > 2000 && height > 2000, "{width} {height}");
    let both = dir.path("both.svg");
    let mut command = downhill(&["plot"]);
    assert!(run(command.args(&runs).arg("--output").arg(&both)).status.success());
    let svg = fs::read_to_string(&both).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{}", &svg[..80]);
    let words = [
        "slow, training",
        "quick, validation",
        "learning rate",
        "norm of the gradient",
        "lowered",
        "slow, quick",
    ];
    for word in words {
        assert!(svg.contains(word), "no {word} in the figure");
    }
    let nowhere = run(downhill(&["plot"]).args(&runs));
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere}");
    assert!(nowhere.stderr.contains("--output"), "{nowhere}");
    let missing = succeeds(&[OsStr::new("plot"), dir.path("missing").as_os_str()]);
    assert_eq!(missing.status.code(), Some(1), "{missing}");
    assert!(missing.stderr.contains("metrics.jsonl"), "{missing}");
}

#[test]
fn a_short_run_and_a_long_one_share_a_logarithmic_axis_of_steps() {
    let dir = TestDir::new();
    let short = dir.trained("short", &["--set", "train.epochs=1"]);
    let long = dir.trained("long", &["--set", "train.epochs=60"]);
    let drawn = |flags: &[&str]| {
        let picture = dir.path("both.svg");
        let mut command = downhill(&["plot"]);
        command.args([&short, &long]).arg("--output").arg(&picture).args(flags);
        assert!(run(&mut command).status.success());
        fs::read_to_string(picture).unwrap()
    };
    let svg = drawn(&[]);
    for words in ["short (20 steps), training", "long (1,200 steps), validation", "(log scale)", "1,000"] {
        assert!(svg.contains(words), "no {words} in the figure");
    }
    assert!(!drawn(&["--x-axis", "linear"]).contains("(log scale)"));
    let valley = run(downhill(&["plot"]).arg(&long).args(["--valley", "--x-axis", "log"]));
    assert_eq!(valley.status.code(), Some(2), "{valley}");
}

#[test]
fn the_valley_is_drawn_with_and_without_checkpoints() {
    let dir = TestDir::new();
    for (name, flags) in
        [("path", &["--checkpoint-every", "20", "--checkpoint-keep", "50"][..]), ("line", &[])]
    {
        let out = dir.trained(name, flags);
        let drawn = run(downhill(&["plot"]).arg(&out).args(["--valley", "--samples", "64", "--grid", "9"]));
        assert!(drawn.status.success(), "{drawn}");
        let (width, height) = png(&out.join("valley.png"));
        assert!(width > 3000 && height > 800, "{width} {height}");
    }
    let svg = dir.path("valley.svg");
    let mut command = downhill(&["plot"]);
    command.arg(dir.path("path")).args(["--valley", "--samples", "64", "--grid", "9", "--output"]).arg(&svg);
    assert!(run(&mut command).status.success());
    let svg = fs::read_to_string(svg).unwrap();
    for word in ["along the gradient at the start", "plane through the path", "start", "end, step 120"] {
        assert!(svg.contains(word), "no {word} in the figure");
    }
}

#[test]
fn explain_shows_the_gradient_of_a_sample() {
    let dir = TestDir::new();
    let out = dir.trained("run", &[]);
    let picture = dir.path("sample.png");
    let mut command = downhill(&["explain"]);
    let output = run(command.arg(&out).args(["--sample", "3", "--top", "2", "--output"]).arg(&picture));
    assert!(output.status.success(), "{output}");
    for words in [
        "sample 3 of the training part: class ",
        "target",
        "layer 1, 24 to 10",
        "biases",
        "activations of the layer before",
        "pixel in row",
    ] {
        assert!(output.stdout.contains(words), "{words}: {output}");
    }
    // The outputs are probabilities, the targets contain a single 1, and each negative gradient is the
    // difference between them.
    let rows = output.stdout.lines().skip_while(|line| !line.contains("target")).skip(1).take(10);
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split_whitespace().collect()).collect();
    let value = |text: &str| text.parse::<f64>().unwrap();
    let sum: f64 = rows.iter().map(|row| value(row[1])).sum();
    assert!((sum - 1.0).abs() < 1e-3, "{output}");
    assert_eq!(rows.iter().filter(|row| row[2] == "1").count(), 1, "{output}");
    for row in rows.iter().filter(|row| row.len() == 5) {
        let push = value(row[4]) * if row[3] == "up" { 1.0 } else { -1.0 };
        assert!((value(row[2]) - value(row[1]) - push).abs() < 1e-3, "{row:?}");
    }
    assert_eq!(png(&picture), (1920, 1588));
    let outside = run(downhill(&["explain"]).arg(&out).args(["--sample", "640"]));
    assert_eq!(outside.status.code(), Some(2), "{outside}");
    assert!(outside.stderr.contains("from 0 to 639"), "{outside}");
    let none = run(downhill(&["explain"]).arg(&out).args(["--sample", "0", "--part", "test"]));
    assert!(none.status.code() == Some(2) && none.stderr.contains("--data"), "{none}");
}

/// A table in which the label is `yes` if the first column is large. The second column has no influence.
const TABLE: &str = "size,colour,answer\n1,red,no\n2,green,no\n3,red,no\n,green,no\n7,red,yes\n8,green,yes\n9,red,yes\n9,,yes\n";

#[test]
fn explain_names_the_columns_of_a_table_and_their_contributions() {
    let dir = TestDir::new();
    fs::write(dir.path("table.csv"), TABLE).unwrap();
    let explained = |model: &str, flags: &[&str]| {
        let name = model.split('"').next().unwrap();
        let file = format!(
            "[data]\ntrain = \"csv:table.csv\"\nstandardize = true\nmissing = \"mean\"\n[model]\nkind = \"{model}\n\
             [train]\nepochs = 30\nbatch = 4\n[learning_rate]\ninitial = 0.5\n"
        );
        fs::write(dir.path("run.toml"), file).unwrap();
        run(downhill(&["explain"]).arg(dir.trained(name, &[])).args(flags))
    };
    let output = explained("logistic\"", &["--sample", "4"]);
    assert!(output.stdout.contains("contributions to the log-odds of class yes: weight × input"), "{output}");
    let amount = |name: &str| -> f64 {
        let row = output.stdout.lines().find(|line| line.starts_with(&format!("  {name} "))).unwrap();
        row.split_whitespace().last().unwrap().parse().unwrap()
    };
    let sum = amount("size") + amount("colour=red") + amount("bias");
    assert!(amount("size") > 0.5 && (sum - amount("sum")).abs() < 2e-3, "{output}");
    let empty = run(downhill(&["explain"]).arg(dir.path("logistic")).args(["--sample", "7", "--top", "2"]));
    assert!(
        empty.stdout.lines().any(|line| line.starts_with("  colour ") && line.contains("missing")),
        "{empty}"
    );

    let picture = dir.path("why.svg");
    let flags = ["--sample", "4", "--class", "no", "--output", picture.to_str().unwrap()];
    let output = explained("mlp\"\nhidden = [4]", &flags);
    assert!(output.stdout.contains("the logit of class no: gradient × input"), "{output}");
    assert!(output.stdout.contains("  remainder "), "{output}");
    let svg = fs::read_to_string(picture).unwrap();
    for words in ["size=7", "colour=red", "remainder", "gradient × input"] {
        assert!(svg.contains(words), "no {words} in the figure");
    }
    let unknown =
        run(downhill(&["explain"]).arg(dir.path("mlp")).args(["--sample", "4", "--class", "maybe"]));
    assert_eq!(unknown.status.code(), Some(2), "{unknown}");
    assert!(unknown.stderr.contains("the classes are no, yes"), "{unknown}");
}
