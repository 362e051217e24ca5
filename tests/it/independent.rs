//! Compares the reference trainer with `independent/downhill.c`, a program that was written from
//! `docs/numerics.md` alone. Both must give the same SHA-256 of the weights and the same loss, to the last
//! bit. Without a C compiler, the test prints a note and passes.

use crate::generated::{Targets, table};
use ps_core::control::{Descent, EarlyStopping, Guard};
use ps_core::layer::KINDS;
use ps_core::model::chain;
use ps_core::optim::{Adagrad, Adam, AdamW, Conflict, Ftrl, Lamb, Lars, Noise, RmsProp, Sgd, Value};
use ps_core::{
    Activation, Control, ControlConfig, Gradients, Head, Kernel, LayerSpec, LearningRate, Model,
    ModelOptimizer, Optimizer, OptimizerConfig, OptimizerParams, Precision, Samples, ScheduleKind,
    StepReport, Trainer, reference, weights_hash,
};
use ps_data::{DataConfig, Missing, NoProgress, Task, Validation};
use ps_plan::BatchPlan;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone)]
struct Run {
    name: String,
    /// A file in the folder of generated data, or an absolute path; for IDX files, that of the images.
    file: PathBuf,
    label: &'static str,
    head: Head,
    hidden: Vec<usize>,
    activation: Activation,
    /// Hidden layers that replace `hidden` and `activation`.
    layers: Vec<LayerSpec>,
    seed: u64,
    epochs: u32,
    steps: Option<u64>,
    batch: usize,
    leaf: usize,
    validation: Option<f64>,
    standardize: bool,
    missing: Missing,
    weights: Precision,
    optimizer: OptimizerConfig,
    control: ControlConfig,
    rate: LearningRate,
}

const HEADS: [(Head, &str, &str); 4] = [
    (Head::SquaredError, "squared-error", "value.csv"),
    (Head::Logistic, "logistic", "binary.csv"),
    (Head::Softmax, "softmax", "classes.csv"),
    (Head::Poisson, "poisson", "count.csv"),
];
const ACTIVATIONS: [(Activation, &str); 3] =
    [(Activation::Relu, "relu"), (Activation::Tanh, "tanh"), (Activation::Sigmoid, "sigmoid")];
const SCHEDULES: [(ScheduleKind, &str); 9] = [
    (ScheduleKind::Constant, "constant"),
    (ScheduleKind::Step, "step"),
    (ScheduleKind::Exponential, "exponential"),
    (ScheduleKind::InverseTime, "inverse-time"),
    (ScheduleKind::Polynomial, "polynomial"),
    (ScheduleKind::Cosine, "cosine"),
    (ScheduleKind::CosineRestarts, "cosine-restarts"),
    (ScheduleKind::OneCycle, "one-cycle"),
    // Without a validation part, the rate is constant.
    (ScheduleKind::Plateau, "plateau"),
];

impl Run {
    fn new(name: impl Into<String>, head: Head) -> Self {
        let file = HEADS.iter().find(|(other, ..)| *other == head).unwrap().2;
        Run {
            name: name.into(),
            file: file.into(),
            label: "label",
            head,
            hidden: Vec::new(),
            activation: Activation::Relu,
            layers: Vec::new(),
            seed: 1,
            epochs: 3,
            steps: None,
            batch: 32,
            leaf: 8,
            validation: None,
            standardize: false,
            missing: Missing::Refuse,
            weights: Precision::F32,
            optimizer: OptimizerConfig::default(),
            control: ControlConfig::default(),
            rate: LearningRate::constant(0.1),
        }
    }

    fn format(&self) -> &'static str {
        match self.file.extension().and_then(|end| end.to_str()) {
            Some("csv") => "csv",
            Some("idx") => "idx",
            _ => "libsvm",
        }
    }

    /// Returns the result of the Rust program, in the format of the C program.
    fn in_rust(&self, folder: &Path) -> String {
        let file = folder.join(&self.file);
        let source = match self.format() {
            "idx" => format!("idx:{},{}", file.display(), labels_of(&file).display()),
            format => format!("{format}:{}", file.display()),
        };
        let config = DataConfig {
            label: source.starts_with("csv:").then(|| self.label.into()),
            validation: self.validation.map(Validation::Share),
            standardize: self.standardize,
            missing: self.missing,
            ..DataConfig::new(source)
        };
        let task = match self.head {
            Head::SquaredError => Task::Regression,
            Head::Logistic => Task::Binary,
            Head::Softmax => Task::Classes,
            Head::Poisson => Task::Count,
        };
        let data = ps_data::load(&config, task, self.seed, folder, &NoProgress).unwrap();
        let (train, classes) = (&data.train, data.class_names.len());
        let layers = [&chain(&self.hidden, self.activation)[..], &self.layers].concat();
        let model =
            Model::of_layers(train.features(), &layers, self.head, classes).with_precision(self.weights);
        let samples = data.validation.as_ref().map_or(0, |part| part.len());
        let plan = BatchPlan::new(
            self.seed,
            train.len(),
            self.batch.min(train.len()),
            self.leaf,
            self.epochs,
            self.steps,
        );
        let plan = plan.watching(samples, 0);
        let rate = LearningRate { steps: plan.steps, ..self.rate };
        let (mut loss, mut events) = (0.0, 0);
        let optimizer = ModelOptimizer::new(self.optimizer.clone(), &model, self.seed);
        let trainer = Trainer::controlled(&model, Control::new(self.control.clone(), optimizer, plan, rate));
        let validation = data.validation.as_ref().map(|part| part as &dyn Samples);
        let mut say = |report: &StepReport, _: &[f32]| {
            loss = report.metric_sums.loss;
            events += report.events.len();
        };
        let trained = reference::run(&model, trainer, train, validation, &mut say);
        let mut trainer = match trained {
            Ok(trainer) => trainer,
            Err(diverged) => return format!("diverged at step {}\n", diverged.step),
        };
        let seen = validation
            .map(|part| reference::evaluate(&model, &model.precision().round(trainer.weights()), part));
        events += usize::from(trainer.close(seen.as_ref()).is_some());
        // The Armijo descent reports no events while it runs.
        let watches = self.control.guard.is_some()
            || self.control.early_stopping.is_some()
            || (rate.schedule == ScheduleKind::Plateau && validation.is_some());
        assert!(!watches || events > 0, "{}: nothing was decided", self.name);
        let weights = trainer.weights().to_vec();
        let mut lines = format!("loss {loss:?}\n");
        if let Some(split) = &data.validation {
            let metric_sums = Gradients::new(model, plan, Kernel::detect()).evaluate(&weights, split);
            lines += &format!(
                "validation {:?} {} of {}\n",
                metric_sums.loss, metric_sums.correct, metric_sums.samples
            );
        }
        lines + &weights_hash(&weights) + "\n"
    }

    /// Returns the result of the C program.
    fn in_c(&self, program: &Path, folder: &Path) -> String {
        let name_of = |list: &[(Head, &'static str, &str)]| {
            list.iter().find(|(head, ..)| *head == self.head).unwrap().1
        };
        let activation = ACTIVATIONS.iter().find(|(kind, _)| *kind == self.activation).unwrap().1;
        let schedule = SCHEDULES.iter().find(|(kind, _)| *kind == self.rate.schedule).unwrap().1;
        let file = folder.join(&self.file);
        let hidden: Vec<String> = self.hidden.iter().map(usize::to_string).collect();
        let mut arguments = match self.format() {
            "idx" => {
                vec![format!("images={}", file.display()), format!("labels={}", labels_of(&file).display())]
            }
            format => vec![format!("{format}={}", file.display()), format!("label={}", self.label)],
        };
        let (params, rate) = (self.optimizer.params, self.rate);
        arguments.extend([
            format!("head={}", name_of(&HEADS)),
            format!("hidden={}", hidden.join(",")),
            format!("activation={activation}"),
            format!("layers={}", self.layers.iter().map(layer_in_c).collect::<Vec<_>>().join(",")),
            format!("seed={}", self.seed),
            format!("epochs={}", self.epochs),
            format!("steps={}", self.steps.unwrap_or(0)),
            format!("batch={}", self.batch),
            format!("leaf={}", self.leaf),
            format!("validation={:?}", self.validation.unwrap_or(0.0)),
            format!("standardize={}", self.standardize),
            format!("missing={}", if self.missing == Missing::Mean { "mean" } else { "refuse" }),
            format!("weights={}", if self.weights == Precision::Bf16 { "bf16" } else { "f32" }),
            // Every binary32 is a binary64, whose decimal form is read back without loss.
            format!("weight_decay={:?}", f64::from(params.weight_decay)),
            format!("l1={:?}", f64::from(params.l1)),
            format!("clip={:?}", f64::from(params.clip.unwrap_or(0.0))),
            format!("initial={:?}", rate.initial),
            format!("schedule={schedule}"),
            format!("warmup={}", rate.warmup),
            format!("every={}", rate.every),
            format!("stretch={}", rate.stretch),
            format!("factor={:?}", rate.factor),
            format!("power={:?}", rate.power),
            format!("end={:?}", rate.end),
        ]);
        let single = |value: f32| f64::from(value);
        arguments.extend(params.optimizer.settings().into_iter().map(|(setting, value)| match value {
            Value::Flag(flag) => format!("{}={flag}", setting.name),
            Value::Number(number) => format!("{}={:?}", setting.name, single(number)),
        }));
        arguments.extend([
            format!("kind={}", params.optimizer.name()),
            format!("decay_biases={}", self.optimizer.decay_biases),
            format!("clip_norm={:?}", single(self.optimizer.clip_norm.unwrap_or(0.0))),
            format!("patience={}", rate.patience),
            format!("threshold={:?}", rate.threshold),
            format!("absolute={}", rate.is_absolute),
            format!("cooldown={}", rate.cooldown),
        ]);
        arguments.extend(
            self.optimizer.rates.iter().map(|(name, rate)| format!("rates.{name}={:?}", single(*rate))),
        );
        if let Some(Noise { scale, decay }) = self.optimizer.noise {
            arguments.extend([format!("noise={scale:?}"), format!("noise_decay={decay:?}")]);
        }
        if let Some(EarlyStopping { patience, min_delta }) = self.control.early_stopping {
            arguments.extend([format!("early_stopping={patience}"), format!("min_delta={min_delta:?}")]);
        }
        if let Some(Guard { can_recover, factor, retries, rise, every }) = self.control.guard {
            arguments.extend([
                format!("guard={}", if can_recover { "recover" } else { "warn" }),
                format!("guard_factor={factor:?}"),
                format!("guard_every={every}"),
                format!("retries={retries}"),
                format!("rise={rise:?}"),
            ]);
        }
        if let Some(Descent { sufficient, shrink, grow, tolerance, gradient_tolerance }) =
            self.control.descent
        {
            // If a setting occurs twice, the first one counts.
            arguments.insert(0, "schedule=armijo".into());
            arguments.extend([
                format!("sufficient={sufficient:?}"),
                format!("shrink={shrink:?}"),
                format!("grow={grow:?}"),
                format!("tolerance={tolerance:?}"),
                format!("gradient_tolerance={gradient_tolerance:?}"),
            ]);
        }
        let output = Command::new(program).args(&arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        // Losses are compared as numbers, because the two languages format the same binary64 differently.
        let number = |word: &str| match word.parse::<f64>() {
            Ok(value) => format!("{value:?}"),
            Err(_) => word.to_string(),
        };
        text.lines()
            .map(|line| match line.split_once(' ') {
                Some((what, rest)) => {
                    let words: Vec<String> = rest
                        .split(' ')
                        .enumerate()
                        .map(|(index, word)| if index == 0 { number(word) } else { word.to_string() })
                        .collect();
                    format!("{what} {}\n", words.join(" "))
                }
                None => format!("{line}\n"),
            })
            .collect()
    }
}

fn labels_of(images: &Path) -> PathBuf {
    images.with_file_name("labels.idx")
}

/// Compiles the C program; `None` if there is no compiler.
pub(crate) fn compile(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("independent/downhill.c");
    let program = folder.join("downhill");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    // fmaf() rounds once, with or without the instruction for it; the instruction makes the program faster.
    #[cfg(target_arch = "x86_64")]
    let fma: &[&[&str]] = if is_x86_feature_detected!("fma") { &[&["-mfma"], &[]] } else { &[&[]] };
    #[cfg(not(target_arch = "x86_64"))]
    let fma: &[&[&str]] = &[&[]];
    let mut errors = String::new();
    for flags in fma {
        let output = Command::new(&compiler)
            // Contraction would fuse products and sums that docs/numerics.md rounds separately.
            .args(["-O2", "-std=c11", "-ffp-contract=off", "-Wall", "-Wextra"])
            .args(*flags)
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .arg("-lm")
            .output();
        match output {
            Ok(output) if output.status.success() => return Some(program),
            Ok(output) => errors = String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => {
                println!("skipped: there is no C compiler here ({compiler}: {error})");
                return None;
            }
        }
    }
    panic!("{compiler} refuses {}:\n{errors}", source.display());
}

fn compare(runs: impl FnOnce(&Path) -> Vec<Run>) {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile(folder.path()) else { return };
    write_generated(folder.path());
    for run in runs(folder.path()) {
        let (ours, theirs) = (run.in_rust(folder.path()), run.in_c(&program, folder.path()));
        println!("{}: {}", run.name, ours.lines().last().unwrap());
        assert_eq!(ours, theirs, "{}: Rust left, C right", run.name);
    }
}

fn write_generated(folder: &Path) {
    // The number of samples, 203, is not a multiple of any batch or leaf used here.
    let number = |value: f32| value.to_string();
    table(1, 203, 5, Targets::Value).write_csv(&folder.join("value.csv"), number);
    table(2, 203, 6, Targets::Binary)
        .write_csv(&folder.join("binary.csv"), |class| if class == 0.0 { "-1" } else { "1" }.into());
    table(3, 203, 7, Targets::Classes(4)).write_csv(&folder.join("classes.csv"), |class| {
        // The order of the names by bytes differs from that of the class numbers.
        ["north", "east", "south", "West"][class as usize].into()
    });
    let counts = table(4, 203, 3, Targets::Count);
    counts.write_csv(&folder.join("count.csv"), number);
    // Counts so large that a good fit has a loss below 0.
    counts.write_csv(&folder.join("large-count.csv"), |count| number(count + 6.0));
    table(5, 203, 30, Targets::Classes(3)).write_idx(&folder.join("images.idx"), &folder.join("labels.idx"));
}

/// Writes the samples of a generated table again, as a CSV file that uses all features of the format, and as
/// a LIBSVM file without zeros.
fn write_mixed(folder: &Path) {
    let samples = table(6, 150, 4, Targets::Classes(3));
    let mut mixed = String::from("size,colour,which,width\n");
    let mut sparse = String::new();
    for (row, &class) in samples.values.chunks(4).zip(&samples.targets) {
        let colour = ["red", "Blue", "green", "7", "null"][((row[1] + 1.0) * 2.49) as usize];
        let size = if row[0] > 0.8 { "NA".into() } else { row[0].to_string() };
        let width = if row[2] < -0.9 { String::new() } else { format!("{}e-1", row[2]) };
        // Two spellings of one number, and an order that differs from that by bytes.
        let which = [if row[3] < 0.0 { "9" } else { "9.0" }, "-3", "10"][class as usize];
        mixed += &format!("{size}, {colour} ,{which},{width}\r\n");
        sparse += which;
        for (column, value) in row.iter().enumerate().filter(|(_, value)| **value > -0.3) {
            sparse += &format!(" {}:{value}", column + 1);
        }
        sparse += "\n";
    }
    std::fs::write(folder.join("mixed.csv"), mixed).unwrap();
    std::fs::write(folder.join("sparse.svm"), sparse).unwrap();
}

#[test]
fn every_head_without_hidden_layers() {
    compare(|_| HEADS.iter().map(|(head, name, _)| Run::new(*name, *head)).collect());
}

#[test]
fn every_head_and_activation_with_hidden_layers() {
    compare(|_| {
        let pairs =
            HEADS.iter().flat_map(|head| ACTIVATIONS.iter().map(move |activation| (head, activation)));
        let runs = pairs.map(|((head, head_name, _), (activation, name))| Run {
            hidden: if *activation == Activation::Tanh { vec![9] } else { vec![17, 6] },
            activation: *activation,
            seed: 0xfeed_0000_0001,
            ..Run::new(format!("mlp {name} {head_name}"), *head)
        });
        runs.collect()
    });
}

#[test]
fn every_kind_of_layer() {
    let each = KINDS.map(|kind| (kind.name, kind.example.to_vec()));
    let all = ("all kinds of layers", KINDS.iter().flat_map(|kind| kind.example).copied().collect());
    let run = |(name, layers)| Run { layers, batch: 30, leaf: 7, ..Run::new(name, Head::Softmax) };
    let mut runs: Vec<Run> = each.into_iter().chain([all]).map(run).collect();
    // The validation part is evaluated without anything random, such as dropout.
    let validated = runs[runs.len() - 1].clone();
    runs.push(Run { validation: Some(0.3), ..validated });
    compare(|_| runs);
}

/// Formats a layer for the C program.
fn layer_in_c(layer: &LayerSpec) -> String {
    let text = layer.to_string();
    let kind = text.split('"').nth(1).unwrap();
    let setting = text.split(['=', '}']).nth(2).map_or("", str::trim);
    if setting.is_empty() { kind.into() } else { format!("{kind}:{setting}") }
}

#[test]
fn every_schedule_with_and_without_warmup() {
    compare(|_| {
        let pairs = SCHEDULES.iter().flat_map(|schedule| [0, 5, 1000].map(|warmup| (schedule, warmup)));
        let runs = pairs.map(|((schedule, name), warmup)| Run {
            rate: LearningRate {
                schedule: *schedule,
                warmup,
                every: 3,
                factor: 0.7,
                stretch: 2,
                power: 1.7,
                end: 0.003,
                ..LearningRate::constant(0.13)
            },
            ..Run::new(format!("{name}, warm-up {warmup}"), Head::Softmax)
        });
        runs.collect()
    });
}

#[test]
fn weights_that_travel_as_bfloat16() {
    compare(|folder| {
        let mut runs = Vec::new();
        for (head, name, _) in HEADS {
            for hidden in [Vec::new(), vec![17, 6]] {
                let name = format!("bf16, {name}, hidden {hidden:?}");
                runs.push(Run {
                    weights: Precision::Bf16,
                    hidden,
                    validation: Some(0.2),
                    seed: 23,
                    ..Run::new(name, head)
                });
            }
        }
        let tanh = Run {
            weights: Precision::Bf16,
            hidden: vec![9],
            activation: Activation::Tanh,
            // Weight decay and l1 apply to the weights at full precision.
            optimizer: OptimizerParams {
                weight_decay: 0.01,
                l1: 1e-3,
                clip: Some(0.05),
                ..Sgd { momentum: 0.9, nesterov: true }.into()
            }
            .into(),
            ..Run::new("bf16, all settings", Head::Softmax)
        };
        let rounded = tanh.in_rust(folder);
        let exact = Run { weights: Precision::F32, ..tanh.clone() }.in_rust(folder);
        assert_ne!(rounded, exact, "rounding the weights shows in the result");
        runs.push(tanh);
        let rate = LearningRate::constant(40.0);
        runs.push(Run {
            weights: Precision::Bf16,
            rate,
            epochs: 30,
            ..Run::new("bf16 that diverges", Head::SquaredError)
        });
        runs
    });
}

#[test]
fn every_setting_of_the_optimizer() {
    compare(|_| {
        let sgd = |momentum, nesterov| OptimizerParams::from(Sgd { momentum, nesterov });
        let plain = sgd(0.0, false);
        let settings = [
            ("momentum", sgd(0.9, false)),
            ("nesterov", sgd(0.9, true)),
            ("weight decay", OptimizerParams { weight_decay: 0.01, ..plain }),
            ("l1", OptimizerParams { l1: 0.003, ..plain }),
            ("clip", OptimizerParams { clip: Some(0.02), ..plain }),
            ("all", OptimizerParams { weight_decay: 1e-3, l1: 1e-4, clip: Some(0.05), ..sgd(0.8, true) }),
        ];
        let runs = settings.into_iter().flat_map(|(name, params)| {
            [Head::Softmax, Head::SquaredError].map(|head| Run {
                hidden: if head == Head::Softmax { vec![8] } else { Vec::new() },
                optimizer: params.into(),
                ..Run::new(format!("{name}, {head:?}"), head)
            })
        });
        runs.collect()
    });
}

#[test]
fn every_optimizer() {
    compare(|_| {
        let with =
            |weight_decay, l1, optimizer: Optimizer| OptimizerParams { weight_decay, l1, ..optimizer.into() };
        let optimizers = [
            ("adagrad", 0.05, Adagrad::default().into()),
            ("rmsprop", 0.01, RmsProp::default().into()),
            ("rmsprop, momentum", 0.01, RmsProp { momentum: 0.8, ..RmsProp::default() }.into()),
            ("adam", 0.01, with(0.01, 0.0, Adam::default().into())),
            ("adamw", 0.01, with(0.1, 1e-3, AdamW::default().into())),
            ("lars", 5.0, with(0.01, 0.0, Lars::default().into())),
            ("lars, momentum", 5.0, with(0.01, 0.0, Lars { momentum: 0.9, ..Lars::default() }.into())),
            ("lamb", 0.02, with(0.01, 0.0, Lamb::default().into())),
            ("ftrl", 0.3, with(0.01, 0.5, Ftrl::default().into())),
            ("sgd", 0.1, with(0.01, 0.0, Sgd { momentum: 0.9, nesterov: false }.into())),
        ];
        let tried = optimizers.map(|(_, _, params): (_, _, OptimizerParams)| params.optimizer.name());
        assert!(Optimizer::NAMES.iter().all(|name| tried.contains(name)), "every optimizer has a row");
        let mut runs = Vec::new();
        for (name, rate, params) in optimizers {
            let optimizer = OptimizerConfig::from(params);
            let plain = Run {
                // A tensor with more than one piece of the grid.
                hidden: if params.optimizer.conflict(Conflict::HiddenLayers).is_some() {
                    Vec::new()
                } else {
                    vec![120, 40]
                },
                optimizer: optimizer.clone(),
                rate: LearningRate::constant(rate),
                ..Run::new(name, Head::Softmax)
            };
            let mut add = |what, optimizer| {
                runs.push(Run { name: format!("{name}, {what}"), optimizer, ..plain.clone() });
            };
            let rates = [("biases", 2.0), ("weights", 0.5)].map(|(name, rate)| (name.into(), rate)).to_vec();
            add("groups", OptimizerConfig { decay_biases: false, rates, ..optimizer.clone() });
            let noise = Some(Noise { scale: 0.01, decay: 0.55 });
            add("noise", OptimizerConfig { noise, ..optimizer.clone() });
            if params.optimizer.conflict(Conflict::ClipNorm).is_none() {
                add("clip_norm", OptimizerConfig { clip_norm: Some(0.05), ..optimizer });
            }
            runs.push(plain);
        }
        runs
    });
}

#[test]
fn factors_of_the_rate_are_multiplied_in_the_order_of_their_names() {
    let factors = [("biases", 3.0), ("layers.0", 0.3), ("layers.0.weight", 0.7), ("weights", 0.9)];
    let run = |factors: &[(&str, f32)]| {
        let rates = factors.iter().map(|(name, factor)| (name.to_string(), *factor)).collect();
        let optimizer = OptimizerConfig { rates, ..OptimizerConfig::default() };
        Run { optimizer, hidden: vec![9], ..Run::new("factors of the rate", Head::Softmax) }
    };
    compare(|folder| {
        let reversed: Vec<_> = factors.iter().rev().copied().collect();
        let (ascending, descending) = (run(&factors), run(&reversed));
        assert_ne!(ascending.in_rust(folder), descending.in_rust(folder), "the order shows in the result");
        vec![ascending]
    });
}

#[test]
fn every_policy_that_decides_before_a_step() {
    compare(|_| {
        let early = |patience, min_delta| Some(EarlyStopping { patience, min_delta });
        let watched = |name: &str, rate: LearningRate, control: ControlConfig| Run {
            hidden: vec![12],
            validation: Some(0.3),
            epochs: 12,
            rate,
            control,
            ..Run::new(name, Head::Softmax)
        };
        let lowered = LearningRate {
            schedule: ScheduleKind::Plateau,
            factor: 0.5,
            patience: 1,
            threshold: 0.05,
            end: 0.01,
            ..LearningRate::constant(0.5)
        };
        let guard = |can_recover| Some(Guard { can_recover, factor: 0.3, retries: 4, rise: 1.5, every: 3 });
        let descent = Some(Descent {
            sufficient: 0.1,
            shrink: 0.5,
            grow: 2.0,
            tolerance: 1e-5,
            gradient_tolerance: 1e-4,
        });
        let full = |name: &str, head, hidden, epochs, rate| Run {
            batch: 1000,
            hidden,
            epochs,
            optimizer: OptimizerParams { weight_decay: 0.01, ..Sgd::default().into() }.into(),
            rate: LearningRate::constant(rate),
            control: ControlConfig { descent, ..ControlConfig::default() },
            ..Run::new(name, head)
        };
        let steep = LearningRate::constant(30.0);
        let rising = |initial| LearningRate { warmup: 60, ..LearningRate::constant(initial) };
        // Losses fall from 1 to about -5.
        let negative = |name: &str, rate, control| Run {
            file: "large-count.csv".into(),
            head: Head::Poisson,
            hidden: Vec::new(),
            ..watched(name, rate, control)
        };
        vec![
            watched("plateau", lowered, ControlConfig::default()),
            watched(
                "plateau, absolute, cooldown, warm-up",
                LearningRate { is_absolute: true, cooldown: 1, patience: 0, warmup: 7, ..lowered },
                ControlConfig::default(),
            ),
            watched(
                "early stopping",
                lowered,
                ControlConfig { early_stopping: early(2, 0.05), ..Default::default() },
            ),
            watched(
                "the best at the end",
                lowered,
                ControlConfig { early_stopping: early(50, 0.0), ..Default::default() },
            ),
            Run {
                weights: Precision::Bf16,
                ..watched(
                    "bf16, the best at the end",
                    lowered,
                    ControlConfig { early_stopping: early(50, 0.02), ..Default::default() },
                )
            },
            watched("guard that warns", steep, ControlConfig { guard: guard(false), ..Default::default() }),
            Run {
                optimizer: Adam::default().into(),
                ..watched("guard and adam", steep, ControlConfig { guard: guard(true), ..Default::default() })
            },
            Run {
                optimizer: Sgd { momentum: 0.9, nesterov: false }.into(),
                ..watched(
                    "guard, plateau, momentum",
                    LearningRate { initial: 20.0, ..lowered },
                    ControlConfig { guard: guard(true), early_stopping: early(9, 0.0), ..Default::default() },
                )
            },
            Run {
                optimizer: Sgd { momentum: 0.9, nesterov: false }.into(),
                ..watched(
                    "guard that returns to weights of long before",
                    rising(30.0),
                    ControlConfig {
                        guard: Some(Guard {
                            can_recover: true,
                            factor: 0.3,
                            retries: 4,
                            rise: 1.5,
                            every: 20,
                        }),
                        ..Default::default()
                    },
                )
            },
            negative(
                "guard, losses below 0",
                rising(3.0),
                ControlConfig { guard: guard(true), ..Default::default() },
            ),
            negative(
                "plateau, losses below 0",
                LearningRate { initial: 0.1, ..lowered },
                ControlConfig { early_stopping: early(9, 0.0), ..Default::default() },
            ),
            full("descent", Head::Logistic, Vec::new(), 400, 8.0),
            full("descent, mlp", Head::Softmax, vec![9], 100, 50.0),
            full("descent to a steep wall", Head::Poisson, Vec::new(), 60, 1e4),
            full("descent, few steps", Head::SquaredError, vec![5], 7, 1.0),
            Run {
                validation: Some(0.3),
                control: ControlConfig { descent, early_stopping: early(2, 0.01), ..Default::default() },
                ..full("descent, early stopping", Head::Softmax, vec![9], 100, 50.0)
            },
            Run {
                validation: Some(0.3),
                control: ControlConfig { descent, early_stopping: early(50, 0.5), ..Default::default() },
                ..full("descent, the best at the end", Head::SquaredError, vec![5], 7, 1.0)
            },
        ]
    });
}

#[test]
fn batches_leaves_validation_shares_and_standardized_features() {
    compare(|_| {
        let mut runs = Vec::new();
        for (batch, leaf) in [(1, 1), (7, 1), (33, 5), (64, 64), (100, 7), (203, 10), (203, 1)] {
            let name = format!("batch {batch}, leaf {leaf}");
            runs.push(Run { batch, leaf, hidden: vec![5], ..Run::new(name, Head::Softmax) });
        }
        for (share, standardize) in [(0.2, false), (0.001, true), (0.55, true)] {
            for (head, name, _) in HEADS {
                let name = format!("{name}, validation {share}, standardize {standardize}");
                let (validation, hidden) = (Some(share), vec![6]);
                runs.push(Run { validation, standardize, hidden, seed: 9, ..Run::new(name, head) });
            }
        }
        let idx = Run { file: "images.idx".into(), ..Run::new("bytes", Head::Softmax) };
        runs.push(Run { standardize: true, name: "bytes, standardised".into(), ..idx.clone() });
        runs.push(Run { hidden: vec![11], validation: Some(0.1), name: "bytes, mlp".into(), ..idx.clone() });
        runs.push(idx);
        runs.push(Run { steps: Some(5), ..Run::new("five steps", Head::Softmax) });
        runs.push(Run { epochs: 1, steps: Some(500), ..Run::new("steps beyond the epochs", Head::Logistic) });
        runs
    });
}

#[test]
fn categories_missing_cells_and_sparse_rows() {
    compare(|folder| {
        write_mixed(folder);
        let mixed = Run {
            missing: Missing::Mean,
            file: "mixed.csv".into(),
            label: "which",
            validation: Some(0.15),
            ..Run::new("categories and missing cells", Head::Softmax)
        };
        vec![
            Run { standardize: true, name: "the same, standardised".into(), ..mixed.clone() },
            mixed,
            Run { file: "sparse.svm".into(), validation: Some(0.3), ..Run::new("sparse", Head::Softmax) },
        ]
    });
}

#[test]
fn a_run_that_diverges_ends_at_the_same_step() {
    compare(|_| {
        let rate = LearningRate::constant(40.0);
        vec![
            Run { rate, epochs: 30, ..Run::new("squared error", Head::SquaredError) },
            Run { rate, epochs: 30, ..Run::new("poisson", Head::Poisson) },
        ]
    });
}

#[test]
fn real_data() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !data.is_dir() {
        println!("skipped: {} is not there", data.display());
        return;
    }
    let run = |file: &str, label: &'static str, head: Head| Run {
        file: data.join(file).canonicalize().unwrap(),
        label,
        standardize: true,
        validation: Some(0.2),
        epochs: 4,
        optimizer: Sgd { momentum: 0.9, nesterov: false }.into(),
        rate: LearningRate { schedule: ScheduleKind::Cosine, ..LearningRate::constant(0.05) },
        ..Run::new(file, head)
    };
    compare(|_| {
        let digits = run("digits/digits.csv", "digit", Head::Softmax);
        let standard_rate = |run: Run| Run { rate: LearningRate::constant(0.001), ..run };
        vec![
            run("iris/iris.csv", "species", Head::Softmax),
            standard_rate(run("diabetes/diabetes.csv", "progression", Head::SquaredError)),
            Run { missing: Missing::Mean, ..run("penguins/penguins.csv", "species", Head::Softmax) },
            Run {
                missing: Missing::Mean,
                batch: 500,
                rate: LearningRate::constant(0.001),
                ..run("california-housing/housing.csv", "median_house_value", Head::SquaredError)
            },
            Run { batch: 300, leaf: 16, standardize: false, ..run("a9a/a9a", "", Head::Logistic) },
            run("breast-cancer/breast_cancer.csv", "diagnosis", Head::Logistic),
            Run { name: "digits, softmax".into(), standardize: false, batch: 50, leaf: 7, ..digits.clone() },
            Run { name: "digits, mlp".into(), hidden: vec![32, 16], batch: 128, leaf: 32, ..digits },
        ]
    });
}
