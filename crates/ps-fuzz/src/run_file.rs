//! Run files with overrides.

use crate::Seed;
use ps_config::RunConfig;

/// The input is the run file, then overrides, separated by zero bytes.
pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let sets: Vec<String> = parts.map(String::from).collect();
    match RunConfig::parse(file, "run.toml", &sets) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(config) => {
            let text = config.to_toml();
            let again = RunConfig::parse(&text, "resolved.toml", &[]);
            let again = again.unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(again, config, "{text}");
            assert_eq!(again.fingerprint(), config.fingerprint());
            for samples in [1, 1000, u32::MAX as usize] {
                if config.check_samples(samples).is_ok() {
                    let plan = config.plan(samples, samples % 3);
                    let Ok(rate) = config.rate(&plan) else { continue };
                    for step in [0, plan.steps / 2, plan.steps - 1] {
                        assert!(rate.at(step) >= 0.0, "the rate of step {step}\n{text}");
                        assert!(plan.step(step).tree().leaves() > 0);
                    }
                }
            }
        }
    }
}

const SMALL: &str =
    "[data]\ntrain = \"digits:\"\n[model]\nkind = \"softmax\"\n[learning_rate]\ninitial = 0.1\n";

const ALL: &str = r#"seed = 3
[data]
train = "csv:train.csv"
test = "csv:test.csv"
validation = 0.1
label = -1
standardize = true
missing = "mean"
[model]
kind = "mlp"
hidden = [512, 256]
activation = "tanh"
head = "squared-error"
[train]
epochs = 3
batch = 64
leaf = 16
steps = 1000
[optimizer]
kind = "sgd"
momentum = 0.9
nesterov = true
weight_decay = 1e-4
l1 = 1e-6
clip = 1.0
[learning_rate]
initial = 0.05
schedule = "polynomial"
warmup = 10
power = 2.0
end = 1e-5
[wire]
weights = "bf16"
"#;

pub(crate) fn seeds() -> Vec<Seed> {
    let with = |sets: &[&str]| format!("{SMALL}\0{}", sets.join("\0")).into_bytes();
    let periodic = ALL
        .replace("\"polynomial\"", "\"inverse-time\"")
        .replace("power = 2.0\nend = 1e-5", "every = 5\nfactor = 0.5");
    vec![
        ("small", SMALL.into()),
        ("all", ALL.into()),
        ("periodic", periodic.into()),
        (
            "sets",
            with(&[
                "train.batch=256",
                "model.kind=\"mlp\"",
                "model.hidden=[32]",
                "learning_rate.schedule=cosine",
            ]),
        ),
        ("set-to-text", with(&["data.train=csv:a b.csv", "data.validation=libsvm:v"])),
        (
            "dialect",
            with(&[
                "data.separator=\"\\t\"",
                "data.decimal=,",
                "data.names=['a', 'b']",
                "data.drop=['a']",
                "data.rows=..80",
                "data.skip_missing_target=true",
            ]),
        ),
        ("unknown", "[model]\nkin = \"softmax\"\n".into()),
        (
            "inline",
            "data = { train = 'digits:10' }\nmodel.kind = 'linear'\nlearning_rate = { initial = 0x10 }\n"
                .into(),
        ),
    ]
}
