//! `downhill explain`: shows what contributes to the output for a sample, and how the sample would change the
//! weights.

mod contributions;

use crate::drawing;
use crate::failure::Failure;
use crate::output;
use contributions::{Contributions, Sample, cut};
use ps_config::{DataArgs, LogArgs};
use ps_core::{Dense, Head, Model, Samples, reference};
use ps_data::{Column, Image, NewData, Split};
use ps_plot::{Amounts, Bars, Figure, Panel, number};
use ps_run::Style;
use std::path::PathBuf;
use std::process::ExitCode;

/// Defaults of `--top`: columns of a table, and gradients of each kind.
const COLUMNS: usize = 10;
const PUSHES: usize = 5;
/// Maximum length of an input's name in the line of a weight. It makes the line fit into 80 columns.
const NAME: usize = 24;

/// Explain the output and the gradient for one sample
///
/// For a sample of a table (CSV or LIBSVM), lists the columns that contribute most to the output before the
/// head. A contribution is weight × input, so that the contributions and the bias add up to the output. If
/// the model has hidden layers, it is gradient × input.
///
/// For any sample, computes the gradient of its loss, and shows each output next to its target. Then lists,
/// layer by layer from the last to the first, the biases, weights and activations with the largest gradients,
/// and the direction in which each would have to change to lower the loss. Activations cannot be changed
/// directly; their gradient is what propagates to the previous layer.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the run, or a model file
    #[arg(value_name = "MODEL")]
    run: PathBuf,

    /// Index of the sample, from 0
    #[arg(long, value_name = "I")]
    sample: usize,

    /// Number of columns and gradients to show [default: 10 and 5]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: Option<u16>,

    /// Class whose contributions to show [default: the predicted class]
    ///
    /// For models with an output for each class.
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,

    /// Also draw a picture to this .png or .svg file, which is overwritten
    ///
    /// For tables, it shows the contributions as bars; for images, in which direction each pixel would have
    /// to change.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Part of the run's data that contains the sample
    ///
    /// Reads the data that the run.toml next to the model file names.
    #[arg(long, default_value = "train", conflicts_with = "source", help_heading = "Data")]
    part: DataPart,

    /// Take the sample from this source instead, such as csv:new.csv
    ///
    /// Relative paths start from the current folder, not from the run file's.
    #[arg(long = "data", value_name = "SOURCE", help_heading = "Data")]
    source: Option<String>,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DataPart {
    Train,
    Validation,
    Test,
}

const EXAMPLES: &str = "\
Examples:
  downhill explain runs/digits-1 --sample 0
  downhill explain runs/digits-1 --part validation --sample 8 --output 8.png
  downhill explain runs/adult-1 --data csv:new.csv --sample 3 --output why.png
  downhill explain runs/penguins-1 --sample 3 --class Gentoo --top 5";

/// Prints the tables and draws the picture.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    arguments.output.iter().try_for_each(|path| ps_plot::check(path))?;
    let style = Style::choose(&arguments.log);
    let (model, name, split) = open(arguments, style)?;
    let index = arguments.sample;
    if index >= split.len() {
        let samples = split.len();
        return Err(Failure::Usage(format!(
            "--sample {index}: {name} has {samples} samples, from 0 to {}",
            samples - 1
        )));
    }
    let explained = Explained::new(&model, &split, index);
    let mut lines = explained.image.map_or_else(Vec::new, |image| {
        let pixels = shades(&explained.activations[0]);
        drawing::side_by_side(&[(None, pixels)], image).into_iter().filter(|line| !line.is_empty()).collect()
    });
    let contributions = explained.contributions(&model.encoder().columns(), arguments.class.as_deref())?;
    let [columns, pushes] = [COLUMNS, PUSHES].map(|default| arguments.top.map_or(default, usize::from));
    lines.push(format!("sample {index} of {name}: {}", explained.description()));
    lines.push(String::new());
    lines.extend(explained.outputs_table());
    if let Some(contributions) = &contributions {
        lines.push(String::new());
        lines.extend(contributions.lines(columns));
    }
    lines.extend(explained.pushes(pushes));
    output::lines(&lines)?;
    if let Some(path) = &arguments.output {
        let bars = contributions.map(|contributions| contributions.bars(columns));
        explained.figure(&format!("sample {index} of {name}"), bars).write(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the model. Also returns the data that contains the sample, and its name.
fn open(arguments: &Arguments, style: Style) -> Result<(downhill::Model, String, Split), Failure> {
    if let Some(source) = &arguments.source {
        let model = super::open_model(&arguments.run)?;
        let split = super::read_data(&model, source, NewData { is_labelled: true, is_strict: false }, style)?;
        return Ok((model, source.clone(), split));
    }
    let run = super::open_run(&arguments.run, &[], arguments.data.data_root.as_deref(), style)?;
    if run.data_changed() {
        output::warn("the data has changed since the run, so the sample may be another one");
    }
    let data = run.job.data;
    let (name, split) = match arguments.part {
        DataPart::Train => ("the training part", Some(data.train)),
        DataPart::Validation => ("the validation part", data.validation),
        DataPart::Test => ("the test source", data.test),
    };
    let missing = || {
        Failure::Usage(format!(
            "the run has no samples in {name}; choose another --part, or give a source \
                                with --data"
        ))
    };
    Ok((run.model, name.to_string(), split.ok_or_else(missing)?))
}

/// A sample, with the outputs and the gradient of its loss.
struct Explained<'a> {
    model: &'a Model,
    weights: &'a [f32],
    class_names: &'a [String],
    feature_names: &'a [String],
    image: Option<Image>,
    split: &'a Split,
    index: usize,
    target: f32,
    loss: f64,
    /// The inputs of each dense layer, followed by the outputs before the head.
    activations: Vec<Vec<f32>>,
    /// The outputs after the head.
    outputs: Vec<f32>,
    /// The gradient of the loss by the parameters, which would have to change in the opposite direction.
    gradient: Vec<f32>,
}

/// A single sample of a data set.
struct SingleSample<'a>(&'a Split, usize);

impl Samples for SingleSample<'_> {
    fn len(&self) -> usize {
        1
    }

    fn features(&self) -> usize {
        self.0.features()
    }

    fn write_row(&self, _: usize, row: &mut [f32]) {
        self.0.write_row(self.1, row);
    }

    fn target(&self, _: usize) -> f32 {
        self.0.target(self.1)
    }
}

/// The name of a parameter or activation, and the negative gradient of the loss by it.
type Push = (String, f64);

impl<'a> Explained<'a> {
    fn new(trained: &'a downhill::Model, split: &'a Split, index: usize) -> Self {
        let (model, weights, encoder) = (trained.network(), trained.weights(), trained.encoder());
        let one = SingleSample(split, index);
        let sum = trained.gradients().compute(weights, &one, 0, 0..1).pop();
        let sum = sum.expect("a leaf of one sample has a sum");
        let mut row = vec![0.0; model.features()];
        one.write_row(0, &mut row);
        let activations = reference::dense_inputs(model, weights, &row);
        let mut outputs = activations.last().cloned().unwrap_or_default();
        model.head().predict(&mut outputs);
        Explained {
            model,
            weights,
            class_names: encoder.class_names(),
            feature_names: encoder.feature_names(),
            image: encoder.image(),
            split,
            index,
            target: one.target(0),
            loss: sum.metric_sums.mean_loss(),
            activations,
            outputs,
            gradient: sum.gradient,
        }
    }

    /// Returns the layers that have parameters.
    fn layers(&self) -> Vec<&Dense> {
        self.model.dense_layers().collect()
    }

    /// Returns the targets, in the form of the outputs.
    fn wanted(&self) -> Vec<f64> {
        match self.model.head() {
            Head::Softmax => (0..self.outputs.len())
                .map(|class| f64::from(u8::from(class as f32 == self.target)))
                .collect(),
            Head::Logistic | Head::SquaredError | Head::Poisson => vec![self.target.into()],
        }
    }

    fn description(&self) -> String {
        let class =
            |index: usize| self.class_names.get(index).map_or_else(|| index.to_string(), Clone::clone);
        let outputs = &self.outputs;
        let loss = number(self.loss);
        let most_probable_class = match self.model.head() {
            Head::Softmax => Some(self.most_probable_class()),
            Head::Logistic => Some(usize::from(outputs[0] > 0.5)),
            Head::SquaredError | Head::Poisson => None,
        };
        match most_probable_class {
            Some(most_probable_class) => {
                let wanted = class(self.target as usize);
                format!("class {wanted}, predicted as {}, loss {loss}", class(most_probable_class))
            }
            None => {
                let [wanted, output] = [self.target, outputs[0]].map(|value| number(value.into()));
                format!("{wanted}, predicted as {output}, loss {loss}")
            }
        }
    }

    fn most_probable_class(&self) -> usize {
        (0..self.outputs.len()).max_by(|a, b| self.outputs[*a].total_cmp(&self.outputs[*b])).unwrap_or(0)
    }

    /// Returns the contributions of a table's columns to the output for `class`, by default the predicted
    /// one; `None` for an image.
    fn contributions(
        &self,
        columns: &[Column],
        class: Option<&str>,
    ) -> Result<Option<Contributions>, Failure> {
        let usage = |class: &str, problem: &str| Err(Failure::Usage(format!("--class {class}: {problem}")));
        if self.image.is_some() {
            return class.map_or(Ok(None), |class| {
                usage(class, "the samples are images, which have no columns; remove the flag")
            });
        }
        let unit = match (class, self.model.head()) {
            (None, Head::Softmax) => self.most_probable_class(),
            (None, _) => 0,
            (Some(class), Head::Softmax) => match self.class_names.iter().position(|name| name == class) {
                Some(unit) => unit,
                None => return usage(class, &format!("the classes are {}", self.class_names.join(", "))),
            },
            (Some(class), _) => return usage(class, "the model has a single output; remove the flag"),
        };
        let mut raw = vec![0.0; self.model.features()];
        self.split.write_raw_row(self.index, &mut raw);
        let sample = Sample {
            raw: &raw,
            is_standardized: self.split.preprocessing().standard.is_some(),
            is_missing: &|feature| self.split.is_missing(self.index, feature),
            activations: &self.activations,
        };
        let class = self.class_names.get(if self.model.head() == Head::Logistic { 1 } else { unit });
        let total = self.activations[self.layers().len()][unit];
        let output = (unit, class.map_or("", String::as_str), total);
        Ok(Some(Contributions::new(self.model, self.weights, columns, &sample, output)))
    }

    fn outputs_table(&self) -> Vec<String> {
        let header = format!("{:>16} {:>10} {:>10} {:>18}", "output", "value", "target", "negative gradient");
        let layers = self.layers();
        let last = layers[layers.len() - 1];
        let rows = self.outputs.iter().zip(self.wanted()).enumerate().map(|(unit, (output, wanted))| {
            let push = direction(-f64::from(self.gradient[last.bias + unit]));
            let [output, wanted] = [f64::from(*output), wanted].map(number);
            format!("{:>16} {output:>10} {wanted:>10} {push:>18}", self.unit(layers.len(), unit))
        });
        [header].into_iter().chain(rows).collect()
    }

    /// Lists the `top` strongest pushes of each kind, layer by layer from the last to the first.
    fn pushes(&self, top: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, layer) in self.layers().into_iter().enumerate().rev() {
            lines.push(String::new());
            let (inputs, outputs) = (layer.inputs, layer.outputs);
            lines.push(format!("layer {index}, {inputs} to {outputs}: largest negative gradients"));
            let kinds = [
                ("biases", self.biases(index, layer)),
                ("weights, each with its input in parentheses", self.weights_of(index, layer, top)),
                (
                    if index == 0 { "inputs" } else { "activations of the layer before" },
                    self.before(index, layer),
                ),
            ];
            for (kind, pushes) in kinds {
                let strongest = strongest(pushes, top);
                lines.extend((!strongest.is_empty()).then(|| format!("  {kind}")));
                lines.extend(
                    strongest.iter().map(|(name, push)| format!("  {:>14}  {name}", direction(*push))),
                );
            }
        }
        lines
    }

    /// Returns the name of unit `unit` in the input of layer `layer`, or in the outputs.
    fn unit(&self, layer: usize, unit: usize) -> String {
        if layer == self.layers().len() {
            return match self.model.head() {
                Head::Softmax => self.class_names.get(unit).map_or_else(|| unit.to_string(), Clone::clone),
                Head::Logistic => format!("class {}", self.class_names.get(1).map_or("1", |name| name)),
                Head::SquaredError | Head::Poisson => "value".into(),
            };
        }
        match (layer, self.image) {
            (0, Some(image)) => format!("pixel in row {}, column {}", unit / image.width, unit % image.width),
            (0, None) => self.feature_names.get(unit).map_or_else(|| format!("feature {unit}"), Clone::clone),
            _ => format!("unit {unit}"),
        }
    }

    fn biases(&self, index: usize, layer: &Dense) -> Vec<Push> {
        let push = |unit: usize| (self.unit(index + 1, unit), -f64::from(self.gradient[layer.bias + unit]));
        (0..layer.outputs).map(push).collect()
    }

    /// Returns only the strongest pushes, since there may be millions of weights.
    fn weights_of(&self, index: usize, layer: &Dense, top: usize) -> Vec<Push> {
        let mut places: Vec<usize> = (0..layer.inputs * layer.outputs).collect();
        let size = |place: &usize| self.gradient[layer.weight + place].abs();
        if top < places.len() {
            // A wide layer has millions of weights, so they are not sorted. Ties are broken by position,
            // because the selection does not keep their order.
            places.select_nth_unstable_by(top, |a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
            places.truncate(top);
        }
        let push = |place: usize| {
            let (output, input) = (place / layer.inputs, place % layer.inputs);
            let [weight, active] = [self.weights[layer.weight + place], self.activations[index][input]];
            let [weight, active] = [weight, active].map(|value| number(value.into()));
            let (to, from) = (self.unit(index + 1, output), self.unit(index, input));
            let name = format!("{} ({active}) to {to}, now {weight}", cut(&from, NAME));
            (name, -f64::from(self.gradient[layer.weight + place]))
        };
        places.into_iter().map(push).collect()
    }

    /// Returns the pushes of a layer's inputs: its transposed weight times the pushes before its activation.
    fn before(&self, index: usize, layer: &Dense) -> Vec<Push> {
        let pushes = self.push_before(layer);
        let named = |(unit, push)| {
            let active = number(f64::from(self.activations[index][unit]));
            (format!("{} ({active})", self.unit(index, unit)), push)
        };
        pushes.into_iter().enumerate().map(named).collect()
    }

    fn push_before(&self, layer: &Dense) -> Vec<f64> {
        let mut pushes = vec![0.0; layer.inputs];
        for output in 0..layer.outputs {
            // The derivative by a bias equals that by the output before activation, to which the bias is
            // added.
            let delta = -f64::from(self.gradient[layer.bias + output]);
            let row = &self.weights[layer.weight + output * layer.inputs..][..layer.inputs];
            pushes.iter_mut().zip(row).for_each(|(push, weight)| *push += delta * f64::from(*weight));
        }
        pushes
    }

    /// Returns the picture. For a table, `bars` are its contributions.
    fn figure(&self, title: &str, bars: Option<Amounts>) -> Figure {
        let layers = self.layers();
        let picture = |title: &str, width: usize, values: Vec<f64>, is_signed: bool| {
            Panel::Image(ps_plot::Image { title: title.into(), width, values, is_signed })
        };
        let mut panels = Vec::new();
        let rows = bars.as_ref().map_or(0, |bars| bars.rows.len() as u32);
        let panel = if bars.is_some() { (600, (70 + 24 * rows).max(380)) } else { (480, 380) };
        panels.extend(bars.map(Panel::Amounts));
        if let Some(image) = self.image {
            let pixels = shades(&self.activations[0]).into_iter().map(f64::from).collect();
            panels.push(picture("the sample", image.width, pixels, false));
            let pushes = self.push_before(layers[0]);
            panels.push(picture(
                "negative gradient of each pixel: up blue, down red",
                image.width,
                pushes,
                true,
            ));
        }
        let names = (0..self.outputs.len()).map(|unit| self.unit(layers.len(), unit)).collect();
        let outputs = self.outputs.iter().map(|output| f64::from(*output)).collect();
        let groups = vec![("value".into(), 0, outputs), ("target".into(), 1, self.wanted())];
        panels.push(Panel::Bars(Bars { title: "outputs".into(), names, groups }));
        if let [_, .., last] = &layers[..] {
            let mut pushes = self.push_before(last);
            let width = (pushes.len() as f64).sqrt().ceil() as usize;
            pushes.resize(pushes.len().div_ceil(width) * width, 0.0);
            panels.push(picture("negative gradient of the units before the last layer", width, pushes, true));
        }
        Figure { title: format!("{title}: {}", self.description()), columns: 2, panel, panels }
    }
}

/// Returns the largest pushes by magnitude, in descending order.
fn strongest(mut pushes: Vec<Push>, top: usize) -> Vec<Push> {
    pushes.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    pushes.truncate(top);
    pushes.retain(|(_, push)| *push != 0.0);
    pushes
}

fn direction(push: f64) -> String {
    let size = number(push.abs());
    match push {
        _ if size == "0" => "none".into(),
        _ if push > 0.0 => format!("up {size}"),
        _ => format!("down {size}"),
    }
}

/// Scales a sample to shades from 0, its minimum, to 255, its maximum.
fn shades(row: &[f32]) -> Vec<u8> {
    let low = row.iter().copied().fold(f32::INFINITY, f32::min);
    let high = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = 255.0 / (high - low).max(f32::MIN_POSITIVE);
    row.iter().map(|value| ((value - low) * scale) as u8).collect()
}
