//! `--set KEY=`, which unsets a key of the run file.

use ps_config::{ConfigError, RunConfig};

const RUN: &str = r#"
[data]
train = "digits:"
test = "digits:100"
label = "class"
[model]
kind = "mlp"
hidden = [32]
[train]
batch = 64
[learning_rate]
initial = 0.05
[[learning_rate.then]]
from = "50%"
initial = 0.01
"#;

fn with(sets: &[&str]) -> Result<RunConfig, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    RunConfig::parse(RUN, "run.toml", &sets)
}

/// Asserts that `sets` give the same run as a run file without `lines`.
#[track_caller]
fn same_as_without(sets: &[&str], lines: &str) {
    assert!(RUN.contains(lines), "{lines:?} is in the run file");
    let without = RunConfig::parse(&RUN.replace(lines, ""), "run.toml", &[]).unwrap();
    assert_eq!(with(sets).unwrap(), without, "{sets:?}");
    assert_ne!(with(&[]).unwrap(), without, "{lines:?} matters");
}

#[track_caller]
fn refused(sets: &[&str], expected: &str) {
    assert_eq!(with(sets).unwrap_err().to_string(), expected, "{sets:?}");
}

#[test]
fn an_unset_key_behaves_like_an_absent_key() {
    same_as_without(&["train.batch="], "batch = 64\n");
    same_as_without(&["data.test="], "test = \"digits:100\"\n");
    same_as_without(&[" data.label = "], "label = \"class\"\n");
    same_as_without(&["learning_rate.then="], "[[learning_rate.then]]\nfrom = \"50%\"\ninitial = 0.01\n");
}

#[test]
fn a_key_that_is_not_set_can_be_unset() {
    assert_eq!(with(&["seed=", "train.epochs="]).unwrap(), with(&[]).unwrap());
}

#[test]
fn the_last_of_several_flags_wins() {
    same_as_without(&["train.batch=128", "train.batch="], "batch = 64\n");
    assert_eq!(with(&["train.batch=", "train.batch=64"]).unwrap(), with(&[]).unwrap());
}

#[test]
fn another_kind_of_model_needs_no_other_run_file() {
    refused(
        &["model.kind=softmax"],
        r#"run.toml:8: model.hidden has no effect: model.kind is "softmax", but the key is only for "mlp"; unset it with --set model.hidden= or change model.kind"#,
    );
    assert!(with(&["model.kind=softmax", "model.hidden="]).is_ok());
}

#[test]
fn unknown_keys_and_tables_cannot_be_unset() {
    refused(&["train.bacth="], "--set train.bacth=: unknown key train.bacth: did you mean train.batch?");
    refused(
        &["train="],
        "--set train=: unknown key train: train is a table; set one of its keys, such as train.epochs",
    );
}

#[test]
fn a_required_key_that_is_unset_is_missing() {
    refused(
        &["data.train="],
        r#"run.toml: data.train is missing: add a line such as train = "digits:" under [data]"#,
    );
    refused(
        &["model.hidden="],
        "run.toml: model.hidden is missing: add a line such as hidden = [128] under [model]",
    );
}

#[test]
fn an_empty_string_in_quotes_is_a_value() {
    for set in ["data.test=\"\"", "data.label=''"] {
        let error = with(&[set]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("--set {set}: ")) && error.ends_with("; the string is empty"),
            "{error}"
        );
    }
}
