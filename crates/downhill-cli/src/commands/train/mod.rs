//! `downhill train`: trains in this process.

mod restarts;

use crate::commands::threads;
use crate::failure::Failure;
use crate::interrupt::{self, STOPPED};
use crate::output;
use crate::programs::COMMIT;
use downhill::internal as local;
use ps_config::{CheckpointArgs, DataArgs, LogArgs, OutArgs, RunArgs, WatchArgs};
use ps_core::{StepReport, reference};
use ps_run::{DataProgress, Ending, Job, Recorder, ResumeHint, RunFolder, SUMMARY_INDENT, Style, Summary};
use ps_terminal::{hang, stdout_width};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Train a model in this process
///
/// The weights do not depend on --threads, --workers or --reference. The last line of the output is their
/// SHA-256, which is the same for 'downhill launch'.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{DETAILS}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: RunArgs,

    /// Total number of threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Number of workers that share each step's samples
    ///
    /// Workers are threads of this process.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,

    /// Train with the reference trainer: plain, slow loops on one thread
    #[arg(long, conflicts_with_all = ["threads", "workers"])]
    reference: bool,

    /// Train with K seeds and keep the run with the best validation result
    ///
    /// The first seed is that of the run file. The runs train concurrently.
    #[arg(long, value_name = "K", conflicts_with_all = ["reference", "dashboard", "metrics", "tensorboard", "trace"],
          value_parser = clap::value_parser!(u16).range(2..=1000))]
    restarts: Option<u16>,

    /// Keep serving the dashboard after the run has ended, until Ctrl-C
    #[arg(long, alias = "stay", requires = "dashboard")]
    linger: bool,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  downhill train examples/digits.toml
  downhill train examples/digits.toml --threads 2 --out results
  downhill train examples/digits.toml --set learning_rate.schedule=
  downhill train examples/digits.toml --restarts 4
  downhill train examples/digits.toml --dashboard --linger";

const DETAILS: &str = "\
Results:
The results folder contains run.toml (the run file with all defaults and overrides), metrics.jsonl, model.safetensors, \
summary.json and checkpoints/. The results of a finished run are never overwritten by another run. With --restarts, the folder \
contains a folder for each run, and the results of the best one.

Stopping and resuming:
Ctrl-C ends training after the current step, saves the run and its results so far, and exits with code 130; a second Ctrl-C \
exits immediately. Either way, the command that resumes the run is printed. To resume a run, however it ended, start it again \
with --out set to its folder. You can change train.epochs and train.steps when you resume, if every step already \
made would have been the same. For example, --out DIR --set train.epochs=20 extends a finished run.";

/// Trains and prints the summary, whose last line is the hash of the weights.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let run = arguments.run.load()?;
    ps_watch::guard(&arguments.watch).map_err(Failure::Usage)?;
    let style = Style::choose(&arguments.log);
    threads(arguments.threads)?;
    let root = arguments.data.root(arguments.run.folder());
    let job = super::load(run, root, &DataProgress::new(style))?;
    job.notes().iter().for_each(|line| ps_run::note(style, line));
    job.check_memory()?;
    let (out, name) = (arguments.out.out.as_deref(), name(&arguments.run.run));
    if let Some(count) = arguments.restarts {
        let folder = RunFolder::of_restarts(out, &name)?;
        return restarts::run(arguments, job, count.into(), folder.path(), root);
    }
    // The reference trainer writes no checkpoints, so there is nothing to resume from.
    let folder =
        RunFolder::create(out, &name, (!arguments.reference).then_some(&job.run))?.with_commit(COMMIT);
    let path = folder.path().to_path_buf();
    let hint = ResumeHint::new(&arguments.out, &path, style);
    // The handler is installed before any output says that the run has begun.
    let stop = stop_flag(arguments.reference, style, &hint)?;
    let mut recorder = match arguments.reference {
        true => Recorder::new(&job, Some(folder), style)?,
        false => Recorder::with_checkpoints(&job, folder, style, &arguments.checkpoint)?,
    };
    let watching = ps_watch::start(&arguments.watch, &job, &mut recorder, None, "downhill train")?;
    recorder.run_state().update(|snapshot| {
        snapshot.about.trains_alone = arguments.reference || arguments.workers == 1 && job.updates_in_place();
    });
    let trained = train(arguments, &job, &path, stop, &hint, recorder);
    IS_OVER.store(true, Ordering::SeqCst);
    let code = trained.unwrap_or_else(|failure| {
        output::error(&failure.to_string());
        failure.exit_code()
    });
    let was_stopped = stop.load(Ordering::SeqCst);
    let is_enough = || !was_stopped && stop.load(Ordering::SeqCst);
    if let Some(page) = watching.page().filter(|_| arguments.linger && !was_stopped) {
        if style != Style::Quiet {
            output::note(&format!("the dashboard remains at {page}; press Ctrl-C to exit"));
        }
        while !is_enough() {
            std::thread::sleep(STOP_POLL_INTERVAL);
        }
    }
    watching.wait_for_viewers(is_enough);
    Ok(code)
}

/// Whether the run has ended, so that Ctrl-C only ends the dashboard.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Longest time until a request to end the dashboard is noticed.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Returns a flag that the first Ctrl-C sets; the second one ends the process. With the reference trainer,
/// the first one does.
fn stop_flag(is_reference: bool, style: Style, hint: &ResumeHint) -> Result<&'static AtomicBool, Failure> {
    let first = move || match IS_OVER.load(Ordering::SeqCst) {
        true => {}
        // The reference trainer saves nothing before the end, so there is nothing to resume.
        false if is_reference => ps_terminal::exit(STOPPED),
        false if style == Style::Quiet => {}
        false => output::note("stopping after this step; press Ctrl-C again to exit immediately"),
    };
    let end = interrupt::end_at_once(hint.clone());
    let again = move || match IS_OVER.load(Ordering::SeqCst) {
        true => ps_terminal::exit(STOPPED),
        false => end(),
    };
    interrupt::listen(first, again)
}

/// Trains, writes the results to the folder at `path`, and prints the summary.
fn train(
    arguments: &Arguments,
    job: &Job,
    path: &Path,
    stop: &AtomicBool,
    hint: &ResumeHint,
    recorder: Recorder,
) -> Result<ExitCode, Failure> {
    let root = arguments.data.root(arguments.run.folder());
    let summary = match arguments.reference {
        true => by_reference(job, root, recorder)?,
        false => by_workers(job, root, arguments.workers.into(), stop, recorder)?,
    };
    let lines = summary.lines(Some(path));
    let shown = if arguments.log.quiet { &lines[lines.len() - 1..] } else { &lines };
    output::lines(&hang(shown, stdout_width(), SUMMARY_INDENT))?;
    Ok(match summary.outcome {
        Ending::Done => ExitCode::SUCCESS,
        Ending::Stopped | Ending::Ended => {
            hint.print();
            ExitCode::from(STOPPED)
        }
    })
}

fn by_workers(
    job: &Job,
    root: &Path,
    workers: usize,
    stop: &AtomicBool,
    recorder: Recorder,
) -> Result<Summary, Failure> {
    let train = || local::run(job, root, workers, stop, recorder);
    // With a single worker, training runs on a thread of the pool, so that no other thread has to be woken
    // for each task.
    let finished = if workers == 1 { rayon::scope(|_| train()) } else { train() };
    Ok(finished?.summary)
}

fn by_reference(job: &Job, root: &Path, mut recorder: Recorder) -> Result<Summary, Failure> {
    recorder.begin();
    let [train, validation] = job.parts();
    let validation = job.validates().then_some(validation);
    let mut report = |report: &StepReport, weights: &[f32]| {
        recorder.step(report, 1);
        recorder.inspect(report.step + 1, weights);
    };
    let trained = reference::run(&job.model, job.trainer(), train, validation, &mut report);
    let mut trainer = match trained {
        Ok(trainer) => trainer,
        Err(diverged) => {
            recorder.abandon(&diverged);
            return Err(diverged.into());
        }
    };
    let validation = recorder.validate(job, trainer.weights());
    if let Some(event) = trainer.close(validation.as_ref()) {
        recorder.event(trainer.version(), &event);
    }
    Ok(recorder.finish(job, root, trainer.weights(), trainer.version())?)
}

/// Returns the name for results: the file name of the run file without its extension.
fn name(run: &Path) -> String {
    run.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned())
}
