//! The table of keys is complete, agrees with the other crates, and is what `docs/run-file.md` shows.

use ps_config::keys::{Accepts, Fallback, KEYS, Key, Use, reference_table};
use ps_config::{RunConfig, Shape};
use std::ops::Bound;
use std::path::Path;

const BEGIN: &str = "<!-- keys: begin -->\n";
const END: &str = "<!-- keys: end -->\n";

#[test]
fn the_page_of_the_run_file_shows_the_table_of_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/run-file.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page marks where the table begins");
    let (table, after) = rest.split_once(END).expect("the page marks where the table ends");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", reference_table())).unwrap();
        return;
    }
    assert_eq!(
        table,
        reference_table(),
        "the table in docs/run-file.md differs from the code; run UPDATE_DOCS=1 cargo test -p ps-config"
    );
}

#[test]
fn every_key_can_be_set_and_shows_in_the_resolved_run() {
    for key in KEYS.iter() {
        let value = match (key.default, key.accepts) {
            (Fallback::Value(text) | Fallback::Required(text), _) => text,
            // A phase has the keys of the table that it follows.
            (_, Accepts::Phases) => "[{ from = 9, initial = 1 }]",
            (_, Accepts::Layers) => "[{ kind = \"relu\" }]",
            (_, Accepts::Widths) => "[128]",
            (_, Accepts::Flag) => "false",
            (_, Accepts::Single(_, Bound::Excluded(_))) => "0.3",
            (_, Accepts::Factors) => "{ biases = 3.0 }",
            (_, Accepts::Columns) => "{ id = \"ignore\" }",
            (_, Accepts::Texts | Accepts::Names) => "[\"-\"]",
            (_, Accepts::Name(names)) => names[0],
            (_, Accepts::Separator) => "\";\"",
            (_, Accepts::Rows) => "\"0..9\"",
            (_, Accepts::Text | Accepts::ShareOrText | Accepts::TextOrInteger) => "\"csv:x\"",
            _ => "3",
        };
        let (table, name) = key.parts();
        let set = match key.used {
            Use::InPhases => format!("learning_rate.then=[{{ {name} = {value}, initial = 1 }}]"),
            _ => format!("{}={value}", key.path),
        };
        let text = run_for(key, &[set]).to_toml();
        let (table, line) = match (key.used, key.accepts) {
            (Use::InPhases, _) => (format!("[{table}.then]"), format!("{name} = ")),
            (_, Accepts::Phases) => (format!("[{}]", key.path), "from = 9".to_string()),
            _ => (table.to_string(), format!("{name} = ")),
        };
        let section =
            text.split("\n[").find(|part| part.starts_with(&format!("{table}]")) || table.is_empty());
        let section = section.unwrap_or_else(|| panic!("[{table}] is missing:\n{text}"));
        assert!(section.contains(&line), "{} is missing:\n{text}", key.path);
    }
}

#[test]
fn names_are_those_that_the_other_crates_serialise() {
    for key in KEYS.iter() {
        let Accepts::Name(names) = key.accepts else { continue };
        for name in names {
            let run = run_for(key, &[format!("{}={name}", key.path)]);
            let json = match key.path {
                "data.missing" => serde_json::to_string(&run.data.missing),
                "train.monitor" => serde_json::to_string(&run.train.monitor),
                "model.kind" => serde_json::to_string(&run.model.kind),
                "model.activation" => serde_json::to_string(&run.model.activation),
                "model.head" => serde_json::to_string(&run.model.head),
                "learning_rate.schedule" => match run.learning_rate.schedule {
                    Shape::Is(kind) => serde_json::to_string(&kind),
                    Shape::Pieces | Shape::Armijo => continue,
                },
                _ => continue,
            };
            assert_eq!(json.unwrap(), format!("\"{name}\""));
        }
    }
}

/// Returns the smallest run that `key` applies to, with the overrides `sets`.
fn run_for(key: &Key, sets: &[String]) -> RunConfig {
    let mut all = vec!["data.train=digits:".to_string(), "learning_rate.initial=0.1".into()];
    if !matches!(key.used, Use::When("optimizer.kind", _)) && key.path != "optimizer.kind" {
        all.push("optimizer.momentum=0.5".into());
    }
    match key.used {
        Use::When(other, values) => all.push(format!("{other}={}", values[0])),
        Use::Always | Use::InPhases | Use::BeforePhases => {}
    }
    let mut run = all.clone();
    run.extend_from_slice(sets);
    let chosen = run.clone();
    let is = |path: &str, value: &str| {
        chosen.iter().rev().find(|set| set.starts_with(path)).is_some_and(|set| set.ends_with(value))
    };
    let mut needed = Vec::new();
    if !run.iter().any(|set| set.starts_with("model.kind")) {
        let classes = ["accuracy", "balanced-accuracy", "precision", "recall", "f1"];
        let has_classes = classes.iter().any(|name| is("train.monitor", &format!("={name}")));
        needed.push(format!("model.kind={}", if has_classes { "logistic" } else { "linear" }));
    }
    if is("model.kind", "=mlp") && key.path != "model.layers" {
        needed.push("model.hidden=[4]".to_string());
    }
    let is_one_of =
        |names: &[&str]| names.iter().any(|name| is("learning_rate.schedule", &format!("={name}")));
    if key.path == "optimizer.nesterov" {
        needed.push("optimizer.momentum=0.5".to_string());
    }
    let is_validated = ["train.early_stopping", "train.monitor", "train.min_delta"].contains(&key.path);
    if is_one_of(&["plateau"]) || is_validated {
        needed.push("data.validation=0.1".to_string());
    }
    if ["train.monitor", "train.min_delta"].contains(&key.path) {
        needed.push("train.early_stopping=5".to_string());
    }
    if key.path == "optimizer.noise_decay" {
        needed.push("optimizer.noise=0.1".to_string());
    }
    if is_one_of(&["armijo"]) {
        needed.extend(["train.batch=full".to_string(), "optimizer.momentum=0".to_string()]);
        run.retain(|set| !set.starts_with("optimizer.momentum"));
    }
    if is_one_of(&["step", "exponential", "inverse-time", "plateau"]) {
        needed.push("learning_rate.factor=0.5".to_string());
    }
    if is_one_of(&["step", "exponential", "inverse-time", "cosine-restarts"]) {
        needed.push("learning_rate.every=5".to_string());
    }
    if is_one_of(&["piecewise"]) {
        needed.extend(["learning_rate.at=[5, 9]".to_string(), "learning_rate.rates=[0.1, 0.2]".to_string()]);
    }
    needed.extend(run);
    RunConfig::parse("", "run.toml", &needed).unwrap_or_else(|error| panic!("{}: {error}", key.path))
}
