//! `downhill plot`: pictures of runs.

mod valley;

use crate::failure::Failure;
use crate::output;
use crate::saved::SavedRun;
use ps_config::{DataArgs, LogArgs};
use ps_run::{Line, METRICS_FILE, Style};
use ps_watch::curves::{self, Course};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Draw the curves of runs
///
/// Draws the loss, the accuracy or R², and the learning rate of one or several runs into one picture, with marks where the guard,
/// a plateau or early stopping intervened. For runs with train.probe_every, it also draws the predicted and actual decrease of
/// the loss. The runs may still be training.
///
/// With --valley, draws the loss around the weights of one finished run instead: along the gradient at its first and last
/// weights, and over a plane through the path of the weights between its checkpoints. For a finer path, train with
/// --checkpoint-every 20 --checkpoint-keep 100.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folders of the runs
    #[arg(value_name = "RUN_DIR", required = true, value_hint = clap::ValueHint::DirPath)]
    runs: Vec<PathBuf>,

    /// Picture to write, .png or .svg [default: plot.png in the run's folder]
    ///
    /// An existing file is overwritten. With --valley, the default is valley.png in the run's folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

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

const EXAMPLES: &str = "\
Examples:
  downhill plot runs/digits-1
  downhill plot runs/digits-1 runs/digits-2 --output both.svg
  downhill plot runs/digits-1 --valley";

/// Writes the picture and says where.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let [first, others @ ..] = &arguments.runs[..] else {
        return Err(Failure::Usage("name the folder of a run".into()));
    };
    let name = if arguments.valley { "valley.png" } else { "plot.png" };
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None if others.is_empty() => first.join(name),
        None => {
            return Err(Failure::Usage(
                "several runs have no folder in common: name a file with --output".into(),
            ));
        }
    };
    ps_plot::check(&path)?;
    let figure = if arguments.valley {
        if !others.is_empty() {
            return Err(Failure::Usage("--valley draws one run: each has its own valley".into()));
        }
        let style = Style::choose(&arguments.log);
        let run = SavedRun::open(first, &[], arguments.data.data_root.as_deref(), style)?;
        if run.data_changed() {
            output::warn("the data is not what the run was trained on, so the losses are not the run's own");
        }
        valley::figure(first, &run, arguments.samples as usize, arguments.grid.into(), style != Style::Quiet)?
    } else {
        let courses = arguments.runs.iter().map(|run| course(run));
        curves::figure(&courses.collect::<Result<Vec<_>, Failure>>()?)
    };
    figure.write(&path)?;
    output::lines(&[path.display().to_string()])?;
    Ok(ExitCode::SUCCESS)
}

/// How the run in a folder went so far.
fn course(run: &Path) -> Result<Course, Failure> {
    let path = run.join(METRICS_FILE);
    let course = Course::new(name(run), Line::read_all(&path)?);
    if course.is_empty() {
        return Err(Failure::Failed(format!("{}: no step has been made yet", path.display())));
    }
    Ok(course)
}

/// What a run is called in a picture: its folder's name.
fn name(run: &Path) -> String {
    let full = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    full.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned())
}
