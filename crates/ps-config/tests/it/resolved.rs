//! Run files that are accepted: which defaults they get, that the resolved file reads back, and what changes
//! the fingerprint.

use ps_config::{Batch, ConfigError, RunConfig, Shape};
use ps_core::{Activation, Head, ScheduleKind};
use ps_data::{ColumnKind, Validation};

const GOOD: &str = r#"seed = 7
[data]
train = "digits:"
validation = 0.1
[model]
kind = "mlp"
hidden = [32, 16]
[train]
epochs = 3
batch = 64
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
schedule = "cosine"
"#;

fn parse(text: &str) -> Result<RunConfig, ConfigError> {
    RunConfig::parse(text, "run.toml", &[])
}

fn with(sets: &[&str]) -> Result<RunConfig, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    RunConfig::parse(GOOD, "run.toml", &sets)
}

#[test]
fn defaults_fill_what_is_not_set() {
    let text = "data.train = 'digits:'\nmodel.kind = 'logistic'\nlearning_rate.initial = 1";
    let run = parse(text).unwrap();
    assert_eq!((run.seed, run.train.epochs, run.train.batch, run.train.leaf), (1, 5, Batch::Of(128), 32));
    assert_eq!((run.train.steps, run.data.validation.clone(), run.data.test.clone()), (None, None, None));
    assert_eq!((run.model.head, run.model.activation), (Head::Logistic, Activation::Relu));
    assert_eq!(run.learning_rate.schedule, Shape::Is(ScheduleKind::Constant));
    assert_eq!(run.optimizer, ps_core::OptimizerConfig::default());
    let small = RunConfig::parse(text, "run.toml", &["train.batch=8".into()]).unwrap();
    assert_eq!(small.train.leaf, 8);
}

#[test]
fn flags_override_the_file_and_the_last_one_wins() {
    let run = with(&[
        "train.batch=256",
        "train.batch = 512",
        "model.hidden=[8]",
        "model.activation=tanh",
        "data.train=csv:a b#c.csv",
        "data.label=-1",
        "data.validation=csv:other.csv",
        "learning_rate.initial=1e-3",
    ])
    .unwrap();
    assert_eq!((run.train.batch, run.train.leaf), (Batch::Of(512), 32));
    assert_eq!((run.model.hidden.clone(), run.model.activation), (vec![8], Activation::Tanh));
    assert_eq!(run.data.train, "csv:a b#c.csv");
    assert_eq!(run.data.label.as_deref(), Some("-1"));
    assert_eq!(run.data.validation, Some(Validation::Source("csv:other.csv".into())));
    assert_eq!(run.learning_rate.initial, 1e-3);
}

#[test]
fn factors_of_the_rate_are_in_the_order_of_their_names() {
    let factors = r#"optimizer.rates={ weights = 0.9, "layers.1" = 0.5, biases = 2, "layers.0.weight" = 0.7, "layers.0" = 0.3 }"#;
    let run = with(&[factors]).unwrap();
    let names: Vec<&str> = run.optimizer.rates.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, ["biases", "layers.0", "layers.0.weight", "layers.1", "weights"]);
}

#[test]
fn the_resolved_run_file_reads_back_as_the_same_run() {
    for sets in [
        &[][..],
        &["data.train='csv:C:\\odd \"path\".csv'", "data.test=csv:t", "data.label=x", "data.missing=mean"],
        &["data.separator=;", "data.decimal=,", "data.names=['a', \"b\"]", "data.drop=['a', 1]"],
        &["data.separator=' '", "data.use=['x']", "data.skip_missing_target=true", "data.header=true"],
        &[
            "data.separator=tab",
            "data.rows=0..80",
            "data.test=digits:",
            "data.test_rows=80..",
            "data.validation_rows=..5",
        ],
        &["data.header=false", "data.missing_values=['-', '', \"a\\nb\"]", "data.columns.0=ignore"],
        &[
            "data.missing_values=[]",
            "data.columns={ 'a b' = 'category', \"c\\nd\" = 'number', '' = 'ignore' }",
        ],
        &[
            "data.columns={ a = { kind = 'number', fill = 'median', scale = 'min-max', clip = [0.01, 0.999999999] }, \
             b = { min_count = 10, fill = 'most-frequent' }, 'c d' = { fill = -1.5, scale = 'none' }, e = {}, \
             f = { kind = 'date', parts = ['weekday', 'days'], format = '%d.%m.%Y' } }",
        ],
        &["data.validation=csv:v", "train.steps=77", "train.leaf=5", "data.standardize=true"],
        &["learning_rate.schedule=polynomial", "learning_rate.power=0.3", "learning_rate.end=1e-9"],
        &["learning_rate.schedule=inverse-time", "learning_rate.every=9", "learning_rate.factor=1e16"],
        &[
            "optimizer.nesterov=true",
            "optimizer.l1=1e-30",
            "optimizer.weight_decay=0.0001",
            "optimizer.clip=3",
        ],
        &["model.head=squared-error", "model.activation=sigmoid", "learning_rate.warmup=100"],
    ] {
        let run = with(sets).unwrap();
        let text = run.to_toml();
        let again = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again, run, "{text}");
        assert_eq!(again.fingerprint(), run.fingerprint());
    }
}

#[test]
fn the_fingerprint_depends_on_numbers_and_not_on_paths() {
    let base = parse(GOOD).unwrap().fingerprint();
    assert_eq!(base.len(), 64);
    for same in [
        &["data.train=csv:elsewhere.csv"][..],
        &["data.test=csv:test.csv"],
        &["data.label=species"],
        &["data.header=true"],
        &["data.names=['a', 'b']"],
        &["data.separator=;"],
        &["data.decimal=,"],
        &["data.drop=['a']"],
        &["data.use=['a']"],
        &["data.rows=5.."],
        &["data.test_rows=5.."],
        &["data.validation_rows=5.."],
        &["data.skip_missing_target=true"],
        &["data.columns.id=ignore"],
        &["data.missing_values=['-']"],
        &["train.leaf=32"],
        &["learning_rate.end=0"],
    ] {
        assert_eq!(with(same).unwrap().fingerprint(), base, "{same:?}");
    }
    assert_eq!(parse(&format!("# a comment\n{GOOD}")).unwrap().fingerprint(), base);
    let mut seen = vec![base];
    for other in [
        &["seed=8"][..],
        &["data.validation=0.2"],
        &["data.validation=csv:v"],
        &["data.standardize=true"],
        &["data.missing=mean"],
        &["model.hidden=[32, 17]"],
        &["model.activation=tanh"],
        &["model.head=logistic"],
        &["train.epochs=4"],
        &["train.batch=65"],
        &["train.leaf=16"],
        &["train.steps=10"],
        &["optimizer.momentum=0.8"],
        &["optimizer.nesterov=true"],
        &["optimizer.weight_decay=0.1"],
        &["optimizer.l1=0.1"],
        &["optimizer.clip=0.1"],
        &["learning_rate.initial=0.06"],
        &["learning_rate.schedule=constant"],
        &["learning_rate.warmup=1"],
        &["learning_rate.end=0.001"],
    ] {
        let fingerprint = with(other).unwrap().fingerprint();
        assert!(!seen.contains(&fingerprint), "{other:?}");
        seen.push(fingerprint);
    }
}

#[test]
fn an_entry_of_a_table_can_be_set_by_itself() {
    let run = with(&[
        "data.columns={ id = 'ignore', size = 'number' }",
        "data.columns.size=category",
        "data.columns.a column.of \"many\" words = ignore",
        "data.columns.\"in quotes\"='number'",
        "optimizer.rates.layers.0.bias=2",
        "optimizer.rates.weights=0.5",
    ])
    .unwrap();
    let columns: Vec<(&str, ColumnKind)> =
        run.data.columns.iter().map(|(name, column)| (name.as_str(), column.kind.unwrap())).collect();
    assert_eq!(
        columns,
        [
            ("a column.of \"many\" words", ColumnKind::Ignore),
            ("id", ColumnKind::Ignore),
            ("in quotes", ColumnKind::Number),
            ("size", ColumnKind::Category),
        ]
    );
    assert_eq!(run.optimizer.rates, [("layers.0.bias".to_string(), 2.0), ("weights".to_string(), 0.5)]);
    let table = parse(&GOOD.replace("[model]", "[data.columns]\nid = \"ignore\"\n[model]")).unwrap();
    assert_eq!(table.data.columns["id"], ColumnKind::Ignore.into());
}

#[test]
fn phases_read_back_and_are_part_of_the_fingerprint() {
    let then = r#"learning_rate.then=[{ from = "2 epochs", initial = 0.02, schedule = "cosine-restarts", every = "10%" },
                  { from = 90, initial = 0.001, warmup = 5 }]"#;
    let pieces = [
        "learning_rate.schedule=piecewise",
        r#"learning_rate.at=[5, "1.5 epochs", "90%"]"#,
        "learning_rate.rates=[1, 2, 3]",
    ];
    let mut fingerprints = vec![with(&[]).unwrap().fingerprint()];
    for sets in [&[then][..], &[&then.replace("90", "91")], &[&then.replace("10%", "11%")], &pieces] {
        let run = with(sets).unwrap_or_else(|error| panic!("{error}"));
        let text = run.to_toml();
        assert_eq!(RunConfig::parse(&text, "resolved.toml", &[]).unwrap(), run, "{text}");
        fingerprints.push(run.fingerprint());
    }
    let count = fingerprints.len();
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), count);
}

#[test]
fn differences_name_the_keys_with_both_values() {
    let base = parse(GOOD).unwrap();
    let told = |sets: &[&str]| -> Vec<String> {
        let other = with(sets).unwrap();
        let tell = |difference: ps_config::Difference| {
            let [a, b] = difference.values.map(|value| value.unwrap_or("-".into()));
            format!("{} {a} {b}{}", difference.key, if difference.is_data_source { " place" } else { "" })
        };
        base.differences(&other).into_iter().map(tell).collect()
    };
    assert_eq!(told(&["learning_rate.end=0"]), [""; 0]);
    assert_eq!(told(&["train.steps=9", "seed=8"]), ["seed 7 8", "train.steps - 9"]);
    assert_eq!(
        told(&["data.train=csv:a", "data.validation=csv:b"]),
        [r#"data.train "digits:" "csv:a" place"#, r#"data.validation 0.1 "csv:b""#]
    );
    // Keys that apply to one of the runs only, and phases.
    assert_eq!(
        told(&["learning_rate.schedule=constant", "learning_rate.then=[{ from = 9, initial = 0.5 }]"]),
        [
            r#"learning_rate.schedule "cosine" "constant""#,
            "learning_rate.end 0.0 -",
            "learning_rate.then.0.from - 9",
            "learning_rate.then.0.initial - 0.5",
            r#"learning_rate.then.0.schedule - "constant""#,
            "learning_rate.then.0.warmup - 0",
        ]
    );
}

#[test]
fn settings_that_depend_on_the_run_length_are_named() {
    let told = |sets: &[&str]| with(sets).unwrap().rate_depends_on_length();
    let cosine = r#"learning_rate.schedule = "cosine" spans the whole run"#;
    assert_eq!(told(&[]), [cosine]);
    assert_eq!(told(&["learning_rate.schedule=constant"]), [""; 0]);
    assert_eq!(
        told(&["learning_rate.warmup=5%"]),
        [cosine, r#"learning_rate.warmup = "5%" is a share of the whole run"#]
    );
    // The first schedule ends where the second begins.
    assert_eq!(told(&["learning_rate.then=[{ from = 9, initial = 0.5 }]"]), [""; 0]);
    assert_eq!(
        told(&[r#"learning_rate.then=[{ from = "50%", initial = 0.5, schedule = "polynomial" }]"#]),
        [
            r#"learning_rate.then.0.from = "50%" is a share of the whole run"#,
            r#"learning_rate.then.0.schedule = "polynomial" spans the whole run"#
        ]
    );
    let pieces =
        ["learning_rate.schedule=piecewise", r#"learning_rate.at=[5, "90%"]"#, "learning_rate.rates=[1, 2]"];
    assert_eq!(told(&pieces), [r#"learning_rate.at = [5, "90%"] is a share of the whole run"#]);
}
