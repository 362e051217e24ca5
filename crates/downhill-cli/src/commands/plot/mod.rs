//! `downhill plot`: draws pictures of runs.

mod valley;

use crate::failure::Failure;
use crate::output;
use ps_config::{DataArgs, LogArgs};
use ps_plot::Style::Noisy;
use ps_plot::{Axis, Figure, Panel, Series};
use ps_run::{Line, METRICS_FILE, Style, counted};
use ps_watch::curves::{self, RunCurves};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Draw the curves of runs
///
/// Draws the loss, the accuracy or R², and the learning rate of one or several runs into one picture, with
/// marks where the guard, a plateau or early stopping intervened. For runs with train.probe_every, it also
/// draws the predicted and actual decrease of the loss. The runs may still be training.
///
/// The bold curve of a loss or an accuracy smooths the pale one behind it. If one run is much longer than
/// another, the axis of steps is logarithmic, so that both can be read; --x-axis overrides this.
///
/// With --valley, draws the loss around the weights of one finished run instead: along the gradient at its first and last
/// weights, and over a plane through the path of the weights between its checkpoints. For a finer path, train with
/// --checkpoint-every 20 --checkpoint-keep 100.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folders of the runs
    #[arg(value_name = "RUN_DIR", required = true, value_hint = clap::ValueHint::DirPath)]
    runs: Vec<PathBuf>,

    /// Picture to write, .png or .svg [default: plot.png in the run's folder]
    ///
    /// An existing file is overwritten. With --valley, the default is valley.png in the run's folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Axis of the steps
    ///
    /// With auto, it is logarithmic if one run is more than five times as long as another.
    #[arg(long, value_name = "AXIS", default_value = "auto", conflicts_with = "valley")]
    x_axis: XAxis,

    /// Draw the loss around the weights
    #[arg(long, help_heading = "Valley")]
    valley: bool,

    /// Number of training samples to compute the loss on
    ///
    /// These are the first ones of the training part.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "valley",
          value_parser = clap::value_parser!(u32).range(1..), help_heading = "Valley")]
    samples: u32,

    /// Number of points per side of the plane
    #[arg(long, value_name = "N", default_value_t = 25, requires = "valley",
          value_parser = clap::value_parser!(u16).range(5..=201), help_heading = "Valley")]
    grid: u16,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum XAxis {
    Auto,
    Linear,
    Log,
}

/// A linear axis shows too little of a run that is shorter than the longest one by more than this factor.
const MAX_LINEAR_RATIO: u64 = 5;

const EXAMPLES: &str = "\
Examples:
  downhill plot runs/digits-1
  downhill plot runs/digits-1 runs/digits-2 --output both.svg
  downhill plot runs/short runs/long --x-axis linear --output both.png
  downhill plot runs/digits-1 --valley";

/// Writes the picture and prints its path.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let [first, others @ ..] = &arguments.runs[..] else {
        return Err(Failure::Usage("give the folder of a run".into()));
    };
    let name = if arguments.valley { "valley.png" } else { "plot.png" };
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None if others.is_empty() => first.join(name),
        None => {
            return Err(Failure::Usage("several runs share no folder; give a file with --output".into()));
        }
    };
    ps_plot::check(&path)?;
    let figure = if arguments.valley {
        if !others.is_empty() {
            return Err(Failure::Usage("--valley draws a single run; give only one folder".into()));
        }
        let style = Style::choose(&arguments.log);
        let run = super::open_run(first, &[], arguments.data.data_root.as_deref(), style)?;
        if run.data_changed() {
            output::warn(
                "the validation data has changed since the run, so the losses differ from the run's",
            );
        }
        valley::figure(first, &run, arguments.samples as usize, arguments.grid.into(), style != Style::Quiet)?
    } else {
        let runs = arguments.runs.iter().map(|run| read(run)).collect::<Result<Vec<_>, Failure>>()?;
        curves_of(runs, arguments.x_axis)
    };
    figure.write(&path)?;
    output::lines(&[path.display().to_string()])?;
    Ok(ExitCode::SUCCESS)
}

/// A run's name, its metrics, and the number of steps that it has made so far.
struct Run {
    name: String,
    lines: Vec<Line>,
    length: u64,
}

fn read(run: &Path) -> Result<Run, Failure> {
    let path = run.join(METRICS_FILE);
    let lines = Line::read_all(&path)?;
    let steps = lines.iter().filter_map(|line| match line {
        Line::Step(line) => Some(line.step),
        _ => None,
    });
    match steps.max() {
        Some(length) => Ok(Run { name: name(run), length, lines }),
        None => Err(Failure::Failed(format!("{}: the run has not made a step yet", path.display()))),
    }
}

/// Draws the curves of all runs over a common axis of steps.
fn curves_of(runs: Vec<Run>, x_axis: XAxis) -> Figure {
    let lengths = || runs.iter().map(|run| run.length);
    let [shortest, longest] = [lengths().min(), lengths().max()].map(Option::unwrap_or_default);
    let differ = longest > MAX_LINEAR_RATIO.saturating_mul(shortest);
    let is_log = match x_axis {
        XAxis::Auto => differ,
        XAxis::Linear => false,
        XAxis::Log => true,
    };
    let course = |run: Run| {
        let name = if differ {
            format!("{} ({})", run.name, counted(run.length as usize, "step"))
        } else {
            run.name
        };
        RunCurves::new(name, run.lines)
    };
    let mut figure = curves::figure(&runs.into_iter().map(course).collect::<Vec<_>>());
    for panel in &mut figure.panels {
        let Panel::Lines(lines) = panel else { continue };
        lines.series.iter_mut().filter(|series| series.style == Noisy).for_each(center);
        if is_log {
            lines.x = Axis::log("step (log scale)");
        }
    }
    figure
}

/// Moves each point to the middle of the steps whose mean it is, which are those since the previous point. At
/// the beginning of a logarithmic axis, the difference is visible.
fn center(series: &mut Series) {
    let mut before = 0.0;
    for (step, _) in &mut series.points {
        let last = *step;
        *step = (before + 1.0 + last) / 2.0;
        before = last;
    }
}

/// Returns the name of a run in a picture, which is that of its folder.
fn name(run: &Path) -> String {
    let full = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    full.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned())
}
