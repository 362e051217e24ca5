//! `downhill find-lr`: proposes a learning rate after a short run with increasing rates.

mod sweep;

use crate::commands::threads;
use crate::drawing::{self, CURVE_MARGIN};
use crate::failure::Failure;
use crate::output;
use ps_config::{DataArgs, LogArgs, RunArgs};
use ps_core::{ControlConfig, LearningRate, Schedule, ScheduleKind};
use ps_plan::BatchPlan;
use ps_plane::Plane;
use ps_plot::{Axis, Figure, Lines, Mark, Panel, Series, number};
use ps_run::{DataProgress, Job, Recorder, Style};
use ps_terminal::{hang, stderr_width, stdout_width, wrap};
use std::path::PathBuf;
use std::process::ExitCode;
use sweep::{Proposal, Sweep};

/// Find a learning rate by trying increasing ones in a short run
///
/// Trains from the initial weights with a rate that grows by the same factor at each step (the range test of
/// Smith 2017), draws the loss over the rate, and proposes a rate. The trained weights are discarded. The run
/// file's schedule, early stopping and guard are ignored.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{DETAILS}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: RunArgs,

    /// Learning rate of the first step
    #[arg(long, value_name = "RATE", default_value_t = 1e-5, value_parser = rate)]
    from: f64,

    /// Learning rate of the last step
    ///
    /// The run ends earlier if the loss explodes.
    #[arg(long, value_name = "RATE", default_value_t = 10.0, value_parser = rate)]
    to: f64,

    /// Number of steps
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(50..=100_000))]
    steps: u64,

    /// Also draw the curve to this .png or .svg file, which is overwritten
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Number of threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill find-lr examples/digits.toml
  downhill find-lr examples/digits.toml --output find-lr.png
  downhill find-lr examples/digits.toml --from 1e-7 --to 1 \\
      --set optimizer.kind=adam --set optimizer.momentum=";

const DETAILS: &str = "\
The last line of the output is the flag to pass to 'downhill train'. If the loss explodes at once, never falls, or is still \
falling at the last rate, there is no such line and the exit code is 1.";

/// Width of the curve in a pipe or a file, in characters.
const CURVE: usize = 64;
/// Maximum width of the curve in a terminal. A wider curve would only look flatter.
const WIDEST_CURVE: usize = 100;

/// Runs the test, draws the curve and prints the proposal.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let Arguments { from, to, .. } = *arguments;
    if from * 10.0 > to {
        let why = "--to must be at least ten times --from";
        return Err(Failure::Usage(format!("--from {from} --to {to}: {why}")));
    }
    arguments.output.iter().try_for_each(|path| ps_plot::check(path))?;
    let run = arguments.run.load()?;
    let style = Style::choose(&arguments.log);
    threads(arguments.threads)?;
    let root = arguments.data.root(arguments.run.folder());
    let mut job = super::load(run, root, &DataProgress::new(style))?;
    let sweep = test(&mut job, arguments, style)?;
    let proposal = sweep.proposal();
    if !arguments.log.quiet {
        output::lines(&terminal(&sweep, proposal.as_ref().ok(), stdout_width()))?;
    }
    if let Some(path) = &arguments.output {
        let name = arguments.run.run.display().to_string();
        figure(&name, &sweep, proposal.as_ref().ok()).write(path)?;
    }
    // The first line is printed after `error: `, and the others are below it.
    let width = stderr_width().map(|width| width.saturating_sub("error: ".len()));
    let wrapped = |why: String| Failure::Failed(wrap(&why, width, 0).join("\n       "));
    let Proposal { rate, reason } = proposal.map_err(wrapped)?;
    // Rates in the run file are multiplied by this factor.
    let batch = job.plan.batch as f64;
    let scale = batch / job.run.learning_rate.for_batch.map_or(batch, |meant| meant as f64);
    let mut lines = vec![format!("learning rate {}: {reason}", number(rate))];
    if scale != 1.0 {
        let words =
            format!("rates in the run file are multiplied by {} (learning_rate.for_batch)", number(scale));
        lines.push(words);
    }
    lines.push(format!("--set learning_rate.initial={}", sweep::rounded(rate / scale)));
    let shown = if arguments.log.quiet { &lines[lines.len() - 1..] } else { &lines };
    output::lines(&hang(shown, stdout_width(), 2))?;
    Ok(ExitCode::SUCCESS)
}

/// Trains with rates that increase from step to step.
fn test(job: &mut Job, arguments: &Arguments, style: Style) -> Result<Sweep, Failure> {
    let Arguments { from, to, steps, .. } = *arguments;
    let BatchPlan { seed, samples, batch, leaf, .. } = job.plan;
    let epochs = (steps * batch as u64).div_ceil(samples as u64) as u32 + 1;
    job.plan = BatchPlan::new(seed, samples, batch, leaf, epochs, Some(steps));
    let factor = (to / from).powf(1.0 / (steps - 1) as f64);
    let growing =
        LearningRate { schedule: ScheduleKind::Exponential, factor, ..LearningRate::constant(from) };
    job.rate = Schedule::new(growing, Vec::new());
    // No policy may intervene: the sweep is meant to go on until the loss explodes.
    job.control = ControlConfig::default();
    let mut plane = Plane::shared(job.model.clone(), job.control());
    let (mut gradients, mut sweep) = (job.gradients(), Sweep::default());
    let mut recorder = Recorder::new(job, None, style)?;
    for step in 0..job.plan.steps {
        let leaves = 0..job.plan.step(step).tree().leaves();
        let sums = gradients.compute(plane.weights(), &job.data.train, step, leaves);
        sums.into_iter().for_each(|sum| plane.take_sum(sum));
        let loss = match plane.finish() {
            Ok(report) => {
                recorder.step(&report, 1);
                report.metric_sums.mean_loss()
            }
            Err(_) => f64::NAN,
        };
        gradients.recycle_gradient(plane.take_gradient());
        if !sweep.push(from * factor.powf(step as f64), loss) {
            break;
        }
    }
    // A sweep has no results. This only ends the display of its progress.
    recorder.abandon(&"the sweep is done");
    Ok(sweep)
}

/// Draws the curve with characters, as wide as a terminal of `width` columns permits.
fn terminal(sweep: &Sweep, proposal: Option<&Proposal>, width: Option<usize>) -> Vec<String> {
    let points = sweep.points();
    let [Some(first), Some(last)] = [points.first(), points.last()] else { return Vec::new() };
    let drawn: Vec<(f64, f64)> = points.iter().map(|point| (point.rate.log10(), point.smooth)).collect();
    let mark = proposal.map(|proposal| (proposal.rate.log10(), number(proposal.rate)));
    let end = if sweep.has_exploded() { "; it explodes beyond" } else { "" };
    let [from, to] = [first, last].map(|point| number(point.rate));
    let title = format!("smoothed loss for learning rates from {from} to {to}{end}");
    let mut lines = wrap(&title, width, 0);
    let columns = width.map_or(CURVE, |width| width.saturating_sub(CURVE_MARGIN).clamp(20, WIDEST_CURVE));
    lines.extend(drawing::curve(&drawn, mark, columns));
    lines
}

fn figure(name: &str, sweep: &Sweep, proposal: Option<&Proposal>) -> Figure {
    // A single step of an exploding loss would make all earlier ones look flat, so the curve is cut off
    // above.
    let top = 1.1 * sweep.points().iter().map(|point| point.smooth).fold(0.0, f64::max);
    let curve = |name: &str, style, value: fn(&sweep::Point) -> f64| Series {
        name: name.into(),
        color: 0,
        style,
        points: sweep.steps().iter().map(|point| (point.rate, value(point))).collect(),
    };
    let mark =
        proposal.map(|it| Mark { at: it.rate, label: format!("proposed: {}", number(it.rate)), color: 1 });
    let panel = Lines {
        title: String::new(),
        x: Axis::log("learning rate"),
        y: Axis::linear("loss").up_to(top),
        series: vec![
            curve("each batch", ps_plot::Style::Faint, |point| point.loss),
            curve("moving average", ps_plot::Style::Solid, |point| point.smooth),
        ],
        marks: mark.into_iter().collect(),
    };
    Figure {
        title: format!("find-lr {name}: loss over the learning rate"),
        columns: 1,
        panel: (720, 400),
        panels: vec![Panel::Lines(panel)],
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above 0, such as 1e-5".into())
}
