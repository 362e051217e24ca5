//! Every key of the run file: its name, values, default, help, and which runs it applies to.
//!
//! The parser, the nearest-key suggestions, the resolved run file and the README's table are all made from
//! [`KEYS`].

use crate::run::{GuardMode, Shape};
use ps_core::model::ModelKind;
use ps_core::optim::{self, Setting};
use ps_core::{Activation, Head, Optimizer, Precision, ScheduleKind};
use ps_data::{ColumnKind, Missing};
use std::fmt;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::LazyLock;

/// One key of the run file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its table and name with a dot between, as `--set` takes it; the name alone at the top level.
    pub path: &'static str,
    /// What it may be set to.
    pub accepts: Accepts,
    /// What holds where it is not set.
    pub default: Fallback,
    /// Which runs it applies to; elsewhere it is refused.
    pub used: Use,
    /// What it means.
    pub help: &'static str,
}

/// What a key may be set to.
#[derive(Clone, Copy, Debug)]
pub enum Accepts {
    /// An integer from the first to the second, both included.
    Integer(u64, u64),
    /// A finite number between bounds, rounded to binary32.
    Single(Bound<f64>, Bound<f64>),
    /// A finite number between bounds.
    Double(Bound<f64>, Bound<f64>),
    /// `true` or `false`.
    Flag,
    /// A text that is not empty.
    Text,
    /// One of these texts.
    Name(&'static [&'static str]),
    /// A list of layer widths.
    Widths,
    /// A number of steps, at least so many, or a text of epochs or a share of the run.
    Time(u64),
    /// A list of those.
    Times,
    /// A list of numbers above 0.
    Rates,
    /// A table of names of parameters, each with a number of at least 0.
    Factors,
    /// A table of names of columns, each with what it is.
    Columns,
    /// A list of texts, which may be empty.
    Texts,
    /// An integer from 1 to that, or the text `full`.
    Batch(u64),
    /// Tables of their own, each with keys of the same table.
    Phases,
    /// A number above 0 and below 1, or a text.
    ShareOrText,
    /// A text or an integer.
    TextOrInteger,
}

/// What holds where a key is not set.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// Nothing: the key must be set, for example to this.
    Required(&'static str),
    /// This, in TOML.
    Value(&'static str),
    /// What these words say.
    Described(&'static str),
}

/// Which runs a key applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// All.
    Always,
    /// Those in which that key has one of these values.
    When(&'static str, &'static [&'static str]),
    /// Phases that follow a table, and not the table itself.
    InPhases,
    /// The table itself, and not the phases that follow it.
    BeforePhases,
}

/// Values with their names in the run file.
pub(crate) type Names<T, const N: usize> = [(&'static str, T); N];

pub(crate) const MODEL_KINDS: Names<ModelKind, 5> = [
    ("linear", ModelKind::Linear),
    ("logistic", ModelKind::Logistic),
    ("softmax", ModelKind::Softmax),
    ("poisson", ModelKind::Poisson),
    ("mlp", ModelKind::Mlp),
];
pub(crate) const ACTIVATIONS: Names<Activation, 3> =
    [("relu", Activation::Relu), ("tanh", Activation::Tanh), ("sigmoid", Activation::Sigmoid)];
pub(crate) const HEADS: Names<Head, 4> = [
    ("squared-error", Head::SquaredError),
    ("logistic", Head::Logistic),
    ("softmax", Head::Softmax),
    ("poisson", Head::Poisson),
];
pub(crate) const GUARDS: Names<GuardMode, 3> =
    [("off", GuardMode::Off), ("warn", GuardMode::Warn), ("recover", GuardMode::Recover)];
pub(crate) const THRESHOLDS: Names<bool, 2> = [("relative", false), ("absolute", true)];
pub(crate) const SCHEDULES: Names<Shape, 11> = [
    ("constant", Shape::Is(ScheduleKind::Constant)),
    ("piecewise", Shape::Pieces),
    ("step", Shape::Is(ScheduleKind::Step)),
    ("exponential", Shape::Is(ScheduleKind::Exponential)),
    ("inverse-time", Shape::Is(ScheduleKind::InverseTime)),
    ("polynomial", Shape::Is(ScheduleKind::Polynomial)),
    ("cosine", Shape::Is(ScheduleKind::Cosine)),
    ("cosine-restarts", Shape::Is(ScheduleKind::CosineRestarts)),
    ("one-cycle", Shape::Is(ScheduleKind::OneCycle)),
    ("plateau", Shape::Is(ScheduleKind::Plateau)),
    ("armijo", Shape::Armijo),
];
pub(crate) const PRECISIONS: Names<Precision, 2> = [("f32", Precision::F32), ("bf16", Precision::Bf16)];
pub(crate) const MISSING: Names<Missing, 2> = [("refuse", Missing::Refuse), ("mean", Missing::Mean)];
pub(crate) const COLUMN_KINDS: Names<ColumnKind, 3> =
    [("number", ColumnKind::Number), ("category", ColumnKind::Category), ("ignore", ColumnKind::Ignore)];

const fn names<T, const N: usize>(pairs: &Names<T, N>) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = pairs[index].0;
        index += 1;
    }
    names
}

const MLP: Use = When("model.kind", &["mlp"]);
const SCHEDULE: &str = "learning_rate.schedule";
const PERIODIC: Use = When(SCHEDULE, &["step", "exponential", "inverse-time", "cosine-restarts"]);
const FACTORED: Use = When(SCHEDULE, &["step", "exponential", "inverse-time", "plateau"]);
const PLATEAU: Use = When(SCHEDULE, &["plateau"]);
const ARMIJO: Use = When(SCHEDULE, &["armijo"]);
const RECOVERS: Use = When("guard.mode", &["recover"]);
const BETWEEN: Accepts = Double(Excluded(0.0), Excluded(1.0));
const PIECEWISE: Use = When(SCHEDULE, &["piecewise"]);
/// What TOML's integers reach.
const MOST: u64 = i64::MAX as u64;
/// Leaves are numbered with 32 bits.
const MOST_SAMPLES: u64 = u32::MAX as u64;
const POSITIVE: (Bound<f64>, Bound<f64>) = (Excluded(0.0), Unbounded);
const NOT_NEGATIVE: (Bound<f64>, Bound<f64>) = (Included(0.0), Unbounded);

const fn key(path: &'static str, accepts: Accepts, default: Fallback, used: Use, help: &'static str) -> Key {
    Key { path, accepts, default, used, help }
}

use Accepts::{
    Batch, Columns, Double, Factors, Flag, Integer, Name, Phases, Rates, ShareOrText, Single, Text,
    TextOrInteger, Texts, Time, Times, Widths,
};
use Fallback::{Described, Required, Value};
use Use::{Always, BeforePhases, InPhases, When};

/// All keys, in the order of the resolved run file.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut optimizer = OPTIMIZER.to_vec();
    optimizer.extend(settings());
    // What the order does not name comes last.
    optimizer.sort_by_key(|key| {
        OPTIMIZER_ORDER.iter().position(|name| *name == key.parts().1).unwrap_or(usize::MAX)
    });
    [&BEFORE_OPTIMIZER[..], &optimizer, &AFTER_OPTIMIZER].concat()
});

/// The order of keys under `[optimizer]`: fingerprints of runs depend on it.
const OPTIMIZER_ORDER: [&str; 15] = [
    "kind",
    "momentum",
    "nesterov",
    "weight_decay",
    "l1",
    "clip",
    "clip_norm",
    "decay_biases",
    "rates",
    "beta1",
    "beta2",
    "epsilon",
    "trust",
    "noise",
    "noise_decay",
];

/// A key for each setting that some optimizers have.
fn settings() -> Vec<Key> {
    let mut found: Vec<(&Setting, Vec<(&'static str, String)>)> = Vec::new();
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
    let key = |(setting, defaults): (&Setting, Vec<(&'static str, String)>)| {
        let usual = defaults.iter().map(|(_, default)| default);
        let usual = usual.max_by_key(|value| defaults.iter().filter(|(_, other)| other == *value).count());
        let usual = usual.expect("a setting is one of an optimizer").clone();
        let others = defaults.iter().filter(|(_, default)| *default != usual);
        let others: Vec<String> =
            others.map(|(name, default)| format!("of {name} {}", default.trim_end_matches(".0"))).collect();
        Key {
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
        }
    };
    found.into_iter().map(key).collect()
}

#[rustfmt::skip]
const BEFORE_OPTIMIZER: [Key; 22] = [
    key("seed", Integer(0, MOST), Value("1"), Always,
        "Seed of the sample order, the initial weights and the validation share."),
    key("data.train", Text, Required("\"digits:\""), Always,
        "Training source: `digits:`, `digits:COUNT`, `idx:IMAGES,LABELS`, `csv:PATH` or `libsvm:PATH`; `csv:-` and \
         `libsvm:-` read standard input. Relative paths start at the run file's folder."),
    key("data.test", Text, Described("none"), Always,
        "Source that is measured on at the end."),
    key("data.validation", ShareOrText, Described("none"), Always,
        "Share of the training source that is set apart and measured on after each epoch, or a source of its own."),
    key("data.validation_seed", Integer(0, MOST), Described("seed"), Always,
        "Seed of the validation share, for runs of different seeds that are to be validated on the same samples."),
    key("data.label", TextOrInteger, Described("the last column"), Always,
        "Label column of a CSV source: its name, or its number from 0 (negative numbers count from the end)."),
    key("data.header", Flag, Described("decided by the first row"), Always,
        "Whether the first row of a CSV source names its columns. If unset, it does if no cell of it is a number or missing (one may \
         be empty) and a column below it holds only numbers; otherwise the source is refused."),
    key("data.columns", Columns, Described("decided by the cells"), Always,
        "What each CSV column is: a number, a category (a feature of 0 or 1 for each text), or ignored. Columns without a header are \
         called by their number from 0."),
    key("data.missing_values", Texts, Described("`?`, NaN and the markers of pandas"), Always,
        "CSV cells that count as missing besides the empty cell."),
    key("data.standardize", Flag, Value("false"), Always,
        "Shift and scale each feature to mean 0 and standard deviation 1 of the training part."),
    key("data.missing", Name(&names(&MISSING)), Value("\"refuse\""), Always,
        "What becomes of missing CSV cells: an error, or the column's mean over the training part."),
    key("model.kind", Name(&names(&MODEL_KINDS)), Required("\"softmax\""), Always,
        "Linear, logistic, softmax or Poisson regression, or a multilayer perceptron."),
    key("model.hidden", Widths, Required("[128]"), MLP,
        "Widths of the hidden layers, first to last."),
    key("model.activation", Name(&names(&ACTIVATIONS)), Value("\"relu\""), MLP,
        "Nonlinearity after each hidden layer."),
    key("model.head", Name(&names(&HEADS)), Value("\"softmax\""), MLP,
        "What the outputs mean, and so the loss."),
    key("train.epochs", Integer(1, u32::MAX as u64), Value("5"), Always,
        "Passes over the training samples."),
    key("train.batch", Batch(MOST_SAMPLES), Value("128"), Always,
        "Samples of a step; \"full\" is the whole training part."),
    key("train.leaf", Integer(1, MOST_SAMPLES), Described("32, or the batch where that is smaller"), Always,
        "Samples of a leaf, the unit in which work is shared out. It decides the order of summation, so it is part of the result."),
    key("train.steps", Integer(1, MOST), Described("none"), Always,
        "Stop after this many steps even if the epochs are not over. The learning rate is scheduled over the steps that are made."),
    key("train.early_stopping", Integer(1, MOST), Described("none"), Always,
        "End the run when the validation loss was no better than its best in so many validations in a row, and give the best \
         weights; needs data.validation."),
    key("train.min_delta", Double(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Described("0"), Always,
        "By how much a validation loss must be below the best to be better, for early_stopping."),
    key("train.probe_every", Time(1), Described("none"), Always,
        "Look closely at a step this often: how much the loss of its batch was to fall to first order, and how much it fell. \
         It costs a forward pass."),
];

#[rustfmt::skip]
const OPTIMIZER: [Key; 9] = [
    key("optimizer.kind", Name(Optimizer::NAMES), Value("\"sgd\""), Always,
        "How a step follows the gradient. Ftrl is for models without hidden layers."),
    key("optimizer.weight_decay", Single(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Value("0.0"), Always,
        "L2: this times the weight is added to its gradient; of adamw and lamb to the step, of ftrl to its proximal step."),
    key("optimizer.l1", Single(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Value("0.0"), Always,
        "L1: this times the weight's sign is added to its gradient; ftrl leaves weights at 0 by it."),
    key("optimizer.clip", Single(POSITIVE.0, POSITIVE.1), Described("none"), Always,
        "Each element of the mean gradient is cut to ± this, before weight decay and L1."),
    key("optimizer.clip_norm", Single(POSITIVE.0, POSITIVE.1), Described("none"), Always,
        "The mean gradient is scaled down to this Euclidean norm where it is longer."),
    key("optimizer.decay_biases", Flag, Described("true"), Always,
        "Whether weight_decay and l1 hold for biases, too."),
    key("optimizer.rates", Factors, Described("none"), Always,
        "What the rate of some parameters is multiplied by: of `weights`, `biases`, a layer such as `layers.0`, or a tensor such \
         as `layers.0.bias`. Where several names fit, the factors are multiplied."),
    key("optimizer.noise", Double(POSITIVE.0, POSITIVE.1), Described("none"), Always,
        "Variance of normal noise on the mean gradient at the first step."),
    key("optimizer.noise_decay", Double(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Described("0.55"), Always,
        "How fast the noise goes: its variance is noise / (1 + step)^this."),
];

#[rustfmt::skip]
const AFTER_OPTIMIZER: [Key; 28] = [
    key("learning_rate.from", Time(1), Required("\"50%\""), InPhases,
        "When this phase begins; it ends where the next one begins, and its schedule counts from here."),
    key("learning_rate.initial", Double(POSITIVE.0, POSITIVE.1), Required("0.1"), Always,
        "The rate that the schedule starts from; of one-cycle, its peak."),
    key("learning_rate.schedule", Name(&names(&SCHEDULES)), Value("\"constant\""), Always,
        "How the rate changes with the step."),
    key("learning_rate.for_batch", Integer(1, MOST_SAMPLES), Described("train.batch"), BeforePhases,
        "The batch that the rates are meant for: each is multiplied by train.batch / this (Goyal et al. 2017)."),
    key("learning_rate.warmup", Time(0), Value("0"), Always,
        "Time in which the rate rises linearly before the schedule starts."),
    key("learning_rate.at", Times, Required("[\"30%\", \"60%\"]"), PIECEWISE,
        "When the rate changes, in order."),
    key("learning_rate.rates", Rates, Required("[0.01, 0.001]"), PIECEWISE,
        "What it is from each of these times on."),
    key("learning_rate.every", Time(1), Required("1000"), PERIODIC,
        "Period; of cosine-restarts, the first one."),
    key("learning_rate.stretch", Integer(1, 1 << 20), Value("1"), When(SCHEDULE, &["cosine-restarts"]),
        "How many times as long as the one before each period is."),
    key("learning_rate.factor", Double(POSITIVE.0, POSITIVE.1), Required("0.5"), FACTORED,
        "What the rate is multiplied by each period, or at each plateau; for inverse-time, the rate is initial / (1 + factor · \
         periods)."),
    key("learning_rate.patience", Integer(0, MOST), Value("10"), PLATEAU,
        "Validations no better than the best that are borne; one more in a row lowers the rate."),
    key("learning_rate.threshold", Double(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Value("0.0001"), PLATEAU,
        "By how much a validation loss must be below the best to be better."),
    key("learning_rate.threshold_mode", Name(&names(&THRESHOLDS)), Value("\"relative\""), PLATEAU,
        "Whether `threshold` is a share of the magnitude of the best loss, or an absolute difference."),
    key("learning_rate.cooldown", Integer(0, MOST), Value("0"), PLATEAU,
        "Validations after the rate was lowered that do not count."),
    key("learning_rate.sufficient", BETWEEN, Value("0.0001"), ARMIJO,
        "A step is taken if the loss falls by at least this share of what is predicted to first order."),
    key("learning_rate.shrink", BETWEEN, Value("0.5"), ARMIJO,
        "What the rate is multiplied by when a step was not taken."),
    key("learning_rate.grow", Double(Included(1.0), Unbounded), Value("2.0"), ARMIJO,
        "What it is multiplied by when one was."),
    key("learning_rate.tolerance", Double(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Value("1e-9"), ARMIJO,
        "The run is over when a step lowers the loss by no more than this, or none is predicted to."),
    key("learning_rate.gradient_tolerance", Double(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Value("1e-6"), ARMIJO,
        "Or when the norm of the gradient is no more than this."),
    key("learning_rate.power", Double(POSITIVE.0, POSITIVE.1), Value("1.0"), When(SCHEDULE, &["polynomial"]),
        "Exponent of the remaining share of the run."),
    key("learning_rate.end", Double(NOT_NEGATIVE.0, NOT_NEGATIVE.1), Value("0.0"),
        When(SCHEDULE, &["polynomial", "cosine", "cosine-restarts", "one-cycle", "plateau"]),
        "The rate at the end of the run, of the phase, or of each period; the least of plateau."),
    key("learning_rate.then", Phases, Described("none"), BeforePhases,
        "Schedules that follow, each a table `[[learning_rate.then]]` with `from` and the keys of this one."),
    key("guard.mode", Name(&names(&GUARDS)), Value("\"off\""), Always,
        "What happens when the loss explodes or is no number: the run goes on or fails, says so, or goes back to the last good \
         weights and lowers the rate."),
    key("guard.rise", Double(Excluded(1.0), Unbounded), Value("3.0"), When("guard.mode", &["warn", "recover"]),
        "The loss has exploded when its running mean exceeds the best mean by more than (rise - 1) times the magnitude of that, or \
         of a tenth of the first loss if that is larger."),
    key("guard.factor", BETWEEN, Value("0.5"), RECOVERS,
        "What the rate is multiplied by."),
    key("guard.retries", Integer(1, 1000), Value("10"), RECOVERS,
        "How often that is done at most."),
    key("guard.every", Time(1), Value("100"), RECOVERS,
        "How often the weights are kept to go back to."),
    key("wire.weights", Name(&names(&PRECISIONS)), Value("\"f32\""), Always,
        "Precision of the weights that gradients are computed at; bf16 halves their bytes on the wire. The weights \
         themselves are kept in f32, and every mode computes at the same rounded ones."),
];

impl Key {
    /// The key called `path`, if there is one.
    pub fn find(path: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// Its table (empty at the top level) and its name there.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integer(low, MOST) => write!(f, "an integer of at least {low}"),
            Integer(low, high) => write!(f, "an integer from {low} to {high}"),
            Single(low, high) | Double(low, high) => match (low, high) {
                (Included(low), Excluded(high)) => write!(f, "a number of at least {low} and below {high}"),
                (Excluded(low), Excluded(high)) => write!(f, "a number above {low} and below {high}"),
                (Excluded(low), _) => write!(f, "a finite number above {low}"),
                (Included(low), _) => write!(f, "a finite number of at least {low}"),
                (Unbounded, _) => write!(f, "a finite number"),
            },
            Flag => write!(f, "true or false"),
            Text => write!(f, "a text in quotes"),
            Name(names) => {
                for (index, name) in names.iter().enumerate() {
                    let between = match index {
                        0 => "",
                        _ if index + 1 == names.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{between}\"{name}\"")?;
                }
                Ok(())
            }
            Widths => write!(f, "a list of integers from 1 to {MOST_WIDTH}, such as [512, 256]"),
            Time(low) => {
                write!(
                    f,
                    "a number of steps of at least {low}, or a text such as \"2 epochs\" or \"5%\" of the run"
                )
            }
            Times => write!(f, "a list of such times, such as [1000, \"3 epochs\", \"90%\"]"),
            Rates => write!(f, "a list of numbers above 0, such as [0.01, 0.001]"),
            Factors => {
                write!(f, "a table of numbers above 0, such as {{ biases = 2.0, \"layers.0\" = 0.1 }}")
            }
            Columns => write!(
                f,
                "a table of columns, each \"number\", \"category\" or \"ignore\", such as {{ id = \"ignore\" }}"
            ),
            Texts => write!(f, "a list of texts, such as [\"NA\", \"-\"]"),
            Batch(most) => write!(f, "an integer from 1 to {most}, or \"full\""),
            Phases => write!(f, "tables of their own, [[learning_rate.then]]"),
            ShareOrText => write!(f, "a number above 0 and below 1, or a source in quotes"),
            TextOrInteger => write!(f, "a column's name in quotes or its number"),
        }
    }
}

/// Beyond this a layer's weights would not fit any machine's memory.
pub(crate) const MOST_WIDTH: u64 = 1_000_000;

/// The README's table of all keys, in Markdown.
pub fn reference_table() -> String {
    let mut table = String::from("| key | value | default | applies to | meaning |\n|---|---|---|---|---|\n");
    for key in KEYS.iter() {
        let accepts = match key.accepts {
            Text => "a text".to_string(),
            Integer(low, MOST_SAMPLES) => format!("an integer of at least {low}"),
            other => other.to_string(),
        };
        let default = match key.default {
            Required(_) => "required".to_string(),
            Value(text) => format!("`{text}`"),
            Described(words) => words.to_string(),
        };
        let used = match key.used {
            Always | BeforePhases => "all".to_string(),
            InPhases => "phases (`then`)".to_string(),
            When(other, values) => {
                format!("{} {}", Key::find(other).map_or(other, |key| key.parts().1), values.join(", "))
            }
        };
        table += &format!("| `{}` | {accepts} | {default} | {used} | {} |\n", key.path, key.help);
    }
    table
}
