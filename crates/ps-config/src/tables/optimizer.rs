//! The `[optimizer]` table. Settings that only some optimizers have are defined in `ps_core::optim`, next to
//! these optimizers.

use crate::document::{Document, Value as Toml};
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Setting, quoted};
use ps_core::optim::{self, Conflict, Noise, Refusal};
use ps_core::{Optimizer, OptimizerConfig};
use std::sync::LazyLock;

/// The order of the keys, on which fingerprints of runs depend. Settings of optimizers that are not named
/// here come last.
const ORDER: [&str; 15] = [
    "optimizer.kind",
    "optimizer.momentum",
    "optimizer.nesterov",
    "optimizer.weight_decay",
    "optimizer.l1",
    "optimizer.clip",
    "optimizer.clip_norm",
    "optimizer.decay_biases",
    "optimizer.rates",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.epsilon",
    "optimizer.trust",
    "optimizer.noise",
    "optimizer.noise_decay",
];

pub(crate) static FIELDS: LazyLock<Vec<Field<OptimizerConfig>>> = LazyLock::new(|| {
    let mut fields = common();
    fields.extend(settings());
    fields.sort_by_key(|field| ORDER.iter().position(|path| *path == field.key.path).unwrap_or(usize::MAX));
    fields
});

/// Default of `noise_decay`, from the paper that `ps_core::optim` cites.
const NOISE_DECAY: f64 = 0.55;

/// The keys that all optimizers share.
#[rustfmt::skip]
fn common() -> Vec<Field<OptimizerConfig>> {
    vec![
        field!(params.optimizer, "optimizer.kind", Name(Optimizer::NAMES), Value("\"sgd\""), Always,
            "Update rule. `ftrl` supports only models without hidden layers."),
        field!(params.weight_decay, "optimizer.weight_decay", NOT_NEGATIVE_SINGLE, Value("0.0"), Always,
            "L2 penalty: weight_decay · w is added to the gradient; for adamw and lamb, to the step; for \
             ftrl, to the proximal step."),
        field!(params.l1, "optimizer.l1", NOT_NEGATIVE_SINGLE, Value("0.0"), Always,
            "L1 penalty: l1 · sign(w) is added to the gradient; ftrl keeps weights at exactly 0."),
        field!(params.clip, "optimizer.clip", POSITIVE_SINGLE, Described("none"), Always,
            "Clip each element of the mean gradient to [-clip, clip], before weight decay and L1."),
        field!(clip_norm, "optimizer.clip_norm", POSITIVE_SINGLE, Described("none"), Always,
            "Scale the mean gradient down to this Euclidean norm if its norm is larger."),
        Field {
            key: Key {
                path: "optimizer.decay_biases",
                accepts: Flag,
                default: Described("true"),
                used: Always,
                help: "Whether weight_decay and l1 also apply to biases.",
            },
            get: |config, _| if config.decay_biases { None } else { config.decay_biases.write() },
            set: |config, key, value| {
                let value = bool::read(key.accepts, value);
                value.map(|value| config.decay_biases = value).is_some()
            },
        },
        field!(rates, "optimizer.rates", Factors, Described("none"), Always,
            "Factors of the learning rate for groups of parameters: `weights`, `biases`, a layer such as \
             `layers.0`, or a tensor such as `layers.0.bias`. If several groups contain a parameter, their \
             factors are multiplied."),
        Field {
            key: Key {
                path: "optimizer.noise",
                accepts: POSITIVE,
                default: Described("none"),
                used: Always,
                help: "Variance of the Gaussian noise that is added to the mean gradient at the first step.",
            },
            get: |config, _| config.noise?.scale.write(),
            set: |config, key, value| {
                let scale = f64::read(key.accepts, value);
                scale.map(|scale| config.noise = Some(Noise { scale, decay: NOISE_DECAY })).is_some()
            },
        },
        Field {
            key: Key {
                path: "optimizer.noise_decay",
                accepts: NOT_NEGATIVE,
                default: Described(format!("{NOISE_DECAY}").leak()),
                used: Always,
                help: "Decay of the noise: its variance is noise / (1 + step)^noise_decay.",
            },
            get: |config, _| config.noise?.decay.write(),
            set: |config, key, value| {
                let value = f64::read(key.accepts, value);
                // If `noise` itself is not set, `read` refuses this key.
                value.map(|value| config.noise.iter_mut().for_each(|noise| noise.decay = value)).is_some()
            },
        },
    ]
}

/// Returns a key for each setting that only some optimizers have.
fn settings() -> Vec<Field<OptimizerConfig>> {
    let mut found: Vec<(&optim::Setting, Vec<(&'static str, String)>)> = Vec::new();
    for optimizer in Optimizer::all() {
        for (setting, value) in optimizer.settings() {
            let default = match value {
                optim::Value::Flag(flag) => flag.to_string(),
                optim::Value::Number(number) => format!("{number:?}"),
            };
            match found.iter_mut().find(|(known, _)| known.name == setting.name) {
                Some((_, defaults)) => defaults.push((optimizer.name(), default)),
                None => found.push((setting, vec![(optimizer.name(), default)])),
            }
        }
    }
    let leak = |text: String| &*text.leak();
    let field = |(setting, defaults): (&optim::Setting, Vec<(&'static str, String)>)| {
        let usual = defaults.iter().map(|(_, default)| default);
        let usual = usual.max_by_key(|value| defaults.iter().filter(|(_, other)| other == *value).count());
        let usual = usual.expect("a setting is one of an optimizer").clone();
        let others = defaults.iter().filter(|(_, default)| *default != usual);
        let others: Vec<String> =
            others.map(|(name, default)| format!("{name}: {}", default.trim_end_matches(".0"))).collect();
        let key = Key {
            path: leak(format!("optimizer.{}", setting.name)),
            accepts: match setting.accepts {
                optim::Accepts::Flag => Flag,
                optim::Accepts::Number(low, high) => Single(low, high),
            },
            default: match others.is_empty() {
                true => Value(leak(usual)),
                false => Described(leak(format!("{usual}; {}", others.join(", ")))),
            },
            used: When("optimizer.kind", defaults.iter().map(|(name, _)| *name).collect::<Vec<_>>().leak()),
            help: setting.help,
        };
        Field { key, get: get_setting, set: set_setting }
    };
    found.into_iter().map(field).collect()
}

fn name(key: &Key) -> &'static str {
    key.parts().1
}

fn get_setting(config: &OptimizerConfig, key: &Key) -> Option<String> {
    let settings = config.params.optimizer.settings();
    let (_, value) = settings.into_iter().find(|(setting, _)| setting.name == name(key))?;
    match value {
        optim::Value::Flag(flag) => flag.write(),
        optim::Value::Number(number) => number.write(),
    }
}

fn set_setting(config: &mut OptimizerConfig, key: &Key, value: &Toml) -> bool {
    let value = match key.accepts {
        Flag => bool::read(key.accepts, value).map(optim::Value::Flag),
        _ => f32::read(key.accepts, value).map(optim::Value::Number),
    };
    value.map(|value| config.params.optimizer.set(name(key), value)).is_some()
}

impl Setting for Optimizer {
    /// Reads only the name; the optimizer gets its default settings.
    fn read(_: Accepts, value: &Toml) -> Option<Self> {
        match value {
            Toml::Text(name) => Optimizer::all().find(|optimizer| optimizer.name() == name),
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.name()))
    }
}

pub(crate) fn read(document: &Document) -> Result<OptimizerConfig, ConfigError> {
    let mut config = OptimizerConfig::default();
    document.read(&FIELDS, &mut config)?;
    let OptimizerConfig { params, clip_norm, noise, .. } = &config;
    let refuse = |key: &str, why: &str| Err(document.bad_value(key, why.into()));
    if let Err(Refusal { setting, reason }) = params.optimizer.check() {
        return refuse(&format!("optimizer.{setting}"), reason);
    }
    let refusal = match params.clip {
        Some(_) => Some("it cannot be combined with optimizer.clip; remove one of them"),
        None => params.optimizer.conflict(Conflict::ClipNorm),
    };
    if let Some(why) = refusal.filter(|_| clip_norm.is_some()) {
        return refuse("optimizer.clip_norm", why);
    }
    if noise.is_none() && document.has("optimizer.noise_decay") {
        return refuse(
            "optimizer.noise_decay",
            "there is no noise that could decay; set optimizer.noise, for example to 0.01",
        );
    }
    Ok(config)
}
