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

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.path("run.toml"), RUN).unwrap();
        place
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

fn says<S: AsRef<OsStr>>(arguments: &[S]) -> Ended {
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
    let place = Place::new();
    let picture = place.path("curve.png");
    let found = place.find(&["--threads", "1", "--output", &picture.display().to_string()]);
    assert!(found.status.success(), "{found}");
    assert_eq!(png(&picture), (1440, 868));
    assert_eq!(place.find(&["--threads", "3"]).stdout, found.stdout);
    let flag = found.stdout.lines().last().unwrap();
    assert!(flag.starts_with("--set learning_rate.initial=0."), "{found}");
    assert!(found.stdout.contains("falls fastest"), "{found}");
    let quiet = place.find(&["--quiet"]);
    assert_eq!(quiet.stdout.trim_end(), flag);
    let out = place.trained("found", &flag.split(' ').collect::<Vec<_>>());
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    assert!(summary["validation"]["accuracy"].as_f64().unwrap() > 0.75, "{summary}");
}

#[test]
fn find_lr_takes_the_meant_batch_into_account() {
    let place = Place::new();
    let rate = |ended: &Ended| -> f64 {
        ended.stdout.lines().last().unwrap().rsplit('=').next().unwrap().parse().unwrap()
    };
    let plain = place.find(&[]);
    let scaled = place.find(&["--set", "learning_rate.for_batch=8"]);
    assert!((rate(&plain) / rate(&scaled) - 4.0).abs() < 0.2, "{plain}{scaled}");
}

#[test]
fn find_lr_says_so_where_there_is_nothing_to_propose() {
    let place = Place::new();
    let refused = |flags: &[&str], code: i32, words: &str| {
        let ended = place.find(flags);
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
    let place = Place::new();
    let runs = [place.trained("slow", &["--set", "learning_rate.initial=0.01"]), place.trained("quick", &[])];
    let drawn = says(&[OsStr::new("plot"), runs[1].as_os_str()]);
    assert_eq!(drawn.stdout.trim_end(), runs[1].join("plot.png").display().to_string(), "{drawn}");
    let (width, height) = png(&runs[1].join("plot.png"));
    assert!(width > 2000 && height > 2000, "{width} {height}");
    let both = place.path("both.svg");
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
    let missing = says(&[OsStr::new("plot"), place.path("missing").as_os_str()]);
    assert_eq!(missing.status.code(), Some(1), "{missing}");
    assert!(missing.stderr.contains("metrics.jsonl"), "{missing}");
}

#[test]
fn a_short_run_beside_a_long_one_is_drawn_on_a_logarithmic_axis_of_steps() {
    let place = Place::new();
    let short = place.trained("short", &["--set", "train.epochs=1"]);
    let long = place.trained("long", &["--set", "train.epochs=60"]);
    let drawn = |flags: &[&str]| {
        let picture = place.path("both.svg");
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
    let place = Place::new();
    for (name, flags) in
        [("path", &["--checkpoint-every", "20", "--checkpoint-keep", "50"][..]), ("line", &[])]
    {
        let out = place.trained(name, flags);
        let drawn = run(downhill(&["plot"]).arg(&out).args(["--valley", "--samples", "64", "--grid", "9"]));
        assert!(drawn.status.success(), "{drawn}");
        let (width, height) = png(&out.join("valley.png"));
        assert!(width > 3000 && height > 800, "{width} {height}");
    }
    let svg = place.path("valley.svg");
    let mut command = downhill(&["plot"]);
    command
        .arg(place.path("path"))
        .args(["--valley", "--samples", "64", "--grid", "9", "--output"])
        .arg(&svg);
    assert!(run(&mut command).status.success());
    let svg = fs::read_to_string(svg).unwrap();
    for word in ["along the gradient at the start", "plane through the path", "start", "end, step 120"] {
        assert!(svg.contains(word), "no {word} in the figure");
    }
}

#[test]
fn explain_shows_what_a_sample_pushes() {
    let place = Place::new();
    let out = place.trained("run", &[]);
    let picture = place.path("sample.png");
    let mut command = downhill(&["explain"]);
    let told = run(command.arg(&out).args(["--sample", "3", "--top", "2", "--output"]).arg(&picture));
    assert!(told.status.success(), "{told}");
    for words in [
        "sample 3 of the training part: class ",
        "target",
        "layer 1, 24 to 10",
        "biases",
        "activations of the layer before",
        "pixel in row",
    ] {
        assert!(told.stdout.contains(words), "{words}: {told}");
    }
    // The outputs are probabilities, the targets contain a single 1, and each negative gradient is the
    // difference between them.
    let rows = told.stdout.lines().skip_while(|line| !line.contains("target")).skip(1).take(10);
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split_whitespace().collect()).collect();
    let value = |text: &str| text.parse::<f64>().unwrap();
    let sum: f64 = rows.iter().map(|row| value(row[1])).sum();
    assert!((sum - 1.0).abs() < 1e-3, "{told}");
    assert_eq!(rows.iter().filter(|row| row[2] == "1").count(), 1, "{told}");
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
fn explain_names_the_columns_of_a_table_and_what_they_add() {
    let place = Place::new();
    fs::write(place.path("table.csv"), TABLE).unwrap();
    let explained = |model: &str, flags: &[&str]| {
        let name = model.split('"').next().unwrap();
        let file = format!(
            "[data]\ntrain = \"csv:table.csv\"\nstandardize = true\nmissing = \"mean\"\n[model]\nkind = \"{model}\n\
             [train]\nepochs = 30\nbatch = 4\n[learning_rate]\ninitial = 0.5\n"
        );
        fs::write(place.path("run.toml"), file).unwrap();
        run(downhill(&["explain"]).arg(place.trained(name, &[])).args(flags))
    };
    let told = explained("logistic\"", &["--sample", "4"]);
    assert!(told.stdout.contains("contributions to the log-odds of class yes: weight × input"), "{told}");
    let amount = |name: &str| -> f64 {
        let row = told.stdout.lines().find(|line| line.starts_with(&format!("  {name} "))).unwrap();
        row.split_whitespace().last().unwrap().parse().unwrap()
    };
    let sum = amount("size") + amount("colour=red") + amount("bias");
    assert!(amount("size") > 0.5 && (sum - amount("sum")).abs() < 2e-3, "{told}");
    let empty = run(downhill(&["explain"]).arg(place.path("logistic")).args(["--sample", "7", "--top", "2"]));
    assert!(
        empty.stdout.lines().any(|line| line.starts_with("  colour ") && line.contains("missing")),
        "{empty}"
    );

    let picture = place.path("why.svg");
    let flags = ["--sample", "4", "--class", "no", "--output", picture.to_str().unwrap()];
    let told = explained("mlp\"\nhidden = [4]", &flags);
    assert!(told.stdout.contains("the logit of class no: gradient × input"), "{told}");
    assert!(told.stdout.contains("  remainder "), "{told}");
    let svg = fs::read_to_string(picture).unwrap();
    for words in ["size=7", "colour=red", "remainder", "gradient × input"] {
        assert!(svg.contains(words), "no {words} in the figure");
    }
    let unknown =
        run(downhill(&["explain"]).arg(place.path("mlp")).args(["--sample", "4", "--class", "maybe"]));
    assert_eq!(unknown.status.code(), Some(2), "{unknown}");
    assert!(unknown.stderr.contains("the classes are no, yes"), "{unknown}");
}
