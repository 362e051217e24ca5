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

/// Draw how runs went.
///
/// Loss, accuracy or R², learning rate and, of runs with train.probe_every, the closer look at steps, of one or several
/// runs in one picture; what the guard, plateaus and early stopping did is marked. A run may still be going on.
///
/// With --valley instead the loss itself, of one finished run: along the gradient at its first and its last weights, and
/// over a plane through the path that the weights took, as far as its checkpoints tell.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folders of runs.
    #[arg(value_name = "RUN_DIR", required = true)]
    runs: Vec<PathBuf>,

    /// The .png or .svg file; an older picture there is replaced [default: plot.png or valley.png in the run's folder].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Draw the loss around the weights.
    #[arg(long)]
    valley: bool,

    /// Samples whose loss --valley draws: the first ones of the training part.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "valley", value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,

    /// Points of the plane on a side, of --valley.
    #[arg(long, value_name = "N", default_value_t = 25, requires = "valley", value_parser = clap::value_parser!(u16).range(5..=201))]
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
  downhill plot runs/digits-1 --valley

A finer path for --valley: train with --checkpoint-every 20 --checkpoint-keep 100.";

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
